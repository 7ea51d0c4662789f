// SPDX-License-Identifier: Apache-2.0
// What tests choose of the emulator: the order of threads and blocks, and what the emulated device has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace biqa::emulation {

inline constexpr int kMaxSharedBytes = 227 * 1024;  ///< of a block on any architecture

/// Which of the threads that can go on does so, and in which order the blocks of a launch run. Forward: the first one,
/// backward: the last one, shuffled: any. The environment's BIQA_EMULATOR_ORDER (forward, backward or shuffled) is the
/// order of a program that sets none.
enum class Order { forward, backward, shuffled };
void set_order(Order order);
Order order();

/// What shuffled orders are drawn from, besides the number of the launch; BIQA_EMULATOR_SEED, or 1.
void set_seed(std::uint64_t seed);
std::uint64_t seed();

/// When the work in streams is done: by the call that asks for it, or late, that is only when somebody waits for it. Late
/// streams show results that are read too early. BIQA_EMULATOR_STREAMS (at_once or late), or at once.
enum class Streams { at_once, late };
void set_streams(Streams streams);
bool late_streams();

/// Whether this build looks at every access of a kernel (see access.h).
bool checks_accesses();

/// The settings in words, for messages: how to see the same again.
std::string settings_text();

/// cudaGetDeviceCount gives this count; a negative one stands for an error of the driver.
void set_device_count(int count);
/// A count: the driver is too old.
inline constexpr int kOldDriver = -2;
/// How many bytes the device has; 16 GiB unless set.
void set_memory_limit(std::size_t bytes);
/// Major and minor number of the device's compute capability, such as 86; 90 unless set. It limits the shared memory of a block.
void set_device_capability(int capability);
/// The name that CUDA gives the device: "emulated device" or the environment's BIQA_EMULATOR_DEVICE unless set.
void set_device_name(const std::string& name);
/// The next call of this kind returns `status` (a cudaError_t) and does nothing.
enum class Call { launch, allocation, wait };
void fail_next(Call call, int status);
/// What a block may have at most, in bytes.
int max_shared_bytes();

}  // namespace biqa::emulation
