// SPDX-License-Identifier: Apache-2.0
// Advantages from rewards: how much better than the other answers to the same image.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/names.h"

namespace biqa {

enum class AdvantageKind : std::uint8_t {
  sum_then_normalise,  ///< GRPO: A = (r - mean of the group)/(std + 1e-4) of the weighted sum r
  /// GDPO: each reward normalised so within its group, then summed with its weight, then normalised so over
  /// the batch. A reward constant in a group contributes exactly nothing there.
  normalise_then_sum
};
inline constexpr std::array kAdvantageNames{
    Named<AdvantageKind>{"sum_then_normalise", AdvantageKind::sum_then_normalise},
    Named<AdvantageKind>{"normalise_then_sum", AdvantageKind::normalise_then_sum}};

/// What sum_then_normalise divides by. Dr. GRPO's authors divide by nothing.
enum class AdvantageScale : std::uint8_t { group, batch, none };
inline constexpr std::array kAdvantageScaleNames{Named<AdvantageScale>{"group", AdvantageScale::group},
                                                 Named<AdvantageScale>{"batch", AdvantageScale::batch},
                                                 Named<AdvantageScale>{"none", AdvantageScale::none}};

struct AdvantageConfig {
  AdvantageKind kind = AdvantageKind::sum_then_normalise;
  AdvantageScale scale = AdvantageScale::group;
};

struct Advantages {
  std::vector<double> totals;         ///< [trajectories] weighted sum of the rewards; NaN if none was given
  std::vector<double> values;         ///< [trajectories]
  std::vector<bool> zero_variance;    ///< [groups] all totals alike (standard deviation <= 1e-8)
  double zero_variance_fraction = 0;  ///< of the groups; 0 without groups
};

/// `rewards`: [trajectories, weights.size()] row by row, the members of a group side by side; NaN means that
/// a reward has no opinion on a trajectory: it is left out of sums and statistics, and a trajectory without
/// any reward gets advantage 0. Standard deviations are those of a sample (n - 1). `group_size` must divide
/// the trajectories (CHECK).
Advantages compute_advantages(std::span<const double> rewards, std::span<const double> weights,
                              std::size_t group_size, const AdvantageConfig& config);

}  // namespace biqa
