// SPDX-License-Identifier: Apache-2.0
#include "data/prompts.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "core/error.h"
#include "data/response.h"

namespace biqa {
namespace {

using ::testing::HasSubstr;

TEST(Prompts, ProfilesAreThoseOfPaperAndRelease) {
  const Profile paper = named_profile("paper");
  EXPECT_EQ(paper.caption_tag, "caption");
  EXPECT_EQ(paper.reasoning_tag, "reasoning");
  EXPECT_EQ(paper.rating_tag, "rating");
  EXPECT_FALSE(paper.json_rating);
  const Profile released = named_profile("released");
  EXPECT_EQ(released.caption_tag, "caption");
  EXPECT_EQ(released.reasoning_tag, "think");
  EXPECT_EQ(released.rating_tag, "answer");
  EXPECT_TRUE(released.json_rating);
  try {
    named_profile("papers");
    FAIL() << "an unknown profile was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_THAT(error.what(), HasSubstr("papers"));
  }
}

TEST(Prompts, FillReplacesEveryFieldOnce) {
  EXPECT_EQ(fill("see: {caption}!", "a car"), "see: a car!");
  EXPECT_EQ(fill("{caption}{caption}", "x"), "xx");
  EXPECT_EQ(fill("{caption}", ""), "");
  EXPECT_EQ(fill("a {caption} b", "{caption} {0} %s"), "a {caption} {0} %s b") << "a caption is no template";
  EXPECT_EQ(fill("{Caption} {caption} {", "x"), "{Caption} x {");
}

TEST(Prompts, FillNeedsAField) {
  try {
    fill("no field", "x");
    FAIL() << "a template without a field was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_THAT(error.what(), HasSubstr("{caption}"));
  }
}

TEST(Prompts, DefaultTextsAskForWhatTheParserTakes) {
  for (const char* name : {"paper", "released"}) {
    const Profile profile = named_profile(name);
    const PromptTexts texts = default_prompts(profile);
    std::size_t last = 0;
    for (const std::string& tag : {profile.caption_tag, profile.reasoning_tag, profile.rating_tag}) {
      const std::size_t at = texts.user.find(fmt::format("<{0}> and </{0}>", tag));
      ASSERT_NE(at, std::string::npos) << name << " does not ask for " << tag;
      EXPECT_GT(at, last) << "parts are asked for in order";
      last = at;
    }
    EXPECT_EQ(texts.user.find("{\"rating\": x}") != std::string::npos, profile.json_rating);
    const std::string stage2 = fill(texts.stage2_user, "A CAPTION");
    EXPECT_THAT(stage2, HasSubstr("A CAPTION"));
    EXPECT_THAT(stage2, HasSubstr(fmt::format("<{}>", profile.rating_tag)));
    EXPECT_EQ(stage2.find(profile.caption_tag + ">"), std::string::npos) << "stage 2 asks for a rating alone";
  }
}

}  // namespace
}  // namespace biqa
