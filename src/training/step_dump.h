// SPDX-License-Identifier: Apache-2.0
// Writes dumps/step-*.h5: all inputs and results of one update (layout: docs/step-dump.md).
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "config/config.h"
#include "data/trajectory.h"
#include "learner/learner.h"
#include "policy/policy.h"

namespace biqa {

struct StepDump {
  std::int64_t step = 0, updates_before = 0;
  double lr = 0;
  Lora adapter_before, adapter_after;
  /// reference adapter of the KL term; if absent, the base model is the reference
  std::optional<Lora> reference;
  /// flat vectors; the gradient is that of the whole loss, before clipping
  std::vector<float> m_before, v_before, gradient;
  UpdateResult result;
  std::map<std::pair<std::size_t, std::size_t>, SequenceResult> sequences;  ///< by (group, member)
  /// second-stage completions that were trained on
  std::map<std::pair<std::size_t, std::size_t>, SequenceResult> stage2;
};

/// `images`: the image file of each group.
void write_step_dump(const std::filesystem::path& file, const StepDump& dump, std::span<const Group> groups,
                     std::span<const std::filesystem::path> images, const Policy& policy,
                     const Config& config);

/// Results that learners send to the first learner for a dump.
std::vector<std::byte> serialise_records(std::span<const SequenceResult> records);
std::vector<SequenceResult> parse_records(std::span<const std::byte> bytes);

}  // namespace biqa
