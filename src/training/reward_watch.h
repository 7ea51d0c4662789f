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
/// there is one. A reward that may be full is not watched while it is.
class RewardWatch {
 public:
  /// Borrows `config`.
  explicit RewardWatch(const Config& config) : config_(config), columns_(rewards().size()) {}

  /// Warnings about a step, one sentence each. Call it for each step in order. A reward is named
  /// - in the first step of a row of steps in which all completions of a step have the same value;
  /// - when its mean and its standard deviation have been the same for rewards.stall_steps steps, once until they move.
  ///  They count as the same within 1e-9, which is more than the rounding of a mean.
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
