// SPDX-License-Identifier: Apache-2.0
#include "evaluation/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <vector>

#include "core/statistics.h"

namespace biqa {
namespace {

const Profile kPaper = named_profile("paper");

Group answer(double score, std::optional<double> rating, std::optional<double> caption_rating) {
  Group group;
  group.annotation.score = score;
  group.members.resize(1);
  group.members[0].rating = rating;
  group.members[0].stage2_rating = caption_rating;
  return group;
}

TEST(Evaluation, RatingsOutOfScaleCountAndAreLeftOutOfTheSecondFigures) {
  const std::vector<Group> groups{answer(1, 1.5, 1), answer(2, 2, 5.001),     answer(3, std::nullopt, 2),
                                  answer(4, 5, -3),  answer(5, 350000000, 5), answer(2.5, 0.99, std::nullopt),
                                  answer(3.5, 3, 0)};
  const auto figures = evaluate_groups(groups, kPaper, 7, "set", "greedy", true);
  ASSERT_EQ(figures.size(), 2U);

  const EvalMetrics& image = figures[0];
  EXPECT_EQ(image.n, 7);
  EXPECT_EQ(image.parse_failures, 1);
  EXPECT_EQ(image.out_of_scale, 2);
  const std::vector<double> all{1.5, 2, 5, 350000000, 0.99, 3}, all_scores{1, 2, 4, 5, 2.5, 3.5};
  const std::vector<double> kept{1.5, 2, 5, 3}, kept_scores{1, 2, 4, 3.5};
  EXPECT_EQ(image.plcc, pearson(all, all_scores));
  EXPECT_EQ(image.srcc, spearman(all, all_scores));
  EXPECT_EQ(image.rmse, rmse(all, all_scores));
  EXPECT_EQ(image.plcc_in_scale, pearson(kept, kept_scores));
  EXPECT_EQ(image.srcc_in_scale, spearman(kept, kept_scores));
  EXPECT_EQ(image.rmse_in_scale, rmse(kept, kept_scores));
  EXPECT_GT(image.rmse, 1e8);
  EXPECT_LT(image.rmse_in_scale, 1);

  const EvalMetrics& caption = figures[1];
  EXPECT_EQ(caption.parse_failures, 1);
  EXPECT_EQ(caption.out_of_scale, 3);
  EXPECT_EQ(caption.rmse_in_scale, rmse(std::vector<double>{1, 2, 5}, std::vector<double>{1, 3, 5}));
}

TEST(Evaluation, NumbersOutOfScaleThatAreNoRatingsCountAsSuchToo) {
  std::vector<Group> groups{answer(1, std::nullopt, 1), answer(2, std::nullopt, std::nullopt),
                            answer(3, 3, 3)};
  groups[0].members[0].text = "<rating>1e3</rating>";
  groups[1].members[0].text = "<rating>3e0</rating>";
  groups[1].members[0].stage2_text = "<rating>+7</rating>";
  const auto figures = evaluate_groups(groups, kPaper, 0, "set", "greedy", true);
  EXPECT_EQ(figures[0].parse_failures, 2);
  EXPECT_EQ(figures[0].out_of_scale, 1);
  EXPECT_EQ(figures[0].rmse, 0);
  EXPECT_EQ(figures[1].parse_failures, 1);
  EXPECT_EQ(figures[1].out_of_scale, 1);
}

TEST(Evaluation, NothingOnTheScaleLeavesTheSecondFiguresOpen) {
  const std::vector<Group> groups{answer(1, 10, 1), answer(2, 20, 2)};
  const auto figures = evaluate_groups(groups, kPaper, 0, "set", "greedy", true);
  EXPECT_EQ(figures[0].out_of_scale, 2);
  EXPECT_DOUBLE_EQ(figures[0].plcc, 1);
  EXPECT_TRUE(std::isnan(figures[0].plcc_in_scale));
  EXPECT_TRUE(std::isnan(figures[0].srcc_in_scale));
  EXPECT_TRUE(std::isnan(figures[0].rmse_in_scale));
  EXPECT_EQ(figures[1].out_of_scale, 0);
  EXPECT_EQ(figures[1].plcc, figures[1].plcc_in_scale);
}

TEST(Evaluation, TheBestAdapterIsChosenByTheFigureThatIsWritten) {
  EvalMetrics first, second;
  first.condition = second.condition = "caption";
  first.decoding = second.decoding = "greedy";
  first.plcc = 0.25;
  first.plcc_in_scale = 0.875;
  second.plcc = second.plcc_in_scale = 0.5;
  const std::vector<EvalMetrics> both{first, second};
  EXPECT_EQ(best_figure(both, "caption_plcc"), 0.375);
}

EvalMetrics figure(const std::string& set, const std::string& condition, const std::string& decoding,
                   double plcc) {
  EvalMetrics metrics;
  metrics.set = set;
  metrics.condition = condition;
  metrics.decoding = decoding;
  metrics.plcc = plcc;
  metrics.srcc = plcc / 2;
  metrics.rouge1_r = plcc / 4;
  return metrics;
}

TEST(BestFigure, IsTheMeanOverSetsOfTheGreedyOnes) {
  const std::vector<EvalMetrics> figures{
      figure("a", "image", "greedy", 0.5), figure("b", "image", "greedy", 0.25),
      figure("a", "image", "sampled", 1), figure("a", "caption", "greedy", 0.125)};
  EXPECT_EQ(best_figure(figures, "image_plcc"), 0.375);
  EXPECT_EQ(best_figure(figures, "image_srcc"), 0.1875);
  EXPECT_EQ(best_figure(figures, "caption_plcc"), 0.125);
  EXPECT_EQ(best_figure(figures, "rouge1_r"), 0.09375);  // of the answers to the picture alone
}

TEST(BestFigure, TakesSampledOnesWhereNoGreedyOneWasMeasured) {
  const double nan = std::nan("");
  const std::vector<EvalMetrics> figures{figure("a", "image", "greedy", nan),
                                         figure("a", "image", "sampled", 0.5),
                                         figure("b", "image", "sampled", nan)};
  EXPECT_EQ(best_figure(figures, "image_plcc"), 0.5);
  EXPECT_TRUE(std::isnan(best_figure(figures, "caption_plcc")));
  EXPECT_TRUE(std::isnan(best_figure(figures, "none")));
  EXPECT_TRUE(std::isnan(best_figure({}, "image_plcc")));
}

TEST(Evaluation, TextsAreComparedWherePeopleWroteSome) {
  std::vector<Group> groups{answer(1, 1, 2), answer(2, 2, 3)};
  groups[0].annotation.human_text = "a sharp picture";
  groups[0].members[0].text = "a sharp photo";
  const auto figures = evaluate_groups(groups, kPaper, 0, "set", "greedy", false);
  ASSERT_EQ(figures.size(), 1U);  // no second stage was run
  EXPECT_EQ(figures[0].condition, "image");
  EXPECT_DOUBLE_EQ(figures[0].rouge1_r, 2.0 / 3);
  EXPECT_DOUBLE_EQ(figures[0].plcc, 1);
  groups[0].annotation.human_text.clear();
  EXPECT_TRUE(std::isnan(evaluate_groups(groups, kPaper, 0, "set", "greedy", false)[0].rouge1_r));
}

}  // namespace
}  // namespace biqa
