// SPDX-License-Identifier: Apache-2.0
#include "data/response.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <string_view>

namespace biqa {
namespace {

const Profile kPaper = named_profile("paper");
const Profile kReleased = named_profile("released");

std::optional<double> paper_rating(const std::string& inner) {
  return parse_stage2(kPaper, "<rating>" + inner + "</rating>");
}
std::optional<double> released_rating(const std::string& inner) {
  return parse_stage2(kReleased, "<answer>" + inner + "</answer>");
}

TEST(Response, PaperAnswer) {
  const auto response = parse_stage1(
      kPaper, " <caption> a red car\n</caption>\n<reasoning>sharp</reasoning><rating>3.25</rating>\n");
  EXPECT_TRUE(response.format_ok);
  EXPECT_EQ(response.caption, "a red car");
  EXPECT_EQ(response.reasoning, "sharp");
  EXPECT_EQ(response.rating, 3.25);
}

TEST(Response, ReleasedAnswer) {
  const auto response =
      parse_stage1(kReleased, "<caption>c</caption>\n<think>t</think>\n<answer>{\"rating\": 4.5}</answer>");
  EXPECT_TRUE(response.format_ok);
  EXPECT_EQ(response.reasoning, "t");
  EXPECT_EQ(response.rating, 4.5);
}

TEST(Response, AProfileTakesNothingOfTheOther) {
  const std::string paper = "<caption>c</caption><reasoning>r</reasoning><rating>3</rating>";
  const std::string released = "<caption>c</caption><think>r</think><answer>{\"rating\": 3}</answer>";
  EXPECT_TRUE(parse_stage1(kPaper, paper).format_ok);
  EXPECT_TRUE(parse_stage1(kReleased, released).format_ok);
  for (const auto& response : {parse_stage1(kPaper, released), parse_stage1(kReleased, paper)}) {
    EXPECT_FALSE(response.format_ok);
    EXPECT_EQ(response.caption, "c");
    EXPECT_FALSE(response.reasoning);
    EXPECT_FALSE(response.rating);
  }
  EXPECT_FALSE(paper_rating("{\"rating\": 3}"));
  EXPECT_FALSE(released_rating("3"));
}

TEST(Response, RatingsAreDecimalNumbersAndNothingElse) {
  EXPECT_EQ(paper_rating("3"), 3.0);
  EXPECT_EQ(paper_rating(" 3.10\n"), 3.1);
  EXPECT_EQ(paper_rating("-2.5"), -2.5);
  EXPECT_EQ(paper_rating("72"), 72.0) << "not clipped";
  EXPECT_EQ(paper_rating("003.5"), 3.5);
  for (const char* bad : {"",    " ",     "-",    ".",     "3.",   ".5",  "+3",        "--3",         "3.1.2",
                          "3,5", "3e0",   "3E+1", "inf",   "-inf", "nan", "NaN",       "infinity",    "0x3",
                          "3/5", "3.5/5", "3 4",  "three", "~3",   "3%",  "3.5 stars", "\xEF\xBC\x93"}) {
    EXPECT_FALSE(paper_rating(bad)) << bad;
  }
  EXPECT_FALSE(paper_rating(std::string(400, '9'))) << "beyond the range of double";
  EXPECT_FALSE(paper_rating(std::string("3\0", 2)));
}

TEST(Response, JsonRatings) {
  EXPECT_EQ(released_rating("{\"rating\": 3.5}"), 3.5);
  EXPECT_EQ(released_rating(" {\n\"rating\"\t:3.5 } "), 3.5);
  for (const char* bad :
       {"{}", "{\"rating\"}", "{\"rating\":}", "{\"rating\": \"3.5\"}", "{\"rating\": 3.5",
        "\"rating\": 3.5}", "{\"Rating\": 3.5}", "{'rating': 3.5}", "{rating: 3.5}",
        "{\"rating\": 3.5, \"x\": 1}", "{\"rating\": 3.5}}", "{\"rating\": null}", "{\"rating\": [3.5]}", "{",
        "}", "{\"rating\": 3.5 ", "{\"rating\": 35", "{\"rating\": 3.5x", "{\"rating\": 3.5} ok"}) {
    EXPECT_FALSE(released_rating(bad)) << bad;
  }
}

TEST(Response, ScaleIsFromOneToFive) {
  for (const double rating : {1.0, 3.25, 5.0}) EXPECT_FALSE(out_of_scale(rating)) << rating;
  for (const double rating : {0.0, -3.0, 0.99, 5.0001, 5.5, 350000000.0, 1e300})
    EXPECT_TRUE(out_of_scale(rating)) << rating;
  EXPECT_FALSE(out_of_scale(std::nullopt));
  EXPECT_EQ(paper_rating("350000000"), 350000000.0);
  EXPECT_EQ(paper_rating(std::string(26, '9')), 1e26);
}

TEST(Response, NumbersOffTheScaleThatCountAsNoRating) {
  const std::string too_long(400, '7');
  for (const std::string& text : {std::string("1e9"), std::string("inf"), std::string("-inf"),
                                  std::string("Infinity"), std::string("1e400"), std::string("1e-400"),
                                  std::string("+7"), std::string("-2E3"), too_long, "-" + too_long + ".5"}) {
    EXPECT_FALSE(paper_rating(text)) << text;
    EXPECT_TRUE(holds_number_off_scale(kPaper, "<rating> " + text + "</rating>")) << text;
    EXPECT_TRUE(holds_number_off_scale(kReleased, "<answer>{\"rating\": " + text + "}</answer>")) << text;
    EXPECT_FALSE(holds_number_off_scale(kPaper, text)) << text;
  }
  // What is on the scale, no number, or a rating by the rules.
  for (const char* text :
       {"3e0", "+3", "nan", "", "nine", "9 of 10", "9/10", "+-9", "--9", "9,5", "0x99", "9", "-3", "3"})
    EXPECT_FALSE(holds_number_off_scale(kPaper, fmt::format("<rating>{}</rating>", text))) << text;
}

TEST(Response, FormatIsTheThreePartsInOrderAndNoMore) {
  const auto format = [](std::string_view text) { return parse_stage1(kPaper, text).format_ok; };
  EXPECT_TRUE(format("<caption>c</caption><reasoning>r</reasoning><rating>3</rating>"));
  EXPECT_TRUE(format("<caption>a <i>b</i> < c</caption> \t\n<reasoning>r</reasoning>\r\n<rating>3</rating>"));
  for (const char* bad :
       {"", "3.5", "<rating>3</rating>", "x<caption>c</caption><reasoning>r</reasoning><rating>3</rating>",
        "<caption>c</caption>, <reasoning>r</reasoning><rating>3</rating>",
        "<caption>c</caption><reasoning>r</reasoning>Rating: <rating>3</rating>",
        "<caption>c</caption><reasoning>r</reasoning><rating>3</rating>.",
        "<caption>c</caption><reasoning>r</reasoning><rating>good</rating>",
        "<caption>c</caption><reasoning>r</reasoning><rating>3",
        "<caption>c</caption><rating>3</rating><reasoning>r</reasoning>",
        "<reasoning>r</reasoning><caption>c</caption><rating>3</rating>",
        "<caption>c<reasoning>r</reasoning></caption><rating>3</rating>",
        "<caption></caption><reasoning>r</reasoning><rating>3</rating>",
        "<caption>c</caption><reasoning> \n</reasoning><rating>3</rating>",
        "<caption>c</caption><caption>c</caption><reasoning>r</reasoning><rating>3</rating>",
        "<caption>c</caption><reasoning>r</reasoning><rating>3</rating><rating>3</rating>",
        "<CAPTION>c</CAPTION><reasoning>r</reasoning><rating>3</rating>",
        "<caption >c</caption><reasoning>r</reasoning><rating>3</rating>"}) {
    EXPECT_FALSE(format(bad)) << bad;
  }
}

TEST(Response, PartsAreFoundOutsideOfTheFormat) {
  const auto late = parse_stage1(kPaper, "Sure!\n<caption>c</caption> so <rating>2.5</rating>");
  EXPECT_FALSE(late.format_ok);
  EXPECT_EQ(late.caption, "c");
  EXPECT_FALSE(late.reasoning);
  EXPECT_EQ(late.rating, 2.5);
  const auto cut = parse_stage1(kPaper, "<caption>c</caption><reasoning>it is");
  EXPECT_EQ(cut.caption, "c");
  EXPECT_FALSE(cut.reasoning);
  EXPECT_FALSE(cut.rating);
}

TEST(Response, TagsWrittenTwiceAreAmbiguous) {
  const auto twice =
      parse_stage1(kPaper, "<caption>a</caption><caption>b</caption><rating>1</rating><rating>5</rating>");
  EXPECT_FALSE(twice.caption);
  EXPECT_FALSE(twice.rating);
  EXPECT_FALSE(parse_stage2(kPaper, "<rating><rating>3</rating>"));
  EXPECT_FALSE(parse_stage2(kPaper, "<rating>3</rating></rating>"));
  EXPECT_FALSE(parse_stage2(kPaper, "</rating>3<rating>"));
  EXPECT_FALSE(parse_stage2(kPaper, "<rating></rating>"));
}

TEST(Response, BeforeRating) {
  EXPECT_EQ(before_rating(kPaper, "abc <rating>3</rating> d"), "abc ");
  EXPECT_EQ(before_rating(kPaper, "abc <rating>3"), "abc ");
  EXPECT_FALSE(before_rating(kPaper, "abc"));
  EXPECT_FALSE(before_rating(kPaper, "<rating>a<rating>"));
}

TEST(Response, StripRatings) {
  EXPECT_EQ(strip_ratings("about 3.52 of it"), "about  of it");
  EXPECT_EQ(strip_ratings("3"), "");
  EXPECT_EQ(strip_ratings("a 4."), "a .");
  EXPECT_EQ(strip_ratings("(4.5/5)"), "(/)");
  EXPECT_EQ(strip_ratings("3,5 und 2.0, 1"), " und , ");
  EXPECT_EQ(strip_ratings("a 5-star picture"), "a -star picture");
  EXPECT_EQ(strip_ratings("\xE8\xA9\x95"
                          "3.5\xE3\x81\xA7"),
            "\xE8\xA9\x95\xE3\x81\xA7");
  for (const char* kept :
       {"",      "no number", "1080p", "4K", "f2.8", "2nd", "10", "0.5", "5.01", "0.99",
        "1,000", "1,000,000", "0.1.2", "3%", "2024", "-",   "x3", "3x",  ".5",   "<caption>"}) {
    EXPECT_EQ(strip_ratings(kept), kept);
  }
  // What is left holds nothing to strip.
  for (const char* text : {"3 4 5", "1.5,2.5", "2-3", "3.5 4.5"}) {
    const std::string once = strip_ratings(text);
    EXPECT_EQ(strip_ratings(once), once) << text;
    EXPECT_EQ(once.find_first_of("12345"), std::string::npos) << once;
  }
}

TEST(Response, LeaksRating) {
  EXPECT_TRUE(leaks_rating("I give 3.47", 3.47));
  EXPECT_TRUE(leaks_rating("I give 3.5", 3.47));
  EXPECT_TRUE(leaks_rating("I give 3,5 here", 3.47));
  EXPECT_TRUE(leaks_rating("4/5", 4.0));
  EXPECT_TRUE(leaks_rating("2 or 3.470", 3.47));
  EXPECT_FALSE(leaks_rating("I give 3.4", 3.47));
  EXPECT_FALSE(leaks_rating("I give 3.48", 3.47));
  EXPECT_FALSE(leaks_rating("3 people", 3.2)) << "a count is no rating";
  EXPECT_FALSE(leaks_rating("3.47%", 3.47));
  EXPECT_FALSE(leaks_rating("", 3.47));
  EXPECT_FALSE(leaks_rating("good", 3.47));
  EXPECT_FALSE(leaks_rating("about 7.2", 7.2)) << "outside of the scale no numeral looks like a rating";
}

TEST(Response, NoLeakIsLeftAfterStripping) {
  for (const char* text : {"I give 3.47", "3.5!", "it is 3.47/5", "3,5"}) {
    ASSERT_TRUE(leaks_rating(text, 3.47)) << text;
    EXPECT_FALSE(leaks_rating(strip_ratings(text), 3.47)) << text;
  }
}

TEST(Response, WordCount) {
  EXPECT_EQ(word_count(""), 0U);
  EXPECT_EQ(word_count(" \n\t"), 0U);
  EXPECT_EQ(word_count("one"), 1U);
  EXPECT_EQ(word_count(" a  sharp,\nred-ish car "), 4U);
}

TEST(Response, ProfilesWithoutCaption) {
  const Profile number = named_profile("answer-number"), json = named_profile("answer-json");
  const Stage1Response plain = parse_stage1(number, "<think>sharp, dark</think> <answer>3.52</answer>");
  EXPECT_TRUE(plain.format_ok);
  EXPECT_EQ(plain.rating, 3.52);
  EXPECT_EQ(plain.reasoning, "sharp, dark");
  EXPECT_FALSE(plain.caption);
  EXPECT_EQ(parse_stage1(json, "<think>x</think>\n<answer> {\"rating\": 4} </answer>").rating, 4);
  EXPECT_TRUE(parse_stage1(json, "<think>x</think>\n<answer> {\"rating\": 4} </answer>").format_ok);
  // Each accepts what its own form is and nothing else.
  EXPECT_FALSE(parse_stage1(number, "<think>x</think><answer>{\"rating\": 4}</answer>").rating);
  EXPECT_FALSE(parse_stage1(json, "<think>x</think><answer>4</answer>").rating);
  for (const char* text :
       {"<answer>3</answer>", "So: <think>x</think><answer>3</answer>", "<think></think><answer>3</answer>",
        "<answer>3</answer><think>x</think>", "<think>x</think><answer>3</answer> stars"}) {
    EXPECT_EQ(parse_stage1(number, text).rating, 3) << text;
    EXPECT_FALSE(parse_stage1(number, text).format_ok) << text;
  }
  EXPECT_FALSE(parse_stage1(number, "<>a</><think>x</think><answer>3</answer>").caption);
  EXPECT_FALSE(parse_stage1(number, "<answer>3</answer><answer>3</answer>").rating);
}

}  // namespace
}  // namespace biqa
