// SPDX-License-Identifier: Apache-2.0
// Inputs to begin with: the project's own fixtures, small files that our writers make, and a few texts.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace biqa::fuzz {

/// Inputs by harness.
std::map<std::string, std::vector<std::string>> make_seeds();

}  // namespace biqa::fuzz
