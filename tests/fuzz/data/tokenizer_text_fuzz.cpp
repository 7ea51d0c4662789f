// SPDX-License-Identifier: Apache-2.0
// Any bytes through the tokenizer and back, and as texts of a prompt.
#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "data/chat.h"
#include "data/prompts.h"
#include "data/tokenizer.h"
#include "data/unicode.h"
#include "fuzz/harness.h"

namespace biqa::fuzz {
namespace {

void check_prompt(const Tokenizer& tokenizer, const ChatIds& ids, std::string_view input) {
  const auto parts = parts_of(input, 2);
  const std::string system(parts[0]);
  const std::array<std::int64_t, 2> pictures{3, 1};
  const auto special = [&](std::int64_t id) { return tokenizer.is_special(id); };
  const Prompt prompt = render_prompt(tokenizer, ids, system, pictures, parts.back());
  CHECK_EQ(std::count(prompt.ids.begin(), prompt.ids.end(), ids.image_pad), 4);
  // Three turns of which two end, two pictures: no text adds a control token.
  CHECK_EQ(std::count_if(prompt.ids.begin(), prompt.ids.end(), special), 3 + 2 + 4 + 4);
  const std::vector<std::int64_t> completion = completion_ids(tokenizer, ids, input);
  CHECK_EQ(completion.back(), ids.im_end);
  CHECK_EQ(std::count_if(completion.begin(), completion.end(), special), 1);
}

void run(std::string_view input) {
  static const Tokenizer tokenizer = Tokenizer::load(BIQA_SOURCE_DIR "/tests/fixtures/tokenizer/whole");
  static const ChatIds ids = find_chat_ids(tokenizer, {});

  const std::string repaired = repaired_utf8(input);
  CHECK(is_valid_utf8(repaired));
  if (is_valid_utf8(input)) CHECK_EQ(repaired, input);
  const std::string composed = to_nfc(repaired);
  CHECK(is_valid_utf8(composed));
  CHECK_EQ(to_nfc(composed), composed);

  const std::vector<std::int64_t> plain = tokenizer.encode(input, Tokenizer::AddedTokens::plain_text);
  for (const std::int64_t id : plain) CHECK(id >= 0 && id < tokenizer.size() && !tokenizer.is_special(id));
  CHECK_EQ(tokenizer.decode(plain), composed);
  const std::vector<std::int64_t> recognised = tokenizer.encode(input);
  for (const std::int64_t id : recognised) CHECK(id >= 0 && id < tokenizer.size());
  CHECK(is_valid_utf8(tokenizer.decode(recognised)));

  // Any numbers as ids.
  std::vector<std::int64_t> numbers(input.size() / sizeof(std::int64_t));
  if (!numbers.empty()) std::memcpy(numbers.data(), input.data(), numbers.size() * sizeof(std::int64_t));
  for (const char c : input) numbers.push_back(static_cast<unsigned char>(c));
  CHECK(is_valid_utf8(tokenizer.decode(numbers)));
  CHECK(is_valid_utf8(tokenizer.decode(numbers, true)));

  check_prompt(tokenizer, ids, input);
  const std::string filled = fill("{caption}, {caption}!", input);
  CHECK_EQ(filled, std::string(input) + ", " + std::string(input) + "!");
}

const Registered kRegistered("tokenizer_text", run);

}  // namespace
}  // namespace biqa::fuzz
