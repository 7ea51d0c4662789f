// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/emulator.h"

#include <cuda_runtime.h>
#include <glog/logging.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <vector>

#include "core/random.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace biqa::cuda {
extern thread_local unsigned char dynamic_shared_bytes[];
alignas(16) thread_local unsigned char dynamic_shared_bytes[emulation::kMaxSharedBytes];
}  // namespace biqa::cuda

namespace biqa::emulation {
namespace {

constexpr std::size_t kStackBytes = 64 * 1024;
constexpr std::size_t kMaxThreads = 1024;  // of a block
constexpr int kWarp = 32;

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
  ucontext_t context{};
  State state = State::ready;
  unsigned mask = 0;           // whom it waits for at a warp barrier
  std::uint64_t given = 0;     // its value in the running exchange
  void* fake_stack = nullptr;  // AddressSanitizer's, while the fiber does not run
};

// Tells AddressSanitizer that the stack changes; without it, the calls do nothing.
void before_switch([[maybe_unused]] void** save, [[maybe_unused]] const void* bottom,
                   [[maybe_unused]] std::size_t size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(save, bottom, size);
#endif
}
void after_switch([[maybe_unused]] void* saved, [[maybe_unused]] const void** bottom,
                  [[maybe_unused]] std::size_t* size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(saved, bottom, size);
#endif
}

/// Where the stack of the block's given thread begins; all blocks share the memory.
unsigned char* stack_of(std::size_t thread) {
  static std::vector<unsigned char> stacks(kMaxThreads * kStackBytes);
  return &stacks[thread * kStackBytes];
}

class Block {
 public:
  Block(int threads, const std::function<void(int)>& enter, const std::function<void()>& body)
      : fibers_(static_cast<std::size_t>(threads)), enter_(enter), body_(body) {}

  void run(Order order);
  void wait(State state, unsigned mask);
  std::uint64_t exchange(unsigned mask, std::uint64_t value, int from_lane);
  int lane() const { return current_ % kWarp; }

 private:
  static void start();
  static void prepare(ucontext_t& context, unsigned char* stack);
  void resume(int thread);
  void suspend();
  bool release();
  bool warp_is_complete(int thread) const;

  std::vector<Fiber> fibers_;
  const std::function<void(int)>& enter_;
  const std::function<void()>& body_;
  ucontext_t scheduler_{};
  void* scheduler_fake_stack_ = nullptr;
  const void* scheduler_bottom_ = nullptr;
  std::size_t scheduler_size_ = 0;
  int current_ = 0;
};

thread_local Block* running_block = nullptr;
Order block_order = Order::forward;
int device_count = 1;
std::size_t memory_limit = std::numeric_limits<std::size_t>::max();

void Block::start() {
  Block& block = *running_block;
  after_switch(nullptr, &block.scheduler_bottom_, &block.scheduler_size_);
  block.body_();
  block.fibers_[static_cast<std::size_t>(block.current_)].state = State::done;
  before_switch(nullptr, block.scheduler_bottom_, block.scheduler_size_);  // nullptr: this fiber ends
  setcontext(&block.scheduler_);
}

void Block::prepare(ucontext_t& context, unsigned char* stack) {
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(stack, kStackBytes);  // what an earlier fiber never returned from
#endif
  CHECK_EQ(getcontext(&context), 0);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, &Block::start, 0);
}

void Block::resume(int thread) {
  Fiber& fiber = fibers_[static_cast<std::size_t>(thread)];
  current_ = thread;
  enter_(thread);
  before_switch(&scheduler_fake_stack_, stack_of(static_cast<std::size_t>(thread)), kStackBytes);
  CHECK_EQ(swapcontext(&scheduler_, &fiber.context), 0);
  after_switch(scheduler_fake_stack_, nullptr, nullptr);
}

void Block::suspend() {
  Fiber& fiber = fibers_[static_cast<std::size_t>(current_)];
  before_switch(&fiber.fake_stack, scheduler_bottom_, scheduler_size_);
  CHECK_EQ(swapcontext(&fiber.context, &scheduler_), 0);
  after_switch(fiber.fake_stack, &scheduler_bottom_, &scheduler_size_);
}

void Block::wait(State state, unsigned mask) {
  Fiber& fiber = fibers_[static_cast<std::size_t>(current_)];
  fiber.state = state;
  fiber.mask = mask;
  suspend();
}

std::uint64_t Block::exchange(unsigned mask, std::uint64_t value, int from_lane) {
  const int own = current_;
  CHECK_NE(mask >> lane() & 1U, 0U) << "thread " << own << " is not in its own shuffle's mask";
  fibers_[static_cast<std::size_t>(own)].given = value;
  wait(State::at_warp_barrier, mask);
  const auto from = static_cast<std::size_t>(own / kWarp * kWarp) + static_cast<std::size_t>(from_lane);
  const bool there = from_lane < kWarp && from < fibers_.size();
  const std::uint64_t taken = there ? fibers_[from].given : value;
  wait(State::at_warp_barrier, mask);  // nobody gives the next value before all have taken this one
  return taken;
}

/// Whether every living thread of the warp that `thread`'s mask names waits with the same mask.
bool Block::warp_is_complete(int thread) const {
  const unsigned mask = fibers_[static_cast<std::size_t>(thread)].mask;
  const int first = thread / kWarp * kWarp;
  for (int other = first; other < std::min(first + kWarp, static_cast<int>(fibers_.size())); ++other) {
    const Fiber& fiber = fibers_[static_cast<std::size_t>(other)];
    if ((mask >> (other - first) & 1U) == 0 || fiber.state == State::done) continue;
    if (fiber.state != State::at_warp_barrier || fiber.mask != mask) return false;
  }
  return true;
}

/// Lets go whoever's barrier is complete; false when nobody's is.
bool Block::release() {
  const bool whole_block = std::all_of(fibers_.begin(), fibers_.end(), [](const Fiber& fiber) {
    return fiber.state == State::at_block_barrier || fiber.state == State::done;
  });
  std::vector<Fiber*> released;
  for (int thread = 0; thread < static_cast<int>(fibers_.size()); ++thread) {
    Fiber& fiber = fibers_[static_cast<std::size_t>(thread)];
    if ((fiber.state == State::at_block_barrier && whole_block) ||
        (fiber.state == State::at_warp_barrier && warp_is_complete(thread))) {
      released.push_back(&fiber);
    }
  }
  for (Fiber* fiber : released) fiber->state = State::ready;
  return !released.empty();
}

void Block::run(Order order) {
  for (std::size_t i = 0; i < fibers_.size(); ++i) prepare(fibers_[i].context, stack_of(i));
  std::vector<int> turns(fibers_.size());
  std::iota(turns.begin(), turns.end(), 0);
  if (order == Order::backward) std::reverse(turns.begin(), turns.end());
  for (std::uint64_t round = 0;; ++round) {
    if (order == Order::shuffled) {
      const std::vector<std::size_t> shuffled = random_order(turns.size(), RandomStream{round});
      std::transform(shuffled.begin(), shuffled.end(), turns.begin(),
                     [](std::size_t i) { return static_cast<int>(i); });
    }
    bool progress = false;
    for (const int thread : turns) {
      if (fibers_[static_cast<std::size_t>(thread)].state != State::ready) continue;
      resume(thread);
      progress = true;
    }
    if (progress || release()) continue;
    for (std::size_t i = 0; i < fibers_.size(); ++i) {
      CHECK(fibers_[i].state == State::done)
          << "thread " << i << " waits at a "
          << (fibers_[i].state == State::at_block_barrier ? "block" : "warp")
          << " barrier that others of the block never reach";
    }
    return;
  }
}

}  // namespace

void set_order(Order order) {
  block_order = order;
}

void set_device_count(int count) {
  device_count = count;
}

void set_memory_limit(std::size_t bytes) {
  memory_limit = bytes;
}

void run_block(int threads, std::size_t shared_bytes, const std::function<void(int)>& enter,
               const std::function<void()>& body) {
  CHECK(running_block == nullptr) << "a kernel launches a kernel";
  // Bytes that read as NaN in every float type: a kernel must not rely on what shared memory holds at its start.
  std::memset(cuda::dynamic_shared_bytes, 0xff, shared_bytes);
#ifdef __SANITIZE_ADDRESS__
  ASAN_POISON_MEMORY_REGION(cuda::dynamic_shared_bytes + shared_bytes, kMaxSharedBytes - shared_bytes);
#endif
  Block block(threads, enter, body);
  running_block = &block;
  block.run(block_order);
  running_block = nullptr;
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(cuda::dynamic_shared_bytes, kMaxSharedBytes);
#endif
}

int lane() {
  return running_block->lane();
}

void wait_for_block() {
  running_block->wait(State::at_block_barrier, 0);
}

void wait_for_warp(unsigned mask) {
  running_block->wait(State::at_warp_barrier, mask);
}

std::uint64_t exchange(unsigned mask, std::uint64_t value, int from_lane) {
  return running_block->exchange(mask, value, from_lane);
}

}  // namespace biqa::emulation

using biqa::emulation::device_count;
using biqa::emulation::memory_limit;

const char* cudaGetErrorName(cudaError_t status) {
  switch (status) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
  }
  return "?";
}

const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaSuccess ? "no error" : "emulated error";
}

cudaError_t cudaGetLastError() {
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = std::max(device_count, 0);
  return device_count < 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return device >= 0 && device < device_count ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaMalloc(void** address, std::size_t bytes) {
  constexpr std::size_t kAlignment = 256;  // CUDA's
  // The exact size, so that AddressSanitizer sees the first byte beyond it.
  const bool granted = bytes <= memory_limit && posix_memalign(address, kAlignment, bytes) == 0;
  return granted ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void* address) {
  std::free(address);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind /*kind*/,
                            cudaStream_t /*stream*/) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned /*flags*/) {
  *stream = nullptr;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t /*stream*/) {
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t /*stream*/) {
  return cudaSuccess;
}
