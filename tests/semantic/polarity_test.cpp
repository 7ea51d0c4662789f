// SPDX-License-Identifier: Apache-2.0
#include "semantic/polarity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "io/files.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using ::testing::HasSubstr;

double agreement(std::string_view a, std::string_view b) {
  const Lexicon& lexicon = Lexicon::built_in();
  return polarity_agreement(lexicon.signs_of(a), lexicon.signs_of(b));
}

/// "sharpness + noise -", in the order of the lexicon.
std::string said(std::string_view text, const Lexicon& lexicon = Lexicon::built_in()) {
  const AspectSigns signs = lexicon.signs_of(text);
  std::string all;
  for (std::size_t i = 0; i < signs.size(); ++i) {
    if (!signs[i]) continue;
    all += (all.empty() ? "" : " ") + lexicon.aspects()[i] +
           (*signs[i] > 0   ? " +"
            : *signs[i] < 0 ? " -"
                            : " 0");
  }
  return all;
}

TEST(Polarity, SharpAndBlurryDisagree) {
  EXPECT_EQ(agreement("a blurry picture", "a sharp picture"), 0);
  EXPECT_EQ(agreement("the picture is not blurry", "a sharp picture"), 1);
  EXPECT_EQ(agreement("a crisp photo of a dog", "every hair is in focus"), 1);
  EXPECT_EQ(agreement("not sharp", "out of focus"), 1);
}

TEST(Polarity, AspectsOfOneTextCountHalf) {
  // Both: sharpness, which agrees. One: noise.
  EXPECT_DOUBLE_EQ(agreement("sharp", "sharp and noisy"), 1 / 1.5);
  EXPECT_EQ(agreement("sharp", "noisy"), 0);
  EXPECT_EQ(agreement("sharp", "a dog on a lawn"), 0);
  EXPECT_TRUE(std::isnan(agreement("a cat", "a dog on a lawn")));
  // As many good as bad mentions: half of the agreement with either.
  EXPECT_DOUBLE_EQ(agreement("the dog is sharp, the tree is blurry", "sharp"), 0.5);
  EXPECT_EQ(agreement("sharp here, blurry there", "blurry here, sharp there"), 1);
}

TEST(Polarity, Negations) {
  EXPECT_EQ(said("it isn't blurry"), "sharpness +");
  EXPECT_EQ(said("it isn\u2019t very sharp"), "sharpness -");
  EXPECT_EQ(said("No noise or grain"), "noise +");
  EXPECT_EQ(said("without noise, blurry"), "sharpness - noise +");
  EXPECT_EQ(said("not blurry but noisy"), "sharpness + noise -");
  EXPECT_EQ(said("no noise and sharp"), "sharpness + noise +");
  EXPECT_EQ(said("free of noise"), "noise +");
  EXPECT_EQ(said("noise-free"), "noise +");
  EXPECT_EQ(said("there is no lack of detail"), "sharpness +");
  EXPECT_EQ(said("not a photo that anyone could call a blurry one"), "sharpness -");  // too far
  EXPECT_EQ(said("not a photo of the kind that has no noise"), "noise +");  // the first reaches nothing
}

TEST(Polarity, JudgementsOfAspects) {
  EXPECT_EQ(said("good contrast"), "contrast +");
  EXPECT_EQ(said("the exposure is poor"), "exposure -");
  EXPECT_EQ(said("the colours are not good"), "colour -");
  EXPECT_EQ(said("the picture has good contrast"), "contrast +");  // the nearest name
  EXPECT_EQ(said("colours and contrast"), "");                     // names without a judgement
  EXPECT_EQ(said("it lacks detail"), "sharpness -");
  EXPECT_EQ(said("a good dog that runs towards the contrast"), "");     // too far
  EXPECT_EQ(said("poor light, colours fill the frame"), "exposure -");  // not into the next clause
}

TEST(Polarity, TheLongestTermCounts) {
  EXPECT_EQ(said("low contrast"), "contrast -");
  EXPECT_EQ(said("high contrast"), "contrast +");
  EXPECT_EQ(said("Out of focus!"), "sharpness -");
  EXPECT_EQ(said("in focus"), "sharpness +");
  EXPECT_EQ(said("motion blur"), "motion -");
}

TEST(Polarity, ReadsALexicon) {
  const Lexicon own =
      Lexicon::parse("# mine\nfocus +1 tack sharp\nfocus -1 soft*\n\nnegation nicht\n", "own.txt");
  EXPECT_EQ(own.aspects(), std::vector<std::string>{"focus"});
  EXPECT_EQ(said("softly, very softly", own), "focus -");
  EXPECT_EQ(said("nicht soft", own), "focus +");
  EXPECT_EQ(said("a TACK-sharp eye", own), "focus +");
  EXPECT_EQ(said("sharp", own), "");
}

TEST(Polarity, RefusesABadLexicon) {
  const auto problem = [](std::string_view text) -> std::string {
    try {
      Lexicon::parse(text, "own.txt");
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  };
  EXPECT_THAT(problem("focus +1 sharp\nfocus 2 blur\n"), HasSubstr("own.txt:2: the sign is neither"));
  EXPECT_THAT(problem("focus +1\n"), HasSubstr("the term is missing"));
  EXPECT_THAT(problem("focus\n"), HasSubstr("the sign is missing"));
  EXPECT_THAT(problem("judgement 0 fine\n"), HasSubstr("the sign of a judgement"));
  EXPECT_THAT(problem("focus +1 sharp, crisp\n"), HasSubstr("made of words"));
  EXPECT_THAT(problem("negation not\n"), HasSubstr("no aspects"));
  EXPECT_THAT(problem(""), HasSubstr("no aspects"));
}

TEST(Polarity, TheBuiltInLexiconIsTheFile) {
  const Lexicon file = Lexicon::open(BIQA_SOURCE_DIR "/assets/lexicon/quality.txt");
  EXPECT_EQ(file.aspects(), Lexicon::built_in().aspects());
  EXPECT_GE(file.aspects().size(), 8U);
}

}  // namespace
}  // namespace biqa
