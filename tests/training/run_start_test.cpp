// SPDX-License-Identifier: Apache-2.0
// From where a run starts, what fits together, and what its folder says about how it begins.
#include "training/run_start.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "run/run_folder.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class RunStartTest : public ::testing::Test {
 protected:
  RunStartTest() {
    config_.train.out = folder_.path() / "run";
    config_.train.eval_every = 2;
    config_.train.eval_decodings = {"greedy"};
  }
  /// Folders of checkpoints in a run; nothing is in them.
  void make_checkpoints(const fs::path& run, const std::vector<std::string>& names) const {
    for (const std::string& name : names) fs::create_directories(run / "checkpoints" / name);
  }
  void write_metrics(std::int64_t steps, const std::vector<std::int64_t>& evaluated) const {
    std::string lines;
    for (std::int64_t step = 0; step <= steps; ++step) {
      StepMetrics metrics;
      metrics.step = step;
      if (step > 0) lines += to_json_line(metrics) + "\n";
      if (std::find(evaluated.begin(), evaluated.end(), step) == evaluated.end()) continue;
      for (const char* condition : {"image", "caption"}) {
        EvalMetrics figure;
        figure.step = step;
        figure.set = "set";
        figure.condition = condition;
        figure.decoding = "greedy";
        lines += to_json_line(figure) + "\n";
      }
    }
    folder_.write("run/metrics.jsonl", lines);
  }
  template <typename Work>
  static std::string error_of(Work&& work) {
    try {
      work();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  TemporaryFolder folder_;
  Config config_;
};

TEST_F(RunStartTest, CandidatesFollowTheConfiguration) {
  make_checkpoints(config_.train.out, {"step-000002", "step-000010", "other"});
  const fs::path own = config_.train.out / "checkpoints";
  config_.checkpoint.resume = "never";
  EXPECT_THAT(resume_candidates(config_).folders, IsEmpty());
  config_.checkpoint.resume = "auto";
  ResumeCandidates found = resume_candidates(config_);
  EXPECT_THAT(found.folders, ElementsAre(own / "step-000010", own / "step-000002"));
  EXPECT_FALSE(found.only);
  EXPECT_EQ(found.needed_by, "");
  config_.checkpoint.resume = (own / "step-000002").string();
  found = resume_candidates(config_);
  EXPECT_THAT(found.folders, ElementsAre(own / "step-000002"));
  EXPECT_TRUE(found.only);
  config_.checkpoint.resume = (folder_.path() / "absent").string();
  EXPECT_THAT(error_of([&] { resume_candidates(config_); }), HasSubstr("no such folder"));
}

TEST_F(RunStartTest, AnotherRunsCheckpointsMayStartANewRunOnly) {
  const fs::path other = folder_.path() / "other";
  make_checkpoints(other, {"step-000004"});
  config_.checkpoint.resume = other.string();
  ResumeCandidates found = resume_candidates(config_);
  EXPECT_THAT(found.folders, ElementsAre(other / "checkpoints" / "step-000004"));
  EXPECT_EQ(found.needed_by, other.string());
  write_metrics(1, {});
  EXPECT_THAT(error_of([&] { resume_candidates(config_); }), HasSubstr("that folder contains another run"));
  // The same command again, before the run has a checkpoint of its own, and with one.
  folder_.write("run/config.yaml", to_yaml(config_));
  EXPECT_THAT(resume_candidates(config_).folders, ElementsAre(other / "checkpoints" / "step-000004"));
  make_checkpoints(config_.train.out, {"step-000005"});
  EXPECT_THAT(resume_candidates(config_).folders,
              ElementsAre(config_.train.out / "checkpoints" / "step-000005"));
}

LoraLayout layout_of_rank(std::int64_t rank) {
  ModelConfig model;
  model.text.layers = 1;
  model.text.hidden = model.text.head_dim = 4;
  model.text.heads = 1;
  LoraModule module;
  module.rank = rank;
  return {model, LoraSpec{.rank = rank}, {module}};
}

TEST_F(RunStartTest, ACheckpointMustFitTheRun) {
  FoundCheckpoint found;
  found.path = "step-000003";
  found.adapter.layout = std::make_shared<LoraLayout>(layout_of_rank(2));
  found.info.base_weights = "weights";
  found.info.training_data = "data";
  found.info.config = to_yaml(config_);
  const TrainedOn same{"weights", "data"};
  EXPECT_EQ(error_of([&] { check_resumed(config_, found, layout_of_rank(2), same); }), "");
  EXPECT_EQ(error_of([&] { check_resumed(config_, found, layout_of_rank(2), {"weights", "other"}); }), "");
  EXPECT_THAT(error_of([&] { check_resumed(config_, found, layout_of_rank(3), same); }),
              HasSubstr("other modules or ranks"));
  EXPECT_THAT(error_of([&] {
                check_resumed(config_, found, layout_of_rank(2), {"other", "data"});
              }),
              HasSubstr("was trained on other weights"));
  config_.train.seed += 1;
  EXPECT_THAT(error_of([&] { check_resumed(config_, found, layout_of_rank(2), same); }),
              HasSubstr("another train.seed"));
  config_.checkpoint.resume = "some/checkpoint";
  EXPECT_EQ(error_of([&] { check_resumed(config_, found, layout_of_rank(2), same); }), "");
  // A checkpoint made from an imported adapter says nothing of these.
  found.info = {};
  EXPECT_EQ(error_of([&] { check_resumed(config_, found, layout_of_rank(2), {"other", "other"}); }), "");
}

TEST_F(RunStartTest, AFreshRunEvaluatesFirst) {
  const RunStart start = plan_start(config_, 0, 4, 1);
  EXPECT_FALSE(start.finished);
  EXPECT_EQ(start.evaluation, FirstEvaluation::due);
  // A run that ended before its first checkpoint begins again: nothing there is worth keeping.
  EXPECT_EQ(start.resumed_step, -1);
  config_.checkpoint.resume = "never";
  EXPECT_EQ(plan_start(config_, 0, 4, 1).resumed_step, std::nullopt);
}

TEST_F(RunStartTest, AResumedRunMakesUpForAMissingEvaluation) {
  write_metrics(3, {0, 2});
  RunStart start = plan_start(config_, 2, 4, 1);
  EXPECT_EQ(start.resumed_step, 2);
  EXPECT_TRUE(start.evaluated);
  EXPECT_EQ(start.evaluation, FirstEvaluation::none);
  EXPECT_EQ(start.evaluations.size(), 2U);
  write_metrics(3, {0});
  start = plan_start(config_, 2, 4, 1);
  EXPECT_FALSE(start.evaluated);
  EXPECT_EQ(start.evaluation, FirstEvaluation::due);
  // Two sets need twice as many lines: what is there of the step is dropped and made again.
  write_metrics(3, {0, 2});
  start = plan_start(config_, 2, 4, 2);
  EXPECT_EQ(start.evaluation, FirstEvaluation::due);
  EXPECT_EQ(start.evaluations.count(2), 0U);
  // Step 3 has no evaluation, and without sets none is ever due.
  EXPECT_EQ(plan_start(config_, 3, 4, 1).evaluation, FirstEvaluation::none);
  EXPECT_EQ(plan_start(config_, 2, 4, 0).evaluation, FirstEvaluation::none);
}

TEST_F(RunStartTest, AfterTheLastStepOnlyWhatIsMissingIsMade) {
  write_metrics(4, {0});
  RunStart start = plan_start(config_, 4, 4, 1);
  EXPECT_FALSE(start.finished);
  EXPECT_EQ(start.evaluation, FirstEvaluation::none);  // the one after the last step follows
  write_metrics(4, {0, 4});
  start = plan_start(config_, 4, 4, 1);
  EXPECT_FALSE(start.finished);  // adapter, curves and adapter.h5 are not there
  EXPECT_EQ(start.evaluation, FirstEvaluation::recorded);
  EXPECT_THAT(error_of([&] { plan_start(config_, 5, 4, 1); }), HasSubstr("it has already done 5 steps"));
}

TEST_F(RunStartTest, ARunWithoutAUsableCheckpointIsNotOverwritten) {
  write_metrics(3, {});
  make_checkpoints(config_.train.out, {"step-000003"});  // damaged, since it was not found
  EXPECT_THAT(error_of([&] { plan_start(config_, 0, 4, 1); }),
              HasSubstr("none of its checkpoints can be used"));
}

TEST(PossibleLag, NeedsActorsThatDoNotLearn) {
  Config config;
  config.rollout.policy_lag = 2;
  const RolePlan apart{{0, 1}, {2}, {2}, false}, together{{0, 1}, {0}, {0}, true};
  EXPECT_EQ(possible_lag(config, apart, false), 2);
  EXPECT_EQ(possible_lag(config, together, false), 0);
  config.objective.loss.loss = Loss::sft;
  EXPECT_EQ(possible_lag(config, apart, false), 0);
}

}  // namespace
}  // namespace biqa
