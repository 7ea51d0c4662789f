// SPDX-License-Identifier: Apache-2.0
#include "data/token_parts.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "data/response.h"

namespace biqa {
namespace {

using enum CompletionPart;

const Profile kPaper = named_profile("paper");

const Tokenizer& tokenizer() {
  static const Tokenizer opened = Tokenizer::load(BIQA_SOURCE_DIR "/assets/tiny/model");
  return opened;
}

/// A token by its spelling in the file. Its vocabulary has "><", ".</", ">the" and every single byte.
std::int64_t id(std::string_view spelling) {
  const auto found = tokenizer().id_of(spelling);
  EXPECT_TRUE(found.has_value()) << spelling;
  return found.value_or(-1);
}

struct Piece {
  std::string text;  ///< encoded alone; with `one_token`, the spelling of a token
  CompletionPart part;
  bool one_token = false;
};

/// Builds a completion from its pieces, and returns the parts that it must have and those that it has.
struct Completion {
  std::vector<std::int64_t> ids;
  std::vector<CompletionPart> expected;

  explicit Completion(const std::vector<Piece>& pieces) {
    for (const Piece& piece : pieces) {
      const std::vector<std::int64_t> own =
          piece.one_token ? std::vector{id(piece.text)} : tokenizer().encode(piece.text);
      ids.insert(ids.end(), own.begin(), own.end());
      expected.resize(ids.size(), piece.part);
    }
  }
  std::vector<CompletionPart> parts(const Profile& profile = kPaper) const {
    const std::vector<std::int64_t> ends{id("<|im_end|>")};
    return parts_of_tokens(tokenizer(), profile, ends, ids);
  }
};

TEST(TokenParts, EveryTokenBelongsToOnePartTagsIncluded) {
  const Completion completion({{"\n", caption},
                               {"<caption>a red car</caption>", caption},
                               {"\n", reasoning},
                               {"<reasoning>sharp</reasoning>", reasoning},
                               {" ", rating},
                               {"<rating>3.25</rating>", rating},
                               {"\n", rating},
                               {"<|im_end|>", rating}});
  EXPECT_EQ(completion.parts(), completion.expected);
}

TEST(TokenParts, ATokenAcrossABoundaryBelongsToThePartWithItsFirstByte) {
  const Completion completion({{"<caption", caption},
                               {">the", caption, true},
                               {".</", caption, true},
                               {"caption", caption},
                               {"><", caption, true},
                               {"reasoning>so</reasoning", reasoning},
                               {"><", reasoning, true},
                               {"rating>3.25</rating>", rating}});
  EXPECT_EQ(completion.parts(), completion.expected);
}

// The text of a completion has three bytes for each byte that is no UTF-8, its tokens have one.
TEST(TokenParts, OffsetsAreThoseOfTheTokensBytes) {
  // "ÿ" and "Ã" spell the bytes 0xff and 0xc3; the first two are "é" in two tokens.
  const Completion completion({{"<caption>", caption},
                               {"Ã", caption, true},
                               {"©", caption, true},
                               {"ÿ", caption, true},
                               {"ÿ", caption, true},
                               {"</caption>", caption},
                               {"<reasoning>r", reasoning},
                               {"Ã", reasoning, true},
                               {"</reasoning>", reasoning},
                               {"<rating>3</rating>", rating}});
  EXPECT_EQ(tokenizer().bytes_of(id("ÿ")), "\xff");
  EXPECT_EQ(completion.parts(), completion.expected);
}

TEST(TokenParts, TokensWithoutBytesBelongToWhatFollows) {
  const Completion completion({{"<|vision_pad|>", caption, true},
                               {"<caption>c</caption>", caption},
                               {"<|vision_pad|>", reasoning, true},
                               {"<reasoning>r</reasoning>", reasoning},
                               {"<rating>3", rating},
                               {"<|vision_pad|>", rating, true},
                               {"</rating>", rating}});
  EXPECT_EQ(completion.parts(), completion.expected)
      << "the text is well-formed, because they add nothing to it";
}

TEST(TokenParts, AProfileWithoutACaptionHasTwoParts) {
  const Completion completion(
      {{"\n<think>why</think>", reasoning}, {"<answer>3.5</answer>", rating}, {"<|im_end|>", rating}});
  EXPECT_EQ(completion.parts(named_profile("answer-number")), completion.expected);
  EXPECT_TRUE(completion.parts().empty()) << "not in the tags of this profile";
}

TEST(TokenParts, ACompletionWithAWrongFormatHasNone) {
  for (const std::string text :
       {"", "nothing", "<caption>c</caption><reasoning>r</reasoning>",
        "<caption>c</caption><reasoning>r</reasoning><rating>good</rating>",
        "<caption>c</caption><reasoning>r</reasoning><rating>3</rating> so",
        "<caption>c</caption>and<reasoning>r</reasoning><rating>3</rating>",
        "<reasoning>r</reasoning><caption>c</caption><rating>3</rating>",
        "<caption> </caption><reasoning>r</reasoning><rating>3</rating>",
        "<caption>c</caption></caption><reasoning>r</reasoning><rating>3</rating>"}) {
    EXPECT_FALSE(parse_stage1(kPaper, text).format_ok);
    EXPECT_TRUE(Completion({{text, caption}}).parts().empty()) << text;
  }
}

TEST(PartEnds, LieBehindTheClosingTags) {
  const std::string caption_text = " <caption>c</caption>", reasoning_text = "\n<reasoning>r</reasoning>";
  const auto ends = part_ends(kPaper, caption_text + reasoning_text + "\n<rating>3</rating>");
  ASSERT_TRUE(ends.has_value());
  EXPECT_EQ(ends->caption, caption_text.size());
  EXPECT_EQ(ends->reasoning, caption_text.size() + reasoning_text.size());
}

}  // namespace
}  // namespace biqa
