// SPDX-License-Identifier: Apache-2.0
// What an adapter was made from and how good it was, as far as its own files and its run folder say.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "learner/checkpoint_tools.h"
#include "run/records.h"

namespace biqa {

/// Empty texts and missing numbers are unknown.
struct AdapterOrigin {
  std::string source;  ///< "checkpoint step-000120", "adapter.h5" or "PEFT folder"
  std::string run;     ///< name of the run folder in which the adapter lies; empty: it lies in none
  std::optional<std::int64_t> step, version;
  std::string config;                                          ///< resolved configuration, YAML
  std::string build, base_model, base_weights, training_data;  ///< as in CheckpointInfo
  std::string file_digest;                                     ///< XXH3-128 of adapter.h5
  /// `license`, `license_name` and `license_link` of the base model's README.md
  std::vector<std::pair<std::string, std::string>> licence;
  bool metrics_unreadable = false;
  std::vector<EvalMetrics> last;  ///< the run's last evaluation that is not after `step`
  std::vector<EvalMetrics> best;  ///< the evaluation of the step to which the run's link `best` points
};

/// `model`: replaces the recorded base model. A checkpoint belongs to a run if it lies in the run's checkpoints/ under its
/// own name, and an adapter.h5 if it lies in the run folder. Warns if the run's metrics.jsonl cannot be read. Throws Error
/// if the adapter's own files cannot be read.
AdapterOrigin read_adapter_origin(const AdapterPlace& place,
                                  const std::optional<std::filesystem::path>& model);

}  // namespace biqa
