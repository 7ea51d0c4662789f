// SPDX-License-Identifier: Apache-2.0
// Texts of models and people, as the sentence encoder's tokenizer and the lexicon read them.
#include <glog/logging.h>

#include <cmath>
#include <filesystem>

#include "fuzz/harness.h"
#include "semantic/polarity.h"
#include "semantic/wordpiece.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  constexpr std::int64_t kTokens = 164;
  constexpr std::size_t kMost = 40;
  static const WordPiece tokenizer =
      WordPiece::open(std::filesystem::path(BIQA_SOURCE_DIR) / "tests/fixtures/sentence", kTokens);
  const std::vector<std::int64_t> ids = tokenizer.encode(input, kMost),
                                  all = tokenizer.encode(input, input.size() + 2);
  CHECK(ids.size() >= 2 && ids.size() <= kMost && all.front() == ids.front() && all.back() == ids.back());
  for (const std::int64_t id : all) CHECK(id >= 0 && id < kTokens);
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) CHECK_EQ(ids[i], all[i]);

  const AspectSigns signs = Lexicon::built_in().signs_of(input);
  const double agreement = polarity_agreement(signs, signs);
  CHECK(mentions_any(signs) ? agreement == 1 : std::isnan(agreement));
}

const Registered kRegistered("sentence_text", run);

}  // namespace
}  // namespace biqa::fuzz
