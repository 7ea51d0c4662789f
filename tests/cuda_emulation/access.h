// SPDX-License-Identifier: Apache-2.0
// Checks of every access that a kernel makes. The sources of kernels are compiled with the instrumentation of
// -fsanitize=thread, and the functions that it calls are ours: they look at each address before it is used. Known of every two
// bytes of shared and device memory is whether they were written, and who wrote and read them last. Without
// BIQA_EMULATOR_HOOKS nothing is instrumented, and these functions do nothing.
//
// Time is a count of the events that order accesses: launches, blocks, barriers. Two accesses race if one of them writes and
// no such event that concerns both threads lies between.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda_emulation/block.h"
#include "cuda_emulation/stack_switch.h"

namespace biqa::emulation::access {

#ifdef BIQA_EMULATOR_HOOKS

// What runs. `shared`: the start of dynamic shared memory.
void begin_launch(const Launch& launch, const unsigned char* shared);
void end_launch();
void begin_block(Size3 index);
void enter(int thread, Stack stack);

// What orders accesses: a barrier of the block; one of these lanes of a warp, of which `living` have not returned; the arrival
// of a block at a counter, after which the last one may read what the others wrote.
void block_synchronised();
void warp_synchronised(int warp, unsigned lanes, unsigned living);
void arrived(const void* counter, bool last);

/// While one exists, accesses are not looked at: the emulator does them itself, and names them by the functions below.
class Pause {
 public:
  Pause();
  ~Pause();
  Pause(const Pause&) = delete;
  Pause& operator=(const Pause&) = delete;

 private:
  bool before_;
};
/// A thread of the block reads or writes these bytes.
void reads(int thread, const void* address, std::size_t bytes);
/// The target of an asynchronous copy, from its begin to its arrival.
void begins_copy(void* to);
void lands_copy(void* to);

// Device memory between launches. device_read faults where nobody has written.
void device_read(const void* address, std::size_t bytes);
void device_written(const void* address, std::size_t bytes);
void device_copied(const void* to, const void* from, std::size_t bytes);
void device_freed(const void* address, std::size_t bytes);

#else

inline void begin_launch(const Launch& /*launch*/, const unsigned char* /*shared*/) {}
inline void end_launch() {}
inline void begin_block(Size3 /*index*/) {}
inline void enter(int /*thread*/, Stack /*stack*/) {}
inline void block_synchronised() {}
inline void warp_synchronised(int /*warp*/, unsigned /*lanes*/, unsigned /*living*/) {}
inline void arrived(const void* /*counter*/, bool /*last*/) {}
class Pause {
 public:
  Pause() {}  // NOLINT(modernize-use-equals-default): a variable of this type counts as used
};
inline void reads(int /*thread*/, const void* /*address*/, std::size_t /*bytes*/) {}
inline void begins_copy(void* /*to*/) {}
inline void lands_copy(void* /*to*/) {}
inline void device_read(const void* /*address*/, std::size_t /*bytes*/) {}
inline void device_written(const void* /*address*/, std::size_t /*bytes*/) {}
inline void device_copied(const void* /*to*/, const void* /*from*/, std::size_t /*bytes*/) {}
inline void device_freed(const void* /*address*/, std::size_t /*bytes*/) {}

#endif

}  // namespace biqa::emulation::access
