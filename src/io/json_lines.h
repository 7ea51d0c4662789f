// SPDX-License-Identifier: Apache-2.0
// Files with one JSON object per line.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace biqa {

/// Calls `read` with the number (from 1) and the text of every line that is not blank, in their order. Lines end with a
/// line feed; a carriage return before it is a blank. Returns the number of lines.
std::int64_t for_each_json_line(std::string_view content,
                                const std::function<void(std::int64_t number, std::string_view line)>& read);

}  // namespace biqa
