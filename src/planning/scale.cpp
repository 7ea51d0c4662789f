// SPDX-License-Identifier: Apache-2.0
#include "planning/scale.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <numeric>
#include <queue>
#include <type_traits>
#include <utility>

#include "comm/broadcast_shape.h"
#include "comm/wait_times.h"
#include "core/random.h"
#include "learner/learner.h"
#include "training/adapter_exchange.h"
#include "training/messages.h"

namespace biqa {
namespace {

/// Fraction of a wait, as in message_communicator.cpp.
const double kLongestSleepSeconds = kLongestSleep.count();
constexpr double kReportBytes = kReportWireBytes, kBoundaryBytes = kBoundaryWireBytes;
constexpr double kWorkBytes = kWorkRequestWireBytes + kWorkReplyWireBytes;
/// Small sums of an update and of a publication: number of calls, and bytes in one direction between the root and one
/// rank.
constexpr double kUpdateSums = Learner::kReductions,
                 kUpdateSumBytes = sizeof(double) * Learner::kReducedValues;
constexpr double kPublishSums = AdapterExchange::kReductions,
                 kPublishSumBytes = sizeof(double) * AdapterExchange::kReductions;
constexpr double kFloatBytes = sizeof(float);
/// Vectors of the adapter's size in a checkpoint: the adapter, and in the shards values and both moments.
constexpr double kSavedAdapters = 4, kShardAdapters = 3;

template <typename Count>
double number(Count count) {
  return static_cast<double>(count);
}

/// Seconds for `bytes` at a rate. With a rate of 0 they take no time.
double transfer_seconds(double bytes, double bytes_per_second) {
  return bytes_per_second > 0 ? bytes / bytes_per_second : 0;
}

/// Speed of `busy` of `ranks` ranks that share cores; 1 is the speed on an own core.
double speed_of(const ScaleInputs& in, double busy, double ranks) {
  if (in.cores <= 0 || busy <= 0) return 1;
  constexpr double kLeast = 0.05;  // busy ranks always get this share
  const double left = std::max(kLeast * in.cores, in.cores - in.idle_core_share * (ranks - busy));
  return std::min(1.0, left / busy);
}

/// Mean delay until the last of `ranks` ranks, which have waited this long, notices a message.
double late_seconds(const ScaleInputs& in, double waited, double ranks = 1) {
  if (!in.sleeps) return 0;
  return std::min(waited * kSleepShare, kLongestSleepSeconds) * ranks / (ranks + 1);
}

/// Completion lengths of a step in tokens, [images · group_size].
std::vector<double> draw_lengths(const ScaleInputs& in, std::uint64_t step) {
  const RandomStream stream({in.seed, step, hash_text("lengths")});
  std::vector<double> lengths(static_cast<std::size_t>(in.images * in.group_size));
  const double deviation = in.length_deviation;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    double relative = 1;
    if (!in.relative_lengths.empty()) {
      const auto count = number(in.relative_lengths.size());
      relative = in.relative_lengths[static_cast<std::size_t>(stream.uniform(i) * count)];
    } else if (deviation > 0) {
      const double radius = std::sqrt(-2 * std::log(stream.uniform(2 * i)));
      const double normal = radius * std::cos(2 * M_PI * stream.uniform(2 * i + 1));
      relative = std::exp(deviation * normal - deviation * deviation / 2);
    }
    lengths[i] = std::max(1.0, std::round(std::min(relative * in.length_mean_tokens, in.max_new_tokens)));
  }
  return lengths;
}

/// Completion tokens and lengths of one group.
struct GroupWork {
  std::span<const double> lengths;
  double tokens() const { return std::accumulate(lengths.begin(), lengths.end(), 0.0); }
};

/// One actor while its groups run. Time is virtual: that of a rank with a core of its own.
class SimulatedActor {
 public:
  explicit SimulatedActor(const ScaleInputs& inputs) : in_(inputs) {}

  void take(std::size_t group, const GroupWork& work) {
    pause_ += in_.group_start_seconds;
    left_[group] = static_cast<std::int64_t>(work.lengths.size());
    for (const double length : work.lengths) running_.push({tick_ + length, group, false});
  }
  bool idle() const { return running_.empty(); }
  /// Seconds until the next member ends a stage.
  double next_seconds() const {
    const double iteration = in_.iteration_seconds + number(running_.size()) * in_.token_seconds;
    return pause_ + (running_.top().end - tick_) * iteration;
  }
  /// Ends the stage of that member. Returns true if the member's group has ended too.
  bool advance(std::size_t& group) {
    const Member member = running_.top();
    running_.pop();
    tick_ = member.end;
    pause_ = 0;
    if (!member.second && in_.stage2_tokens > 0) {
      pause_ = in_.stage2_start_seconds;
      running_.push({tick_ + in_.stage2_tokens, member.group, true});
      return false;
    }
    group = member.group;
    return --left_.at(group) == 0;
  }

 private:
  struct Member {
    double end = 0;  ///< in iterations of this actor
    std::size_t group = 0;
    bool second = false;
    bool operator>(const Member& other) const { return end > other.end; }
  };
  const ScaleInputs& in_;
  std::priority_queue<Member, std::vector<Member>, std::greater<>> running_;
  std::map<std::size_t, std::int64_t> left_;
  double tick_ = 0, pause_ = 0;
};

struct RolloutTimes {
  std::vector<double> ended;  ///< of each group, from the rollout's start
  double seconds = 0, even_seconds = 0, core_seconds = 0;
};

RolloutTimes simulate_rollout(const ScaleInputs& in, const std::vector<GroupWork>& groups, std::size_t actors,
                              double ranks) {
  std::vector<SimulatedActor> all(actors, SimulatedActor(in));
  std::size_t given = 0;
  const auto give = [&](std::size_t actor, std::size_t count) {
    for (; count > 0 && given < groups.size(); --count, ++given) all[actor].take(given, groups[given]);
  };
  const std::size_t first =
      actors == 1 ? groups.size() : std::max<std::size_t>(1, (groups.size() + 2 * actors - 1) / (2 * actors));
  using Event = std::pair<double, std::size_t>;  // virtual time, actor
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events;
  double busy = 0;
  for (std::size_t actor = 0; actor < actors; ++actor) {
    give(actor, first);
    if (all[actor].idle()) continue;
    events.emplace(all[actor].next_seconds(), actor);
    ++busy;
  }
  RolloutTimes times;
  times.ended.resize(groups.size());
  double virtual_now = 0;
  while (!events.empty()) {
    const auto [when, actor] = events.top();
    events.pop();
    times.seconds += (when - virtual_now) / speed_of(in, busy, ranks);
    times.core_seconds += (when - virtual_now) * busy;
    virtual_now = when;
    std::size_t group = 0;
    if (all[actor].advance(group)) {
      times.ended[group] = times.seconds;
      give(actor, 1);
    }
    if (all[actor].idle())
      --busy;
    else
      events.emplace(when + all[actor].next_seconds(), actor);
  }
  const auto spread = number(actors);
  times.even_seconds = times.core_seconds / spread / speed_of(in, spread, ranks);
  return times;
}

/// From the rollout's start until every learner has every scored group.
double scored_seconds(const ScaleInputs& in, const RolloutTimes& rollout, std::uint64_t step,
                      const RolePlan& roles, double ranks) {
  const auto rewards = number(roles.rewards.size()), learners = number(roles.learners.size());
  const double transit = transfer_seconds(in.group_bytes, in.link_bytes_per_second);
  const double service =
      (in.reward_group_seconds + learners * (transit + in.message_seconds)) / speed_of(in, rewards, ranks);
  const double intake = (transit + in.message_seconds) / speed_of(in, learners, ranks);
  const RandomStream stream({in.seed, step, hash_text("rows")});
  std::vector<std::pair<double, std::size_t>> arrivals;
  for (std::size_t group = 0; group < rollout.ended.size(); ++group) {
    const auto rank = static_cast<std::size_t>(stream.word(group) % roles.rewards.size());
    arrivals.emplace_back(rollout.ended[group], rank);
  }
  std::sort(arrivals.begin(), arrivals.end());
  std::vector<double> free(roles.rewards.size(), 0.0);
  double last = 0, taken = 0, previous = 0;
  for (const auto& [when, rank] : arrivals) {
    const double begin = when + in.latency_seconds + late_seconds(in, when - previous);
    previous = when;
    free[rank] = std::max(free[rank], begin) + service;
    last = std::max(last, free[rank]);
    taken = std::max(taken, begin) + intake;
  }
  const double gap = rollout.seconds / std::max(1.0, number(arrivals.size()));
  return std::max(last, taken) + in.latency_seconds + late_seconds(in, gap, learners);
}

struct LearnTimes {
  double seconds = 0, even_seconds = 0, core_seconds = 0;
};

LearnTimes simulate_learning(const ScaleInputs& in, const std::vector<GroupWork>& groups,
                             std::size_t learners, double ranks) {
  std::vector<double> rows;
  rows.reserve(groups.size());
  for (const GroupWork& group : groups) rows.push_back(in.prompt_tokens + group.tokens());
  std::sort(rows.begin(), rows.end(), std::greater<>());
  using Load = std::pair<double, std::size_t>;  // rows, learner
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (std::size_t learner = 0; learner < learners; ++learner) loads.emplace(0.0, learner);
  std::vector<double> work(learners, 0.0);
  for (const double size : rows) {
    const auto [load, learner] = loads.top();
    loads.pop();
    if (load == 0) work[learner] = in.learn_start_seconds;
    work[learner] += in.learn_group_seconds + size * in.learn_token_seconds;
    loads.emplace(load + size, learner);
  }
  std::sort(work.begin(), work.end());
  LearnTimes times;
  double done = 0;
  for (std::size_t i = 0; i < learners; ++i) {
    const auto busy = number(learners - i);
    times.seconds += (work[i] - done) / speed_of(in, busy, ranks);
    done = work[i];
    times.core_seconds += work[i];
  }
  const auto spread = number(learners);
  times.even_seconds = times.core_seconds / spread / speed_of(in, spread, ranks);
  return times;
}

/// A small sum or maximum through the first of `members` ranks.
double rooted_seconds(const ScaleInputs& in, double members, double ranks) {
  if (members <= 1) return 0;
  return 2 * (members - 1) * in.message_seconds / speed_of(in, 1, ranks) + 2 * in.latency_seconds;
}

double reduce_seconds(const ScaleInputs& in, double learners, double ranks, double waited) {
  const double speed = speed_of(in, learners, ranks);
  const double sums = transfer_seconds(in.adapter_bytes, in.sum_bytes_per_second) / speed;
  if (learners <= 1) return sums;
  const double shard = std::ceil(in.adapter_bytes / kFloatBytes / learners);
  const double block = std::clamp(std::floor(number(kReduceElements) / learners), number(kLeastReduceBlock),
                                  number(kLargestReduceBlock));
  const double rounds = std::max(1.0, std::ceil(shard / block));
  const double messages = 2 * (learners - 1) * in.message_seconds / speed;
  const double wire =
      transfer_seconds(in.adapter_bytes * (learners - 1) / learners, in.link_bytes_per_second) / speed;
  const double scatter = rounds * (messages + in.latency_seconds) + wire + sums;
  const double gather = messages + in.latency_seconds + wire + sums;
  return late_seconds(in, waited, learners) + scatter + gather +
         kUpdateSums * rooted_seconds(in, learners, ranks);
}

/// A broadcast in which a hop takes `hop` and every rank has waited `waited` when it begins.
double tree_seconds(const ScaleInputs& in, double members, double hop, double waited) {
  double seconds = 0;
  for (std::int64_t reached = 1; number(reached) < members; reached *= 2)
    seconds += hop + late_seconds(in, waited + seconds);
  return seconds;
}
/// The ranks on the way of the first block sleep when it arrives. The other blocks find them awake.
double pipeline_seconds(const ScaleInputs& in, double members, double hop, const BroadcastShape& shape) {
  if (members <= 1) return 0;
  const double turn = hop * shape.children;  // a rank sends a block to each of its children
  double seconds = 0;
  // `first` is the first rank of each depth.
  for (std::int64_t first = 1; number(first) < members; first = first * shape.children + 1)
    seconds += turn + late_seconds(in, seconds);
  return seconds + number(shape.blocks - 1) * turn;
}

double broadcast_seconds(const ScaleInputs& in, double holders, double ranks) {
  const double speed = speed_of(in, holders, ranks);
  const BroadcastShape shape =
      broadcast_shape(static_cast<int>(holders), static_cast<std::size_t>(in.adapter_bytes));
  if (shape.children == 0) {
    const double hop = transfer_seconds(in.adapter_bytes, in.link_bytes_per_second) + in.message_seconds;
    // Hops below the same depth share the cores.
    const double shared = in.cores > 0 ? (holders - 1) * hop / in.cores : 0;
    return std::max(shared, tree_seconds(in, holders, hop + in.latency_seconds, 0));
  }
  const double hop =
      transfer_seconds(number(kBroadcastBlockBytes), in.link_bytes_per_second) / speed + in.message_seconds;
  return pipeline_seconds(in, holders, hop + in.latency_seconds, shape);
}

/// The parts of one step, without their order.
struct Parts {
  double rollout = 0, even_rollout = 0, scored = 0, learn = 0, even_learn = 0, core_seconds = 0;
};

bool actors_apart(const RolePlan& roles) {
  return std::none_of(roles.actors.begin(), roles.actors.end(),
                      [&](int rank) { return roles.is_learner(rank); });
}

void fill_traffic(ScaleStep& step, const ScaleInputs& in, double holders) {
  const auto at = [&](Operation operation) -> double& {
    return step.sent_bytes.at(static_cast<std::size_t>(operation));
  };
  const auto learners = number(step.learners), ranks = number(step.ranks);
  const double shard = std::ceil(in.adapter_bytes / kFloatBytes / learners) * kFloatBytes;
  at(Operation::broadcast) = (holders - 1) * in.adapter_bytes + (ranks - 1) * kBoundaryBytes;
  at(Operation::reduce_scatter) = at(Operation::all_gather) = learners * (learners - 1) * shard;
  at(Operation::all_reduce) = 2 * (learners - 1) * kUpdateSumBytes + 2 * (holders - 1) * kPublishSumBytes;
  at(Operation::message) =
      number(in.images) * (in.group_bytes * (1 + learners) + (step.actors > 1 ? kWorkBytes : 0)) +
      ranks * kReportBytes;
}

}  // namespace

double ScaleStep::traffic_bytes() const {
  return std::accumulate(sent_bytes.begin(), sent_bytes.end(), 0.0);
}

namespace {

/// One job's step, put together from the parts of a few simulated steps.
class StepSimulation {
 public:
  StepSimulation(const ScaleInputs& inputs, const RolePlan& roles, int ranks)
      : in_(inputs),
        roles_(roles),
        ranks_(number(ranks)),
        learners_(number(roles.learners.size())),
        apart_(actors_apart(roles)),
        holders_(learners_ + (apart_ ? number(roles.actors.size()) : ranks_ - learners_)),
        lag_(apart_ ? inputs.policy_lag : 0),
        steps_(static_cast<std::size_t>(inputs.steps)) {
    step_.ranks = ranks;
    step_.actors = static_cast<std::int64_t>(roles.actors.size());
    step_.rewards = static_cast<std::int64_t>(roles.rewards.size());
    step_.learners = static_cast<std::int64_t>(roles.learners.size());
    step_.colocated = roles.colocated;
    step_.images = inputs.images;
  }

  ScaleStep run() {
    fill_traffic(step_, in_, holders_);
    order(simulate_parts());
    plan_checkpoints();
    step_.limit = limit();
    return step_;
  }

 private:
  /// The parts of each step, without their order.
  std::vector<Parts> simulate_parts() const {
    std::vector<Parts> parts(steps_);
    for (std::size_t s = 0; s < steps_; ++s) {
      const std::vector<double> lengths = draw_lengths(in_, s);
      std::vector<GroupWork> groups;
      const auto members = static_cast<std::size_t>(in_.group_size);
      for (std::size_t begin = 0; begin < lengths.size(); begin += members)
        groups.push_back({std::span(lengths).subspan(begin, members)});
      const RolloutTimes rollout = simulate_rollout(in_, groups, roles_.actors.size(), ranks_);
      const LearnTimes learning = simulate_learning(in_, groups, roles_.learners.size(), ranks_);
      parts[s] = {rollout.seconds,
                  rollout.even_seconds,
                  std::max(rollout.seconds, scored_seconds(in_, rollout, s, roles_, ranks_)),
                  learning.seconds,
                  learning.even_seconds,
                  rollout.core_seconds + learning.core_seconds};
    }
    return parts;
  }

  double publish_seconds(const Parts& part) const {
    const double boundary =
        tree_seconds(in_, ranks_, in_.latency_seconds + in_.message_seconds, apart_ ? part.learn : 0);
    const double apply = in_.apply_seconds / speed_of(in_, holders_, ranks_);
    return ranks_ * in_.message_seconds / speed_of(in_, 1, ranks_) * (ranks_ > 1 ? 1 : 0) + boundary +
           step_.broadcast_seconds + apply + kPublishSums * rooted_seconds(in_, holders_, ranks_);
  }

  /// Computes when each step is rolled out, scored, learned and published, and the means over the steps.
  void order(const std::vector<Parts>& parts) {
    step_.broadcast_seconds = broadcast_seconds(in_, holders_, ranks_);
    if (in_.checkpoint_every > 0)
      step_.copy_seconds =
          transfer_seconds(kShardAdapters * in_.adapter_bytes / learners_, in_.sum_bytes_per_second) /
          number(in_.checkpoint_every);
    std::vector<double> rolled(steps_), published(steps_);
    double core_seconds = 0;
    const double count = number(steps_);
    for (std::size_t s = 0; s < steps_; ++s) {
      const Parts& part = parts[s];
      const double reduce = reduce_seconds(in_, learners_, ranks_, part.learn - part.even_learn);
      const double publish = publish_seconds(part);
      const auto back = s - 1 - static_cast<std::size_t>(lag_);  // wraps around if there is no such step
      const double version = s >= 1 + static_cast<std::size_t>(lag_) ? published[back] : 0;
      const double begin = std::max(s > 0 ? rolled[s - 1] : 0, version);
      rolled[s] = begin + part.rollout;
      const double learn_begin = std::max(begin + part.scored, s > 0 ? published[s - 1] : 0);
      published[s] = learn_begin + part.learn + reduce + publish + step_.copy_seconds;
      step_.rollout_seconds += part.rollout / count;
      step_.straggler_seconds += std::max(0.0, part.rollout - part.even_rollout) / count;
      step_.reward_seconds += (part.scored - part.rollout) / count;
      step_.learn_seconds += part.learn / count;
      step_.imbalance_seconds += std::max(0.0, part.learn - part.even_learn) / count;
      step_.reduce_seconds += reduce / count;
      step_.publish_seconds += publish / count;
      core_seconds += part.core_seconds / count;
    }
    // With lag L, the pipeline needs L steps to fill.
    const std::size_t filled = std::min(steps_ - 1, static_cast<std::size_t>(lag_));
    step_.step_seconds = filled == 0 ? published.back() / count
                                     : (published.back() - published[filled - 1]) / number(steps_ - filled);
    if (in_.cores > 0) step_.step_seconds = std::max(step_.step_seconds, core_seconds / in_.cores);
    step_.trajectories_per_second =
        step_.step_seconds > 0 ? number(in_.images * in_.group_size) / step_.step_seconds : 0;
  }

  void plan_checkpoints() {
    if (in_.checkpoint_every <= 0) return;
    const double all = kSavedAdapters * in_.adapter_bytes;
    const double first = in_.adapter_bytes * (1 + kShardAdapters / learners_);
    step_.checkpoint_seconds = std::max(transfer_seconds(all, in_.disk_bytes_per_second),
                                        transfer_seconds(first, in_.disk_rank_bytes_per_second)) +
                               (learners_ + 2) * in_.file_seconds;
    step_.checkpoint_steps = in_.checkpoint_every;
    if (step_.step_seconds > 0)
      step_.checkpoint_steps =
          std::max(step_.checkpoint_steps,
                   static_cast<std::int64_t>(std::ceil(step_.checkpoint_seconds / step_.step_seconds)));
  }

  /// The part that takes most of the step. With a lag, the step waits only for the longer side.
  std::string limit() const {
    std::vector<std::pair<double, std::string>> limits;
    const double learning_side = step_.learn_seconds + step_.reduce_seconds + step_.publish_seconds;
    if (lag_ == 0 || step_.rollout_seconds >= learning_side) {
      limits.emplace_back(step_.rollout_seconds - step_.straggler_seconds, "rollout");
      limits.emplace_back(step_.straggler_seconds, "stragglers");
    }
    if (lag_ == 0) limits.emplace_back(step_.reward_seconds, "rewards");
    if (lag_ == 0 || step_.rollout_seconds < learning_side) {
      limits.emplace_back(step_.learn_seconds - step_.imbalance_seconds, "learning");
      limits.emplace_back(step_.imbalance_seconds, "imbalance");
      limits.emplace_back(step_.reduce_seconds, "reduce");
      limits.emplace_back(step_.publish_seconds, "publish");
    }
    return std::max_element(limits.begin(), limits.end(),
                            [](const auto& a, const auto& b) { return a.first < b.first; })
        ->second;
  }

  const ScaleInputs& in_;
  const RolePlan& roles_;
  const double ranks_, learners_;
  const bool apart_;
  const double holders_;
  const std::int64_t lag_;
  const std::size_t steps_;
  ScaleStep step_;
};

}  // namespace

ScaleStep simulate_step(const ScaleInputs& in, const RolePlan& roles, int rank_count) {
  CHECK_GE(rank_count, 1);
  CHECK_GE(in.images, 1);
  CHECK_GE(in.group_size, 1);
  CHECK_GE(in.steps, 1);
  return StepSimulation(in, roles, rank_count).run();
}

RolePlan find_best_roles(const ScaleInputs& in, int ranks) {
  RoleConfig colocated;
  colocated.colocated = true;
  RolePlan best = plan_roles(colocated, ranks);
  double best_seconds = simulate_step(in, best, ranks).step_seconds;
  if (ranks == 1) return best;
  constexpr int kParts = 16;
  for (const int rewards : {0, 1, 2, 4, 8, 16, 32, 64, 128}) {
    if (rewards > ranks / 4 && rewards > 1) break;
    int before = 0;
    for (int part = 1; part < kParts; ++part) {
      const int learners = std::max(1, (ranks - rewards) * part / kParts);
      const int actors = ranks - rewards - learners;
      if (actors < 1 || learners == before) continue;
      before = learners;
      const RolePlan roles = plan_roles({false, actors, rewards, learners, false}, ranks);
      const double seconds = simulate_step(in, roles, ranks).step_seconds;
      // Among equal times the first one wins, which has fewer separate reward ranks.
      if (seconds < best_seconds * (1 - 1e-9)) {
        best = roles;
        best_seconds = seconds;
      }
    }
  }
  return best;
}

}  // namespace biqa
