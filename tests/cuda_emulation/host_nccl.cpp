// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/host_nccl.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "core/error.h"

namespace biqa::emulation {

using nccl::Move;
using nccl::Progress;
using nccl::State;

/// What the ends of one world share; all under the mutex.
struct HostNccl::Shared {
  struct Post {
    Move::Kind kind;
    const void* from;
    std::int64_t bytes;
  };
  std::mutex mutex;
  int ranks = 0, joined = 0, left = 0, ends = 0, aborted = 0;
  /// What a rank offers to another and the other has not taken yet.
  std::map<std::pair<int, int>, std::deque<Post>> posts;
};

namespace {

using Shared = HostNccl::Shared;

class HostWorld final : public nccl::World {
 public:
  HostWorld(std::shared_ptr<Shared> shared, int rank, const cuda::Stream& stream, const NcclFaults& faults)
      : shared_(std::move(shared)), rank_(rank), stream_(stream), faults_(faults) {
    const std::lock_guard lock(shared_->mutex);
    ++shared_->joined;
    ++shared_->ends;
    begin_call();
  }
  ~HostWorld() override {
    const std::lock_guard lock(shared_->mutex);
    for (auto& [ranks, posts] : shared_->posts) {
      if (ranks.first == rank_) posts.clear();
    }
    --shared_->ends;
    if (!(left_ && ready_)) ++shared_->aborted;
  }
  HostWorld(const HostWorld&) = delete;
  HostWorld& operator=(const HostWorld&) = delete;

  State state() override {
    const std::lock_guard lock(shared_->mutex);
    State state = state_now();
    ready_ = state.progress == Progress::ready;
    return state;
  }

  void start(std::span<const Move> moves) override {
    CHECK(ready_ && !left_) << "a call while another is under way";
    CHECK(!moves.empty());
    stream_.synchronise();  // the moves come after what is in the stream
    const std::lock_guard lock(shared_->mutex);
    CHECK(receives_.empty());
    const bool disturbed = starts_++ >= faults_.starts_before;
    failing_ = disturbed && faults_.failing_start == rank_;
    silent_ = disturbed && faults_.silent_start == rank_;
    begin_call();
    if (failing_ || silent_) return;
    for (const Move& move : moves) post(move);
  }

  void mark() override {
    CHECK(ready_) << "a mark while a call is under way";
    marked_ = true;
  }

  bool passed() override {
    CHECK(marked_);
    const std::lock_guard lock(shared_->mutex);
    for (auto receive = receives_.begin(); receive != receives_.end();) {
      receive = take(*receive) ? receives_.erase(receive) : std::next(receive);
    }
    const bool sent = std::all_of(shared_->posts.begin(), shared_->posts.end(), [&](const auto& one) {
      return one.first.first != rank_ || one.second.empty();
    });
    return receives_.empty() && sent && !silent_;
  }

  void leave() override {
    CHECK(ready_ && !left_) << "left while a call is under way";
    const std::lock_guard lock(shared_->mutex);
    left_ = true;
    ++shared_->left;
    begin_call();
  }

 private:
  void begin_call() {
    ready_ = marked_ = false;
    polls_left_ = faults_.polls_under_way;
  }

  State state_now() {
    if (failure_.empty() && shared_->joined == shared_->ranks && faults_.failing_creation == rank_)
      failure_ = "emulated failure of the creation";
    if (failure_.empty() && failing_) failure_ = "emulated failure of a move";
    if (!failure_.empty()) return {Progress::failed, failure_};
    const bool waits = shared_->joined < shared_->ranks || (left_ && shared_->left < shared_->ranks);
    const bool slow = polls_left_ > 0;
    if (slow) --polls_left_;
    return {waits || slow ? Progress::under_way : Progress::ready};
  }

  void post(const Move& move) {
    CHECK(move.peer >= 0 && move.peer < shared_->ranks) << move.peer;
    CHECK_GT(move.bytes, 0);
    const bool is_root = move.kind == Move::Kind::broadcast && move.peer == rank_;
    if (move.kind == Move::Kind::send || is_root) {
      for (int to = 0; to < shared_->ranks; ++to) {
        if (is_root ? to != rank_ : to == move.peer)
          shared_->posts[{rank_, to}].push_back({move.kind, move.from, move.bytes});
      }
      if (is_root && move.from != move.to) copy(move.from, move.to, move.bytes);
    } else {
      receives_.push_back(move);
    }
  }

  /// Takes what the peer offers for this receive, if it offers anything.
  bool take(const Move& receive) {
    auto& offered = shared_->posts[{receive.peer, rank_}];
    if (offered.empty() || !failure_.empty()) return false;
    const Shared::Post post = offered.front();
    const bool broadcast = receive.kind == Move::Kind::broadcast;
    if ((post.kind == Move::Kind::broadcast) != broadcast || post.bytes != receive.bytes) {
      failure_ = fmt::format("rank {} moves {} bytes and rank {} expects {} of a {}", receive.peer,
                             post.bytes, rank_, receive.bytes, broadcast ? "broadcast" : "send");
      return false;
    }
    copy(post.from, receive.to, post.bytes);
    offered.pop_front();
    return true;
  }

  void copy(const void* from, void* to, std::int64_t bytes) const {
    BIQA_CUDA_CHECK(
        cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice, stream_.get()));
    stream_.synchronise();
  }

  std::shared_ptr<Shared> shared_;
  int rank_;
  const cuda::Stream& stream_;
  NcclFaults faults_;
  std::deque<Move> receives_;
  std::string failure_;
  int starts_ = 0, polls_left_ = 0;
  bool ready_ = false, marked_ = false, left_ = false, failing_ = false, silent_ = false;
};

}  // namespace

HostNccl::HostNccl(NcclFaults faults) : faults_(faults) {}
HostNccl::~HostNccl() = default;

nccl::WorldName HostNccl::make_name() {
  if (faults_.no_name) fail("emulated failure of the name");
  static std::atomic<int> names{0};
  const int number = ++names;
  nccl::WorldName name{};
  std::memcpy(name.data(), &number, sizeof number);
  const std::lock_guard lock(mutex_);
  worlds_[name] = std::make_shared<Shared>();
  return name;
}

std::unique_ptr<nccl::World> HostNccl::join(const nccl::WorldName& name, int rank, int ranks,
                                            const cuda::Stream& stream) {
  if (faults_.refused) fail("emulated refusal");
  const std::lock_guard lock(mutex_);
  const auto found = worlds_.find(name);
  CHECK(found != worlds_.end()) << "a name that was not made here";
  {
    const std::lock_guard shared_lock(found->second->mutex);
    found->second->ranks = ranks;
  }
  return std::make_unique<HostWorld>(found->second, rank, stream, faults_);
}

int HostNccl::ends() const {
  const std::lock_guard lock(mutex_);
  int count = 0;
  for (const auto& [name, shared] : worlds_) {
    const std::lock_guard shared_lock(shared->mutex);
    count += shared->ends;
  }
  return count;
}

int HostNccl::aborted() const {
  const std::lock_guard lock(mutex_);
  int count = 0;
  for (const auto& [name, shared] : worlds_) {
    const std::lock_guard shared_lock(shared->mutex);
    count += shared->aborted;
  }
  return count;
}

}  // namespace biqa::emulation
