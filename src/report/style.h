// SPDX-License-Identifier: Apache-2.0
// The style sheet of every page.
#pragma once

#include <cstddef>

namespace biqa {

/// Colours for lines of charts, classes c0 … c5 of the style sheet; further ones repeat.
inline constexpr std::size_t kChartColours = 6;

extern const char* const kPageStyle;

}  // namespace biqa
