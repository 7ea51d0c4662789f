// SPDX-License-Identifier: Apache-2.0
// Which ranks are actors, reward ranks and learners.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace biqa {

/// `roles` and `placement` of the configuration.
struct RoleConfig {
  bool automatic = true;   ///< roles: auto; the three numbers are ignored
  int actors = 0;          ///< at least 1
  int rewards = 0;         ///< 0: the learners compute the rewards
  int learners = 0;        ///< at least 1
  bool colocated = false;  ///< placement: colocated, every rank has every role; needs `automatic`
};

/// The ranks of each role, ascending. A rank may have several roles.
struct RolePlan {
  std::vector<int> actors, rewards, learners;
  bool colocated = false;

  bool is_actor(int rank) const;
  bool is_reward(int rank) const;
  bool is_learner(int rank) const;
  /// Index of the rank in the list of the role; -1 if the rank does not have the role.
  int actor_index(int rank) const;
  int learner_index(int rank) const;
  /// The reward rank of a sample's group, and the learner of a group.
  int reward_rank_of(std::uint64_t sample) const { return rewards[sample % rewards.size()]; }
  int learner_rank_of(std::uint64_t group) const { return learners[group % learners.size()]; }
  /// "actor", "reward" and "learner", joined by "+". For log lines.
  std::string role_name(int rank) const;
  /// "8 ranks: actor ranks 0-4, reward rank 5, learner ranks 6-7". For `--dry-run` and the start of a run.
  std::string describe() const;
};

/// Assigns ranks in the order actors, rewards, learners. With `automatic`:
///   1 rank      all roles (colocated of size 1)
///   2-4 ranks   one learner, which also computes rewards; the others are actors
///   5 and more  ⌈ranks / 32⌉ reward ranks; a third of the rest (rounded) are learners; the others are actors
/// Throws Error (usage) if the numbers are out of range or their sum is not `ranks`.
RolePlan plan_roles(const RoleConfig& config, int ranks);

}  // namespace biqa
