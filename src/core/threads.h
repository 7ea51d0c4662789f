// SPDX-License-Identifier: Apache-2.0
// Runs work on several threads and passes their exceptions to the caller.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>
#include <vector>

namespace biqa {

/// Keeps the first exception of several threads until all have ended. An exception that leaves a thread or an OpenMP
/// region would end the program.
class FirstFailure {
 public:
  /// Runs `work`. Does nothing after a failure, because the result will not be used.
  template <typename Work>
  void guard(const Work& work) noexcept {
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
      work();
    } catch (...) {
      if (!failed_.exchange(true)) failure_ = std::current_exception();
    }
  }
  /// Throws the exception that was kept, if any. Call it after the region.
  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;
};

/// Runs body(0) … body(count − 1). body(0) runs on this thread, each other call on a new thread. If the system has no
/// more threads, the remaining calls also run on this thread. Returns when all have ended; throws the first exception.
template <typename Body>
void on_threads(std::int64_t count, const Body& body) {
  FirstFailure failure;
  std::vector<std::thread> others;
  others.reserve(static_cast<std::size_t>(count));
  std::int64_t started = 1;
  try {
    for (; started < count; ++started)
      others.emplace_back([&failure, &body, index = started] { failure.guard([&] { body(index); }); });
  } catch (const std::exception&) {
    // The system has no more threads.
  }
  if (count > 0) failure.guard([&] { body(std::int64_t{0}); });
  for (std::int64_t index = started; index < count; ++index) failure.guard([&] { body(index); });
  for (std::thread& other : others) other.join();
  failure.rethrow();
}

/// For background threads: an exception ends the program with a message and exit code 1.
template <typename Body>
void run_or_exit(const char* what, const Body& body) noexcept {
  try {
    body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s: %s; start the job again\n", what, error.what());
    std::fflush(nullptr);
    std::_Exit(1);
  }
}

}  // namespace biqa
