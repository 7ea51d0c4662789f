// SPDX-License-Identifier: Apache-2.0
// The version of the program, as --version prints it and checkpoints record it.
#pragma once

#include <string>

namespace biqa {

/// "biqa 0.1.0 (git 1234567), backends: cpu".
std::string version_text();

}  // namespace biqa
