// SPDX-License-Identifier: Apache-2.0
#include "comm/roles.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <iterator>
#include <numeric>

#include "core/error.h"

namespace biqa {
namespace {

struct Counts {
  int actors = 0, rewards = 0, learners = 0;
};

Counts automatic_counts(int ranks) {
  // Computing rewards takes a fraction of a percent of a step, so a separate rank pays off only in larger jobs.
  const int rewards = ranks < 5 ? 0 : (ranks + 31) / 32;
  const int learners = std::max(1, (2 * (ranks - rewards) + 3) / 6);
  return {ranks - rewards - learners, rewards, learners};
}

std::vector<int> consecutive(int first, int count) {
  std::vector<int> ranks(static_cast<std::size_t>(count));
  std::iota(ranks.begin(), ranks.end(), first);
  return ranks;
}

RolePlan all_in_all(int ranks) {
  const std::vector<int> all = consecutive(0, ranks);
  return {all, all, all, true};
}

RolePlan split_plan(const Counts& counts) {
  RolePlan plan;
  plan.actors = consecutive(0, counts.actors);
  plan.rewards = consecutive(counts.actors, counts.rewards);
  plan.learners = consecutive(counts.actors + counts.rewards, counts.learners);
  if (plan.rewards.empty()) plan.rewards = plan.learners;
  return plan;
}

int index_of(const std::vector<int>& ranks, int rank) {
  const auto found = std::lower_bound(ranks.begin(), ranks.end(), rank);
  return found != ranks.end() && *found == rank ? static_cast<int>(found - ranks.begin()) : -1;
}

/// "actor rank 0", or "actor ranks 0-4": numbers of ranks, not a count.
std::string ranks_of(const char* role, const std::vector<int>& ranks) {
  return ranks.size() == 1 ? fmt::format("{} rank {}", role, ranks.front())
                           : fmt::format("{} ranks {}-{}", role, ranks.front(), ranks.back());
}

void check_roles(const RoleConfig& config, int ranks) {
  const auto text = fmt::format("roles {{actors: {}, rewards: {}, learners: {}}}", config.actors,
                                config.rewards, config.learners);
  if (config.colocated)
    fail_usage("{}: placement colocated gives every rank every role; write roles: auto, or placement: split",
               text);
  if (config.actors < 1 || config.rewards < 0 || config.learners < 1)
    fail_usage(
        "{}: out of range; write at least 1 actor and 1 learner (with rewards: 0 the learners compute the "
        "rewards)",
        text);
  const std::int64_t sum = std::int64_t{config.actors} + config.rewards + config.learners;
  if (sum == ranks) return;
  const std::string ranks_text = fmt::format("{} rank{}", ranks, ranks == 1 ? "" : "s");
  if (ranks == 1)
    fail_usage("{}: they need {} but the job has {}; start it with mpirun -np {}, or write roles: auto", text,
               sum, ranks_text, sum);
  const Counts fitting = automatic_counts(ranks);
  fail_usage(
      "{}: they need {} but the job has {}; write roles: auto or, for example, {{actors: {}, rewards: {}, "
      "learners: {}}}, or start it with mpirun -np {}",
      text, sum, ranks_text, fitting.actors, fitting.rewards, fitting.learners, sum);
}

}  // namespace

RolePlan plan_roles(const RoleConfig& config, int ranks) {
  CHECK_GE(ranks, 1);
  if (!config.automatic) {
    check_roles(config, ranks);
    return split_plan({config.actors, config.rewards, config.learners});
  }
  if (config.colocated || ranks == 1) return all_in_all(ranks);
  return split_plan(automatic_counts(ranks));
}

bool RolePlan::is_actor(int rank) const {
  return index_of(actors, rank) >= 0;
}

bool RolePlan::is_reward(int rank) const {
  return index_of(rewards, rank) >= 0;
}

bool RolePlan::is_learner(int rank) const {
  return index_of(learners, rank) >= 0;
}

int RolePlan::actor_index(int rank) const {
  return index_of(actors, rank);
}

int RolePlan::learner_index(int rank) const {
  return index_of(learners, rank);
}

std::string RolePlan::role_name(int rank) const {
  std::vector<std::string> names;
  if (is_actor(rank)) names.emplace_back("actor");
  if (is_reward(rank)) names.emplace_back("reward");
  if (is_learner(rank)) names.emplace_back("learner");
  return fmt::format("{}", fmt::join(names, "+"));
}

std::string RolePlan::describe() const {
  const int ranks = std::max({actors.back(), rewards.back(), learners.back()}) + 1;
  if (colocated) return fmt::format("{} rank{}, each with every role", ranks, ranks == 1 ? "" : "s");
  return fmt::format("{} ranks: {}, {}, {}", ranks, ranks_of("actor", actors), ranks_of("reward", rewards),
                     ranks_of("learner", learners));
}

}  // namespace biqa
