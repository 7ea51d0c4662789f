// SPDX-License-Identifier: Apache-2.0
#include "reward/closeness.h"
#include "reward/table.h"

namespace biqa {

double prediction_reward(const RewardInput& input) {
  return closeness(input.trajectory.rating, input.group.annotation.score, input.config);
}

}  // namespace biqa
