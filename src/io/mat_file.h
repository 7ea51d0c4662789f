// SPDX-License-Identifier: Apache-2.0
// Variables of MATLAB files: of version 5 with libmatio, of version 7.3 with libhdf5.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace biqa {

/// Whether the file begins as MATLAB files of version 5 and 7.3 do.
bool is_mat_file(const std::filesystem::path& file);

/// The elements of a real numeric array, in the order of the file (column-major). Throws Error naming file and variable
/// if it cannot be read. The libraries run in a child process, because they crash on some damaged files
/// (docs/decisions/0022-label-files.md).
std::vector<double> read_mat_numbers(const std::filesystem::path& file, const std::string& variable);

/// The elements of a cell array of char rows, as UTF-8, in the order of the file. Throws as above.
std::vector<std::string> read_mat_texts(const std::filesystem::path& file, const std::string& variable);

}  // namespace biqa
