// SPDX-License-Identifier: Apache-2.0
// A step dump that HDF5 finds whole and that holds anything.
#include <glog/logging.h>

#include <cmath>

#include "fuzz/harness.h"
#include "fuzz/hdf5_lines.h"
#include "fuzz/tiny_files.h"
#include "training/step_reader.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder;
  static const ModelConfig config = tiny_config();
  PreprocessConfig preprocess;
  preprocess.patch = config.vision.patch;
  const std::filesystem::path path = folder.path() / "step.h5";
  if (!write_hdf5(path, input)) return;
  DumpedStep step;
  if (!accepted([&] { step = read_step(path, config, preprocess); })) return;
  CHECK(std::isfinite(step.lr) && !step.groups.empty());
  CHECK_EQ(step.adapter.values.size(), step.adapter.layout->size());
  CHECK(step.m.size() == step.adapter.values.size() && step.v.size() == step.m.size());
  for (const LoraModule& module : step.adapter.layout->modules()) CHECK(std::isfinite(module.scale));
  for (const DumpedGroup& group : step.groups) {
    CHECK(!group.prompt.empty() && !group.members.empty());
    for (const DumpedTrajectory& member : group.members) {
      CHECK(!member.answer.ids.empty() && member.answer.mask.size() == member.answer.ids.size());
      for (const std::int64_t id : member.answer.ids) CHECK(id >= 0 && id < config.text.vocab);
    }
  }
}

const Registered kRegistered("step_dump", run);

}  // namespace
}  // namespace biqa::fuzz
