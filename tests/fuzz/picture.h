// SPDX-License-Identifier: Apache-2.0
// What holds for a picture of every format.
#pragma once

#include <cstdint>
#include <string_view>

#include "io/image.h"

namespace biqa::fuzz {

/// Small, so that a header alone claims little.
inline constexpr ImageLimits kPictureLimits{.max_pixels = std::int64_t{1} << 18,
                                            .max_file_bytes = std::int64_t{1} << 24};

/// Decodes the content, alone and from a file. `cut_shows`: a beginning of the file is never taken for another picture,
/// but for the way it is turned.
void check_picture(std::string_view content, bool cut_shows = true);

}  // namespace biqa::fuzz
