// SPDX-License-Identifier: Apache-2.0
// A checkpoint spread over many learners: each of its files is read once, what one finds damaged counts for all.
#include "learner/checkpoint_reader.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cmath>
#include <functional>
#include <limits>
#include <thread>

#include "core/error.h"
#include "learner/checkpoint_writer.h"
#include "learner/messages.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TinyModel;

class CheckpointReaderTest : public ::testing::Test {
 protected:
  CheckpointReaderTest()
      : model_(testing::load(files_, DType::f32)), start_(testing::random_adapter(model_->config(), 4)) {
    const std::size_t size = start_.layout->size();
    values_ = testing::random_values(size, 0.2, 11);
    m_ = testing::random_values(size, 1e-3, 12);
    v_ = testing::random_values(size, 1e-5, 13);
  }
  void with_learners(int learners, const std::function<void(Learner&, Communicator&)>& body) const {
    const auto world = make_thread_world(learners, Seconds(60));
    std::vector<std::thread> threads;
    threads.reserve(static_cast<std::size_t>(learners));
    for (int rank = 0; rank < learners; ++rank) {
      threads.emplace_back([&, rank] {
        Communicator& own = *world[static_cast<std::size_t>(rank)];
        Learner learner(*model_, start_, nullptr, own, {});
        body(learner, own);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  fs::path save(int learners, std::int64_t step) const {
    with_learners(learners, [&](Learner& learner, Communicator& own) {
      learner.restore(values_, m_, v_, 10 * step);
      CheckpointInfo info{};
      info.step = step;
      info.version = step + 1;
      info.data_cursor = 24 * step;
      save_checkpoint(root(), 0, learner, own, info);
    });
    return root() / checkpoint_name(step);
  }
  fs::path root() const { return folder_.path() / "checkpoints"; }
  /// As a run does it; the first learner alone knows the candidates.
  std::optional<FoundCheckpoint> find(CheckpointReader& reader, Communicator& own,
                                      const std::vector<fs::path>& candidates, bool only = false) const {
    return reader.find(own.rank() == 0 ? candidates : std::vector<fs::path>{}, only,
                       [this] { return model_->config(); });
  }
  /// The learner has the whole state back.
  bool goes_on(CheckpointReader& reader, const FoundCheckpoint& found, Learner& learner) const {
    reader.read_files(found);
    const Learner::Shard range = learner.shard();
    const CheckpointReader::State state = reader.exchange(found, range.begin, range.end);
    learner.restore_shard(state.values, state.m, state.v, found.updates);
    std::vector<float> m, v;
    learner.collect_moments(m, v);
    return learner.adapter().values == values_ && m == m_ && v == v_;
  }

  TinyModel files_;
  std::unique_ptr<QwenVl> model_;
  Lora start_;
  std::vector<float> values_, m_, v_;
  TemporaryFolder folder_;
};

TEST_F(CheckpointReaderTest, SavedOnAnyNumberOfLearnersReadOnAny) {
  for (const int saved : {1, 2, 5}) {
    const fs::path folder = save(saved, saved);
    for (const int count : {1, 2, 3, 5, 8}) {
      std::vector<int> whole(static_cast<std::size_t>(count), 0);
      with_learners(count, [&](Learner& learner, Communicator& own) {
        CheckpointReader reader(own);
        const auto found = find(reader, own, {folder}, true);
        if (!found) return;
        EXPECT_EQ(found->path, folder);
        EXPECT_EQ(found->step, saved);
        EXPECT_EQ(found->version, saved + 1);
        EXPECT_EQ(found->data_cursor, 24 * saved);
        EXPECT_EQ(found->updates, 10 * saved);
        whole[static_cast<std::size_t>(own.rank())] =
            static_cast<int>(goes_on(reader, *found, learner) && learner.updates() == 10 * saved);
      });
      EXPECT_EQ(whole, std::vector<int>(static_cast<std::size_t>(count), 1)) << saved << " on " << count;
    }
  }
}

// Every learner has a folder of its own, with the manifest and the files that are its business and no others.
TEST_F(CheckpointReaderTest, ALearnerReadsItsOwnFilesAlone) {
  for (const int saved : {3, 4}) {
    constexpr int kLearners = 3;
    const fs::path folder = save(saved, saved);
    for (int rank = 0; rank < kLearners; ++rank) {
      const fs::path own = folder_.path() / fmt::format("{} of {}", rank, saved) / folder.filename();
      fs::create_directories(own);
      fs::copy_file(folder / "manifest.json", own / "manifest.json");
      if (rank == 0) fs::copy_file(folder / "adapter.h5", own / "adapter.h5");
      for (int shard = rank; shard < saved; shard += kLearners)
        fs::copy_file(folder / shard_name(shard, saved), own / shard_name(shard, saved));
    }
    std::vector<int> whole(kLearners, 0), apart(kLearners, 0);
    with_learners(kLearners, [&](Learner& learner, Communicator& own) {
      // A working directory of this thread alone.
      const auto rank = static_cast<std::size_t>(own.rank());
      const fs::path place = folder_.path() / fmt::format("{} of {}", own.rank(), saved);
      apart[rank] = static_cast<int>(::unshare(CLONE_FS) == 0 && ::chdir(place.c_str()) == 0);
      if (!own.all_and(apart[rank] != 0)) return;
      CheckpointReader reader(own);
      const auto found = find(reader, own, {folder.filename()}, true);
      whole[rank] = static_cast<int>(found && goes_on(reader, *found, learner));
    });
    if (apart != std::vector<int>(kLearners, 1))
      GTEST_SKIP() << "threads can't have working directories of their own here (unshare is not allowed)";
    EXPECT_EQ(whole, std::vector<int>(kLearners, 1)) << saved;
  }
}

TEST_F(CheckpointReaderTest, DamageThatOneLearnerFindsCountsForAll) {
  constexpr int kLearners = 3;
  const fs::path old = save(kLearners, 1);
  const std::vector<std::function<void(const fs::path&)>> damages{
      [](const fs::path& folder) { fs::resize_file(folder / "adapter.h5", 100); },
      [](const fs::path& folder) { fs::remove(folder / shard_name(2, 3)); },
      [](const fs::path& folder) { fs::resize_file(folder / shard_name(1, 3), 5000); },
      [](const fs::path& folder) { fs::remove(folder / "manifest.json"); },
      [](const fs::path& folder) { fs::rename(folder / shard_name(0, 3), folder / "other"); }};
  std::int64_t step = 2;
  for (const auto& damage : damages) {
    const fs::path folder = save(kLearners, step);
    damage(folder);
    ++step;
    std::vector<fs::path> paths(kLearners);
    std::vector<int> refused(kLearners, 0);
    with_learners(kLearners, [&](Learner&, Communicator& own) {
      const auto rank = static_cast<std::size_t>(own.rank());
      CheckpointReader reader(own);
      const auto found = find(reader, own, {folder, old});
      if (found) paths[rank] = found->path;
      try {
        refused[rank] = static_cast<int>(!find(reader, own, {folder}, true) && rank != 0);
      } catch (const Error& error) {
        refused[rank] = static_cast<int>(rank == 0);
        EXPECT_THAT(error.what(), HasSubstr(folder.string()));
      }
    });
    EXPECT_EQ(paths, std::vector<fs::path>(kLearners, old)) << step;
    EXPECT_EQ(refused, std::vector<int>(kLearners, 1)) << step;
  }
}

TEST_F(CheckpointReaderTest, AStateThatIsNotFiniteIsRefusedByName) {
  v_[3] = std::numeric_limits<float>::quiet_NaN();
  const fs::path folder = save(1, 1);
  with_learners(1, [&](Learner&, Communicator& own) {
    CheckpointReader reader(own);
    const auto found = find(reader, own, {folder}, true);
    ASSERT_TRUE(found.has_value());
    EXPECT_THAT(error_of([&] { reader.read_files(*found); }),
                AllOf(HasSubstr(shard_name(0, 1)), HasSubstr(": v does not have")));
  });
}

TEST(LearnerMessages, GoThroughTextAsTheyAre) {
  const std::vector<fs::path> paths{"/a b", "", "/\n\xff/c"};
  EXPECT_EQ(paths_of(text_of(paths)), paths);
  EXPECT_TRUE(paths_of(text_of(std::span<const fs::path>())).empty());
  const CheckedFiles back = checked_files_of(text_of({"torn", {{"optimizer-00000-of-00001.h5", 2, 9, 6}}}));
  EXPECT_EQ(back.damage, "torn");
  ASSERT_EQ(back.shards.size(), 1U);
  EXPECT_EQ(back.shards[0].name, "optimizer-00000-of-00001.h5");
  EXPECT_EQ(back.shards[0].begin, 2);
  EXPECT_EQ(back.shards[0].end, 9);
  EXPECT_EQ(back.shards[0].updates, 6);
}

TEST(FoundCheckpoints, GoThroughTextAsTheyAre) {
  EXPECT_FALSE(found_checkpoint_of(text_of(std::optional<FoundCheckpoint>())).has_value());
  FoundCheckpoint found;
  found.path = std::string("/a b\n\"\xff/step-000003");
  found.step = 3;
  found.version = 4;
  found.data_cursor = 5;
  found.updates = 6;
  found.frozen = true;
  found.shards = {{"optimizer-00000-of-00002.h5", 0, 7, 6}, {"optimizer-00001-of-00002.h5", 7, 9, 6}};
  const auto back = found_checkpoint_of(text_of(std::optional(found)));
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->path, found.path);
  EXPECT_EQ(back->step, 3);
  EXPECT_EQ(back->version, 4);
  EXPECT_EQ(back->data_cursor, 5);
  EXPECT_EQ(back->updates, 6);
  EXPECT_TRUE(back->frozen);
  ASSERT_EQ(back->shards.size(), 2U);
  EXPECT_EQ(back->shards[1].name, found.shards[1].name);
  EXPECT_EQ(back->shards[1].begin, 7);
  EXPECT_EQ(back->shards[1].end, 9);
}

}  // namespace
}  // namespace biqa
