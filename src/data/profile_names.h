// SPDX-License-Identifier: Apache-2.0
// The names of the prompt profiles, for configurations and flags.
#pragma once

#include <array>

namespace biqa {

/// "paper": caption, reasoning, rating. "released": caption, think, answer with a JSON object. The other two are for
/// models that others have trained. Their completions have no caption, so there is no second stage. "answer-number":
/// think, answer. "answer-json": think, answer with a JSON object.
inline constexpr std::array<const char*, 4> kProfileNames{"paper", "released", "answer-number",
                                                          "answer-json"};

}  // namespace biqa
