// SPDX-License-Identifier: Apache-2.0
// Variables of MATLAB files of version 7.3, which are HDF5. Only src/io/mat_file.cpp calls this, in a child process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace biqa {

/// Arrays with more elements are refused.
inline constexpr std::size_t kMaxMatElements = std::size_t{16} << 20;

/// UTF-16 as UTF-8. A surrogate without its partner is kept as three bytes.
std::string utf8_of(const std::vector<std::uint16_t>& units);

/// The elements of a real numeric array. Throws std::runtime_error with the reason.
std::vector<double> mat_hdf5_numbers(const std::string& file, const std::string& variable);
/// The elements of a cell array of char rows: a dataset of references to datasets of UTF-16 units. Throws as above.
std::vector<std::string> mat_hdf5_texts(const std::string& file, const std::string& variable);

}  // namespace biqa
