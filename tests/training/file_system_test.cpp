// SPDX-License-Identifier: Apache-2.0
// Whole runs in folders of file systems that lack something.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "learner/checkpoint_store.h"
#include "run/run_folder.h"
#include "support/failing_calls.h"
#include "support/temporary_folder.h"
#include "training/trainer.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class FileSystem : public ::testing::Test {
 protected:
  /// Two steps of two pictures, saved each.
  ExitCode train(const std::string& name) {
    const std::vector<std::string> overrides{"train.out=" + (folder_.path() / name).string(),
                                             "train.steps=2",
                                             "train.progress=false",
                                             "rollout.images_per_step=2",
                                             "rollout.group_size=2",
                                             "checkpoint.every=1",
                                             "checkpoint.keep=0",
                                             "data.eval=[]",
                                             "model.threads=1"};
    const Config config = load_config(BIQA_SOURCE_DIR "/configs/quickstart.yaml", overrides);
    const auto world = make_local();
    return run_training(config, *world, signals_);
  }
  void expect_whole(const std::string& name) const {
    const fs::path checkpoints = folder_.path() / name / "checkpoints";
    const auto saved = CheckpointStore(checkpoints).newest_first();
    ASSERT_EQ(saved.size(), 2U) << name;
    for (const fs::path& one : saved) EXPECT_THAT(CheckpointStore::find_damage(one), IsEmpty());
    for (const auto& entry : fs::directory_iterator(checkpoints))
      EXPECT_THAT(entry.path().filename().string(), ::testing::Not(HasSubstr("partial")));
  }

  TemporaryFolder folder_;
  testing::FailingCallsReset reset_;
  StopSignals signals_;
};

TEST_F(FileSystem, WithoutLocksARunTrainsAndSaves) {
  for (const int error : {ENOLCK, ENOSYS, EOPNOTSUPP, EINVAL, 524}) {
    SCOPED_TRACE(error);
    testing::failing_calls().lock = error;
    const std::string name = "locks-" + std::to_string(error);
    EXPECT_EQ(train(name), ExitCode::done);
    expect_whole(name);
  }
}

TEST_F(FileSystem, ASignalDoesNotPreventALock) {
  const fs::path run = folder_.path() / "run";
  testing::failing_calls().signals = 2;
  const RunLock held(run);
  EXPECT_EQ(testing::failing_calls().signals, 0);
  EXPECT_THAT(error_of([&] { const RunLock second(run); }), HasSubstr("another process is running there"));
}

TEST_F(FileSystem, WithoutFoldersThatCanBeSyncedARunTrainsAndSaves) {
  testing::failing_calls().sync_folder = EINVAL;
  EXPECT_EQ(train("folders"), ExitCode::done);
  expect_whole("folders");
}

TEST_F(FileSystem, WithoutLinksARunTrainsAndSaves) {
  testing::failing_calls().link = EPERM;
  EXPECT_EQ(train("links"), ExitCode::done);
  expect_whole("links");
  EXPECT_EQ(file_content(folder_.path() / "links/checkpoints/latest"), "step-000002\n");
}

TEST_F(FileSystem, ASaveThatCannotSucceedIsFoundBeforeTheFirstStep) {
  testing::failing_calls().part_of_path = ".partial";
  testing::failing_calls().sync_file = EIO;
  EXPECT_THAT(error_of([&] { train("broken"); }), HasSubstr("Input/output error"));
  const fs::path run = folder_.path() / "broken";
  EXPECT_THAT(read_metrics(run / "metrics.jsonl").steps, IsEmpty());
  EXPECT_TRUE(fs::is_empty(run / "checkpoints"));
  // The same command starts when the disk is mended.
  testing::failing_calls().sync_file = 0;
  EXPECT_EQ(train("broken"), ExitCode::done);
}

}  // namespace
}  // namespace biqa
