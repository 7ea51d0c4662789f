// SPDX-License-Identifier: Apache-2.0
// Executions with stacks of their own in one host thread. On x86-64 a switch is about twenty instructions, on other
// processors it is ucontext's.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace biqa::emulation {

/// Memory of one stack, from its lowest address on.
struct Stack {
  unsigned char* data = nullptr;
  std::size_t bytes = 0;
};

/// Stacks of one host thread. A stack that is given back is the next one taken. Below each lies a page that faults.
class Stacks {
 public:
  static constexpr std::size_t kBytes = 256 * 1024;
  Stacks() = default;
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  Stack take();
  void give_back(Stack stack) { free_.push_back(stack); }

 private:
  std::vector<Stack> free_;
  std::vector<void*> mappings_;
};

/// An execution that does not run at the moment, or the one that runs.
class Context {
 public:
  Context();
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// Makes this an execution that begins with `entry` on `stack`. `entry` must never return.
  void prepare(Stack stack, void (*entry)());
  /// Makes this stand for an execution that runs on `stack` already.
  void adopt(Stack stack) { stack_ = stack; }
  /// Leaves the running execution, which `from` stands for, and goes on with this one. `last`: `from` never goes on.
  void go_on(Context& from, bool last = false);
  Stack stack() const { return stack_; }

 private:
  static void arrive();
  static void arrived(void* fake_stack);

  struct State;
  Stack stack_;
  std::unique_ptr<State> state_;
};

}  // namespace biqa::emulation
