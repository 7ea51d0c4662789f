// SPDX-License-Identifier: Apache-2.0
// How a process reports the failure that ends it: one line, `error: …`, on standard error.
#pragma once

#include <functional>
#include <string>

namespace biqa {

/// Sets the function that prints failures from now on, for example with the rank number. With an empty function, only
/// the message is printed. One function per process; call this from the main thread.
void on_failure(std::function<void(const std::string& message)> handler);

/// Whether on_failure() has set a function.
bool has_failure_handler();

/// Prints `error: …` at once, through the function of on_failure() if there is one.
void report_failure(const std::string& message);

}  // namespace biqa
