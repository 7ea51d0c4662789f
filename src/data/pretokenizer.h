// SPDX-License-Identifier: Apache-2.0
// Qwen2's split of a text into words. Byte pairs are merged only inside a word.
#pragma once

#include <cstddef>
#include <string_view>

namespace biqa {

/// The regular expression in tokenizer.json. The first alternative that matches wins.
inline constexpr std::string_view kQwen2Split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Number of bytes of the first match of kQwen2Split in `text`, which must be valid UTF-8 and not empty. Every text is
/// a sequence of such words without gaps. Splitting a whole text takes linear time.
std::size_t first_word_length(std::string_view text);

}  // namespace biqa
