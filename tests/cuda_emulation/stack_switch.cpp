// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/stack_switch.h"

#include <glog/logging.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define BIQA_FAST_SWITCH
#else
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace biqa::emulation {

Stack Stacks::take() {
  if (!free_.empty()) {
    const Stack stack = free_.back();
    free_.pop_back();
    return stack;
  }
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* memory =
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  PCHECK(memory != MAP_FAILED) << "no memory for the stack of an emulated thread";
  mappings_.push_back(memory);
  PCHECK(mprotect(memory, page, PROT_NONE) == 0);
  return {static_cast<unsigned char*>(memory) + page, kBytes - page};
}

Stacks::~Stacks() {
  for (void* memory : mappings_) {
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(memory, kBytes);  // what is mapped here next is not a stack
#endif
    munmap(memory, kBytes);
  }
}

#ifdef BIQA_FAST_SWITCH

// Keeps what a function must keep for its caller, stores the stack pointer and takes the other one's.
extern "C" void biqa_switch_stack(void** from, void* to);
asm(R"(.text
.globl biqa_switch_stack
.type biqa_switch_stack, @function
biqa_switch_stack:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  ret
.size biqa_switch_stack, .-biqa_switch_stack
)");

struct Context::State {};

Context::Context() = default;
Context::~Context() = default;

void Context::prepare(Stack stack, void (*entry)()) {
  constexpr int kSavedRegisters = 6;
  stack_ = stack;
  auto** top = reinterpret_cast<void**>(stack.data + stack.bytes);
  *--top = nullptr;  // where `entry` would return to; keeps the stack aligned as a call does
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  stack_pointer_ = top;
}

void Context::go_on(Context& from, bool /*last*/) {
  biqa_switch_stack(&from.stack_pointer_, stack_pointer_);
}

#else

struct Context::State {
  ucontext_t context{};
  void (*entry)() = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's, while the execution is left
};

namespace {
thread_local Context* left = nullptr;    // whose stack's bounds AddressSanitizer tells at the arrival
thread_local void (*begin)() = nullptr;  // the entry of an execution that begins
}  // namespace

Context::Context() : state_(std::make_unique<State>()) {}
Context::~Context() = default;

/// The first function of every execution.
void Context::arrive() {
#ifdef __SANITIZE_ADDRESS__
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  left->stack_ = {static_cast<unsigned char*>(const_cast<void*>(bottom)), bytes};
#endif
  begin();
}

void Context::prepare(Stack stack, void (*entry)()) {
  stack_ = stack;
  state_->entry = entry;
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(stack.data, stack.bytes);  // what an earlier execution never returned from
#endif
  CHECK_EQ(getcontext(&state_->context), 0);
  state_->context.uc_stack.ss_sp = stack.data;
  state_->context.uc_stack.ss_size = stack.bytes;
  state_->context.uc_link = nullptr;
  makecontext(&state_->context, &Context::arrive, 0);
}

void Context::go_on(Context& from, [[maybe_unused]] bool last) {
  left = &from;
  begin = state_->entry;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(last ? nullptr : &from.state_->fake_stack, stack_.data, stack_.bytes);
#endif
  CHECK_EQ(swapcontext(&from.state_->context, &state_->context), 0);
#ifdef __SANITIZE_ADDRESS__
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(from.state_->fake_stack, &bottom, &bytes);
  left->stack_ = {static_cast<unsigned char*>(const_cast<void*>(bottom)), bytes};
#endif
}

#endif

}  // namespace biqa::emulation
