// SPDX-License-Identifier: Apache-2.0
// Runs the threads of one CUDA block as fibers of one host thread. A fiber runs until it waits at a barrier
// or a shuffle or returns; so a run is deterministic, and a kernel that lacks a barrier gives different
// results in different orders. One host thread may launch at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace biqa::emulation {

inline constexpr int kMaxSharedBytes = 227 * 1024;  ///< of a block on sm_90

/// In which order the threads of a block get their turns.
enum class Order { forward, backward, shuffled };
void set_order(Order order);

/// cudaGetDeviceCount gives this count; a negative one stands for an error of the driver.
void set_device_count(int count);
/// cudaMalloc fails beyond this many bytes in one allocation.
void set_memory_limit(std::size_t bytes);

/// Runs `body` once per thread of a block; `enter(thread)` goes before each turn of a thread and sets its
/// index. The dynamic shared memory is filled with NaN bytes; beyond `shared_bytes` it is poisoned under
/// AddressSanitizer. CHECK-fails when threads wait at different barriers.
void run_block(int threads, std::size_t shared_bytes, const std::function<void(int)>& enter,
               const std::function<void()>& body);

/// For use by the fibers.
int lane();
void wait_for_block();
void wait_for_warp(unsigned mask);
/// Gives `value` to the warp and returns what `from_lane` gave (this fiber's own value where that lane is not there).
std::uint64_t exchange(unsigned mask, std::uint64_t value, int from_lane);

}  // namespace biqa::emulation
