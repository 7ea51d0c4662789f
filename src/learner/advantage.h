// SPDX-License-Identifier: Apache-2.0
// Computes advantages from rewards: how much better a completion is than the others of the same image.
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
  /// GDPO: each reward is normalised in this way within its group. The weighted sum is then normalised over the batch.
  /// A reward that is constant in a group contributes exactly 0 there.
  normalise_then_sum
};
inline constexpr std::array kAdvantageNames{
    Named<AdvantageKind>{"sum_then_normalise", AdvantageKind::sum_then_normalise},
    Named<AdvantageKind>{"normalise_then_sum", AdvantageKind::normalise_then_sum}};

/// Standard deviation by which sum_then_normalise divides: that of the group, that of the batch, or none (Dr. GRPO).
enum class AdvantageScale : std::uint8_t { group, batch, none };
inline constexpr std::array kAdvantageScaleNames{Named<AdvantageScale>{"group", AdvantageScale::group},
                                                 Named<AdvantageScale>{"batch", AdvantageScale::batch},
                                                 Named<AdvantageScale>{"none", AdvantageScale::none}};

struct AdvantageConfig {
  AdvantageKind kind = AdvantageKind::sum_then_normalise;
  AdvantageScale scale = AdvantageScale::group;
};

struct Advantages {
  std::vector<double> totals;         ///< [trajectories] weighted sum of the rewards; NaN without any reward
  std::vector<double> values;         ///< [trajectories]
  std::vector<bool> zero_variance;    ///< [groups] all totals equal (standard deviation <= 1e-8)
  double zero_variance_fraction = 0;  ///< of the groups; 0 without groups
};

/// `rewards`: [trajectories, weights.size()] in row-major order; the members of a group are adjacent. NaN: the
/// trajectory does not have this reward, and sums and statistics ignore it. A trajectory without any reward gets
/// advantage 0. Standard deviations divide by n - 1. `group_size` must divide the number of trajectories (CHECK).
Advantages compute_advantages(std::span<const double> rewards, std::span<const double> weights,
                              std::size_t group_size, const AdvantageConfig& config);

}  // namespace biqa
