// SPDX-License-Identifier: Apache-2.0
// What the instrumentation calls.
#pragma once

#include <cstddef>
#include <cstdint>

namespace biqa::emulation::access {

enum class Kind : std::uint8_t { read, write, atomic };

/// Looks at an access of the running thread. Faults if it is wrong; does nothing while no kernel runs.
void touch(const void* address, std::size_t bytes, Kind kind, std::size_t alignment);

/// The running thread uses an address for a type that needs another alignment. Faults while a kernel runs.
void misaligned(const void* address, std::size_t alignment, const char* type);

}  // namespace biqa::emulation::access
