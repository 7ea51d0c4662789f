// SPDX-License-Identifier: Apache-2.0
#include "run/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <clocale>
#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>

#include "run/progress.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using testing::HasSubstr;

std::vector<std::string> keys_of(const std::string& line) {
  std::vector<std::string> keys;
  const Json object = Json::parse(line);
  for (const auto& [key, value] : object.items()) keys.push_back(key);
  return keys;
}

StepMetrics step_metrics(std::int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.reward_mean = 0.1 * static_cast<double>(step);
  return metrics;
}

SampleRecord sample_record(std::int64_t step) {
  SampleRecord sample;
  sample.step = step;
  sample.id = "id";
  return sample;
}

// The names that other programs rely on.
TEST(MetricsLines, NamesAndOrder) {
  EXPECT_EQ(keys_of(to_json_line(StepMetrics{})), (std::vector<std::string>{"step",
                                                                            "version",
                                                                            "epoch",
                                                                            "time",
                                                                            "step_seconds",
                                                                            "rollout_seconds",
                                                                            "stage2_seconds",
                                                                            "reward_seconds",
                                                                            "learn_seconds",
                                                                            "sync_seconds",
                                                                            "images",
                                                                            "trajectories",
                                                                            "generated_tokens",
                                                                            "stage2_tokens",
                                                                            "trained_tokens",
                                                                            "reward_mean",
                                                                            "reward_std",
                                                                            "reward_prediction_mean",
                                                                            "reward_consistency_mean",
                                                                            "reward_reasoning_mean",
                                                                            "reward_format_mean",
                                                                            "reward_prediction_std",
                                                                            "reward_consistency_std",
                                                                            "reward_reasoning_std",
                                                                            "reward_format_std",
                                                                            "reward_prediction_weight",
                                                                            "reward_consistency_weight",
                                                                            "reward_reasoning_weight",
                                                                            "reward_format_weight",
                                                                            "parse_rate",
                                                                            "stage2_parse_rate",
                                                                            "zero_variance_fraction",
                                                                            "leak_rate",
                                                                            "truncated_fraction",
                                                                            "length_mean",
                                                                            "caption_words",
                                                                            "reasoning_words",
                                                                            "loss",
                                                                            "kl",
                                                                            "ratio_max_deviation",
                                                                            "actor_learner_logp_gap",
                                                                            "clip_fraction",
                                                                            "entropy",
                                                                            "grad_norm",
                                                                            "lr",
                                                                            "policy_lag_max",
                                                                            "traffic_bytes",
                                                                            "mfu",
                                                                            "device_peak_bytes"}));
  EXPECT_EQ(keys_of(to_json_line(EvalMetrics{})),
            (std::vector<std::string>{"step", "eval", "condition", "decoding", "n", "parse_failures",
                                      "out_of_scale", "plcc", "srcc", "krcc", "rmse", "plcc_in_scale",
                                      "srcc_in_scale", "rmse_in_scale", "rouge1_p", "rouge1_r", "rouge1_f"}));
  EXPECT_EQ(keys_of(to_json_line(SampleRecord{})),
            (std::vector<std::string>{"step", "id", "member", "prompt", "text", "caption", "reasoning",
                                      "rating", "stage2_text", "stage2_rating", "score", "rewards",
                                      "advantage", "part_advantages"}));
}

TEST(MetricsLines, NumbersRoundTripWhateverTheLocale) {
  std::setlocale(LC_ALL, "de_DE.UTF-8");
  StepMetrics metrics;
  metrics.loss = 1.0 / 3.0;
  metrics.lr = 1e-6;
  metrics.kl = INFINITY;
  const Json line = Json::parse(to_json_line(metrics));
  std::setlocale(LC_ALL, "C");
  EXPECT_EQ(line["loss"].get<double>(), 1.0 / 3.0);
  EXPECT_EQ(line["lr"].get<double>(), 1e-6);
  EXPECT_TRUE(line["kl"].is_null());
  EXPECT_TRUE(line["entropy"].is_null());
}

TEST(MetricsLines, SamplesKeepAnyText) {
  SampleRecord sample;
  sample.text = "line\nbroken \xff bytes \"quoted\" é";
  sample.rewards = {{"prediction", 0.5}, {"format", 0}};
  sample.stage2_rating = 3.25;
  const std::string line = to_json_line(sample);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const Json object = Json::parse(line);
  EXPECT_EQ(object["text"], "line\nbroken \xef\xbf\xbd bytes \"quoted\" é");
  EXPECT_TRUE(object["rating"].is_null());
  EXPECT_EQ(object["stage2_rating"], 3.25);
  EXPECT_EQ(object["rewards"]["prediction"], 0.5);
}

TEST(MetricsLines, SamplesAreReadBack) {
  SampleRecord sample = sample_record(3);
  sample.member = 2;
  sample.prompt = "p";
  sample.text = "t\n";
  sample.caption = "c";
  sample.reasoning = "r";
  sample.rating = 3.5;
  sample.stage2_text = "s";
  sample.score = 4.25;
  sample.rewards = {{std::string(rewards().front().name), 0.5}};
  sample.advantage = -0.125;
  sample.part_advantages = {{"caption", 0.5}, {"rating", -1}};
  const TemporaryFolder folder;
  const fs::path file = folder.write("samples.jsonl", to_json_line(sample) + "\n{\"step\": 4");
  std::vector<std::string> lines;
  read_samples(file, [&](const SampleRecord& read) { lines.push_back(to_json_line(read)); });
  EXPECT_EQ(lines, std::vector<std::string>{to_json_line(sample)});
}

TEST(RunFolder, HoldsWhatTheContractNames) {
  const TemporaryFolder folder;
  const fs::path root = folder.path() / "runs" / "a";
  EvalMetrics eval;
  eval.set = "test";
  eval.condition = "image";
  eval.decoding = "greedy";
  eval.plcc = 0.5;
  {
    RunFolder run(root, "a: 1\n", std::nullopt);
    run.append(std::span(&eval, 1));
    run.append(step_metrics(1));
    run.append(sample_record(1));
    EXPECT_EQ(dump_file(root, 10), root / "dumps" / "step-000010.h5");
    // Written at once, not when the folder closes.
    EXPECT_EQ(read_metrics(run.metrics_file()).steps.size(), 1U);
  }
  EXPECT_EQ(file_content(root / "config.yaml"), "a: 1\n");
  for (const char* name : {"checkpoints", "dumps", "tensorboard", "logs"})
    EXPECT_TRUE(fs::is_directory(root / name));
  EXPECT_EQ(std::distance(fs::directory_iterator(root / "tensorboard"), fs::directory_iterator()), 1);
  const MetricsFile metrics = read_metrics(root / "metrics.jsonl");
  ASSERT_EQ(metrics.evaluations.size(), 1U);
  EXPECT_EQ(metrics.evaluations[0].set, "test");
  EXPECT_EQ(metrics.evaluations[0].plcc, 0.5);
  EXPECT_TRUE(std::isnan(metrics.evaluations[0].srcc));
  EXPECT_EQ(metrics.steps[0].reward_mean, 0.1);
  EXPECT_EQ(file_content(root / "samples.jsonl"), to_json_line(sample_record(1)) + "\n");
}

TEST(RunFolder, ResumesBehindACheckpoint) {
  const TemporaryFolder folder;
  const fs::path root = folder.path() / "run";
  {
    RunFolder run(root, "first\n", std::nullopt);
    for (std::int64_t step = 1; step <= 5; ++step) {
      run.append(step_metrics(step));
      run.append(sample_record(step));
    }
  }
  std::ofstream(root / "metrics.jsonl", std::ios::app) << R"({"step": 6, "ver)";
  EXPECT_THAT(error_of([&] { RunFolder run(root, "x", std::nullopt); }), HasSubstr("already contains a run"));
  EXPECT_EQ(file_content(root / "config.yaml"), "first\n");
  {
    for (const char* left : {".config.yaml.tmp-1-2", "dumps/.step-000002.h5.tmp-1-2"})
      std::ofstream(root / left) << "half";
    RunFolder run(root, "second\n", 3);
    for (const char* left : {".config.yaml.tmp-1-2", "dumps/.step-000002.h5.tmp-1-2"})
      EXPECT_FALSE(fs::exists(root / left)) << left;
    run.append(step_metrics(4));
  }
  const MetricsFile metrics = read_metrics(root / "metrics.jsonl");
  ASSERT_EQ(metrics.steps.size(), 4U);
  EXPECT_EQ(metrics.steps[3].step, 4);
  EXPECT_EQ(file_content(root / "samples.jsonl"), to_json_line(sample_record(1)) + "\n" +
                                                      to_json_line(sample_record(2)) + "\n" +
                                                      to_json_line(sample_record(3)) + "\n");
  EXPECT_EQ(file_content(root / "config.yaml"), "second\n");
  // A job that was stopped before its first checkpoint starts over.
  { RunFolder run(root, "third\n", 0); }
  EXPECT_EQ(file_content(root / "metrics.jsonl"), "");
}

TEST(RunFolder, KeepsATornLastLineOutWhenResuming) {
  const TemporaryFolder folder;
  const fs::path root = folder.path() / "run";
  { RunFolder run(root, "", std::nullopt); }
  std::ofstream(root / "metrics.jsonl") << to_json_line(step_metrics(1)) << "\n"
                                        << R"({"step": 2)";
  { RunFolder run(root, "", 7); }
  EXPECT_EQ(file_content(root / "metrics.jsonl"), to_json_line(step_metrics(1)) + "\n");
}

TEST(RunFolder, NamesWhatCannotBeWritten) {
  const TemporaryFolder folder;
  const fs::path file = folder.write("file", "x");
  EXPECT_THAT(error_of([&] { RunFolder run(file / "run", "", std::nullopt); }),
              HasSubstr("cannot create run folder"));
  EXPECT_THAT(error_of([&] { RunFolder run(file, "", std::nullopt); }), HasSubstr("file"));
  EXPECT_THAT(error_of([&] { RunFolder run("/proc/run", "", std::nullopt); }), HasSubstr("/proc/run"));
  fs::create_directories(folder.path() / "linked");
  fs::create_directory_symlink("nowhere", folder.path() / "linked" / "checkpoints");
  EXPECT_THAT(error_of([&] { RunFolder run(folder.path() / "linked", "", std::nullopt); }),
              HasSubstr("it is a link to nowhere, which does not exist"));
  if (::geteuid() != 0) {
    const fs::path closed = folder.path() / "closed";
    fs::create_directory(closed);
    fs::permissions(closed, fs::perms::owner_read | fs::perms::owner_exec);
    EXPECT_THAT(error_of([&] { RunFolder run(closed, "", std::nullopt); }), HasSubstr("permission"));
    fs::permissions(closed, fs::perms::owner_all);
  }
}

// A limit on file size stands in for a full disk: the write comes back short, then fails.
TEST(RunFolder, AFullDiskLeavesWholeLines) {
  const TemporaryFolder folder;
  const fs::path root = folder.path() / "run";
  RunFolder run(root, "", std::nullopt);
  run.append(sample_record(1));
  const std::string before = file_content(root / "samples.jsonl");
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  rlimit tight = old;
  tight.rlim_cur = before.size() + 20;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  const std::string message = error_of([&] { run.append(sample_record(2)); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(message, testing::AllOf(HasSubstr("samples.jsonl"), HasSubstr("free space")));
  EXPECT_EQ(file_content(root / "samples.jsonl"), before);
  run.append(sample_record(2));
  EXPECT_EQ(file_content(root / "samples.jsonl"), before + to_json_line(sample_record(2)) + "\n");
}

TEST(ReadMetrics, NamesTheLine) {
  const TemporaryFolder folder;
  const auto message = [&](const std::string& text) {
    return error_of([&] { read_metrics(folder.write("metrics.jsonl", text)); });
  };
  EXPECT_THAT(message("{\"step\": 1}\n{bad}\n"), HasSubstr("metrics.jsonl:2"));
  EXPECT_THAT(message("{\"step\": \"x\"}\n"), HasSubstr("metrics.jsonl:1"));
  EXPECT_NE(error_of([&] { read_metrics(folder.path() / "none"); }), "");
  EXPECT_EQ(message("{\"step\": 1, \"later\": true}\n{\"step\":"), "");
}

TEST(Progress, Texts) {
  EXPECT_EQ(duration_text(0.4), "0 s");
  EXPECT_EQ(duration_text(59.4), "59 s");
  EXPECT_EQ(duration_text(75), "1:15 min");
  EXPECT_EQ(duration_text(7385), "2:03 h");
  EXPECT_EQ(duration_text(NAN), "?");
  EXPECT_EQ(progress_text("step", 0, 0, 50, 0, ""), "step 0/50  0 %");
  EXPECT_EQ(progress_text("step", 12, 0, 50, 18, "reward 1.42"),
            "step 12/50  24 %  1.5 s/step  57 s left  reward 1.42");
  // A resumed run: the rate is that of its own 10 steps.
  EXPECT_EQ(progress_text("step", 40, 30, 50, 5, ""), "step 40/50  80 %  2.0 steps/s  5 s left");
  EXPECT_EQ(progress_text("image", 50, 0, 50, 100, ""), "image 50/50  100 %  2.0 s/image  in 1:40 min");
}

TEST(Progress, PlainLinesWithoutATerminal) {
  testing::internal::CaptureStderr();
  {
    Progress progress("step", 3);
    progress.update(1, "a");
    progress.update(2, "b");
    progress.update(3, "c");
    progress.finish();
    progress.update(4, "late");
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, HasSubstr("step 1/3"));
  EXPECT_THAT(text, HasSubstr("step 3/3"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_EQ(text.find('\r'), std::string::npos);
  testing::internal::CaptureStderr();
  {
    Progress progress("step", 3, 0, ProgressMode::off);
    progress.update(1);
    progress.finish();
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Progress, RedrawnLineEndsOnce) {
  testing::internal::CaptureStderr();
  {
    Progress progress("step", 2, 0, ProgressMode::redraw);
    progress.update(1, std::string(500, 'x'));
    progress.clear();
    progress.update(2);
    progress.finish();
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  EXPECT_THAT(text, testing::StartsWith("\rstep 1/2"));
  EXPECT_LT(text.size(), 300U);
  EXPECT_THAT(text, testing::EndsWith("\n"));
}

}  // namespace
}  // namespace biqa
