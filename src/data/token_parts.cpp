// SPDX-License-Identifier: Apache-2.0
#include "data/token_parts.h"

#include <algorithm>
#include <optional>
#include <string>

#include "data/response.h"

namespace biqa {

std::vector<CompletionPart> parts_of_tokens(const Tokenizer& tokenizer, const Profile& profile,
                                            std::span<const std::int64_t> end_tokens,
                                            std::span<const std::int64_t> ids) {
  // The bytes before their repair to UTF-8, because the repair changes offsets. It changes neither tags nor white space.
  std::string bytes;
  std::vector<std::size_t> first_bytes;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    first_bytes.push_back(bytes.size());
    const bool ends =
        i + 1 == ids.size() && std::find(end_tokens.begin(), end_tokens.end(), ids[i]) != end_tokens.end();
    if (!ends && !tokenizer.is_special(ids[i])) bytes += tokenizer.bytes_of(ids[i]);
  }
  std::vector<CompletionPart> parts;
  const std::optional<PartEnds> ends = part_ends(profile, bytes);
  if (!ends) return parts;
  for (const std::size_t byte : first_bytes) {
    parts.push_back(byte < ends->caption     ? CompletionPart::caption
                    : byte < ends->reasoning ? CompletionPart::reasoning
                                             : CompletionPart::rating);
  }
  return parts;
}

}  // namespace biqa
