// SPDX-License-Identifier: Apache-2.0
// A reward is a function and a row: one that the program does not know is configured, trained with, reported and dumped.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/communicator.h"
#include "config/config.h"
#include "io/hdf5.h"
#include "reward/table.h"
#include "run/curves.h"
#include "run/run_folder.h"
#include "support/temporary_folder.h"
#include "training/trainer.h"

namespace biqa {
namespace {

double evenness_reward(const RewardInput& input) {
  return input.trajectory.text.size() % 2 == 0 ? 0.75 : 0.25;
}

TEST(RewardRow, TakesPartInEverything) {
  add_reward({"evenness", 0.5, "Evenness reward", "0.25 or 0.75", false, false, evenness_reward});
  const TemporaryFolder folder;
  const auto out = folder.path() / "run";
  const std::vector<std::string> settings{
      "train.out=" + out.string(), "train.steps=1",        "train.eval_images=2",
      "train.progress=false",      "train.seed=7",         "train.dump_steps=[1]",
      "checkpoint.every=0",        "model.threads=1",      "rollout.images_per_step=2",
      "rollout.group_size=3",      "rewards.prediction=0", "rewards.consistency=0",
      "rewards.reasoning=0",       "rewards.format=0",     "rewards.evenness=2"};
  const Config config = load_config(BIQA_SOURCE_DIR "/configs/quickstart.yaml", settings);
  EXPECT_EQ(config.rewards.weights, (std::vector<WeightSchedule>{0, 0, 0, 0, 2}));
  auto world = make_thread_world(1, Seconds(120));
  StopSignals signals;
  ASSERT_EQ(run_training(config, *world[0], signals), ExitCode::done);

  std::ifstream samples(out / "samples.jsonl");
  double sum = 0, count = 0;
  for (std::string line; std::getline(samples, line); ++count) {
    const auto sample = nlohmann::json::parse(line);
    const double value = sample.at("rewards").at("evenness");
    EXPECT_EQ(value, sample.at("text").get<std::string>().size() % 2 == 0 ? 0.75 : 0.25);
    sum += value;
  }
  ASSERT_EQ(count, 6);
  const MetricsFile metrics = read_metrics(out / "metrics.jsonl");
  ASSERT_EQ(metrics.steps.size(), 1U);
  EXPECT_NEAR(metrics.steps[0].reward_means.at(reward_column("evenness")), sum / count, 1e-12);
  EXPECT_NEAR(metrics.steps[0].reward_mean, 2 * sum / count, 1e-12);
  EXPECT_NE(learning_curves_svg(metrics, "test").find("Evenness reward"), std::string::npos);

  const double dumped =
      Hdf5File(out / "dumps/step-000001.h5").attribute_f64("trajectories/00000", "reward_evenness");
  EXPECT_TRUE(dumped == 0.25 || dumped == 0.75) << dumped;
}

}  // namespace
}  // namespace biqa
