// SPDX-License-Identifier: Apache-2.0
// biqa_trace on the bundled model, on the CPU and on the device of support/remote/remote_ops.h: the same file.
#include <gtest/gtest.h>

#include <string>

#include "io/hdf5.h"
#include "support/remote/remote_ops.h"  // links the device, and so builds biqa_trace_remote
#include "support/run_program.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

std::filesystem::path trace(const std::string& program, const TemporaryFolder& folder,
                            const std::string& dtype) {
  const std::filesystem::path out =
      folder.path() / (dtype + "-" + std::filesystem::path(program).filename().string());
  const testing::ProgramOutcome result = testing::run_program(
      folder.path(),
      {program, "--model", BIQA_SOURCE_DIR "/assets/tiny/model", "--image",
       BIQA_SOURCE_DIR "/assets/tiny/sample_cat.png", "--prompt", "How good is it?", "--completion",
       "<rating>3.00</rating>", "--generate", "12", "--dtype", dtype, "--out", out.string()});
  EXPECT_EQ(result.code, 0) << result.err;
  return out;
}

TEST(RemoteTrace, IsTheTraceOfTheCpu) {
  const TemporaryFolder folder;
  for (const std::string dtype : {"f32", "bf16"}) {
    const Hdf5File cpu(trace(BIQA_BIN_DIR "/biqa_trace", folder, dtype));
    const Hdf5File remote(trace(BIQA_BIN_DIR "/../tests/biqa_trace_remote", folder, dtype));
    for (const std::string name : {"vision_embeds", "logits", "completion_logp", "extra/merger"}) {
      EXPECT_GE(cpu.read_f32(name).size(), 5U) << name;
      EXPECT_EQ(remote.read_f32(name), cpu.read_f32(name)) << dtype << " " << name;
    }
    EXPECT_EQ(remote.read_i64("generated_ids"), cpu.read_i64("generated_ids"));
  }
}

}  // namespace
}  // namespace biqa
