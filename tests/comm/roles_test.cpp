// SPDX-License-Identifier: Apache-2.0
#include "comm/roles.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "core/error.h"

namespace biqa {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

RoleConfig numbers(int actors, int rewards, int learners) {
  return {.automatic = false, .actors = actors, .rewards = rewards, .learners = learners, .colocated = false};
}

std::string refusal(const RoleConfig& config, int ranks) {
  try {
    plan_roles(config, ranks);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "accepted";
}

TEST(Roles, OneRankPlaysAll) {
  const RolePlan plan = plan_roles({}, 1);
  EXPECT_TRUE(plan.colocated);
  EXPECT_THAT(plan.actors, ElementsAre(0));
  EXPECT_EQ(plan.reward_rank_of(12345), 0);
  EXPECT_EQ(plan.role_name(0), "actor+reward+learner");
  EXPECT_EQ(plan.describe(), "1 rank, each with every role");
}

TEST(Roles, AutomaticCoversEveryRankAndEveryRole) {
  for (int ranks = 1; ranks <= 300; ++ranks) {
    const RolePlan plan = plan_roles({}, ranks);
    ASSERT_FALSE(plan.actors.empty() || plan.rewards.empty() || plan.learners.empty()) << ranks;
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_TRUE(plan.is_actor(rank) || plan.is_reward(rank) || plan.is_learner(rank));
      EXPECT_EQ(plan.is_actor(rank) && plan.is_learner(rank), ranks == 1);
    }
    EXPECT_FALSE(plan.is_actor(ranks) || plan.is_reward(-1) || plan.is_learner(ranks));
    EXPECT_GE(plan.actors.size(), plan.learners.size()) << ranks;
  }
}

TEST(Roles, AutomaticTable) {
  const auto split = [](int ranks) { return plan_roles({}, ranks).describe(); };
  EXPECT_EQ(split(2), "2 ranks: actor rank 0, reward rank 1, learner rank 1");
  EXPECT_EQ(split(3), "3 ranks: actor ranks 0-1, reward rank 2, learner rank 2");
  EXPECT_EQ(split(4), "4 ranks: actor ranks 0-2, reward rank 3, learner rank 3");
  EXPECT_EQ(split(5), "5 ranks: actor ranks 0-2, reward rank 3, learner rank 4");
  EXPECT_EQ(split(8), "8 ranks: actor ranks 0-4, reward rank 5, learner ranks 6-7");
  EXPECT_EQ(split(64), "64 ranks: actor ranks 0-40, reward ranks 41-42, learner ranks 43-63");
}

TEST(Roles, ByNumbers) {
  const RolePlan plan = plan_roles(numbers(2, 2, 3), 7);
  EXPECT_FALSE(plan.colocated);
  EXPECT_THAT(plan.actors, ElementsAre(0, 1));
  EXPECT_THAT(plan.rewards, ElementsAre(2, 3));
  EXPECT_THAT(plan.learners, ElementsAre(4, 5, 6));
  EXPECT_EQ(plan.actor_index(1), 1);
  EXPECT_EQ(plan.learner_index(6), 2);
  EXPECT_EQ(plan.learner_index(1), -1);
  EXPECT_EQ(plan.reward_rank_of(5), 3);
  EXPECT_EQ(plan.learner_rank_of(5), 6);
  EXPECT_EQ(plan.role_name(2), "reward");
}

TEST(Roles, WithoutRewardRanksTheLearnersScore) {
  const RolePlan plan = plan_roles(numbers(1, 0, 2), 3);
  EXPECT_THAT(plan.rewards, ElementsAre(1, 2));
  EXPECT_EQ(plan.role_name(1), "reward+learner");
}

TEST(Roles, Colocated) {
  const RolePlan plan = plan_roles({.automatic = true, .colocated = true}, 3);
  EXPECT_TRUE(plan.colocated);
  for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(plan.role_name(rank), "actor+reward+learner");
}

TEST(Roles, RefusalsNameTheNumbersAndAWayOut) {
  EXPECT_THAT(
      refusal(numbers(3, 1, 2), 8),
      AllOf(HasSubstr("roles {actors: 3, rewards: 1, learners: 2}: they need 6 but the job has 8 ranks; "),
            HasSubstr("{actors: 5, rewards: 1, learners: 2}"), HasSubstr("mpirun -np 6")));
  EXPECT_THAT(refusal(numbers(3, 1, 2), 1), AllOf(HasSubstr("1 rank;"), HasSubstr("roles: auto")));
  EXPECT_THAT(refusal(numbers(0, 1, 2), 3), HasSubstr("at least 1 actor"));
  EXPECT_THAT(refusal(numbers(4, -1, 2), 5), HasSubstr("out of range"));
  constexpr int kMost = std::numeric_limits<int>::max();
  EXPECT_THAT(refusal(numbers(kMost, kMost, kMost), 4), HasSubstr("need 6442450941"));
  RoleConfig both = numbers(1, 1, 1);
  both.colocated = true;
  EXPECT_THAT(refusal(both, 3), HasSubstr("placement colocated"));
}

}  // namespace
}  // namespace biqa
