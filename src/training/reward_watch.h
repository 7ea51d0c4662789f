// SPDX-License-Identifier: Apache-2.0
// Watches the rewards of successive steps for those that teach nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"
#include "run/records.h"

namespace biqa {

/// A reward is watched in steps in which its weight is not 0. A reward that needs the second stage is only watched if
/// there is one. A reward with Reward::may_be_full is not watched in steps in which all completions have the same
/// value other than 0.
class RewardWatch {
 public:
  /// Borrows `config`.
  explicit RewardWatch(const Config& config) : config_(config), columns_(rewards().size()) {}

  /// Warnings about a step, one sentence each. Call it for each step in order. A reward is named
  /// - if all completions of a step have the same value, in the first of consecutive such steps;
  /// - when its mean and its standard deviation have been the same for rewards.stall_steps steps. It is named again
  ///  only after they have changed. Values within 1e-9 count as the same, because the rounding of a mean is smaller.
  std::vector<std::string> look_at(const StepMetrics& metrics);

 private:
  struct Column {
    bool same_for_all = false;       ///< in the last step
    std::int64_t steps = 0;          ///< for which mean and deviation have not moved
    double mean = 0, deviation = 0;  ///< in the first of these steps
  };
  bool watches(std::size_t column, const StepMetrics& metrics) const;

  const Config& config_;
  std::vector<Column> columns_;
};

}  // namespace biqa
