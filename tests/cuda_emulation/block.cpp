// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/block.h"

#include <cuda_runtime.h>
#include <fmt/core.h>
#include <glog/logging.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/random.h"
#include "cuda_emulation/access.h"
#include "cuda_emulation/emulator.h"
#include "cuda_emulation/fault.h"
#include "cuda_emulation/stack_switch.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace biqa::cuda {
extern thread_local unsigned char dynamic_shared_bytes[];
alignas(128) thread_local unsigned char dynamic_shared_bytes[emulation::kMaxSharedBytes];
}  // namespace biqa::cuda

namespace biqa::emulation {
namespace {

constexpr int kWarp = 32;
constexpr int kMaxWarps = 32;  // of a block

/// Uniform numbers for orders (xorshift64).
class Draws {
 public:
  explicit Draws(std::uint64_t seed) : state_(mix64(seed) | 1U) {}
  unsigned below(unsigned count) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<unsigned>(((state_ >> 32) * count) >> 32);
  }

 private:
  std::uint64_t state_;
};

unsigned bit(int index) {
  return 1U << static_cast<unsigned>(index);
}

/// A copy into shared memory that has not arrived.
struct PendingCopy {
  unsigned char* to;
  std::array<unsigned char, 16> bytes;
  int group;
};

struct Fiber {
  Context context;
  bool started = false;
  const Collective* kind = nullptr;  // where it waits; nullptr: at a block barrier, or not at all
  void* arguments = nullptr;
  unsigned mask = 0;
  std::vector<PendingCopy> copies;
  int groups = 0;  // of copies, committed so far
};

/// One bit per lane.
struct Warp {
  unsigned living = 0, ready = 0, in_collective = 0;
};

class Block {
 public:
  explicit Block(const Launch& launch);
  void run(Size3 index, std::uint64_t seed);
  void collective(const Collective& kind, void* arguments, unsigned mask);
  Votes barrier(const char* name, bool vote);
  void begin_copy(void* to, const void* from);
  void commit_copies() { ++fiber(current_).groups; }
  void land_copies(int open_groups);
  bool arrive(unsigned* counter, unsigned arrivals);
  int lane() const { return current_ % kWarp; }
  std::string place() const;
  [[noreturn]] void fault_at(int thread, const std::string& what);
  [[noreturn]] void lane_fault(int lane, const std::string& what) { fault_at(thread_of(lane), what); }
  int thread_of(int lane) const { return current_ / kWarp * kWarp + lane; }

 private:
  static void begin();
  void tell_access() { access::enter(current_, fiber(current_).context.stack()); }
  void run_threads();
  void leave();
  int pick();
  void enter(int thread);
  void finish_thread();
  void complete(int thread);
  void complete_barrier();
  void make_ready(int warp, unsigned lanes);
  [[noreturn]] void stuck();
  std::string where(int thread) const;
  Fiber& fiber(int thread) { return fibers_[static_cast<std::size_t>(thread)]; }

  const Launch& launch_;
  int threads_;
  std::vector<Fiber> fibers_;
  std::vector<dim3> indices_;  // of the threads
  std::array<Warp, kMaxWarps> warps_{};
  unsigned ready_warps_ = 0;
  int living_ = 0, at_barrier_ = 0;
  const char* barrier_name_ = nullptr;
  Votes votes_, last_votes_;
  Context main_;
  Order order_ = Order::forward;
  Draws draws_{0};
  Size3 index_{};
  int current_ = 0;
};

thread_local Block* running_block = nullptr;

/// The stacks outlive the blocks: the next one takes them again.
Stacks& stacks() {
  static thread_local Stacks stacks;
  return stacks;
}

Block::Block(const Launch& launch)
    : launch_(launch),
      threads_(static_cast<int>(launch.block[0] * launch.block[1] * launch.block[2])),
      fibers_(static_cast<std::size_t>(threads_)) {
  for (unsigned z = 0; z < launch.block[2]; ++z)
    for (unsigned y = 0; y < launch.block[1]; ++y)
      for (unsigned x = 0; x < launch.block[0]; ++x) indices_.emplace_back(x, y, z);
}

void Block::run(Size3 index, std::uint64_t seed) {
  index_ = index;
  order_ = order();
  draws_ = Draws(seed);
  living_ = threads_;
  at_barrier_ = 0;
  for (int first = 0; first < threads_; first += kWarp) {
    const int lanes = std::min(kWarp, threads_ - first);
    const unsigned mask = lanes == kWarp ? ~0U : bit(lanes) - 1;
    warps_[static_cast<std::size_t>(first / kWarp)] = {mask, mask, 0};
    ready_warps_ |= bit(first / kWarp);
  }
  for (Fiber& fiber : fibers_) fiber.started = false;
  enter(pick());
  Fiber& first = fiber(current_);
  first.started = true;
  first.context.prepare(stacks().take(), &Block::begin);
  tell_access();
  first.context.go_on(main_);
}

void Block::begin() {
  running_block->run_threads();
}

/// Runs threads from their start on, one after the other on the same stack, until one of them waits and others go on
/// elsewhere. Never returns.
void Block::run_threads() {
  while (true) {
    launch_.call(launch_.arguments.get());
    Fiber& ended = fiber(current_);
    finish_thread();
    const int next = pick();
    if (next < 0 && living_ > 0) stuck();
    if (next >= 0) enter(next);
    if (next >= 0 && !fiber(next).started) {
      fiber(next).started = true;
      fiber(next).context.adopt(ended.context.stack());
      tell_access();
      continue;
    }
    stacks().give_back(ended.context.stack());
    Context& other = next < 0 ? main_ : fiber(next).context;
    if (next >= 0) tell_access();
    other.go_on(ended.context, /*last=*/true);
  }
}

/// The running thread waits: another one goes on, or this one if what it waits for has happened.
void Block::leave() {
  Fiber& self = fiber(current_);
  const int next = pick();
  if (next < 0) stuck();
  enter(next);
  Fiber& other = fiber(next);
  if (&other != &self && !other.started) {
    other.started = true;
    other.context.prepare(stacks().take(), &Block::begin);
  }
  tell_access();
  if (&other == &self) return;
  other.context.go_on(self.context);
}

/// The thread that goes on: of those that are ready, the first, the last, or any. -1: none is.
int Block::pick() {
  const auto one_of = [&](unsigned set) {
    if (order_ == Order::backward) return 31 - std::countl_zero(set);
    if (order_ == Order::shuffled) {
      for (unsigned skip = draws_.below(static_cast<unsigned>(std::popcount(set))); skip > 0; --skip)
        set &= set - 1;
    }
    // The set is not empty, but GCC 14 fears an index of 32 without the remainder.
    return std::countr_zero(set) % kWarp;
  };
  if (ready_warps_ == 0) return -1;
  const int warp = one_of(ready_warps_);
  return warp * kWarp + one_of(warps_[static_cast<std::size_t>(warp)].ready);
}

void Block::enter(int thread) {
  current_ = thread;
  const int warp = thread / kWarp;
  unsigned& ready = warps_[static_cast<std::size_t>(warp)].ready;
  ready &= ~bit(thread % kWarp);
  if (ready == 0) ready_warps_ &= ~bit(warp);
  threadIdx = indices_[static_cast<std::size_t>(thread)];
}

void Block::make_ready(int warp, unsigned lanes) {
  warps_[static_cast<std::size_t>(warp)].ready |= lanes;
  ready_warps_ |= bit(warp);
}

/// The running thread has returned: nobody waits for it any more.
void Block::finish_thread() {
  if (!fiber(current_).copies.empty())
    fault("a thread returns before its copy_async has arrived: copy_wait is missing");
  fiber(current_).groups = 0;
  const int first = current_ / kWarp * kWarp;
  Warp& warp = warps_[static_cast<std::size_t>(current_ / kWarp)];
  warp.living &= ~bit(current_ % kWarp);
  --living_;
  for (unsigned waiting = warp.in_collective; waiting != 0; waiting &= warp.in_collective & (waiting - 1))
    complete(first + std::countr_zero(waiting));
  if (at_barrier_ > 0 && at_barrier_ == living_) complete_barrier();
}

void Block::collective(const Collective& kind, void* arguments, unsigned mask) {
  Warp& warp = warps_[static_cast<std::size_t>(current_ / kWarp)];
  if ((mask & bit(lane())) == 0)
    fault_at(current_,
             fmt::format("{} with mask {:#010x}, which lacks the calling lane {}", kind.name, mask, lane()));
  if (kind.whole_warp && (mask & warp.living) != ~0U) {
    fault_at(current_, fmt::format("{} needs all 32 lanes, but lane {} has returned or is not there",
                                   kind.name, std::countr_one(mask & warp.living)));
  }
  Fiber& self = fiber(current_);
  self.kind = &kind;
  self.arguments = arguments;
  self.mask = mask;
  warp.in_collective |= bit(lane());
  complete(current_);
  leave();
}

/// Runs the collective in which `thread` waits, if all lanes that it names have arrived.
void Block::complete(int thread) {
  const int first = thread / kWarp * kWarp;
  Warp& warp = warps_[static_cast<std::size_t>(thread / kWarp)];
  const Fiber& one = fiber(thread);
  const unsigned lanes = one.mask & warp.living;
  if ((lanes & ~warp.in_collective) != 0) return;
  std::array<void*, kWarp> arguments{};
  for (unsigned left = lanes; left != 0; left &= left - 1) {
    const int lane = std::countr_zero(left);
    const Fiber& other = fiber(first + lane);
    if (other.kind != one.kind || other.mask != one.mask) return;
    arguments[static_cast<std::size_t>(lane)] = other.arguments;
  }
  if (one.kind->run != nullptr) {
    const access::Pause pause;
    one.kind->run(arguments.data());
  }
  if (one.kind->orders_memory) access::warp_synchronised(thread / kWarp, lanes, warp.living);
  warp.in_collective &= ~lanes;
  make_ready(thread / kWarp, lanes);
}

Votes Block::barrier(const char* name, bool vote) {
  if (at_barrier_ == 0) {
    barrier_name_ = name;
    votes_ = {};
  } else if (barrier_name_ != name) {
    fault_at(current_, fmt::format("{}, while other threads of the block wait at {}", name, barrier_name_));
  }
  ++at_barrier_;
  ++votes_.all;
  votes_.yes += vote ? 1 : 0;
  fiber(current_).kind = nullptr;
  if (at_barrier_ == living_) complete_barrier();
  leave();
  return last_votes_;
}

/// All living threads wait at the block barrier: they go on.
void Block::complete_barrier() {
  at_barrier_ = 0;
  access::block_synchronised();
  last_votes_ = votes_;
  for (int warp = 0; warp * kWarp < threads_; ++warp) {
    const unsigned living = warps_[static_cast<std::size_t>(warp)].living;
    if (living != 0) make_ready(warp, living);
  }
}

void Block::begin_copy(void* to, const void* from) {
  PendingCopy copy{static_cast<unsigned char*>(to), {}, fiber(current_).groups};
  if (reinterpret_cast<std::uintptr_t>(to) % copy.bytes.size() != 0)
    fault("copy_async to an address that is not aligned to 16 bytes");
  if (reinterpret_cast<std::uintptr_t>(from) % copy.bytes.size() != 0)
    fault("copy_async from an address that is not aligned to 16 bytes");
  if (copy.to < cuda::dynamic_shared_bytes ||
      copy.to + copy.bytes.size() > cuda::dynamic_shared_bytes + launch_.shared_bytes)
    fault("copy_async to an address outside the launch's shared memory");
  if (from != nullptr) {
    access::reads(current_, from, copy.bytes.size());
    std::memcpy(copy.bytes.data(), from, copy.bytes.size());
  }
  access::begins_copy(to);
  std::memset(to, 0xff, copy.bytes.size());
  fiber(current_).copies.push_back(copy);
}

void Block::land_copies(int open_groups) {
  Fiber& self = fiber(current_);
  std::erase_if(self.copies, [&](const PendingCopy& copy) {
    if (copy.group >= self.groups - open_groups) return false;
    std::memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
    access::lands_copy(copy.to);
    return true;
  });
}

bool Block::arrive(unsigned* counter, unsigned arrivals) {
  barrier("count_arrival", false);
  bool last = false;
  if (current_ == 0) {
    access::reads(current_, counter, sizeof *counter);
    if (*counter >= arrivals)
      fault(fmt::format("count_arrival: the counter is {} before one of {} arrivals; it must start at 0",
                        *counter, arrivals));
    last = ++*counter == arrivals;
    if (last) *counter = 0;
    access::arrived(counter, last);
  }
  return barrier("count_arrival", last).yes > 0;
}

std::string Block::where(int thread) const {
  const Fiber& fiber = fibers_[static_cast<std::size_t>(thread)];
  return fiber.kind == nullptr ? "a block barrier"
                               : fmt::format("{} with mask {:#010x}", fiber.kind->name, fiber.mask);
}

/// Nobody can go on: says who waits for whom.
void Block::stuck() {
  const auto living = [&](int thread) {
    return (warps_[static_cast<std::size_t>(thread / kWarp)].living & bit(thread % kWarp)) != 0;
  };
  int first = 0;
  while (!living(first)) ++first;
  if (fiber(first).kind == nullptr) {
    int other = first;
    while (!living(other) || fiber(other).kind == nullptr) ++other;
    fault_at(first,
             fmt::format(
                 "thread {} waits at a block barrier that others of the block never reach: thread {} waits "
                 "at {}",
                 first, other, where(other)));
  }
  const Fiber& waiting = fiber(first);
  for (int lane = 0; lane < kWarp; ++lane) {
    const int other = first / kWarp * kWarp + lane;
    if ((waiting.mask & bit(lane)) == 0 || other >= threads_ || !living(other)) continue;
    if (fiber(other).kind == waiting.kind && fiber(other).mask == waiting.mask) continue;
    fault_at(first, fmt::format("thread {} waits at {} that lane {} never reaches: it waits at {}", first,
                                where(first), lane, where(other)));
  }
  fault_at(first, "threads wait for each other");
}

void Block::fault_at(int thread, const std::string& what) {
  current_ = thread;
  fault(what);
}

std::string Block::place() const {
  const dim3 thread = indices_[static_cast<std::size_t>(current_)];
  return fmt::format("kernel {}, block ({},{},{}), thread ({},{},{})", function_name(launch_.kernel),
                     index_[0], index_[1], index_[2], thread.x, thread.y, thread.z);
}

/// The launch's blocks, in the order that is set.
std::vector<std::size_t> block_order(std::size_t blocks, std::uint64_t seed) {
  if (order() == Order::shuffled) return random_order(blocks, RandomStream{seed});
  std::vector<std::size_t> turns(blocks);
  std::iota(turns.begin(), turns.end(), std::size_t{0});
  if (order() == Order::backward) std::reverse(turns.begin(), turns.end());
  return turns;
}

}  // namespace

void run(const Launch& launch) {
  CHECK(running_block == nullptr) << "a kernel launches a kernel";
  static thread_local std::uint64_t launches = 0;
  const std::uint64_t seed = mix64(emulation::seed()) + ++launches;
  gridDim = dim3(launch.grid[0], launch.grid[1], launch.grid[2]);
  blockDim = dim3(launch.block[0], launch.block[1], launch.block[2]);
  Block block(launch);
  running_block = &block;
  access::begin_launch(launch, cuda::dynamic_shared_bytes);
  for (const std::size_t index :
       block_order(std::size_t{launch.grid[0]} * launch.grid[1] * launch.grid[2], seed)) {
    // Bytes that read as NaN in every float type: a kernel must not rely on what shared memory holds at its start.
    std::memset(cuda::dynamic_shared_bytes, 0xff, launch.shared_bytes);
#ifdef __SANITIZE_ADDRESS__
    ASAN_POISON_MEMORY_REGION(cuda::dynamic_shared_bytes + launch.shared_bytes,
                              kMaxSharedBytes - launch.shared_bytes);
#endif
    const Size3 at{static_cast<unsigned>(index % launch.grid[0]),
                   static_cast<unsigned>(index / launch.grid[0] % launch.grid[1]),
                   static_cast<unsigned>(index / launch.grid[0] / launch.grid[1])};
    blockIdx = dim3(at[0], at[1], at[2]);
    access::begin_block(at);
    block.run(at, seed + index);
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(cuda::dynamic_shared_bytes, kMaxSharedBytes);
#endif
  }
  access::end_launch();
  running_block = nullptr;
}

void warp_collective(const Collective& kind, void* arguments, unsigned mask) {
  running_block->collective(kind, arguments, mask);
}

Votes block_barrier(const char* name, bool vote) {
  return running_block->barrier(name, vote);
}

void begin_copy(void* to, const void* from) {
  running_block->begin_copy(to, from);
}

void commit_copies() {
  running_block->commit_copies();
}

void land_copies(int open_groups) {
  running_block->land_copies(open_groups);
}

bool arrive(unsigned* counter, unsigned arrivals) {
  return running_block->arrive(counter, arrivals);
}

int lane() {
  return running_block->lane();
}

int thread_of(int lane) {
  return running_block->thread_of(lane);
}

void lane_fault(int lane, const std::string& what) {
  running_block->lane_fault(lane, what);
}

std::string running_place() {
  return running_block == nullptr ? "" : running_block->place();
}

}  // namespace biqa::emulation
