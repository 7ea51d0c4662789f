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
#include "config/config.h"
#include "core/error.h"
#include "core/random.h"
#include "io/yaml.h"
#include "model/config.h"
#include "planning/plan.h"
#include "run/records.h"

namespace biqa {
namespace {

/// As in message_communicator.cpp and trainer.cpp.
constexpr double kLongestSleepSeconds = 5e-3, kSleepShare = 1.0 / 16;
constexpr double kReduceElements = 16 << 20;
constexpr double kReportBytes = 104, kBoundaryBytes = 32, kWorkBytes = 32 + 24;
/// Rooted sums of an update and of a publication: calls, and bytes one way between the root and one rank.
constexpr double kUpdateSums = 4, kUpdateSumBytes = 8 * (2 + 6 + 1 + 1);
constexpr double kPublishSums = 4, kPublishSumBytes = 8 * 4;
constexpr double kFloatBytes = 4;
/// Values of one adapter in a checkpoint: the adapter itself, and values and both moments in the shards.
constexpr double kSavedAdapters = 4, kShardAdapters = 3;

template <typename Count>
double number(Count count) {
  return static_cast<double>(count);
}

template <typename Inputs, typename Visit>
void visit_inputs(Inputs& in, Visit visit) {
  visit("images", in.images);
  visit("group_size", in.group_size);
  visit("prompt_tokens", in.prompt_tokens);
  visit("length_mean_tokens", in.length_mean_tokens);
  visit("length_deviation", in.length_deviation);
  visit("max_new_tokens", in.max_new_tokens);
  visit("stage2_tokens", in.stage2_tokens);
  visit("adapter_bytes", in.adapter_bytes);
  visit("group_bytes", in.group_bytes);
  visit("checkpoint_every", in.checkpoint_every);
  visit("policy_lag", in.policy_lag);
  visit("group_start_seconds", in.group_start_seconds);
  visit("stage2_start_seconds", in.stage2_start_seconds);
  visit("iteration_seconds", in.iteration_seconds);
  visit("token_seconds", in.token_seconds);
  visit("reward_group_seconds", in.reward_group_seconds);
  visit("learn_start_seconds", in.learn_start_seconds);
  visit("learn_group_seconds", in.learn_group_seconds);
  visit("learn_token_seconds", in.learn_token_seconds);
  visit("apply_seconds", in.apply_seconds);
  visit("link_bytes_per_second", in.link_bytes_per_second);
  visit("latency_seconds", in.latency_seconds);
  visit("message_seconds", in.message_seconds);
  visit("sum_bytes_per_second", in.sum_bytes_per_second);
  visit("sleeps", in.sleeps);
  visit("disk_bytes_per_second", in.disk_bytes_per_second);
  visit("disk_rank_bytes_per_second", in.disk_rank_bytes_per_second);
  visit("file_seconds", in.file_seconds);
  visit("cores", in.cores);
  visit("idle_core_share", in.idle_core_share);
  visit("steps", in.steps);
  visit("seed", in.seed);
}

/// Seconds for bytes at a rate; a rate of 0 stands for one that takes no time.
double transfer_seconds(double bytes, double bytes_per_second) {
  return bytes_per_second > 0 ? bytes / bytes_per_second : 0;
}

/// Speed of `busy` of `ranks` ranks that share cores, 1 for a core of its own.
double speed_of(const ScaleInputs& in, double busy, double ranks) {
  if (in.cores <= 0 || busy <= 0) return 1;
  constexpr double kLeast = 0.05;  // the scheduler leaves that to the busy
  const double left = std::max(kLeast * in.cores, in.cores - in.idle_core_share * (ranks - busy));
  return std::min(1.0, left / busy);
}

/// The last of `ranks` ranks that have waited so long notices so late; with 1: one rank in the mean.
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
  /// Until the next member ends a stage.
  double next_seconds() const {
    const double iteration = in_.iteration_seconds + number(running_.size()) * in_.token_seconds;
    return pause_ + (running_.top().end - tick_) * iteration;
  }
  /// That member; true when its group has ended with it.
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
  const double block = std::clamp(std::floor(kReduceElements / learners), 4096.0, number(1 << 20));
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
/// The first block meets every rank of its way asleep, the others follow it.
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

ScaleStep simulate_step(const ScaleInputs& in, const RolePlan& roles, int rank_count) {
  CHECK_GE(rank_count, 1);
  CHECK_GE(in.images, 1);
  CHECK_GE(in.group_size, 1);
  CHECK_GE(in.steps, 1);
  const auto ranks = number(rank_count), learners = number(roles.learners.size());
  const bool apart = actors_apart(roles);
  const double holders = learners + (apart ? number(roles.actors.size()) : ranks - learners);
  const std::int64_t lag = apart ? in.policy_lag : 0;
  ScaleStep step;
  step.ranks = rank_count;
  step.actors = static_cast<std::int64_t>(roles.actors.size());
  step.rewards = static_cast<std::int64_t>(roles.rewards.size());
  step.learners = static_cast<std::int64_t>(roles.learners.size());
  step.colocated = roles.colocated;
  step.images = in.images;
  fill_traffic(step, in, holders);

  const auto steps = static_cast<std::size_t>(in.steps);
  std::vector<Parts> parts(steps);
  for (std::size_t s = 0; s < steps; ++s) {
    const std::vector<double> lengths = draw_lengths(in, s);
    std::vector<GroupWork> groups;
    const auto members = static_cast<std::size_t>(in.group_size);
    for (std::size_t begin = 0; begin < lengths.size(); begin += members)
      groups.push_back({std::span(lengths).subspan(begin, members)});
    const RolloutTimes rollout = simulate_rollout(in, groups, roles.actors.size(), ranks);
    const LearnTimes learning = simulate_learning(in, groups, roles.learners.size(), ranks);
    parts[s] = {rollout.seconds,
                rollout.even_seconds,
                std::max(rollout.seconds, scored_seconds(in, rollout, s, roles, ranks)),
                learning.seconds,
                learning.even_seconds,
                rollout.core_seconds + learning.core_seconds};
  }

  // What every step has alike.
  step.broadcast_seconds = broadcast_seconds(in, holders, ranks);
  if (in.checkpoint_every > 0)
    step.copy_seconds =
        transfer_seconds(kShardAdapters * in.adapter_bytes / learners, in.sum_bytes_per_second) /
        number(in.checkpoint_every);
  const double apply = in.apply_seconds / speed_of(in, holders, ranks);
  std::vector<double> rolled(steps), published(steps);
  double core_seconds = 0;
  for (std::size_t s = 0; s < steps; ++s) {
    const Parts& part = parts[s];
    const double reduce = reduce_seconds(in, learners, ranks, part.learn - part.even_learn);
    const double boundary =
        tree_seconds(in, ranks, in.latency_seconds + in.message_seconds, apart ? part.learn : 0);
    const double publish = ranks * in.message_seconds / speed_of(in, 1, ranks) * (ranks > 1 ? 1 : 0) +
                           boundary + step.broadcast_seconds + apply +
                           kPublishSums * rooted_seconds(in, holders, ranks);
    const auto back = s - 1 - static_cast<std::size_t>(lag);  // wraps where there is none
    const double version = s >= 1 + static_cast<std::size_t>(lag) ? published[back] : 0;
    const double begin = std::max(s > 0 ? rolled[s - 1] : 0, version);
    rolled[s] = begin + part.rollout;
    const double learn_begin = std::max(begin + part.scored, s > 0 ? published[s - 1] : 0);
    published[s] = learn_begin + part.learn + reduce + publish + step.copy_seconds;
    step.rollout_seconds += part.rollout / number(steps);
    step.straggler_seconds += std::max(0.0, part.rollout - part.even_rollout) / number(steps);
    step.reward_seconds += (part.scored - part.rollout) / number(steps);
    step.learn_seconds += part.learn / number(steps);
    step.imbalance_seconds += std::max(0.0, part.learn - part.even_learn) / number(steps);
    step.reduce_seconds += reduce / number(steps);
    step.publish_seconds += publish / number(steps);
    core_seconds += part.core_seconds / number(steps);
  }
  // The pipeline of a lag takes as many steps to fill.
  const std::size_t filled = std::min(steps - 1, static_cast<std::size_t>(lag));
  step.step_seconds = filled == 0 ? published.back() / number(steps)
                                  : (published.back() - published[filled - 1]) / number(steps - filled);
  if (in.cores > 0) step.step_seconds = std::max(step.step_seconds, core_seconds / in.cores);
  step.trajectories_per_second =
      step.step_seconds > 0 ? number(in.images * in.group_size) / step.step_seconds : 0;

  if (in.checkpoint_every > 0) {
    const double all = kSavedAdapters * in.adapter_bytes;
    const double first = in.adapter_bytes * (1 + kShardAdapters / learners);
    step.checkpoint_seconds = std::max(transfer_seconds(all, in.disk_bytes_per_second),
                                       transfer_seconds(first, in.disk_rank_bytes_per_second)) +
                              (learners + 2) * in.file_seconds;
    step.checkpoint_steps = in.checkpoint_every;
    if (step.step_seconds > 0)
      step.checkpoint_steps =
          std::max(step.checkpoint_steps,
                   static_cast<std::int64_t>(std::ceil(step.checkpoint_seconds / step.step_seconds)));
  }

  // With a lag only the longer side is waited for.
  std::vector<std::pair<double, std::string>> limits;
  const double learning_side = step.learn_seconds + step.reduce_seconds + step.publish_seconds;
  if (lag == 0 || step.rollout_seconds >= learning_side) {
    limits.emplace_back(step.rollout_seconds - step.straggler_seconds, "rollout");
    limits.emplace_back(step.straggler_seconds, "stragglers");
  }
  if (lag == 0) limits.emplace_back(step.reward_seconds, "rewards");
  if (lag == 0 || step.rollout_seconds < learning_side) {
    limits.emplace_back(step.learn_seconds - step.imbalance_seconds, "learning");
    limits.emplace_back(step.imbalance_seconds, "imbalance");
    limits.emplace_back(step.reduce_seconds, "reduce");
    limits.emplace_back(step.publish_seconds, "publish");
  }
  step.limit = std::max_element(limits.begin(), limits.end(), [](const auto& a, const auto& b) {
                 return a.first < b.first;
               })->second;
  return step;
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
      // Ties go to what came first, with fewer ranks that only score.
      if (seconds < best_seconds * (1 - 1e-9)) {
        best = roles;
        best_seconds = seconds;
      }
    }
  }
  return best;
}

// ------------------------------------------------------------------------------------------------- inputs

void set_scale_input(ScaleInputs& inputs, const std::string& name, const std::string& value,
                     const std::string& where) {
  if (name == "max_policy_lag") return set_scale_input(inputs, "policy_lag", value, where);  // its old name
  bool known = false;
  std::vector<std::string> names;
  YamlNode scalar;
  scalar.kind = YamlKind::scalar;
  scalar.text = value;
  const auto refuse = [&](const char* expected) {
    fail_usage("{}: {} is '{}'; it must be {}", where, name, value, expected);
  };
  visit_inputs(inputs, [&](const char* field, auto& target) {
    names.emplace_back(field);
    if (name != field) return;
    known = true;
    using Value = std::remove_reference_t<decltype(target)>;
    if constexpr (std::is_same_v<Value, bool>) {
      const std::optional<bool> parsed = yaml_boolean(scalar);
      if (!parsed) refuse("true or false");
      target = *parsed;
    } else {
      const double parsed = yaml_number(scalar).value_or(-1);
      if (!(parsed >= 0 && parsed <= 1e18)) refuse("a number of at least 0");
      if constexpr (std::is_integral_v<Value>) {
        const bool count = name == "images" || name == "group_size" || name == "steps";
        if (parsed != std::floor(parsed) || (count && parsed < 1)) refuse("a whole number in range");
        target = static_cast<Value>(parsed);
      } else {
        target = parsed;
      }
    }
  });
  if (!known) fail_usage("{}: there is no input '{}'; there are {}", where, name, fmt::join(names, ", "));
}

void read_scale_inputs(ScaleInputs& inputs, const std::filesystem::path& file) {
  const YamlNode root = read_yaml(file);
  if (root.kind != YamlKind::map)
    fail_usage("{}: it must be a map of inputs, one `name: number` a line", file.string());
  for (const YamlNode& node : root.children) {
    if (node.kind != YamlKind::scalar) fail_usage("{}: {} must be a single value", node.where, node.key);
    set_scale_input(inputs, node.key, node.text, node.where);
  }
}

std::string to_yaml(const ScaleInputs& inputs) {
  std::string text;
  visit_inputs(inputs,
               [&](const char* name, const auto& value) { text += fmt::format("{}: {}\n", name, value); });
  return text;
}

void calibrate(ScaleInputs& inputs, std::span<const MeasuredRun> runs) {
  CHECK(!runs.empty());
  struct Equation {
    double iterations = 0, tokens = 0, rollout = 0;  // iterations·i + tokens·t = rollout
    double rows = 0, learn = 0;                      // start + rows·r = learn
  };
  RoleConfig alone;
  const RolePlan roles = plan_roles(alone, 1);
  std::vector<Equation> equations;
  for (const MeasuredRun& run : runs) {
    ScaleInputs unit = inputs;
    unit.images = run.images;
    unit.length_mean_tokens = run.length_mean_tokens;
    unit.stage2_tokens = run.stage2_tokens;
    unit.group_start_seconds = unit.stage2_start_seconds = unit.token_seconds = unit.cores = 0;
    unit.iteration_seconds = 1;
    Equation equation;
    equation.iterations = simulate_step(unit, roles, 1).rollout_seconds;
    equation.tokens = number(run.images * inputs.group_size) * (run.length_mean_tokens + run.stage2_tokens);
    equation.rollout = run.rollout_seconds;
    equation.rows =
        number(run.images) * (inputs.prompt_tokens + number(inputs.group_size) * run.length_mean_tokens);
    equation.learn = run.learn_seconds;
    equations.push_back(equation);
  }
  const Equation& a = equations.front();
  inputs.group_start_seconds = inputs.stage2_start_seconds = inputs.learn_group_seconds = 0;
  inputs.iteration_seconds = inputs.learn_start_seconds = 0;
  if (equations.size() > 1) {
    const Equation& b = equations[1];
    const double determinant = a.iterations * b.tokens - b.iterations * a.tokens;
    if (determinant != 0)
      inputs.iteration_seconds = std::max(0.0, (a.rollout * b.tokens - b.rollout * a.tokens) / determinant);
    if (a.rows != b.rows)
      inputs.learn_start_seconds = std::max(0.0, (a.rows * b.learn - b.rows * a.learn) / (a.rows - b.rows));
  }
  inputs.token_seconds = std::max(0.0, a.rollout - a.iterations * inputs.iteration_seconds) / a.tokens;
  inputs.learn_token_seconds = std::max(0.0, a.learn - inputs.learn_start_seconds) / a.rows;
  inputs.reward_group_seconds = runs.front().reward_seconds / number(runs.front().images);
  inputs.apply_seconds = runs.front().sync_seconds;
}

namespace {

double median(std::vector<double> values) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

/// Lengths of a run's answers relative to their mean, by their letters.
std::vector<double> relative_lengths(const std::filesystem::path& samples) {
  std::vector<double> lengths;
  if (!std::filesystem::exists(samples)) return lengths;
  read_samples(samples, [&](const SampleRecord& sample) { lengths.push_back(number(sample.text.size())); });
  const double mean =
      std::accumulate(lengths.begin(), lengths.end(), 0.0) / std::max(1.0, number(lengths.size()));
  if (mean <= 0) return {};
  for (double& length : lengths) length /= mean;
  return lengths;
}

}  // namespace

ScaleInputs read_scale_runs(std::span<const std::filesystem::path> folders, ScaleInputs machine,
                            RoleConfig& roles) {
  CHECK(!folders.empty());
  ScaleInputs inputs = std::move(machine);
  std::vector<MeasuredRun> runs;
  for (const std::filesystem::path& folder : folders) {
    std::vector<StepMetrics> steps = read_metrics(folder / "metrics.jsonl").steps;
    if (steps.empty())
      fail("no step in {}: let the run do some, without evaluation", (folder / "metrics.jsonl").string());
    if (std::filesystem::exists(folder / "logs" / "rank-00001.log"))
      fail("cannot measure from {}: several ranks ran it; run it on one rank", folder.string());
    // The first step also warms up.
    if (steps.size() > 1) steps.erase(steps.begin());
    const auto middle = [&](auto value) {
      std::vector<double> values;
      values.reserve(steps.size());
      for (const StepMetrics& step : steps) values.push_back(value(step));
      return median(values);
    };
    MeasuredRun run;
    run.images = steps.front().images;
    const double members = number(std::max<std::int64_t>(1, steps.front().trajectories));
    run.rollout_seconds = middle([](const StepMetrics& m) { return m.rollout_seconds; });
    run.reward_seconds = middle([](const StepMetrics& m) { return m.reward_seconds; });
    run.learn_seconds = middle([](const StepMetrics& m) { return m.learn_seconds; });
    run.sync_seconds = middle([](const StepMetrics& m) { return m.sync_seconds; });
    run.length_mean_tokens = middle([](const StepMetrics& m) { return m.length_mean; });
    run.stage2_tokens = middle([](const StepMetrics& m) { return number(m.stage2_tokens); }) / members;
    runs.push_back(run);
    if (runs.size() > 1) continue;
    const Config config = load_config(folder / "config.yaml");
    roles = config.roles;
    inputs.images = run.images;
    inputs.group_size = config.rollout.group_size;
    inputs.length_mean_tokens = run.length_mean_tokens;
    inputs.stage2_tokens = run.stage2_tokens;
    inputs.max_new_tokens = number(config.rollout.max_new_tokens);
    inputs.checkpoint_every = config.checkpoint.every;
    inputs.policy_lag = config.rollout.policy_lag;
    inputs.relative_lengths = relative_lengths(folder / "samples.jsonl");
    inputs.prompt_tokens = number(make_plan(config, 1).prompt_tokens);
    const LoraLayout layout(ModelConfig::load(config.model.path), config.lora);
    inputs.adapter_bytes = kFloatBytes * number(layout.size());
    // Alone a group is sent twice, to itself.
    const double sent = middle([](const StepMetrics& m) { return number(m.traffic_bytes); });
    inputs.group_bytes = std::max(0.0, (sent - kReportBytes) / 2 / number(run.images));
  }
  calibrate(inputs, runs);
  return inputs;
}

}  // namespace biqa
