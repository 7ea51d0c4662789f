// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl/link.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "comm/agreement.h"
#include "comm/nccl/sum_parts.h"
#include "comm/rank_list.h"
#include "comm/wait_times.h"
#include "core/error.h"

namespace biqa::nccl {
namespace {

constexpr const char* kCreation = "the creation of a world";
constexpr const char* kSum = "the sum over GPUs";
constexpr const char* kGathering = "the gathering of shards on GPUs";
constexpr const char* kBroadcast = "the broadcast between GPUs";

/// The longest time for leaving a world.
constexpr Seconds kFarewell{2};

using Clock = std::chrono::steady_clock;

std::int64_t bytes_of(std::int64_t floats) {
  return floats * static_cast<std::int64_t>(sizeof(float));
}

/// A rank that waits for GPU work looks a few times at once, then less and less often.
void pause(int polls, Seconds waited) {
  constexpr int kEager = 16;
  constexpr Seconds kShortest{10e-6};
  if (polls < kEager) return;
  std::this_thread::sleep_for(std::clamp<Seconds>(waited * kSleepShare, kShortest, kLongestSleep));
}

}  // namespace

NcclLink::NcclLink(Library& library, Communicator& ranks, cuda::CudaMemory& memory, Shards shards)
    : library_(library), ranks_(ranks), memory_(memory), shards_(std::move(shards)) {
  CHECK_EQ(shards_.ranks(), ranks.size());
}

NcclLink::~NcclLink() {
  if (world_ == nullptr || std::uncaught_exceptions() > 0) return;
  try {
    world_->leave();
    const auto start = Clock::now();
    for (int polls = 0; world_->state().progress == Progress::under_way; ++polls) {
      const Seconds waited = Clock::now() - start;
      if (waited > kFarewell) return;
      pause(polls, waited);
    }
  } catch (const std::exception& error) {
    LOG(WARNING) << "leaving an NCCL world failed: " << error.what();
  }
}

void NcclLink::reduce_scatter_sum(ConstView whole, View shard) {
  const int own = ranks_.rank();
  shards_.check(own, whole, shard);
  CHECK(whole.memory() == Memory::device && shard.memory() == Memory::device);
  run(kSum, [&] {
    // Works in rounds, which limit the memory for received parts.
    const auto block = static_cast<std::int64_t>(reduce_block(static_cast<std::size_t>(ranks_.size())));
    const std::int64_t peers = ranks_.size() - 1;
    Tensor received =
        memory_.allocate(DType::f32, peers, std::min(block, shards_.size(own)), "received parts");
    auto* const to = received.view().address<float>();
    const auto* const from = whole.address<float>();
    for (std::int64_t begin = 0; begin < shards_.largest(); begin += block) {
      const auto count_of = [&](int rank) {
        return std::clamp<std::int64_t>(shards_.size(rank) - begin, 0, block);
      };
      const std::int64_t own_count = count_of(own);
      std::vector<Move> moves;
      std::int64_t row = 0;
      for (int peer = 0; peer < ranks_.size(); ++peer) {
        if (peer == own) continue;
        if (count_of(peer) > 0)
          moves.push_back({Move::Kind::send, peer, from + shards_.begin(peer) + begin, nullptr,
                           bytes_of(count_of(peer))});
        if (own_count > 0)
          moves.push_back({Move::Kind::receive, peer, nullptr, to + row * own_count, bytes_of(own_count)});
        ++row;
      }
      exchange(kSum, moves);
      if (own_count == 0) continue;
      sum_parts(whole.column_range(shards_.begin(own) + begin, own_count),
                View(to, DType::f32, peers, own_count, own_count, Memory::device), own,
                shard.column_range(begin, own_count), memory_.stream());
    }
  });
}

void NcclLink::all_gather(ConstView shard, View whole) {
  const int own = ranks_.rank();
  shards_.check(own, whole, shard);
  CHECK(whole.memory() == Memory::device && shard.memory() == Memory::device);
  run(kGathering, [&] {
    std::vector<Move> moves;
    for (int root = 0; root < ranks_.size(); ++root) {
      if (shards_.size(root) == 0) continue;
      moves.push_back({Move::Kind::broadcast, root, root == own ? shard.address<float>() : nullptr,
                       whole.address<float>() + shards_.begin(root), bytes_of(shards_.size(root))});
    }
    exchange(kGathering, moves);
  });
}

void NcclLink::broadcast(View values, int root) {
  CHECK(values.memory() == Memory::device && values.dense());
  run(kBroadcast, [&] {
    if (values.empty()) return;
    const auto bytes = values.size() * static_cast<std::int64_t>(size_of(values.type()));
    const Move move{Move::Kind::broadcast, root, root == ranks_.rank() ? values.address() : nullptr,
                    values.address(), bytes};
    exchange(kBroadcast, std::span(&move, 1));
  });
}

void NcclLink::run(const char* operation, const std::function<void()>& work) {
  if (broken_) fail("{}: an earlier operation failed; end the job", where(operation));
  try {
    ranks_.barrier(operation);  // its Error names ranks that do not arrive; NCCL cannot name them
    if (world_ == nullptr) join();
    work();
    memory_.wait();
  } catch (...) {
    broken_ = true;
    world_.reset();
    throw;
  }
}

void NcclLink::join() {
  WorldName name{};
  run_alike(ranks_, [&] {
    if (ranks_.rank() == 0) name = library_.make_name();
  });
  std::vector<std::byte> bytes(name.begin(), name.end());
  ranks_.broadcast_bytes(bytes, 0);
  CHECK_EQ(bytes.size(), name.size());
  std::copy(bytes.begin(), bytes.end(), name.begin());
  run_alike(ranks_, [&] { world_ = library_.join(name, ranks_.rank(), ranks_.size(), memory_.stream()); });
  wait(kCreation, Until::usable);
}

void NcclLink::exchange(const char* operation, std::span<const Move> moves) {
  if (moves.empty()) return;
  world_->start(moves);
  wait(operation, Until::done);
}

void NcclLink::wait(const char* operation, Until until) {
  Seconds waited{0};
  bool marked = false;
  auto last = Clock::now();
  for (int polls = 0;; ++polls) {
    const State state = world_->state();
    if (state.progress == Progress::failed)
      fail("{} with {}: {} after {:.1f} s; look for an earlier error there, or set NCCL_DEBUG=INFO",
           where(operation), peers(), state.reason, waited.count());
    if (state.progress == Progress::ready) {
      if (until == Until::usable) return;
      if (!marked) world_->mark();
      marked = true;
      if (world_->passed()) return;
    }
    ranks_.progress();  // throws if a peer is known to be lost
    if (waited > ranks_.deadline())
      fail(
          "{}: not done after {:.1f} s with {}; look for an earlier error there, or raise the deadline "
          "(BIQA_DEADLINE_SECONDS)",
          where(operation), waited.count(), peers());
    pause(polls, waited);
    const auto now = Clock::now();
    // Time in which this process itself was stopped does not count as silence of the peers.
    waited += std::min<Seconds>(now - last, Seconds{1});
    last = now;
  }
}

std::string NcclLink::where(const char* operation) const {
  return fmt::format("{} through NCCL on rank {}", operation, ranks_.job_rank(ranks_.rank()));
}

std::string NcclLink::peers() const {
  std::vector<int> others;
  for (int rank = 0; rank < ranks_.size(); ++rank) {
    if (rank != ranks_.rank()) others.push_back(ranks_.job_rank(rank));
  }
  return others.empty() ? "no other rank" : list_ranks(others);
}

}  // namespace biqa::nccl
