// SPDX-License-Identifier: Apache-2.0
// Whole runs on the embedded model, a few small steps each: layouts, stopping and going on, objectives.
#include <fcntl.h>
#include <glog/logging.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "config/config.h"
#include "learner/checkpoint_store.h"
#include "model/merge.h"
#include "model/peft.h"
#include "run/run_folder.h"
#include "support/slow_communicator.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"
#include "training/messages.h"
#include "training/step_reader.h"
#include "training/step_replay.h"
#include "training/trainer.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

/// Calls something when a line with this text is logged.
class WhenLogged final : public google::LogSink {
 public:
  WhenLogged(std::string text, std::function<void()> action)
      : text_(std::move(text)), action_(std::move(action)) {
    google::AddLogSink(this);
  }
  ~WhenLogged() override { google::RemoveLogSink(this); }
  WhenLogged(const WhenLogged&) = delete;
  WhenLogged& operator=(const WhenLogged&) = delete;
  void send(google::LogSeverity /*severity*/, const char* /*full_filename*/, const char* /*base_filename*/,
            int /*line*/, const google::LogMessageTime& /*time*/, const char* message,
            std::size_t length) override {
    if (action_ && std::string_view(message, length).find(text_) != std::string_view::npos)
      std::exchange(action_, nullptr)();
  }

 private:
  const std::string text_;
  std::function<void()> action_;
};

class Training : public ::testing::Test {
 protected:
  Config config(const std::string& name, std::vector<std::string> more = {}) {
    std::vector<std::string> overrides{"train.out=" + (folder_.path() / name).string(),
                                       "train.steps=3",
                                       "train.eval_images=6",
                                       "train.progress=false",
                                       "train.seed=7",
                                       "rollout.images_per_step=4",
                                       "rollout.group_size=3",
                                       "checkpoint.every=0",
                                       "model.threads=1"};
    overrides.insert(overrides.end(), more.begin(), more.end());
    return load_config(BIQA_SOURCE_DIR "/configs/quickstart.yaml", overrides);
  }
  /// `slow_rank` takes a quarter of a second more for each group that it sends and for each step.
  ExitCode run(const Config& settings, int ranks = 1, int slow_rank = -1) {
    auto world = make_thread_world(ranks, Seconds(120));
    std::vector<std::thread> threads;
    threads.reserve(static_cast<std::size_t>(ranks));
    std::vector<ExitCode> codes(static_cast<std::size_t>(ranks), ExitCode::world);
    for (int rank = 0; rank < ranks; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          Communicator& own = *world[static_cast<std::size_t>(rank)];
          testing::SlowCommunicator slow(own, {kTagGroup, kTagReport},
                                         Seconds{rank == slow_rank ? 0.25 : 0.0});
          codes[static_cast<std::size_t>(rank)] = run_training(settings, slow, signals_);
        } catch (const std::exception& error) {
          ADD_FAILURE() << "rank " << rank << ": " << error.what();
          world[static_cast<std::size_t>(rank)].reset();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const ExitCode code : codes) EXPECT_EQ(code, codes.front());
    return codes.front();
  }
  /// What was sampled: (step, id, member) → both texts and the advantage.
  std::map<std::string, std::string> texts(const std::string& name) {
    std::map<std::string, std::string> found;
    std::ifstream file(folder_.path() / name / "samples.jsonl");
    for (std::string line; std::getline(file, line);) {
      const auto row = nlohmann::json::parse(line);
      found[row["step"].dump() + row["id"].dump() + row["member"].dump()] =
          row["text"].dump() + row["stage2_text"].dump();
    }
    return found;
  }
  std::vector<float> adapter(const std::string& name) {
    const ModelConfig model = ModelConfig::load(BIQA_SOURCE_DIR "/assets/tiny/model");
    return read_any_adapter(folder_.path() / name, model).values;
  }
  /// Pictures with the answers that objective.loss sft learns.
  fs::path write_answers() const {
    fs::path manifest = folder_.path() / "answers.jsonl";
    std::ifstream source(BIQA_SOURCE_DIR "/assets/tiny/train.jsonl");
    std::ofstream target(manifest);
    std::string line;
    for (int i = 0; i < 8 && std::getline(source, line); ++i) {
      auto row = nlohmann::json::parse(line);
      row["image"] = std::string(BIQA_SOURCE_DIR "/assets/tiny/") + row["image"].get<std::string>();
      row["completion"] =
          "<caption>a picture.</caption><reasoning>so it is.</reasoning><rating>3.00</rating>";
      target << row.dump() << "\n";
    }
    return manifest;
  }
  TemporaryFolder folder_;
  StopSignals signals_;
};

TEST_F(Training, EveryLayoutSamplesTheSameTextsAndLearnsTheSame) {
  ASSERT_EQ(run(config("one")), ExitCode::done);
  const auto expected = texts("one");
  ASSERT_EQ(expected.size(), 3U * 4U * 3U);
  const std::vector<float> values = adapter("one");
  struct Layout {
    const char* name;
    int ranks;
    std::vector<std::string> settings;
    bool same_bits;  // one learner: no sum over ranks
  };
  const std::vector<Layout> layouts{{"again", 1, {}, true},
                                    {"two", 2, {"roles={actors: 1, rewards: 0, learners: 1}"}, true},
                                    {"split", 5, {"roles={actors: 2, rewards: 1, learners: 2}"}, false},
                                    {"colocated", 3, {"placement=colocated"}, false}};
  for (const Layout& layout : layouts) {
    SCOPED_TRACE(layout.name);
    ASSERT_EQ(run(config(layout.name, layout.settings), layout.ranks), ExitCode::done);
    EXPECT_EQ(texts(layout.name), expected);
    const std::vector<float> other = adapter(layout.name);
    ASSERT_EQ(other.size(), values.size());
    if (layout.same_bits) {
      EXPECT_EQ(other, values);
      continue;
    }
    // AdamW moves an entry by at most about lr a step; rounding of the gradient's sum over learners moves it
    // by far less wherever the gradient is more than rounding noise.
    double worst = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(other[i]) - static_cast<double>(values[i])));
    }
    EXPECT_LE(worst, 3 * 2e-3);
    double distance = 0, norm = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      distance += std::pow(static_cast<double>(other[i]) - static_cast<double>(values[i]), 2);
      norm += std::pow(static_cast<double>(values[i]), 2);
    }
    EXPECT_LE(std::sqrt(distance), 1e-4 * std::sqrt(norm));
  }
}

TEST_F(Training, OnPolicyActorAndLearnerAgreeToTheBit) {
  ASSERT_EQ(run(config("run")), ExitCode::done);
  const MetricsFile metrics = read_metrics(folder_.path() / "run" / "metrics.jsonl");
  ASSERT_EQ(metrics.steps.size(), 3U);
  for (const StepMetrics& step : metrics.steps) {
    EXPECT_EQ(step.actor_learner_logp_gap, 0.0);
    EXPECT_EQ(step.ratio_max_deviation, 0.0);
    EXPECT_EQ(step.trajectories, 12);
    EXPECT_GT(step.grad_norm, 0.0);
    EXPECT_EQ(step.policy_lag_max, 0);
  }
  EXPECT_EQ(metrics.steps.front().kl, 0.0);  // B is zero: the policy is the reference
  EXPECT_GT(metrics.steps.back().kl, 0.0);
  EXPECT_EQ(metrics.evaluations.size(),
            2U * 2U * 2U);  // before and after, greedy and sampled, image and caption
  EXPECT_TRUE(fs::exists(folder_.path() / "run" / "adapter" / "adapter_config.json"));
  EXPECT_TRUE(fs::exists(folder_.path() / "run" / "curves.svg"));
}

TEST_F(Training, AStoppedRunGoesOnToTheSameBits) {
  const std::vector<std::string> unmeasured{"data.eval=[]"};  // an evaluation would be broken off
  ASSERT_EQ(run(config("whole", unmeasured)), ExitCode::done);
  signals_.stop = true;
  ASSERT_EQ(run(config("parts", unmeasured)), ExitCode::stopped);
  signals_.stop = false;
  EXPECT_TRUE(fs::exists(folder_.path() / "parts" / "checkpoints" / "step-000001" / "manifest.json"));
  ASSERT_EQ(run(config("parts", unmeasured)), ExitCode::done);
  EXPECT_EQ(texts("parts"), texts("whole"));
  EXPECT_EQ(adapter("parts"), adapter("whole"));
}

// Advantages of tokens and weights of a step depend on nothing that a run would have to remember.
TEST_F(Training, CreditByPartsAndSchedulesOfWeightsGoOnToTheSameBits) {
  std::vector<std::string> settings{"data.eval=[]", "objective.credit=parts", "stage2.train=true",
                                    "rewards.reasoning={0: 0, 3: 1.5}", "rewards.prediction={2: 1, 3: 0}"};
  ASSERT_EQ(run(config("whole", settings)), ExitCode::done);
  signals_.stop = true;
  ASSERT_EQ(run(config("parts", settings)), ExitCode::stopped);
  signals_.stop = false;
  ASSERT_EQ(run(config("parts", settings)), ExitCode::done);
  settings.emplace_back("roles={actors: 1, rewards: 1, learners: 1}");
  ASSERT_EQ(run(config("ranks", settings), 3), ExitCode::done);
  for (const char* name : {"parts", "ranks"}) {
    EXPECT_EQ(texts(name), texts("whole")) << name;
    EXPECT_EQ(adapter(name), adapter("whole")) << name;
    const MetricsFile metrics = read_metrics(folder_.path() / name / "metrics.jsonl");
    ASSERT_EQ(metrics.steps.size(), 3U);
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_DOUBLE_EQ(metrics.steps[i].reward_weights[reward_column("reasoning")],
                       0.5 * static_cast<double>(i + 1));
      EXPECT_EQ(metrics.steps[i].reward_weights[reward_column("prediction")], i < 2 ? 1 : 0);
    }
  }
  std::size_t with_parts = 0;
  read_samples(folder_.path() / "whole" / "samples.jsonl", [&](const SampleRecord& sample) {
    with_parts += sample.part_advantages.empty() ? 0 : 1;
    EXPECT_TRUE(sample.part_advantages.empty() || sample.part_advantages.size() == kCompletionParts);
  });
  EXPECT_GT(with_parts, 0U);
  // It is another update than with one advantage for all tokens.
  settings[1] = "objective.credit=whole";
  settings.pop_back();
  ASSERT_EQ(run(config("other", settings)), ExitCode::done);
  EXPECT_NE(adapter("other"), adapter("whole"));
}

TEST_F(Training, AStopBreaksAnEvaluationOffAndItIsMadeUpFor) {
  signals_.stop = true;
  ASSERT_EQ(run(config("run")), ExitCode::stopped);
  EXPECT_TRUE(read_metrics(folder_.path() / "run" / "metrics.jsonl").evaluations.empty());
  signals_.stop = false;
  ASSERT_EQ(run(config("run")), ExitCode::done);
  EXPECT_EQ(read_metrics(folder_.path() / "run" / "metrics.jsonl").evaluations.size(), 8U);
}

TEST_F(Training, AFinishedRunIsLeftAsItIs) {
  ASSERT_EQ(run(config("run", {"train.steps=2"})), ExitCode::done);
  const std::string before = file_content(folder_.path() / "run/metrics.jsonl");
  ASSERT_EQ(run(config("run", {"train.steps=2"})), ExitCode::done);
  EXPECT_EQ(file_content(folder_.path() / "run/metrics.jsonl"), before);
  // Fewer steps than there are is a mistake, more go on.
  EXPECT_THROW(run_training(config("run", {"train.steps=1"}), *make_local(), signals_), Error);
  ASSERT_EQ(run(config("run", {"train.steps=3"})), ExitCode::done);
  EXPECT_EQ(read_metrics(folder_.path() / "run" / "metrics.jsonl").steps.size(), 3U);
}

TEST_F(Training, ARunWithoutCheckpointsSaysThatItStartsAgain) {
  ASSERT_EQ(run(config("run", {"train.steps=1"})), ExitCode::done);
  const fs::path folder = folder_.path() / "run";
  const auto log = [&] { return file_content(folder / "logs/rank-00000.log"); };
  EXPECT_EQ(log().find("starts again"), std::string::npos);
  fs::remove_all(folder / "checkpoints");
  fs::remove(folder / "adapter.h5");
  ASSERT_EQ(run(config("run", {"train.steps=1"})), ExitCode::done);
  EXPECT_NE(log().find("has no checkpoint: it starts again"), std::string::npos) << log();
}

// Otherwise each checkpoint would look damaged.
TEST_F(Training, AMissingModelIsNotBlamedOnTheCheckpoints) {
  ASSERT_EQ(run(config("run", {"train.steps=1"})), ExitCode::done);
  const fs::path empty = folder_.path() / "empty";
  fs::create_directories(empty);
  const WhenLogged blamed("step-000001", [] { ADD_FAILURE() << "a checkpoint is blamed"; });
  try {
    run_training(config("run", {"train.steps=2", "model.path=" + empty.string()}), *make_local(), signals_);
    ADD_FAILURE() << "it is accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find((empty / "config.json").string()), std::string::npos)
        << error.what();
  }
}

TEST_F(Training, ARunInUseIsNotStartedAgain) {
  const Config settings = config("run");
  const RunFolder other(settings.train.out, "", std::nullopt);
  try {
    run_training(settings, *make_local(), signals_);
    ADD_FAILURE() << "two runs in one folder";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("another process is running there"), std::string::npos)
        << error.what();
  }
}

TEST_F(Training, TheBestCheckpointStaysAndIsPointedTo) {
  ASSERT_EQ(run(config("run", {"train.steps=4", "train.eval_every=1", "checkpoint.keep=1",
                               "checkpoint.best=image_srcc", "checkpoint.every=1"})),
            ExitCode::done);
  const MetricsFile metrics = read_metrics(folder_.path() / "run" / "metrics.jsonl");
  std::int64_t best = 0;
  double value = -2;
  for (const EvalMetrics& m : metrics.evaluations) {
    if (m.step == 0 || m.condition != "image" || m.decoding != "greedy" || !(m.srcc > value)) continue;
    best = m.step;
    value = m.srcc;
  }
  const fs::path checkpoints = folder_.path() / "run" / "checkpoints";
  EXPECT_EQ(fs::read_symlink(checkpoints / "best"), checkpoint_name(best));
  EXPECT_NO_THROW(CheckpointStore::verify(checkpoints / "best"));
  EXPECT_NO_THROW(CheckpointStore::verify(checkpoints / "step-000004"));
}

TEST_F(Training, ActorsRunAheadByTheLagExactly) {
  const std::vector<std::string> ahead{"rollout.policy_lag=1", "train.steps=5", "train.eval_every=3",
                                       "roles={actors: 2, rewards: 1, learners: 2}"};
  ASSERT_EQ(run(config("once", ahead), 5), ExitCode::done);
  ASSERT_EQ(run(config("twice", ahead), 5), ExitCode::done);
  EXPECT_EQ(texts("once"), texts("twice"));
  EXPECT_EQ(adapter("once"), adapter("twice"));
  const MetricsFile metrics = read_metrics(folder_.path() / "once" / "metrics.jsonl");
  ASSERT_EQ(metrics.steps.size(), 5U);
  for (const StepMetrics& step : metrics.steps) {
    // An evaluation after step 3 waits for its adapter, and so does what follows.
    EXPECT_EQ(step.policy_lag_max, step.step == 1 || step.step == 4 ? 0 : 1) << "step " << step.step;
    EXPECT_EQ(step.actor_learner_logp_gap > 0, step.policy_lag_max > 0) << "step " << step.step;
    EXPECT_GT(step.traffic_bytes, 0);
  }
}

// However far the quick side could run ahead, each step is rolled out with the adapter that its number says.
TEST_F(Training, ASlowActorOrLearnerChangesNothingOfTheLag) {
  constexpr int kFirstActor = 0, kFirstLearner = 3;  // of these roles
  for (const int lag : {1, 3}) {
    SCOPED_TRACE(lag);
    const std::vector<std::string> ahead{"rollout.policy_lag=" + std::to_string(lag), "train.steps=6",
                                         "data.eval=[]", "roles={actors: 2, rewards: 1, learners: 2}"};
    const auto name = [&](const char* kind) { return kind + std::to_string(lag); };
    ASSERT_EQ(run(config(name("even"), ahead), 5), ExitCode::done);
    ASSERT_EQ(run(config(name("slow_actor"), ahead), 5, kFirstActor), ExitCode::done);
    ASSERT_EQ(run(config(name("slow_learner"), ahead), 5, kFirstLearner), ExitCode::done);
    for (const char* kind : {"even", "slow_actor", "slow_learner"}) {
      SCOPED_TRACE(kind);
      EXPECT_EQ(texts(name(kind)), texts(name("even")));
      EXPECT_EQ(adapter(name(kind)), adapter(name("even")));
      const MetricsFile metrics = read_metrics(folder_.path() / name(kind) / "metrics.jsonl");
      ASSERT_EQ(metrics.steps.size(), 6U);
      for (const StepMetrics& step : metrics.steps)
        EXPECT_EQ(step.policy_lag_max, std::min<std::int64_t>(lag, step.step - 1)) << "step " << step.step;
    }
  }
}

TEST_F(Training, RanksThatReadDifferentFilesAreTold) {
  const std::vector<Config> settings{config("run"), config("run", {"train.seed=8"})};
  auto world = make_thread_world(2, Seconds(2));
  std::vector<std::string> errors(2);
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        run_training(settings[rank], *world[rank], signals_);
      } catch (const std::exception& error) {
        errors[rank] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_NE(errors[0].find("rank 1 has another configuration than rank 0"), std::string::npos) << errors[0];
  EXPECT_FALSE(fs::exists(folder_.path() / "run"));
}

TEST_F(Training, ResumingFromAFolderIsForOneRunOnly) {
  // Every second step: a save that is due while the one before is being written would wait.
  const std::vector<std::string> small{"data.eval=[]", "checkpoint.every=2", "checkpoint.keep=0"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), small.begin(), small.end());
    return more;
  };
  ASSERT_EQ(run(config("first", with({}))), ExitCode::done);
  const fs::path checkpoints = folder_.path() / "first" / "checkpoints";
  const std::string second = "checkpoint.resume=" + (checkpoints / "step-000002").string();

  // Another run starts from it, and the same command goes on with what that run has saved since.
  ASSERT_EQ(run(config("second", with({second}))), ExitCode::done);
  EXPECT_FALSE(fs::exists(folder_.path() / "second" / "checkpoints" / "step-000002"));
  ASSERT_EQ(run(config("second", with({second, "train.steps=4"}))), ExitCode::done);
  EXPECT_EQ(read_metrics(folder_.path() / "second" / "metrics.jsonl").steps.size(), 2U);  // 3 and 4

  // A folder with a run of its own is no place for it, nor for one with another seed.
  ASSERT_EQ(run(config("third", with({"train.seed=9"}))), ExitCode::done);
  for (const std::string& other : {second, std::string("train.seed=10")}) {
    auto alone = make_local();
    EXPECT_THROW(run_training(config("third", with({other})), *alone, signals_), Error) << other;
  }
  EXPECT_EQ(read_metrics(folder_.path() / "third" / "metrics.jsonl").steps.size(), 3U);

  // The run itself can be taken back; its former future is kept by another name and not gone on with.
  ASSERT_EQ(run(config("first", with({second, "optimizer.lr=0.01", "train.steps=4", "checkpoint.every=0"}))),
            ExitCode::done);
  EXPECT_TRUE(fs::exists(checkpoints / "replaced-step-000003"));
  EXPECT_FALSE(fs::exists(checkpoints / "step-000003"));
  const std::vector<float> end = adapter("first");
  const ModelConfig model = ModelConfig::load(BIQA_SOURCE_DIR "/assets/tiny/model");
  EXPECT_EQ(CheckpointStore(checkpoints).load_newest(model)->adapter.values, end);
  EXPECT_EQ(fs::read_symlink(checkpoints / "latest"), "step-000004");
  std::vector<std::int64_t> steps;
  for (const StepMetrics& step : read_metrics(folder_.path() / "first" / "metrics.jsonl").steps)
    steps.push_back(step.step);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{1, 2, 3, 4}));
}

// After a power failure, say.
TEST_F(Training, AnEvaluationOfWhichLinesAreLostIsMadeAgain) {
  const fs::path out = folder_.path() / "run", metrics = out / "metrics.jsonl",
                 samples = out / "samples.jsonl";
  const auto content = [](const fs::path& file) {
    std::ifstream stream(file);
    return std::string(std::istreambuf_iterator<char>(stream), {});
  };
  ASSERT_EQ(run(config("run")), ExitCode::done);
  const std::string whole = content(metrics);
  for (const bool results : {true, false}) {
    fs::resize_file(metrics, fs::file_size(metrics) - 10);
    if (!results) fs::remove(out / "adapter.h5");
    ASSERT_EQ(run(config("run")), ExitCode::done);
    EXPECT_EQ(content(metrics), whole);
  }
  // Lines of trajectories can't be made again, but are not missed in silence.
  fs::resize_file(samples, fs::file_size(samples) / 2);
  ::testing::internal::CaptureStderr();
  ASSERT_EQ(run(config("run", {"train.steps=4"})), ExitCode::done);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("samples.jsonl ends with step"), std::string::npos);
  fs::remove(samples);
  ::testing::internal::CaptureStderr();
  ASSERT_EQ(run(config("run", {"train.steps=5"})), ExitCode::done);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("samples.jsonl is missing"), std::string::npos);
}

/// A copy of a model's folder with its weights in f32.
void write_widened(const fs::path& model, const fs::path& target) {
  fs::copy(model, target);
  const Safetensors file = Safetensors::open(model / "model.safetensors");
  std::vector<std::vector<float>> values;
  std::vector<NamedTensor> tensors;
  values.reserve(file.tensors().size());
  for (const StoredTensor& tensor : file.tensors()) {
    tensor.copy_to(values.emplace_back(static_cast<std::size_t>(tensor.elements())));
    tensors.push_back({tensor.name, StoredType::f32, tensor.shape, std::as_bytes(std::span(values.back()))});
  }
  write_safetensors(target / "model.safetensors", tensors);
}

// As from a model whose tower was merged beforehand, to the bit: sampling, learning, reference, evaluation, resuming.
TEST_F(Training, PartsOnFrozenModulesAreInEveryPass) {
  // Merged files are rounded to their dtype.
  const fs::path model = folder_.path() / "wide";
  write_widened(BIQA_SOURCE_DIR "/assets/tiny/model", model);
  const ModelConfig shapes = ModelConfig::load(model);
  Lora start = testing::random_adapter(shapes, 3, 0.02), plain = start, tower;
  start.frozen = testing::random_frozen_parts(shapes, 4, "visual", 0.05);
  tower.layout = std::make_shared<LoraLayout>(shapes, LoraSpec{}, std::vector<LoraModule>());
  tower.frozen = start.frozen;
  write_peft(folder_.path() / "start", start, "");
  write_adapter_h5(folder_.path() / "plain.h5", plain, {});
  write_merged_model(model, tower, folder_.path() / "merged");
  const auto from = [&](const std::string& adapter, std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"train.steps=2", "model.path=" + model.string(),
                               "model.adapter=" + (folder_.path() / adapter).string()});
    return more;
  };
  const std::string merged = "model.path=" + (folder_.path() / "merged").string();
  ASSERT_EQ(run(config("expected", from("plain.h5", {merged, "train.dump_steps=[2]"}))), ExitCode::done);
  ASSERT_EQ(run(config("other", from("plain.h5", {"data.eval=[]"}))), ExitCode::done);
  ASSERT_EQ(run(config("one", from("start", {"train.dump_steps=[2]", "checkpoint.every=1"}))),
            ExitCode::done);
  ASSERT_EQ(run(config("two", from("start", {"roles={actors: 1, rewards: 0, learners: 1}"})), 2),
            ExitCode::done);
  EXPECT_NE(adapter("expected"), adapter("other"));
  for (const char* name : {"one", "two"}) {
    SCOPED_TRACE(name);
    EXPECT_EQ(texts(name), texts("expected"));
    EXPECT_EQ(adapter(name), adapter("expected"));
    const MetricsFile metrics = read_metrics(folder_.path() / name / "metrics.jsonl");
    const MetricsFile wanted = read_metrics(folder_.path() / "expected" / "metrics.jsonl");
    EXPECT_EQ(metrics.steps.front().kl, 0.0);
    EXPECT_EQ(metrics.steps.back().kl, wanted.steps.back().kl);
    EXPECT_EQ(metrics.steps.back().actor_learner_logp_gap, 0.0);
    ASSERT_EQ(metrics.evaluations.size(), wanted.evaluations.size());
    EXPECT_EQ(metrics.evaluations.back().rmse, wanted.evaluations.back().rmse);
    for (const char* file : {"adapter.h5", "adapter", "checkpoints/step-000002"})
      EXPECT_TRUE(same_parts(read_any_adapter(folder_.path() / name / file, shapes), start)) << file;
  }

  // The dump is computed again with the tower it was made with.
  const fs::path dump = folder_.path() / "one/dumps/step-000002.h5", again = folder_.path() / "again.h5";
  PolicyOptions options{model, DType::f32, "cpu", 1, true};
  options.frozen = read_step_frozen(dump, model);
  replay_step(Policy::open(options), dump, again);
  const Hdf5File before(dump), after(again);
  for (const char* path : {"trajectories/00000/learner_logp", "trajectories/00000/reference_logp"})
    EXPECT_EQ(after.read_f32(path), before.read_f32(path)) << path;

  // A checkpoint brings its tower along, and is not gone on from with another.
  const std::string first = "checkpoint.resume=" + (folder_.path() / "one/checkpoints/step-000001").string();
  const std::vector<std::string> same_lora{
      "train.steps=2", "model.path=" + model.string(), "lora.rank=4", "lora.alpha=8", "data.eval=[]", first};
  ASSERT_EQ(run(config("alone", same_lora)), ExitCode::done);
  EXPECT_TRUE(same_parts(read_any_adapter(folder_.path() / "alone/adapter", shapes), start));
  const auto step_two = [&](const std::string& name) {
    std::map<std::string, std::string> found;
    for (const auto& [key, text] : texts(name)) {
      if (key.starts_with("2")) found[key] = text;
    }
    return found;
  };
  EXPECT_FALSE(step_two("one").empty());
  EXPECT_EQ(step_two("alone"), step_two("one"));
  auto local = make_local();
  EXPECT_THAT(error_of([&] { run_training(config("mixed", from("plain.h5", {first})), *local, signals_); }),
              ::testing::AllOf(::testing::HasSubstr("its adapter differs from model.adapter"),
                               ::testing::HasSubstr("on modules that are not trained; set model.adapter")));
  write_adapter_h5(folder_.path() / "tower.h5", tower, {});
  EXPECT_THAT(error_of([&] { run_training(config("tower", from("tower.h5")), *local, signals_); }),
              ::testing::HasSubstr("it changes only modules that are not trained"));
}

TEST_F(Training, ASecondStartDoesNotTakeBackAJobThatIsSaving) {
  const std::vector<std::string> saving{"checkpoint.every=2", "checkpoint.keep=0", "data.eval=[]"};
  ASSERT_EQ(run(config("run", saving)), ExitCode::done);
  // The first job is back in its last step: it has the folder, and the last checkpoint is not there yet.
  const fs::path out = folder_.path() / "run", last = out / "checkpoints" / "step-000003";
  const int first_job = ::open((out / ".lock").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(::flock(first_job, LOCK_EX | LOCK_NB), 0);
  fs::rename(last, folder_.path() / "in work");
  const auto ends = [&] {
    fs::rename(folder_.path() / "in work", last);
    ::close(first_job);
  };
  std::vector<std::string> more = saving;
  more.emplace_back("train.steps=4");
  {
    const WhenLogged meanwhile("resuming from", ends);
    auto alone = make_local();
    try {
      run_training(config("run", more), *alone, signals_);
      ADD_FAILURE() << "the folder was the other job's";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("another process is running there"), std::string::npos)
          << error.what();
    }
  }
  ASSERT_FALSE(fs::exists(last)) << "a checkpoint was chosen before the folder was this job's";
  ends();
  ASSERT_EQ(run(config("run", more)), ExitCode::done);
  EXPECT_TRUE(fs::exists(last));
  EXPECT_FALSE(fs::exists(out / "checkpoints" / "replaced-step-000003"));
  EXPECT_EQ(read_metrics(out / "metrics.jsonl").steps.size(), 4U);
}

TEST_F(Training, AStartThatIsRefusedLeavesNoFolder) {
  auto alone = make_local();
  for (const char* resume : {"checkpoint.resume=/nowhere", "checkpoint.resume=auto"}) {
    const Config settings = config("a/b/run", {resume, "model.path=/nowhere"});
    EXPECT_THROW(run_training(settings, *alone, signals_), Error);
    EXPECT_FALSE(fs::exists(folder_.path() / "a"));
  }
}

// Each learner looks at its own files; what one of them finds counts for all, whatever they do.
TEST_F(Training, EveryRoleGoesOnFromTheSameCheckpoint) {
  const std::vector<std::string> saving{"checkpoint.every=2", "checkpoint.keep=0", "data.eval=[]",
                                        "roles={actors: 2, rewards: 1, learners: 2}"};
  ASSERT_EQ(run(config("run", saving), 5), ExitCode::done);
  const auto expected = texts("run");
  const std::vector<float> values = adapter("run");
  const fs::path checkpoints = folder_.path() / "run" / "checkpoints";
  fs::remove(folder_.path() / "run" / "adapter.h5");
  fs::resize_file(checkpoints / "step-000003" / "optimizer-00001-of-00002.h5", 5000);
  ::testing::internal::CaptureStderr();
  ASSERT_EQ(run(config("run", saving), 5), ExitCode::done);
  const std::string told = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(texts("run"), expected);
  EXPECT_EQ(adapter("run"), values);
  EXPECT_TRUE(fs::exists(checkpoints / "replaced-step-000003"));
  const std::string damage = "optimizer-00001-of-00002.h5 has 5000 bytes";
  const std::size_t place = told.find(damage);
  ASSERT_NE(place, std::string::npos) << told;
  EXPECT_EQ(told.find(damage, place + 1), std::string::npos) << "told twice";
}

TEST_F(Training, AnImportedCheckpointHasNoSettingsToDifferFrom) {
  ASSERT_EQ(run(config("run", {"train.steps=1", "data.eval=[]"})), ExitCode::done);
  const ModelConfig model = ModelConfig::load(BIQA_SOURCE_DIR "/assets/tiny/model");
  LoadedCheckpoint state = *CheckpointStore(folder_.path() / "run" / "checkpoints").load_newest(model);
  state.info = {};
  write_checkpoint(folder_.path() / "imported", state);
  ::testing::internal::CaptureStderr();
  ASSERT_EQ(run(config("next", {"train.steps=1", "data.eval=[]",
                                "checkpoint.resume=" + (folder_.path() / "imported").string()})),
            ExitCode::done);
  EXPECT_EQ(::testing::internal::GetCapturedStderr().find("a changed setting"), std::string::npos);
}

TEST_F(Training, OtherImagesPerStepGoOnWithTheNextImages) {
  const auto images = [&](const std::string& name, const std::set<int>& steps) {
    std::vector<std::string> ids;
    std::ifstream file(folder_.path() / name / "samples.jsonl");
    for (std::string line; std::getline(file, line);) {
      const auto row = nlohmann::json::parse(line);
      if (row["member"] == 0 && steps.count(row["step"].get<int>()) != 0) ids.push_back(row["id"]);
    }
    return ids;
  };
  const std::vector<std::string> fours{"data.eval=[]"}, first{"data.eval=[]", "train.steps=1"};
  ASSERT_EQ(run(config("fours", fours)), ExitCode::done);
  ASSERT_EQ(run(config("twos", first)), ExitCode::done);
  ASSERT_EQ(run(config("twos", {"data.eval=[]", "rollout.images_per_step=2", "train.steps=5"}), 2),
            ExitCode::done);
  const auto expected = images("fours", {1, 2, 3});
  ASSERT_EQ(expected.size(), 12U);
  EXPECT_EQ(images("twos", {1, 2, 3, 4, 5}), expected);
  const ModelConfig model = ModelConfig::load(BIQA_SOURCE_DIR "/assets/tiny/model");
  EXPECT_EQ(CheckpointStore(folder_.path() / "twos" / "checkpoints").load_newest(model)->info.data_cursor,
            12);
}

TEST_F(Training, WhatAnEndedRunLacksIsMadeUpFor) {
  ASSERT_EQ(run(config("run")), ExitCode::done);
  const fs::path out = folder_.path() / "run";
  const std::vector<float> values = adapter("run");
  const std::size_t evaluations = read_metrics(out / "metrics.jsonl").evaluations.size();
  for (const char* lost : {"curves.svg", "adapter", "adapter.h5"}) {
    fs::remove_all(out / lost);
    ASSERT_EQ(run(config("run")), ExitCode::done);
    EXPECT_TRUE(fs::exists(out / lost)) << lost;
  }
  EXPECT_EQ(adapter("run"), values);
  EXPECT_EQ(read_metrics(out / "metrics.jsonl").evaluations.size(), evaluations);
}

TEST_F(Training, OtherWeightsUnderTheSamePathAreRefusedAndOtherDataIsSaid) {
  const fs::path model = folder_.path() / "model", manifest = folder_.path() / "train.jsonl";
  fs::copy(BIQA_SOURCE_DIR "/assets/tiny/model", model);
  std::ifstream source(BIQA_SOURCE_DIR "/assets/tiny/train.jsonl");
  std::vector<std::string> rows;
  for (std::string line; rows.size() < 12 && std::getline(source, line);) {
    auto row = nlohmann::json::parse(line);
    row["image"] = std::string(BIQA_SOURCE_DIR "/assets/tiny/") + row["image"].get<std::string>();
    rows.push_back(row.dump());
  }
  const auto write_rows = [&] {
    std::ofstream file(manifest);
    for (const std::string& row : rows) file << row << "\n";
  };
  write_rows();
  const auto settings = [&](int steps) {
    return config("run", {"model.path=" + model.string(), "data.train=" + manifest.string(), "data.eval=[]",
                          "train.steps=" + std::to_string(steps)});
  };
  const auto run_and_listen = [&](int steps) {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(run(settings(steps)), ExitCode::done);
    return ::testing::internal::GetCapturedStderr();
  };
  ASSERT_EQ(run(settings(1)), ExitCode::done);
  EXPECT_EQ(run_and_listen(2).find("other training data"), std::string::npos);
  std::reverse(rows.begin(), rows.end());
  write_rows();
  EXPECT_NE(run_and_listen(3).find("resuming with other training data than before"), std::string::npos);

  // The same shapes, other numbers.
  {
    std::fstream file(model / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    std::uint64_t header = 0;
    file.read(reinterpret_cast<char*>(&header), sizeof header);
    file.seekp(static_cast<std::streamoff>(sizeof header + header));
    file.put(1);
  }
  const auto world = make_local();
  try {
    run_training(settings(4), *world, signals_);
    ADD_FAILURE() << "other weights are taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("was trained on other weights"), std::string::npos)
        << error.what();
  }
  EXPECT_EQ(read_metrics(folder_.path() / "run" / "metrics.jsonl").steps.size(), 3U);
}

TEST_F(Training, AnyNumberOfRanksAndMoreLearnersThanTrajectories) {
  const std::vector<std::string> small{"train.steps=2", "data.eval=[]", "rollout.images_per_step=2",
                                       "rollout.group_size=2"};
  ASSERT_EQ(run(config("one", small)), ExitCode::done);
  const auto expected = texts("one");
  struct Layout {
    const char* roles;
    int ranks;
  };
  int number = 0;
  for (const Layout& layout :
       {Layout{"roles={actors: 1, rewards: 1, learners: 6}", 8},
        Layout{"roles={actors: 5, rewards: 2, learners: 1}", 8},
        Layout{"roles={actors: 1, rewards: 0, learners: 2}", 3}, Layout{"roles=auto", 16}}) {
    SCOPED_TRACE(layout.roles);
    std::vector<std::string> settings = small;
    settings.emplace_back(layout.roles);
    const std::string name = "layout" + std::to_string(number++);
    ASSERT_EQ(run(config(name, settings), layout.ranks), ExitCode::done);
    EXPECT_EQ(texts(name), expected);
  }
}

TEST_F(Training, ADamagedCheckpointIsPassedOver) {
  ASSERT_EQ(run(config("run", {"checkpoint.every=1", "train.steps=2"})), ExitCode::done);
  const fs::path newest = folder_.path() / "run" / "checkpoints" / "step-000002";
  ASSERT_NO_THROW(CheckpointStore::verify(newest));
  {
    std::fstream file(newest / "optimizer-00000-of-00001.h5",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(4000);
    const char old = static_cast<char>(file.get());
    file.seekp(4000);
    file.put(static_cast<char>(old ^ 1));
  }
  EXPECT_THROW(CheckpointStore::verify(newest), Error);
  const ModelConfig model = ModelConfig::load(BIQA_SOURCE_DIR "/assets/tiny/model");
  const auto loaded = CheckpointStore(folder_.path() / "run" / "checkpoints").load_newest(model);
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(loaded->info.step, 1);
}

TEST_F(Training, DapoLeavesOutGroupsWithoutVarianceAndCutAnswers) {
  const auto first_step = [&](const std::string& name, std::vector<std::string> more) {
    more.insert(more.end(), {"train.steps=1", "data.eval=[]"});
    EXPECT_EQ(run(config(name, more)), ExitCode::done);
    return read_metrics(folder_.path() / name / "metrics.jsonl").steps.at(0);
  };
  const std::vector<std::string> cut{"rollout.max_new_tokens=30"};
  // Format alone rewards: some groups are rewarded alike.
  const std::vector<std::string> alike{"rewards.prediction=0", "rewards.consistency=0", "rewards.reasoning=0",
                                       "objective.mask_truncated=false", "rollout.max_new_tokens=38"};
  for (const auto& settings : {cut, alike}) {
    const auto with = [&](const char* loss) {
      std::vector<std::string> all = settings;
      all.insert(all.end(), {std::string("objective.loss=") + loss, "objective.clip_high=0.2",
                             "rollout.refill_rounds=0"});
      return first_step(std::string(loss) + std::to_string(settings.size()), all);
    };
    const StepMetrics bnpo = with("bnpo"), dapo = with("dapo");
    EXPECT_EQ(bnpo.generated_tokens, dapo.generated_tokens);
    EXPECT_EQ(bnpo.trained_tokens, bnpo.generated_tokens);
    EXPECT_LT(dapo.trained_tokens, bnpo.trained_tokens);
    EXPECT_NE(dapo.grad_norm, bnpo.grad_norm);
  }
}

// Format alone rewards: some groups are rewarded alike, and others take their place.
TEST_F(Training, DapoDrawsFurtherImagesForGroupsWithoutVariance) {
  const std::vector<std::string> settings{"train.steps=2",
                                          "data.eval=[]",
                                          "objective.loss=dapo",
                                          "rewards.prediction=0",
                                          "rewards.consistency=0",
                                          "rewards.reasoning=0",
                                          "objective.mask_truncated=false",
                                          "rollout.max_new_tokens=38"};
  const auto with = [&](const std::string& name, std::vector<std::string> more, int ranks = 1) {
    more.insert(more.begin(), settings.begin(), settings.end());
    EXPECT_EQ(run(config(name, more), ranks), ExitCode::done);
    return read_metrics(folder_.path() / name / "metrics.jsonl").steps;
  };
  const auto with_variance = [](const StepMetrics& m) {
    return std::llround((1 - m.zero_variance_fraction) * static_cast<double>(m.images));
  };
  const std::vector<StepMetrics> none = with("none", {"rollout.refill_rounds=0"});
  ASSERT_LT(with_variance(none.at(0)), 4) << "the test needs groups without variance";
  EXPECT_EQ(none.at(0).images, 4);
  const std::vector<StepMetrics> one = with("one", {"rollout.refill_rounds=1"});
  EXPECT_EQ(one.at(0).images, 4 + 4 - with_variance(none.at(0))) << "a round draws what is lacking";
  const std::vector<StepMetrics> full = with("full", {"rollout.refill_rounds=50"});
  ASSERT_EQ(full.size(), 2U);
  EXPECT_EQ(with_variance(full[0]), 4);
  EXPECT_GT(full[0].images, 4);
  EXPECT_GT(full[0].trained_tokens, none[0].trained_tokens);
  // The images of a step that is not refilled are the first of one that is.
  for (const auto& [key, text] : texts("none")) {
    if (key.starts_with("1")) {
      EXPECT_EQ(texts("full").at(key), text) << key;
    }
  }
  // The same groups on any ranks, and after a stop.
  with("ranks", {"rollout.refill_rounds=50", "roles={actors: 2, rewards: 1, learners: 1}"}, 4);
  EXPECT_EQ(texts("ranks"), texts("full"));
  EXPECT_EQ(adapter("ranks"), adapter("full"));
  with("colocated", {"rollout.refill_rounds=50", "placement=colocated"}, 2);
  EXPECT_EQ(texts("colocated"), texts("full"));
  std::vector<std::string> all = settings;
  all.emplace_back("rollout.refill_rounds=50");
  signals_.stop = true;
  ASSERT_EQ(run(config("stopped", all)), ExitCode::stopped);
  signals_.stop = false;
  ASSERT_EQ(run(config("stopped", all)), ExitCode::done);
  EXPECT_EQ(texts("stopped"), texts("full"));
  EXPECT_EQ(adapter("stopped"), adapter("full"));
}

TEST_F(Training, AStepThatCannotBeRefilledSaysSoAndGoesOn) {
  bool told = false;
  const WhenLogged shortage("only 0 of 4 groups have any variance of rewards, after 8 further images",
                            [&] { told = true; });
  ASSERT_EQ(run(config("run", {"train.steps=1", "data.eval=[]", "objective.loss=dapo",
                               "rollout.refill_rounds=2", "rewards.prediction=0", "rewards.consistency=0",
                               "rewards.reasoning=0", "rewards.format=0"})),
            ExitCode::done);
  EXPECT_TRUE(told);
  EXPECT_EQ(read_metrics(folder_.path() / "run" / "metrics.jsonl").steps.at(0).images, 12);
}

TEST_F(Training, CaptionsTooLongForStageTwoGetNoRating) {
  std::string user;
  for (int i = 0; i < 400; ++i) user += "{caption} ";
  ASSERT_EQ(run(config("run", {"prompts.stage2_user=\"" + user + "\"", "train.steps=1", "data.eval=[]"})),
            ExitCode::done);
  const MetricsFile metrics = read_metrics(folder_.path() / "run" / "metrics.jsonl");
  EXPECT_EQ(metrics.steps.at(0).stage2_parse_rate, 0.0);
  EXPECT_GT(metrics.steps.at(0).parse_rate, 0.0);
}

TEST_F(Training, SupervisedLossFallsAndNeedsAnswers) {
  EXPECT_THROW(
      {
        const auto world = make_local();
        const Config settings = config("none", {"objective.loss=sft"});
        run_training(settings, *world, signals_);
      },
      Error);
  const fs::path manifest = write_answers();
  ASSERT_EQ(run(config("sft", {"objective.loss=sft", "data.train=" + manifest.string(), "train.steps=6",
                               "data.eval=[]"})),
            ExitCode::done);
  const MetricsFile metrics = read_metrics(folder_.path() / "sft" / "metrics.jsonl");
  EXPECT_LT(metrics.steps.back().loss, 0.8 * metrics.steps.front().loss);
}

// The first update moves every value so far that the second loss is no number.
TEST_F(Training, SupervisedUpdatesThatAreSkippedAreToldAndEndTheRun) {
  Config settings = config("sft", {"objective.loss=sft", "data.train=" + write_answers().string(),
                                   "train.steps=9", "data.eval=[]"});
  settings.optimizer.lr = 1e20;  // no configuration may ask for that
  auto alone = make_local();
  ::testing::internal::CaptureStderr();
  const std::string error = error_of([&] { run_training(settings, *alone, signals_); });
  const std::string told = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(error.find("in 4 successive updates, the last in step 5,"), std::string::npos) << error;
  for (const char* step : {"step 2: the loss", "step 3: the loss", "step 4: the loss"})
    EXPECT_NE(told.find(step), std::string::npos) << told;
}

}  // namespace
}  // namespace biqa
