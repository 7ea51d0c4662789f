// SPDX-License-Identifier: Apache-2.0
// Saves of a run: several learners agree on them, and the best one is remembered.
#include "training/run_checkpoints.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "learner/checkpoint_store.h"
#include "support/failing_calls.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

class RunCheckpointsTest : public ::testing::Test {
 protected:
  RunCheckpointsTest() {
    config_.train.out = folder_.path() / "run";
    config_.checkpoint.best = "caption_plcc";
    config_.checkpoint.keep = 1;
    fs::create_directories(root());
  }
  fs::path root() const { return config_.train.out / "checkpoints"; }
  /// Runs `body` as each of so many learners.
  template <typename Body>
  void as_learners(int learners, const Body& body) {
    auto world = make_thread_world(learners, Seconds(60));
    std::vector<std::thread> threads;
    threads.reserve(static_cast<std::size_t>(learners));
    for (int rank = 0; rank < learners; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          const auto model = testing::load(files_, DType::f32);
          Communicator& own = *world[static_cast<std::size_t>(rank)];
          Learner learner(*model, testing::random_adapter(model->config(), 4), nullptr, own, {});
          RunCheckpoints checkpoints(config_, own);
          body(checkpoints, learner, own);
        } catch (const std::exception& error) {
          ADD_FAILURE() << "rank " << rank << ": " << error.what();
          world[static_cast<std::size_t>(rank)].reset();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  static CheckpointInfo info(std::int64_t step) {
    CheckpointInfo info;
    info.step = info.version = step;
    info.config = "a: 1\n";
    return info;
  }
  static std::vector<EvalMetrics> figures(std::int64_t step, double caption_plcc) {
    EvalMetrics figure;
    figure.step = step;
    figure.set = "set";
    figure.condition = "caption";
    figure.decoding = "greedy";
    figure.plcc = caption_plcc;
    return {figure};
  }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const fs::path& folder : CheckpointStore(root()).newest_first()) all.push_back(folder.filename());
    return all;
  }

  TemporaryFolder folder_;
  testing::TinyModel files_;
  Config config_;
};

TEST_F(RunCheckpointsTest, TheBestOneIsSavedOutOfTurnAndKept) {
  as_learners(2, [&](RunCheckpoints& checkpoints, Learner& learner, Communicator& own) {
    const bool first = own.rank() == 0;
    // Figures are on the first learner alone; both learn what they mean.
    const auto note = [&](std::int64_t step, double value) {
      return checkpoints.note_evaluation(step, first ? figures(step, value) : std::vector<EvalMetrics>());
    };
    const auto save = [&](std::int64_t step) {
      checkpoints.begin(learner, info(step));
      checkpoints.finish();
    };
    EXPECT_FALSE(note(0, 0.5));  // before the first step there is nothing to save
    EXPECT_TRUE(note(2, 0.4));
    EXPECT_EQ(std::isnan(checkpoints.figure_of(2)), !first);
    EXPECT_TRUE(std::isnan(checkpoints.figure_of(1)));
    save(2);
    EXPECT_FALSE(note(4, 0.3));
    save(4);
    EXPECT_TRUE(note(6, 0.6));
    EXPECT_TRUE(checkpoints.may_begin(6));
    save(6);
    save(7);
    save(8);
  });
  EXPECT_EQ(names(), (std::vector<std::string>{"step-000008", "step-000006"}));
  EXPECT_EQ(best_checkpoint(root()), 6);
}

TEST_F(RunCheckpointsTest, AResumedRunKnowsTheBestFigureSoFar) {
  as_learners(1, [&](RunCheckpoints& checkpoints, Learner& learner, Communicator&) {
    EXPECT_TRUE(checkpoints.note_evaluation(2, figures(2, 0.5)));
    checkpoints.begin(learner, info(2));
    checkpoints.finish();
  });
  as_learners(1, [&](RunCheckpoints& checkpoints, Learner&, Communicator&) {
    checkpoints.take_over(2, {{2, figures(2, 0.5)}});
    EXPECT_FALSE(checkpoints.note_evaluation(3, figures(3, 0.4)));
    EXPECT_TRUE(checkpoints.note_evaluation(4, figures(4, 0.6)));
  });
  EXPECT_EQ(best_checkpoint(root()), 2);  // that of step 4 is not written yet
}

TEST_F(RunCheckpointsTest, AnotherSaveWaitsForTheOneUnderWayUnlessItIsTheBest) {
  as_learners(1, [&](RunCheckpoints& checkpoints, Learner& learner, Communicator&) {
    EXPECT_TRUE(checkpoints.may_begin(1));
    checkpoints.begin(learner, info(1));
    EXPECT_FALSE(checkpoints.may_begin(2));
    EXPECT_TRUE(checkpoints.note_evaluation(2, figures(2, 0.5)));
    EXPECT_TRUE(checkpoints.may_begin(2));
    EXPECT_FALSE(checkpoints.may_begin(3));
    checkpoints.finish();
    EXPECT_TRUE(checkpoints.may_begin(3));
  });
  EXPECT_EQ(names(), std::vector<std::string>{"step-000001"});
}

// The others wait for the shard of the learner that could not write it: they must learn of it.
TEST_F(RunCheckpointsTest, ASaveThatOneLearnerCannotWriteIsGivenUpByAll) {
  const testing::FailingCallsReset reset;
  testing::failing_calls().part_of_path = shard_name(1, 2);
  testing::failing_calls().sync_file = EIO;
  as_learners(2, [&](RunCheckpoints& checkpoints, Learner& learner, Communicator& own) {
    checkpoints.begin(learner, info(1));
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    bool over = false;
    while (!over && std::chrono::steady_clock::now() < end) {
      checkpoints.writer().wait(Seconds(0.01));
      checkpoints.check();
      over = own.all_and(checkpoints.may_begin(2) &&
                         checkpoints.writer().state() != CheckpointWriter::State::writing);
    }
    EXPECT_TRUE(over) << "rank " << own.rank();
    testing::failing_calls().sync_file = 0;
    own.barrier("the disk is well again");
    if (!over) return;
    checkpoints.begin(learner, info(2));
    checkpoints.finish();
  });
  EXPECT_EQ(names(), std::vector<std::string>{"step-000002"});
}

TEST_F(RunCheckpointsTest, ThereIsOneInsuranceAndItsSaveIsWhole) {
  as_learners(1, [&](RunCheckpoints& checkpoints, Learner& learner, Communicator&) {
    ASSERT_TRUE(checkpoints.take_insurance());
    checkpoints.insure(learner, info(5));
    EXPECT_FALSE(checkpoints.take_insurance());
    EXPECT_TRUE(checkpoints.writer().wait(Seconds(30)));
    EXPECT_FALSE(checkpoints.take_insurance());
  });
  EXPECT_EQ(names(), std::vector<std::string>{"step-000005"});
  EXPECT_TRUE(CheckpointStore::find_damage(root() / "step-000005").empty());
}

}  // namespace
}  // namespace biqa
