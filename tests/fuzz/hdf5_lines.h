// SPDX-License-Identifier: Apache-2.0
// HDF5 files as lines of text, so that an input decides what a whole file holds.
#pragma once

#include <filesystem>
#include <string_view>

namespace biqa::fuzz {

/// Writes the file, sealed, from lines of words. A dataset: `NAME TYPE SIZE… [= VALUE…]`, its values used again and again
/// (0 where there are none). An attribute: `OBJECT@NAME TYPE VALUE`. TYPE is f, i or t (float, integer, text). Other
/// lines and what HDF5 refuses are left out. False where nothing came of it.
bool write_hdf5(const std::filesystem::path& file, std::string_view lines);

}  // namespace biqa::fuzz
