// SPDX-License-Identifier: Apache-2.0
// Each role against peers that follow a script, over the thread transport.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <set>
#include <thread>

#include "core/error.h"
#include "data/wire.h"
#include "support/forwarding_communicator.h"
#include "support/temporary_folder.h"
#include "training/actor_role.h"
#include "training/adapter_exchange.h"
#include "training/learner_role.h"
#include "training/messages.h"
#include "training/reward_role.h"
#include "training/traffic_meter.h"

namespace biqa {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

/// Runs one script per rank, each with its communicator; returns the errors, by rank.
std::vector<std::string> run_ranks(const std::vector<std::function<void(Communicator&)>>& scripts) {
  auto world = make_thread_world(static_cast<int>(scripts.size()), Seconds(60));
  std::vector<std::string> errors(scripts.size());
  std::vector<std::thread> threads;
  threads.reserve(scripts.size());
  for (std::size_t rank = 0; rank < scripts.size(); ++rank) {
    threads.emplace_back([&, rank] {
      try {
        scripts[rank](*world[rank]);
      } catch (const std::exception& error) {
        errors[rank] = error.what();
        world[rank].reset();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}
void expect_no_errors(const std::vector<std::string>& errors) {
  for (std::size_t rank = 0; rank < errors.size(); ++rank) EXPECT_EQ(errors[rank], "") << "rank " << rank;
}

RolePlan plan_of(std::vector<int> actors, std::vector<int> rewards, std::vector<int> learners) {
  return {std::move(actors), std::move(rewards), std::move(learners), false};
}

Group group_of(std::int64_t step, std::int64_t row, std::int64_t members = 2) {
  Group group;
  group.sample_id = "sample " + std::to_string(row);
  group.sample_index = row;
  group.step = step;
  group.annotation.score = 3;
  group.prompt_ids = {1, 2, 3};
  for (std::int64_t m = 0; m < members; ++m) {
    Trajectory& t = group.members.emplace_back();
    t.member = m;
    t.completion_ids = {4, 5, 6 + m};
    t.behaviour_logp = {-1, -2, -3};
    t.finished = true;
    t.text = m == 0 ? "<caption>a</caption><reasoning>b</reasoning><rating>3.00</rating>" : "nothing";
  }
  return group;
}

// -------------------------------------------------------------------------------------------------- messages

TEST(Messages, AReportArrivesAsItWasSent) {
  const auto world = make_local();
  StepReport report;
  report.rollout = 1.5;
  report.stage2 = 0.25;
  report.reward = 2;
  report.learn = 3;
  std::iota(report.sent.begin(), report.sent.end(), 7U);
  report.save = true;
  report.device_peak_bytes = 12;
  send_report(*world, 0, report);
  const StepReport received = receive_report(*world, 0);
  EXPECT_EQ(received.rollout, report.rollout);
  EXPECT_EQ(received.stage2, report.stage2);
  EXPECT_EQ(received.reward, report.reward);
  EXPECT_EQ(received.learn, report.learn);
  EXPECT_EQ(received.sent, report.sent);
  EXPECT_FALSE(received.stop);
  EXPECT_TRUE(received.save);
  EXPECT_EQ(received.device_peak_bytes, 12);
}

TEST(Messages, RequestsAndRepliesOfWorkArriveAsTheyWereSent) {
  const auto world = make_local();
  EXPECT_FALSE(try_receive_work_request(*world).has_value());
  send_work_request(*world, 0, {3, 2, 7, 40});
  const auto request = try_receive_work_request(*world);
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->step, 3);
  EXPECT_EQ(request->groups, 2);
  EXPECT_EQ(request->row, 7);
  EXPECT_EQ(request->tokens, 40);
  EXPECT_EQ(request->from, 0);
  EXPECT_FALSE(try_receive_work_reply(*world, 0).has_value());
  send_work_reply(*world, 0, {3, true, {8, 5}});
  send_work_reply(*world, 0, {4, false, {}});
  const WorkReply first = receive_work_reply(*world, 0);
  EXPECT_EQ(first.step, 3);
  EXPECT_TRUE(first.last);
  EXPECT_EQ(first.rows, (std::vector<std::size_t>{8, 5}));
  const auto second = try_receive_work_reply(*world, 0);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->step, 4);
  EXPECT_FALSE(second->last);
  EXPECT_TRUE(second->rows.empty());
}

TEST(Messages, TheNumberOfLackingGroupsArrives) {
  const auto world = make_local();
  send_lacking(*world, 0, 5);
  send_lacking(*world, 0, 0);
  EXPECT_EQ(receive_lacking(*world, 0), 5U);
  EXPECT_EQ(receive_lacking(*world, 0), 0U);
}

// What the planned traffic counts.
TEST(Messages, TheirSizesAreTheStatedOnes) {
  const auto world = make_local();
  const auto sent = [&] { return world->traffic(Operation::message).bytes; };
  std::uint64_t before = sent();
  const auto grown = [&] { return sent() - std::exchange(before, sent()); };
  send_report(*world, 0, {});
  EXPECT_EQ(grown(), kReportWireBytes);
  send_work_request(*world, 0, {});
  EXPECT_EQ(grown(), kWorkRequestWireBytes);
  send_work_reply(*world, 0, {1, false, {5}});
  EXPECT_EQ(grown(), kWorkReplyWireBytes);
}

TEST(Messages, EveryRankGetsTheFirstLearnersBoundary) {
  const auto script = [](Communicator& world) {
    const Boundary own = world.rank() == 1 ? Boundary{4, 9, true, FirstEvaluation::due} : Boundary{};
    const Boundary shared = share_boundary(world, 1, own);
    EXPECT_EQ(shared.version, 4);
    EXPECT_EQ(shared.last_step, 9);
    EXPECT_TRUE(shared.save);
    EXPECT_EQ(shared.evaluation, FirstEvaluation::due);
  };
  expect_no_errors(run_ranks({script, script, script}));
}

TEST(TrafficMeter, CountsWhatWasSentSinceTheLastTime) {
  const auto world = make_local();
  const std::vector<std::byte> bytes(100);
  const auto send = [&] {
    world->send(0, 5, bytes);
    world->receive(0, 5, "bytes");
  };
  constexpr auto kMessage = static_cast<std::size_t>(Operation::message);
  send();
  TrafficMeter meter(std::vector<const Communicator*>{world.get(), nullptr});
  EXPECT_EQ(meter.take()[kMessage], 0U);
  send();
  send();
  EXPECT_EQ(meter.take()[kMessage], 200U);
  send();
  const SentBytes before = meter.total();
  send();
  meter.leave_out_since(before);
  EXPECT_EQ(meter.take()[kMessage], 100U);
}

TEST(GroupInbox, GroupsOfLaterStepsWaitForTheirTurn) {
  const auto world = make_local();
  for (const auto& [step, row] : {std::pair{2, 1}, std::pair{1, 2}, std::pair{2, 3}, std::pair{1, 4}})
    world->send(0, kTagGroup, serialise(group_of(step, row)));
  GroupInbox inbox(*world, kTagGroup, "a group");
  std::vector<std::int64_t> rows;
  for (const std::int64_t step : {1, 1, 2, 2}) rows.push_back(inbox.next(step).sample_index);
  EXPECT_EQ(rows, (std::vector<std::int64_t>{2, 4, 1, 3}));
}

// -------------------------------------------------------------------------------------------------- rewards

TEST(RewardRole, ScoresItsRowsAndSendsThemToEveryLearner) {
  const RolePlan roles = plan_of({0}, {1, 2}, {3, 4});
  const std::vector<std::size_t> rows{0, 1, 2, 3};  // even ones are rank 1's
  const Config config;
  const auto reward = [&](Communicator& world) {
    RewardRole role(config, world, roles, nullptr);
    for (const std::int64_t step : {1, 2}) EXPECT_GE(role.score_step(step, rows), 0);
  };
  const auto learner = [&](Communicator& world) {
    std::multiset<std::pair<std::int64_t, std::int64_t>> seen;
    for (std::size_t i = 0; i < 2 * rows.size(); ++i) {
      const Group group = parse_group(world.receive(kAnyRank, kTagScored, "a scored group").bytes);
      seen.emplace(group.step, group.sample_index);
      Group expected = group_of(group.step, group.sample_index);
      score(expected, config.rewards, config.prompts.texts.profile);
      ASSERT_EQ(group.members.size(), 2U);
      EXPECT_EQ(group.members[0].rewards, expected.members[0].rewards);
      EXPECT_GT(group.members[0].reward, group.members[1].reward);
    }
    for (const std::int64_t step : {1, 2}) {
      for (const std::size_t row : rows) EXPECT_EQ(seen.count({step, static_cast<std::int64_t>(row)}), 1U);
    }
  };
  const auto actor = [&](Communicator& world) {
    for (const auto& [step, row] : {std::pair{2, 2}, {1, 0}, {1, 3}, {2, 0}, {1, 1}, {1, 2}, {2, 1}, {2, 3}})
      world.send(roles.reward_rank_of(static_cast<std::uint64_t>(row)), kTagGroup,
                 serialise(group_of(step, row)));
    world.flush();
  };
  expect_no_errors(run_ranks({actor, reward, reward, learner, learner}));
}

// -------------------------------------------------------------------------------------------------- adapter

Lora small_adapter(float value) {
  ModelConfig model;
  model.text.layers = 1;
  model.text.hidden = 4;
  LoraSpec spec;
  spec.rank = 1;
  std::vector<LoraModule> modules(1);
  modules[0].rank = 1;
  model.text.heads = 1;
  model.text.head_dim = 4;
  Lora lora{std::make_shared<LoraLayout>(model, spec, std::move(modules)), {}};
  lora.values.assign(lora.layout->size(), value);
  return lora;
}

Group sampled_by(std::int64_t version, std::uint64_t digest) {
  Group group = group_of(1, 1);
  for (Trajectory& t : group.members) {
    t.policy_version = version;
    t.adapter_digest = digest;
  }
  return group;
}

TEST(AdapterExchange, EveryHolderGetsTheFirstLearnersAdapter) {
  const auto script = [](Communicator& holders) {
    AdapterExchange exchange(holders, small_adapter(static_cast<float>(holders.rank() + 1)), 1);
    exchange.publish(3);
    EXPECT_EQ(exchange.version(), 3);
    EXPECT_EQ(exchange.adapter().values.front(), 1);
    const std::uint64_t third = exchange.digest();
    if (holders.rank() == 0) exchange.set_adapter(small_adapter(7));
    exchange.publish(4);
    EXPECT_EQ(exchange.adapter().values.back(), 7);
    EXPECT_NE(exchange.digest(), third);
    // With lag 1, step 5 may be sampled by versions 3 and 4, and step 6 by 4 alone.
    EXPECT_NO_THROW(exchange.check_origin(5, sampled_by(3, third)));
    EXPECT_NO_THROW(exchange.check_origin(5, sampled_by(4, exchange.digest())));
    EXPECT_THROW(exchange.check_origin(6, sampled_by(3, third)), Error);
    EXPECT_THROW(exchange.check_origin(5, sampled_by(4, third)), Error);
    EXPECT_THROW(exchange.check_origin(5, sampled_by(2, third)), Error);
  };
  expect_no_errors(run_ranks({script, script, script}));
}

/// One bit of what it broadcasts arrives otherwise.
class DamagingCommunicator final : public testing::ForwardingCommunicator {
 public:
  using ForwardingCommunicator::ForwardingCommunicator;
  void broadcast(View buffer, int root) override {
    ForwardingCommunicator::broadcast(buffer, root);
    *reinterpret_cast<unsigned char*>(buffer.data()) ^= 1U;
  }
};

TEST(AdapterExchange, DamageOnTheWayIsNoticedByAll) {
  const auto good = [](Communicator& holders) { AdapterExchange(holders, small_adapter(1), 0).publish(1); };
  const auto bad = [](Communicator& holders) {
    DamagingCommunicator damaging(holders);
    AdapterExchange(damaging, small_adapter(1), 0).publish(1);
  };
  for (const std::string& error : run_ranks({good, good, bad}))
    EXPECT_THAT(error, HasSubstr("adapter version 1 differs between ranks"));
}

// -------------------------------------------------------------------------------------------------- actor and learner

class RolesOnTheTinyModel : public ::testing::Test {
 protected:
  RolesOnTheTinyModel() {
    config_ =
        load_config(BIQA_SOURCE_DIR "/configs/quickstart.yaml",
                    std::vector<std::string>{"train.out=" + (folder_.path() / "run").string(),
                                             "train.steps=2", "train.seed=7", "rollout.images_per_step=3",
                                             "rollout.group_size=2", "rollout.max_new_tokens=6",
                                             "rollout.stage2_max_new_tokens=4", "model.threads=1"});
    data_.train = read_manifest_of(config_);
    data_.images_per_step = config_.rollout.images_per_step;
    data_.steps = config_.train.steps;
    data_.seed = config_.train.seed;
    data_.go_on_after(0, 0);
    PolicyOptions options;
    options.path = config_.model.path;
    options.threads = 1;
    options.backward = true;
    options.pixels = config_.model.pixels();
    policy_ = Policy::open(options);
  }
  static std::vector<Sample> read_manifest_of(const Config& config) {
    return read_training_data(config, false).train;
  }
  Lora fresh_adapter() const {
    return initial_lora(std::make_shared<LoraLayout>(policy_.model->config(), config_.lora),
                        config_.train.seed);
  }

  TemporaryFolder folder_;
  Config config_;
  TrainingData data_;
  Policy policy_;
};

TEST_F(RolesOnTheTinyModel, AnActorSendsEachRowOfAStepOnce) {
  const RolePlan roles = plan_of({1}, {0}, {0});
  const auto peer = [&](Communicator& world) {
    for (const std::int64_t step : {1, 2}) {
      std::multiset<std::size_t> rows;
      for (std::int64_t i = 0; i < data_.images_per_step; ++i) {
        const Group group = parse_group(world.receive(1, kTagGroup, "a rolled-out group").bytes);
        EXPECT_EQ(group.step, step);
        rows.insert(static_cast<std::size_t>(group.sample_index));
        ASSERT_EQ(group.members.size(), 2U);
        for (const Trajectory& t : group.members) {
          EXPECT_EQ(t.policy_version, step - 1);
          EXPECT_EQ(t.adapter_digest, 17U);
          EXPECT_EQ(t.behaviour_logp.size(), t.completion_ids.size());
          EXPECT_LE(t.completion_ids.size(), 6U);
        }
      }
      const std::vector<std::size_t> expected = data_.rows_of_step(step);
      EXPECT_EQ(rows, std::multiset<std::size_t>(expected.begin(), expected.end()));
    }
  };
  const auto actor = [&](Communicator& world) {
    ActorRole role(config_, policy_, world, roles, data_);
    role.set_adapter(fresh_adapter());
    for (const std::int64_t step : {1, 2}) {
      const ActorRole::RolloutSeconds seconds = role.roll_out(rollout_options(config_, step, step - 1, 17));
      EXPECT_GT(seconds.all, 0);
      EXPECT_LE(seconds.stage2, seconds.all);
    }
    world.flush();
  };
  expect_no_errors(run_ranks({peer, actor}));
}

TEST_F(RolesOnTheTinyModel, ALearnerLearnsFromTheGroupsOfItsStepInAnyOrder) {
  std::vector<float> first_values;
  for (const bool reversed : {false, true}) {
    const auto learner = [&](Communicator& world) {
      const auto alone = make_local();
      AdapterExchange exchange(*alone, fresh_adapter(), 0);
      exchange.publish(0);
      LearnerRole role(config_, policy_, world, *alone, data_, exchange, {fresh_adapter(), nullptr, {}});
      EXPECT_FALSE(role.has_news());
      EXPECT_FALSE(role.is_between_steps());
      std::vector<std::size_t> rows = data_.rows_of_step(1);
      if (reversed) std::reverse(rows.begin(), rows.end());
      for (const std::size_t row : rows) {
        Group group = group_of(1, static_cast<std::int64_t>(row));
        const EncodedPicture picture = policy_.pictures->encode(data_.train[row].image);
        group.prompt_ids =
            policy_.prompt(config_.prompts.texts.system, std::span(&picture, 1), config_.prompts.texts.user)
                ->ids;
        for (Trajectory& t : group.members) {
          t.adapter_digest = exchange.digest();
          t.rewards.assign(rewards().size(), t.member == 0 ? 1.0 : 0.0);
          t.reward = t.rewards[0];
        }
        world.send(0, kTagScored, serialise(group));
      }
      const LearnedStep learned = role.learn_step(1);
      EXPECT_EQ(learned.step, 1);
      EXPECT_EQ(learned.images, 3U);
      EXPECT_EQ(learned.result.tokens, 3 * 2 * 3);
      EXPECT_EQ(learned.zero_variance, 0);
      EXPECT_EQ(learned.lr, config_.optimizer.lr);
      ASSERT_EQ(learned.groups.size(), 3U);
      for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(learned.groups[i].sample_index, static_cast<std::int64_t>(data_.rows_of_step(1)[i]));
        EXPECT_GT(learned.groups[i].members[0].advantage, 0);
        EXPECT_LT(learned.groups[i].members[1].advantage, 0);
      }
      EXPECT_EQ(role.learned_step(), 1);
      EXPECT_TRUE(role.has_news());
      EXPECT_TRUE(role.is_between_steps());
      EXPECT_FALSE(role.is_updating());
      EXPECT_EQ(exchange.adapter().values, role.learner().adapter().values);
      EXPECT_NE(exchange.adapter().values, fresh_adapter().values);
      if (first_values.empty()) first_values = exchange.adapter().values;
      EXPECT_EQ(exchange.adapter().values, first_values);
    };
    expect_no_errors(run_ranks({learner}));
  }
}

TEST_F(RolesOnTheTinyModel, ALearnerRefusesGroupsOfAnotherAdapter) {
  const auto learner = [&](Communicator& world) {
    const auto alone = make_local();
    AdapterExchange exchange(*alone, fresh_adapter(), 0);
    exchange.publish(0);
    LearnerRole role(config_, policy_, world, *alone, data_, exchange, {fresh_adapter(), nullptr, {}});
    for (const std::size_t row : data_.rows_of_step(1))
      world.send(0, kTagScored, serialise(group_of(1, static_cast<std::int64_t>(row))));
    role.learn_step(1);
  };
  EXPECT_THAT(run_ranks({learner}).front(),
              AllOf(HasSubstr("step 1"), HasSubstr("was sampled with adapter version 0")));
}

TEST(DealGroups, TheLongestGoFirstToTheLeastLoadedLearner) {
  std::vector<Group> groups;
  for (const std::size_t length : {2U, 9U, 4U, 4U, 1U}) {
    Group& group = groups.emplace_back();
    group.prompt_ids.assign(1, 0);
    group.members.emplace_back().completion_ids.assign(length, 0);
  }
  // Rows: 3, 10, 5, 5, 2. The 10 goes to the first learner, 5 + 5 to the second, 3 and 2 to whoever has less.
  EXPECT_EQ(deal_groups(groups, 2), (Shares{{0, 1}, {2, 3, 4}}));
  EXPECT_EQ(deal_groups(groups, 1), (Shares{{0, 1, 2, 3, 4}}));
  EXPECT_EQ(deal_groups({}, 3), (Shares{{}, {}, {}}));
}

}  // namespace
}  // namespace biqa
