// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/stack_switch.h"

#include <glog/logging.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#ifdef __x86_64__
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

// Keeps the registers that a function must keep for its caller, stores the stack pointer and takes the other one's. Nothing
// here changes the control words of the floating-point units, so they stay as they are.
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

#endif

struct Context::State {
#ifdef BIQA_FAST_SWITCH
  void* stack_pointer = nullptr;
#else
  ucontext_t registers{};
#endif
  void (*entry)() = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's, while the execution is left

  void begin_at(Stack stack, void (*function)());
  void switch_to(State& other);
};

#ifdef BIQA_FAST_SWITCH

void Context::State::begin_at(Stack stack, void (*function)()) {
  constexpr int kSavedRegisters = 6;
  auto** top = reinterpret_cast<void**>(stack.data + stack.bytes);
  *--top = nullptr;  // where `function` would return to; keeps the stack aligned as a call does
  *--top = reinterpret_cast<void*>(function);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  stack_pointer = top;
}

void Context::State::switch_to(State& other) {
  biqa_switch_stack(&stack_pointer, other.stack_pointer);
}

#else

void Context::State::begin_at(Stack stack, void (*function)()) {
  CHECK_EQ(getcontext(&registers), 0);
  registers.uc_stack.ss_sp = stack.data;
  registers.uc_stack.ss_size = stack.bytes;
  registers.uc_link = nullptr;
  makecontext(&registers, function, 0);
}

void Context::State::switch_to(State& other) {
  CHECK_EQ(swapcontext(&registers, &other.registers), 0);
}

#endif

namespace {
thread_local Context* left = nullptr;    // what go_on left last
thread_local void (*begin)() = nullptr;  // the entry of an execution that begins
}  // namespace

Context::Context() : state_(std::make_unique<State>()) {}
Context::~Context() = default;

/// Tells AddressSanitizer that the execution of `fake_stack` runs, and learns where the one that was left has its stack.
void Context::arrived([[maybe_unused]] void* fake_stack) {
#ifdef __SANITIZE_ADDRESS__
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fake_stack, &bottom, &bytes);
  left->stack_ = {static_cast<unsigned char*>(const_cast<void*>(bottom)), bytes};
#endif
}

/// The first function of every execution.
void Context::arrive() {
  arrived(nullptr);
  begin();
}

void Context::prepare(Stack stack, void (*entry)()) {
  stack_ = stack;
  state_->entry = entry;
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(stack.data, stack.bytes);  // what an earlier execution never returned from
#endif
  state_->begin_at(stack, &Context::arrive);
}

void Context::go_on(Context& from, [[maybe_unused]] bool last) {
  left = &from;
  begin = state_->entry;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(last ? nullptr : &from.state_->fake_stack, stack_.data, stack_.bytes);
#endif
  from.state_->switch_to(*state_);
  arrived(from.state_->fake_stack);
}

}  // namespace biqa::emulation
