// SPDX-License-Identifier: Apache-2.0
// Reads a step dump (docs/step-dump.md). The file is not trusted: every value is checked before it is used.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/preprocess.h"
#include "io/hdf5.h"
#include "learner/learner.h"
#include "model/config.h"
#include "model/lora.h"

namespace biqa {

/// One completion of either stage. All vectors have the same length; `behaviour` may be empty for sft, and
/// `token_advantages` if every token has `advantage`.
struct DumpedAnswer {
  std::vector<std::int64_t> ids;
  std::vector<float> mask, behaviour, token_advantages;
  double advantage = 0;
};
struct DumpedTrajectory {
  std::string name;  ///< of its HDF5 group
  DumpedAnswer answer;
  std::uint64_t member = 0;
  std::vector<std::int64_t> stage2_prompt;
  std::optional<DumpedAnswer> stage2;  ///< only if it was trained on
  std::uint64_t stage2_dropout_key = 0;
};
/// Trajectories with the same prompt.
struct DumpedGroup {
  std::vector<std::int64_t> prompt;
  std::vector<Patches> pictures;
  std::uint64_t dropout_key = 0;
  bool dropped = false;
  std::vector<DumpedTrajectory> members;
};
struct DumpedStep {
  double lr = 0;
  std::int64_t updates = 0;
  Lora adapter;
  /// reference adapter of the KL term; if absent, the base model is the reference
  std::optional<Lora> reference;
  std::vector<float> m, v;
  LearnerOptions options;
  std::vector<DumpedGroup> groups;  ///< in the order of their numbers in the dump
};

/// `preprocess` and `config` belong to the model of the step. Throws Error naming file and object if a value is missing
/// or impossible.
DumpedStep read_step(const std::filesystem::path& dump, const ModelConfig& config,
                     const PreprocessConfig& preprocess);

/// Reads the adapter's parts on frozen modules; nullptr: none. They must be merged into the model's weights before a
/// step is recomputed. `model`: the model's folder. Throws Error as read_step does.
std::shared_ptr<const FrozenParts> read_step_frozen(const std::filesystem::path& dump,
                                                    const std::filesystem::path& model);

}  // namespace biqa
