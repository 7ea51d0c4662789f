// SPDX-License-Identifier: Apache-2.0
// Every rank sends heartbeats to rank 0, and rank 0 to every rank. So rank 0 notices the loss of any other rank and
// reports it to all. A rank that hears nothing from rank 0 knows that rank 0 is lost or that it is itself cut off. It
// reports this to all others.
#include <fmt/format.h>
#include <glog/logging.h>
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "comm/mpi/mpi_transport.h"
#include "core/error.h"
#include "core/threads.h"

namespace biqa {
namespace {

using Clock = std::chrono::steady_clock;

/// Time between two checks of the thread.
constexpr Seconds kTick{0.2};
/// All ranks notice the loss of rank 0 at the same time. Rank 1 reports it. Each further rank waits this much longer
/// than the one before it, which may also be lost. The total wait is limited, because one of many ranks will be alive.
constexpr Seconds kTurn{1};
constexpr int kLastTurn = 4;
constexpr int kTag = 0;

enum class Word : std::int32_t { alive, failed, lost };
struct Beat {
  Word word = Word::alive;
  std::int32_t rank = 0, exit_code = 0;
};

class MpiWatch final : public Watch {
 public:
  explicit MpiWatch(const WatchTimes& times) : times_(times), parent_(::getppid()) {
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &communicator_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    MPI_Comm_rank(communicator_, &rank_);
    MPI_Comm_size(communicator_, &size_);
    peers_.resize(static_cast<std::size_t>(size_));
    thread_ = std::thread([this] { run_or_exit("the watch over the ranks", [this] { run(); }); });
  }
  ~MpiWatch() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
    for (Peer& peer : peers_) {
      if (peer.request != MPI_REQUEST_NULL) MPI_Request_free(&peer.request);
    }
    // MPI_Finalize frees the communicator: freeing it here would wait for all ranks.
  }
  MpiWatch(const MpiWatch&) = delete;
  MpiWatch& operator=(const MpiWatch&) = delete;

  std::optional<LostRank> loss() const override {
    const std::lock_guard lock(mutex_);
    if (!loss_) return std::nullopt;
    LostRank loss = *loss_;
    loss.ago = Clock::now() - noticed_;
    return loss;
  }

  void tell_failure(int exit_code) override {
    {
      const std::lock_guard lock(mutex_);
      if (!loss_) note({rank_, true, exit_code, Seconds{0}});
    }
    changed_.notify_all();
  }

 private:
  struct Peer {
    Seconds silent{0};
    bool told = false;  ///< this peer has been sent the news of a loss
    Beat beat;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  void run() {
    auto last = Clock::now();
    Seconds since_beat = times_.beat;
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        const bool known = loss_.has_value();
        changed_.wait_for(lock, kTick, [&] { return ending_ || loss_.has_value() != known; });
        if (ending_) return;
      }
      const auto now = Clock::now();
      // Time in which this process itself was stopped does not count as silence of the others.
      const Seconds passed = std::min<Seconds>(now - last, 3 * kTick);
      last = now;
      listen();
      since_beat += passed;
      const bool beat = since_beat >= times_.beat;
      if (beat) since_beat = Seconds{0};
      // Rank 0 watches all other ranks. Each other rank watches only rank 0.
      const int watched = rank_ == 0 ? size_ : 1;
      for (int peer = 0; peer < watched; ++peer) {
        if (peer == rank_) continue;
        Seconds& silence = peers_[static_cast<std::size_t>(peer)].silent;
        silence += passed;
        speak(peer, beat);
        if (silence > times_.silence + own_turn()) silent(peer);
      }
      for (int peer = watched; peer < size_ && missed_centre_; ++peer) {
        if (peer != rank_) speak(peer, false);
      }
      if (::getppid() != parent_) orphaned();
      end_by_force();
    }
  }

  Seconds own_turn() const { return std::max(0, std::min(rank_, kLastTurn) - 1) * kTurn; }

  void listen() {
    for (;;) {
      int flag = 0;
      MPI_Status status;
      if (MPI_Iprobe(MPI_ANY_SOURCE, kTag, communicator_, &flag, &status) != MPI_SUCCESS || flag == 0) return;
      Beat beat;
      if (MPI_Recv(&beat, sizeof beat, MPI_BYTE, status.MPI_SOURCE, kTag, communicator_, MPI_STATUS_IGNORE) !=
          MPI_SUCCESS)
        return;
      const auto from = static_cast<std::size_t>(status.MPI_SOURCE);
      if (from < peers_.size()) peers_[from].silent = Seconds{0};
      if (beat.word == Word::alive) continue;
      const std::lock_guard lock(mutex_);
      if (!loss_) note({beat.rank, beat.word == Word::failed, beat.exit_code, Seconds{0}});
    }
  }

  /// Sends a heartbeat if one is due, and once the news of a loss.
  void speak(int to, bool beat) {
    Peer& peer = peers_[static_cast<std::size_t>(to)];
    if (peer.request != MPI_REQUEST_NULL) {
      int done = 0;
      if (MPI_Test(&peer.request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || done == 0) return;
    }
    std::optional<LostRank> known;
    {
      const std::lock_guard lock(mutex_);
      known = loss_;
    }
    const bool news = known && !peer.told;
    if (!beat && !news) return;
    peer.beat = {};
    if (news) {
      peer.told = true;
      peer.beat = {known->failed ? Word::failed : Word::lost, known->rank, known->exit_code};
    }
    MPI_Isend(&peer.beat, sizeof(Beat), MPI_BYTE, to, kTag, communicator_, &peer.request);
  }

  void silent(int peer) {
    const std::lock_guard lock(mutex_);
    if (loss_) return;
    note({peer, false, 1, Seconds{0}});
    missed_centre_ = peer == 0;
    report(
        fmt::format("no heartbeat from rank {} for {:.0f} s: it has died, was stopped or is cut off. The "
                    "learners save what they can, then the job ends; start it again to resume",
                    peer, times_.silence.count()));
  }

  void orphaned() {
    const std::lock_guard lock(mutex_);
    if (loss_) return;
    note({rank_, true, 1, Seconds{0}});
    // Nobody reads standard error any more; the rank's log has it.
    LOG(ERROR) << "the launcher (mpirun, srun) has ended: the job ends; start it again to resume";
  }

  void end_by_force() {
    std::optional<LostRank> known = loss();
    if (!known || known->ago < times_.grace) return;
    std::fflush(nullptr);
    // MPI_Abort may wait for a launcher that is gone.
    std::thread([] {
      std::this_thread::sleep_for(Seconds{3});
      std::_Exit(1);
    }).detach();
    MPI_Abort(MPI_COMM_WORLD, known->exit_code);
    std::_Exit(known->exit_code);
  }

  /// With mutex_ held.
  void note(const LostRank& loss) {
    loss_ = loss;
    noticed_ = Clock::now();
  }
  void report(const std::string& text) const { say("error: rank {} of {}: {}\n", rank_, size_, text); }

  const WatchTimes times_;
  const pid_t parent_;
  MPI_Comm communicator_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  // Only the thread uses these.
  std::vector<Peer> peers_;     // by rank
  bool missed_centre_ = false;  // this rank was the first to miss rank 0, so it informs the others
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  std::optional<LostRank> loss_;
  Clock::time_point noticed_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Watch> make_mpi_watch(const WatchTimes& times) {
  return std::make_unique<MpiWatch>(times);
}

}  // namespace biqa
