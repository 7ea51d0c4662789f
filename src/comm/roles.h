// SPDX-License-Identifier: Apache-2.0
// Which rank acts, scores and learns.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace biqa {

/// `roles` and `placement` of the configuration.
struct RoleConfig {
  bool automatic = true;   ///< roles: auto; the three numbers are ignored
  int actors = 0;          ///< at least 1
  int rewards = 0;         ///< 0: the learners score
  int learners = 0;        ///< at least 1
  bool colocated = false;  ///< placement: colocated, every rank plays every role; needs automatic
};

/// The ranks that play each role, ascending. A rank may play several.
struct RolePlan {
  std::vector<int> actors, rewards, learners;
  bool colocated = false;

  bool is_actor(int rank) const;
  bool is_reward(int rank) const;
  bool is_learner(int rank) const;
  /// Position of the rank among those of the role, or -1.
  int actor_index(int rank) const;
  int learner_index(int rank) const;
  /// Who scores a sample's group, and who learns from it.
  int reward_rank_of(std::uint64_t sample) const { return rewards[sample % rewards.size()]; }
  int learner_rank_of(std::uint64_t group) const { return learners[group % learners.size()]; }
  /// "actor", "reward", "learner", joined by "+"; for log lines.
  std::string role_name(int rank) const;
  /// "8 ranks: actors 0-4, rewards 5, learners 6-7"; for the plan.
  std::string describe() const;
};

/// Ranks in the order actors, rewards, learners. Automatic:
///   1 rank      all roles (colocated of size 1)
///   2-4 ranks   one learner, which also scores; the others act
///   5 and more  one reward rank per 32 ranks begun, a third of the rest learn (rounded), the others act
/// Throws Error (usage) when the numbers are out of range or don't add up to `ranks`.
RolePlan plan_roles(const RoleConfig& config, int ranks);

}  // namespace biqa
