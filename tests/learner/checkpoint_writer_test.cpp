// SPDX-License-Identifier: Apache-2.0
#include "learner/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <set>
#include <thread>

#include "core/error.h"
#include "support/failing_calls.h"
#include "support/no_more_threads.h"
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

// A stop saves the step before at once and its own step at its end: one checkpoint in the end.
TEST_F(Writer, AnInsuranceMakesWayForTheNextCheckpoint) {
  as_learners(1, [&](Learner& learner, Communicator&, const QwenVl& /*model*/) {
    CheckpointWriter writer(root(), 10, "token", 0, 1);
    const auto save = [&](std::int64_t step, bool insurance) {
      writer.begin(learner, info(step), insurance);
      ASSERT_TRUE(writer.wait(Seconds(30)));
      ASSERT_EQ(writer.state(), State::done) << writer.failure();
      EXPECT_TRUE(fs::exists(root() / checkpoint_name(step)));
    };
    save(4, false);
    save(5, true);
    save(6, false);
    save(7, true);
    save(7, false);  // due anyway
    save(8, false);
    save(9, true);
    point_best_checkpoint(root(), 9);
    save(10, false);
  });
  std::vector<std::string> left;
  for (const fs::path& folder : CheckpointStore(root()).newest_first())
    left.push_back(folder.filename().string());
  EXPECT_EQ(left, (std::vector<std::string>{"step-000010", "step-000009", "step-000008", "step-000007",
                                            "step-000006", "step-000004"}));
}

// Some file systems have no links, and copies of a run may have folders in their place.
TEST_F(Writer, ACheckpointIsSavedWhereLatestCannotBeLinked) {
  fs::create_directories(root() / "latest" / "taken");
  as_learners(1, [&](Learner& learner, Communicator&, const QwenVl& /*model*/) {
    CheckpointWriter writer(root(), 1, "token", 0, 1);
    for (const std::int64_t step : {1, 2}) {
      writer.begin(learner, info(step));
      ASSERT_TRUE(writer.wait(Seconds(30)));
      EXPECT_EQ(writer.state(), State::done) << writer.failure();
    }
  });
  take_over_checkpoints(root(), 2);
  EXPECT_EQ(CheckpointStore(root()).newest_first(), std::vector<fs::path>{root() / "step-000002"});
  EXPECT_TRUE(fs::exists(root() / "latest" / "taken"));
}

// A limit on the size of files stands in for a quota.
TEST_F(Writer, SizesThatTheSystemRefusesAreFoundBeforeTheFirstStep) {
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limited{rlim_t{1} << 20, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &limited);
  const CheckpointWriter writer(root(), 2, "token", 0, 1);
  const auto tried = [&](std::uint64_t bytes) -> std::string {
    writer.try_part();
    try {
      writer.try_publishing(bytes);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  };
  const std::string fits = tried(1 << 20), too_large = tried(2 << 20);
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(fits, "");
  EXPECT_THAT(tried(std::uint64_t{1} << 60), HasSubstr("a checkpoint needs 1073741824.00 GiB, but only "));
  EXPECT_THAT(too_large, HasSubstr("refuses a file of 1.5 MiB: File too large"));
  EXPECT_TRUE(fs::is_empty(root()));
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

TEST_F(Writer, WithoutMoreThreadsTheCheckpointIsWrittenAtOnce) {
  as_learners(1, [&](Learner& learner, Communicator&, const QwenVl& model) {
    CheckpointWriter writer(root(), 2, "token", 0, 1);
    {
      const testing::NoMoreThreads none;
      writer.begin(learner, info(5));
    }
    EXPECT_EQ(writer.state(), State::done) << writer.failure();
    EXPECT_EQ(CheckpointStore(root()).load_newest(model.config())->info.step, 5);
    writer.begin(learner, info(6));
    ASSERT_TRUE(writer.wait(Seconds(30)));
    EXPECT_EQ(writer.state(), State::done) << writer.failure();
  });
}

TEST_F(Writer, WithoutMoreThreadsTheFirstOfSeveralLearnersDoesNotWait) {
  for (const int rank : {0, 1}) {
    as_learners(2, [&](Learner& learner, Communicator& own, const QwenVl& /*model*/) {
      own.barrier("both learners exist");  // before threads are refused
      if (own.rank() != rank) return;
      CheckpointWriter writer(root(), 2, "token", rank, 2);
      const testing::NoMoreThreads none;
      writer.begin(learner, info(5));
      if (rank == 1) {
        EXPECT_EQ(writer.state(), State::done) << writer.failure();
        EXPECT_TRUE(fs::exists(root() / ".step-000005.token.partial" / "written-00001.json"));
      } else {
        EXPECT_EQ(writer.state(), State::failed);
        EXPECT_THAT(writer.failure(),
                    HasSubstr("cannot save checkpoint step-000005: the system has no more threads ("));
      }
    });
  }
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
    EXPECT_THAT(writer.failure(), HasSubstr("cannot create checkpoint folder"));
    fs::remove(root());
    fs::rename(folder_.path() / "aside", root());
    writer.begin(learner, info(2));  // the same step again, for the first try failed
    ASSERT_TRUE(writer.wait(Seconds(30)));
    EXPECT_EQ(writer.state(), State::done) << writer.failure();
    EXPECT_EQ(CheckpointStore(root()).load_newest(model.config())->info.step, 2);
  });
}

TEST_F(Writer, ACheckpointOfTheSameStepThatDiffersStepsAside) {
  as_learners(1, [&](Learner& learner, Communicator& own, const QwenVl& model) {
    save_checkpoint(root(), 3, learner, own, info(1));
    save_checkpoint(root(), 3, learner, own, info(1));
    EXPECT_FALSE(fs::exists(root() / "replaced-step-000001"));  // the same files
    std::ofstream(root() / "step-000001" / "adapter.h5", std::ios::app) << "x";
    save_checkpoint(root(), 3, learner, own, info(1));
    EXPECT_TRUE(fs::exists(root() / "replaced-step-000001"));
    EXPECT_NO_THROW(CheckpointStore::load(root() / "step-000001", model.config()));
    learner.restore(std::vector<float>(learner.adapter().values.size(), 0.5F),
                    std::vector<float>(learner.adapter().values.size(), 0.0F),
                    std::vector<float>(learner.adapter().values.size(), 0.0F), learner.updates());
    save_checkpoint(root(), 3, learner, own, info(1));
    EXPECT_TRUE(fs::exists(root() / "replaced-step-000001-2"));
    EXPECT_EQ(CheckpointStore::load(root() / "step-000001", model.config()).adapter.values.front(), 0.5F);
    EXPECT_EQ(fs::read_symlink(root() / "latest"), "step-000001");
  });
}

TEST_F(Writer, ARunThatGoesOnLeavesNoOtherFutureBehind) {
  as_learners(1, [&](Learner& learner, Communicator& own, const QwenVl& /*model*/) {
    for (const std::int64_t step : {1, 2, 3}) save_checkpoint(root(), 0, learner, own, info(step));
    point_best_checkpoint(root(), 3);
    for (const char* left : {".step-000007.other.partial", ".latest.tmp-1-0", ".damaged.tmp-2"})
      fs::create_directories(root() / left);
    for (const char* owned : {"step-best", "step-000003-good", "step-7"})
      fs::copy(root() / "step-000003", root() / owned, fs::copy_options::recursive);

    EXPECT_EQ(CheckpointStore(root()).newest_first().size(), 3U);  // other names are somebody's own
    take_over_checkpoints(root(), 2);
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(root())) names.insert(entry.path().filename().string());
    EXPECT_EQ(names, (std::set<std::string>{"latest", "replaced-step-000003", "step-000001", "step-000002",
                                            "step-000003-good", "step-7", "step-best"}));
    EXPECT_EQ(fs::read_symlink(root() / "latest"), "step-000002");
    // What counts is the step: the newest one stays, whatever stood there before.
    save_checkpoint(root(), 1, learner, own, info(3));
    EXPECT_EQ(CheckpointStore(root()).newest_first(), std::vector<fs::path>{root() / "step-000003"});
    EXPECT_TRUE(fs::exists(root() / "step-000003-good"));
  });
}

TEST_F(Writer, StepsAreSortedAsNumbers) {
  as_learners(1, [&](Learner& learner, Communicator& own, const QwenVl& /*model*/) {
    for (const std::int64_t step : {999999, 1000000}) save_checkpoint(root(), 1, learner, own, info(step));
    EXPECT_EQ(CheckpointStore(root()).newest_first(), std::vector<fs::path>{root() / "step-1000000"});
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

TEST_F(Writer, TheBestOneStaysWhereTheFileSystemHasNoLinks) {
  const testing::FailingCallsReset reset;
  testing::failing_calls().link = EPERM;
  as_learners(1, [&](Learner& learner, Communicator& own, const QwenVl& /*model*/) {
    for (const std::int64_t step : {1, 2, 3, 4}) {
      save_checkpoint(root(), 1, learner, own, info(step));
      if (step == 1 || step == 2) point_best_checkpoint(root(), step);
    }
    EXPECT_EQ(best_checkpoint(root()), 2);
    EXPECT_FALSE(fs::exists(root() / "step-000001"));
    EXPECT_TRUE(fs::exists(root() / "step-000002"));
    EXPECT_FALSE(fs::exists(root() / "step-000003"));
    EXPECT_EQ(file_content(root() / "latest"), "step-000004\n");
    take_over_checkpoints(root(), 2);
    EXPECT_EQ(file_content(root() / "latest"), "step-000002\n");
    take_over_checkpoints(root(), 1);
    EXPECT_EQ(best_checkpoint(root()), std::nullopt);
    EXPECT_FALSE(fs::exists(root() / "latest"));
    // Links again, as after a move to another file system.
    testing::failing_calls().link = 0;
    save_checkpoint(root(), 1, learner, own, info(3));
    EXPECT_EQ(fs::read_symlink(root() / "latest"), "step-000003");
  });
}

}  // namespace
}  // namespace biqa
