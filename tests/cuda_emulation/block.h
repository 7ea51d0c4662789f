// SPDX-License-Identifier: Apache-2.0
// Runs the threads of one block at a time. A thread runs until it waits, then another one that is ready goes on, in the
// order that emulator.h sets. What a warp does together runs once, when all its lanes have arrived.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>

namespace biqa::emulation {

using Size3 = std::array<unsigned, 3>;

/// One kernel launch.
struct Launch {
  const void* kernel = nullptr;  // the function, for its name
  Size3 grid{1, 1, 1}, block{1, 1, 1};
  std::size_t shared_bytes = 0;
  std::shared_ptr<const void> arguments;  // the kernel's copies
  std::size_t argument_bytes = 0;
  void (*call)(const void* arguments) = nullptr;  // runs the kernel once, for the thread that runs
};

/// Runs every thread of every block. Dynamic shared memory starts as NaN bytes. Faults where threads wait at different
/// places.
void run(const Launch& launch);

/// What the lanes of a warp do together. `run` is called once, with what each lane handed in (null where a lane does not take
/// part).
struct Collective {
  const char* name;
  void (*run)(void* const* lanes);
  bool whole_warp;             // all 32 lanes must take part
  bool orders_memory = false;  // what the lanes wrote before, the others may read behind
};

// For the running thread.

/// Waits until all lanes of `mask` that have not returned call this with the same kind and mask.
void warp_collective(const Collective& kind, void* arguments, unsigned mask);

/// Waits for all threads of the block that have not returned; they must call it with the same `name`.
struct Votes {
  unsigned yes = 0, all = 0;
};
Votes block_barrier(const char* name, bool vote);

/// Copies of 16 bytes into shared memory (nullptr: of zeros), both sides aligned to 16. They arrive when land_copies is called
/// with fewer than the groups committed since; until then the target holds NaN.
void begin_copy(void* to, const void* from);
void commit_copies();
void land_copies(int open_groups);

/// count_arrival of ops/cuda/warp.h.
bool arrive(unsigned* counter, unsigned arrivals);

int lane();
/// Within a collective: faults in the name of this lane.
[[noreturn]] void lane_fault(int lane, const std::string& what);
/// Within a collective: the number of this lane's thread.
int thread_of(int lane);

/// `kernel NAME, block (x,y,z), thread t`, or "" if none runs.
std::string running_place();

}  // namespace biqa::emulation
