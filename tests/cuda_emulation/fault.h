// SPDX-License-Identifier: Apache-2.0
// How the emulator says what a kernel or its caller does wrong.
#pragma once

#include <string>

namespace biqa::emulation {

/// Ends the program after one line on stderr: `what`, then the kernel, block and thread that run (if any), and the order
/// of threads with its seed.
[[noreturn]] void fault(const std::string& what);

/// The name of a function of this program, without its parameters; its address in hexadecimal if it has no symbol.
std::string function_name(const void* function);

}  // namespace biqa::emulation
