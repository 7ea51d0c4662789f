// SPDX-License-Identifier: Apache-2.0
#include "reward/table.h"

namespace biqa {

double format_reward(const RewardInput& input) {
  constexpr double kWellFormed = 0.5;
  return input.trajectory.format_ok ? kWellFormed : 0;
}

}  // namespace biqa
