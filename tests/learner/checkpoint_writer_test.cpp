// SPDX-License-Identifier: Apache-2.0
#include "learner/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "core/error.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using State = CheckpointWriter::State;
using ::testing::HasSubstr;

class Writer : public ::testing::Test {
 protected:
  /// Runs `body` as each of so many learners, each with a network and an adapter of its own.
  template <typename Body>
  void as_learners(int learners, const Body& body) {
    const auto world = make_thread_world(learners, Seconds(60));
    std::vector<std::thread> threads;
    threads.reserve(static_cast<std::size_t>(learners));
    for (int rank = 0; rank < learners; ++rank) {
      threads.emplace_back([&, rank] {
        const auto model = testing::load(files_, DType::f32);
        Communicator& own = *world[static_cast<std::size_t>(rank)];
        Learner learner(*model, testing::random_adapter(model->config(), 4), nullptr, own, {});
        body(learner, own, *model);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  fs::path root() const { return folder_.path() / "checkpoints"; }
  static CheckpointInfo info(std::int64_t step) {
    CheckpointInfo info;
    info.step = info.version = step;
    info.config = "a: 1\n";
    return info;
  }

  TemporaryFolder folder_;
  testing::TinyModel files_;
};

TEST_F(Writer, ShardsOfAllLearnersBecomeOneCheckpoint) {
  as_learners(3, [&](Learner& learner, Communicator& own, const QwenVl& model) {
    CheckpointWriter writer(root(), 2, "token", own.rank(), own.size());
    for (const std::int64_t step : {1, 2, 3, 3}) writer.begin(learner, info(step));
    ASSERT_TRUE(writer.wait(Seconds(30)));
    EXPECT_EQ(writer.state(), State::done) << writer.failure();
    own.barrier("all written");
    const auto newest = CheckpointStore(root()).load_newest(model.config());
    ASSERT_TRUE(newest.has_value());
    EXPECT_EQ(newest->info.step, 3);
    EXPECT_EQ(newest->adapter.values, learner.adapter().values);
  });
  EXPECT_FALSE(fs::exists(root() / "step-000001"));  // keep 2
  EXPECT_TRUE(fs::exists(root() / "step-000002"));
  EXPECT_EQ(fs::read_symlink(root() / "latest"), "step-000003");
  for (const auto& entry : fs::recursive_directory_iterator(root())) {
    EXPECT_FALSE(entry.path().filename().string().starts_with(".")) << entry.path();
    EXPECT_FALSE(entry.path().filename().string().starts_with("written-")) << entry.path();
  }
}

TEST_F(Writer, WithoutAShardNothingIsPublished) {
  as_learners(2, [&](Learner& learner, Communicator& own, const QwenVl& /*model*/) {
    CheckpointWriter writer(root(), 2, "token", own.rank(), own.size());
    if (own.rank() == 1) return;  // lost
    writer.begin(learner, info(5));
    EXPECT_FALSE(writer.wait(Seconds(0.3)));
    writer.give_up("a learner is lost");
    ASSERT_TRUE(writer.wait(Seconds(30)));
    EXPECT_EQ(writer.state(), State::failed);
    EXPECT_THAT(writer.failure(), HasSubstr("a learner is lost"));
  });
  EXPECT_TRUE(fs::is_empty(root()));
}

TEST_F(Writer, LearnersAtDifferentStepsAreRefused) {
  as_learners(2, [&](Learner& learner, Communicator& own, const QwenVl& /*model*/) {
    if (own.rank() == 1) {
      // What a learner one update further would have announced.
      const fs::path folder = root() / ".step-000005.token.partial";
      fs::create_directories(folder);
      std::ofstream(folder / "written-00001.json") << R"({"bytes":1,"xxh3":"0","step":5,"updates":99})";
      return;
    }
    CheckpointWriter writer(root(), 2, "token", 0, 2);
    writer.begin(learner, info(5));
    ASSERT_TRUE(writer.wait(Seconds(30)));
    EXPECT_THAT(writer.failure(), HasSubstr("learner 1 is at step 5 with 99 updates"));
  });
}

TEST_F(Writer, AFolderThatCannotBeWrittenLeavesEarlierCheckpoints) {
  as_learners(1, [&](Learner& learner, Communicator& own, const QwenVl& model) {
    save_checkpoint(root(), 3, learner, own, info(1));
    fs::rename(root(), folder_.path() / "aside");
    std::ofstream(root()) << "a file in the way";
    CheckpointWriter writer(root(), 3, "token", 0, 1);
    writer.begin(learner, info(2));
    ASSERT_TRUE(writer.wait(Seconds(30)));
    EXPECT_THAT(writer.failure(), HasSubstr("cannot make checkpoint folder"));
    fs::remove(root());
    fs::rename(folder_.path() / "aside", root());
    writer.begin(learner, info(2));  // the same step again, for the first try failed
    ASSERT_TRUE(writer.wait(Seconds(30)));
    EXPECT_EQ(writer.state(), State::done) << writer.failure();
    EXPECT_EQ(CheckpointStore(root()).load_newest(model.config())->info.step, 2);
  });
}

TEST_F(Writer, LeftoversOfAKilledRunGoAndDamagedCheckpointsStepAside) {
  as_learners(1, [&](Learner& learner, Communicator& own, const QwenVl& model) {
    save_checkpoint(root(), 3, learner, own, info(1));
    std::ofstream(root() / "step-000001" / "adapter.h5", std::ios::app) << "x";
    fs::create_directories(root() / ".step-000007.other.partial");
    CheckpointWriter writer(root(), 3, "token", 0, 1);
    EXPECT_FALSE(fs::exists(root() / ".step-000007.other.partial"));
    writer.begin(learner, info(1));
    ASSERT_TRUE(writer.wait(Seconds(30)));
    EXPECT_EQ(writer.state(), State::done) << writer.failure();
    EXPECT_NO_THROW(CheckpointStore::load(root() / "step-000001", model.config()));
  });
}

TEST_F(Writer, TheBestOneStays) {
  as_learners(1, [&](Learner& learner, Communicator& own, const QwenVl& /*model*/) {
    for (const std::int64_t step : {1, 2, 3, 4}) {
      save_checkpoint(root(), 1, learner, own, info(step));
      if (step == 2) point_best_checkpoint(root(), step);
    }
  });
  EXPECT_EQ(best_checkpoint(root()), 2);
  EXPECT_TRUE(fs::exists(root() / "step-000002"));
  EXPECT_FALSE(fs::exists(root() / "step-000003"));
  EXPECT_TRUE(fs::exists(root() / "step-000004"));
}

}  // namespace
}  // namespace biqa
