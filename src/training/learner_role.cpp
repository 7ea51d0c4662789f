// SPDX-License-Identifier: Apache-2.0
#include "training/learner_role.h"

#include <glog/logging.h>

#include <algorithm>
#include <iterator>
#include <map>

#include "core/error.h"
#include "run/run_folder.h"
#include "training/clock.h"
#include "training/messages.h"

namespace biqa {
namespace {

constexpr int kMostSkipped = 3;

LearnerOptions learner_options(const Config& config) {
  LearnerOptions options;
  options.objective = config.objective.loss;
  options.adamw = config.optimizer.adamw;
  options.max_grad_norm = config.optimizer.max_grad_norm;
  options.temperature = static_cast<float>(config.rollout.temperature);
  options.longest_allowed = static_cast<double>(config.rollout.max_new_tokens);
  options.micro_batch_tokens = config.objective.micro_batch_tokens;
  options.recompute_layers = config.objective.recompute_layers;
  options.dropout = config.lora.dropout;
  options.seed = config.train.seed;
  return options;
}

}  // namespace

Shares deal_groups(std::span<const Group> groups, std::size_t learners) {
  std::vector<std::pair<std::int64_t, std::size_t>> sizes;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    auto rows = static_cast<std::int64_t>(groups[i].prompt_ids.size());
    for (const Trajectory& t : groups[i].members) rows += static_cast<std::int64_t>(t.completion_ids.size());
    sizes.emplace_back(-rows, i);
  }
  std::sort(sizes.begin(), sizes.end());
  Shares shares(learners);
  std::vector<std::int64_t> loads(learners, 0);
  for (const auto& [negative, index] : sizes) {
    const auto least = static_cast<std::size_t>(std::min_element(loads.begin(), loads.end()) - loads.begin());
    shares[least].push_back(index);
    loads[least] -= negative;
  }
  for (auto& one : shares) std::sort(one.begin(), one.end());
  return shares;
}

LearnerRole::LearnerRole(const Config& config, const Policy& policy, Communicator& world,
                         Communicator& learners, const TrainingData& data, AdapterExchange& exchange,
                         StartAdapter start)
    : config_(config),
      policy_(policy),
      learners_(learners),
      data_(data),
      exchange_(exchange),
      imitates_(row_of(config.objective.loss.loss).imitates),
      inbox_(world, kTagScored, "a scored group"),
      dumped_reference_(std::move(start.dumped_reference)),
      learner_(*policy.model, std::move(start.adapter), std::move(start.reference), learners,
               learner_options(config)) {}

void LearnerRole::resume(const FoundCheckpoint& found, CheckpointReader& reader) {
  const Learner::Shard own = learner_.shard();
  const CheckpointReader::State state = reader.exchange(found, own.begin, own.end);
  learner_.restore_shard(state.values, state.m, state.v, found.updates);
  exchange_.set_adapter(learner_.adapter());
  learned_step_ = resumed_step_ = found.step;
  learned_updates_ = found.updates;
}

LearnedStep LearnerRole::learn_step(std::int64_t step) {
  const std::vector<std::size_t> rows = data_.rows_of_step(step);
  LearnedStep learned;
  learned.step = step;
  learned.images = rows.size();
  if (!imitates_) {
    if (groups_.empty()) receive(step, rows);
    learned.groups = std::exchange(groups_, {});
  }
  const auto begin = Clock::now();
  updating_ = true;
  if (imitates_) {
    learn_from_answers(learned, rows);
  } else {
    learned.zero_variance =
        assign_advantages(learned.groups, config_, *policy_.tokenizer, policy_.model->config().end_tokens);
    learn_from_groups(learned);
  }
  exchange_.set_adapter(learner_.adapter());
  updating_ = false;
  learned_step_ = step;
  learned_updates_ = learner_.updates();
  learned.seconds = seconds_since(begin);
  return learned;
}

// In the order of the step's rows, whatever order they came in.
std::size_t LearnerRole::receive(std::int64_t step, std::span<const std::size_t> rows) {
  std::map<std::int64_t, std::size_t> place;
  for (std::size_t i = 0; i < rows.size(); ++i) place[static_cast<std::int64_t>(rows[i])] = i;
  std::vector<Group> groups(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Group group = inbox_.next(step);
    const auto found = place.find(group.sample_index);
    CHECK(found != place.end()) << "group of row " << group.sample_index << " does not belong to this step";
    exchange_.check_origin(step, group);
    groups[found->second] = std::move(group);
  }
  std::move(groups.begin(), groups.end(), std::back_inserter(groups_));
  const std::vector<bool> without = advantages_of(groups_, config_).zero_variance;
  return static_cast<std::size_t>(std::count(without.begin(), without.end(), false));
}

void LearnerRole::learn_from_groups(LearnedStep& learned) {
  const std::vector<Group>& groups = learned.groups;
  const Shares shares = deal_groups(groups, static_cast<std::size_t>(learners_.size()));
  LearnInputs inputs(groups, config_, policy_.model->config());
  for (const std::size_t index : shares[own_share()]) {
    inputs.add(index, policy_.pictures->encode(
                          data_.train[static_cast<std::size_t>(groups[index].sample_index)].image));
  }
  double clipped = 0;
  for (std::int64_t pass = 0; pass < config_.objective.updates_per_rollout; ++pass) {
    const double lr = rate();
    const UpdateResult done = update(learned.step, groups, shares, inputs, dumps(learned.step) && pass == 0);
    // Only the first pass is on-policy. Its metrics are those of the step, except the metrics of clipping.
    if (pass > 0) {
      learned.result.ratio_max_deviation =
          std::max(learned.result.ratio_max_deviation, done.ratio_max_deviation);
      clipped += done.clip_fraction;
      continue;
    }
    learned.result = done;
    clipped = done.clip_fraction;
    learned.lr = lr;
  }
  learned.result.clip_fraction = clipped / static_cast<double>(config_.objective.updates_per_rollout);
}

/// Cross-entropy on the manifest's completions; nothing was rolled out.
void LearnerRole::learn_from_answers(LearnedStep& learned, std::span<const std::size_t> rows) {
  Shares shares(static_cast<std::size_t>(learners_.size()));
  std::vector<Group> groups(rows.size());
  std::vector<EncodedPicture> pictures(rows.size());
  const bool dump = dumps(learned.step);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    shares[i % shares.size()].push_back(i);
    if (i % shares.size() != own_share() && !dump) continue;
    pictures[i] = policy_.pictures->encode(data_.train[rows[i]].image);
    groups[i] = answer_of(learned.step, rows[i], pictures[i]);
  }
  LearnInputs inputs(groups, config_, policy_.model->config());
  for (const std::size_t index : shares[own_share()]) inputs.add(index, pictures[index]);
  learned.lr = rate();
  learned.result = update(learned.step, groups, shares, inputs, dump);
}

/// A row's completion as a group of one.
Group LearnerRole::answer_of(std::int64_t step, std::size_t row, const EncodedPicture& picture) const {
  const Sample& sample = data_.train[row];
  const PromptTexts& texts = config_.prompts.texts;
  Group group;
  group.sample_id = sample.id;
  group.sample_index = static_cast<std::int64_t>(row);
  group.step = step;
  group.annotation = sample.annotation();
  group.prompt_ids = policy_.prompt(texts.system, std::span(&picture, 1), texts.user)->ids;
  Trajectory& answer = group.members.emplace_back();
  answer.text = sample.completion;
  answer.completion_ids = completion_ids(*policy_.tokenizer, policy_.chat, sample.completion);
  answer.finished = true;
  return group;
}

bool LearnerRole::dumps(std::int64_t step) const {
  const auto& steps = config_.train.dump_steps;
  return std::find(steps.begin(), steps.end(), step) != steps.end();
}

/// Learning rate of the next update.
double LearnerRole::rate() const {
  return learning_rate(config_.optimizer.schedule, config_.optimizer.warmup_steps, learner_.updates(),
                       data_.steps * config_.objective.updates_per_rollout, config_.optimizer.lr);
}

/// Makes one update, and writes its dump if one is requested.
UpdateResult LearnerRole::update(std::int64_t step, std::span<const Group> groups, const Shares& shares,
                                 const LearnInputs& inputs, bool dump) {
  const double lr = rate();
  UpdateResult result;
  if (!dump) {
    result = learner_.update(inputs.groups(), lr);
  } else {
    StepDump record;
    record.adapter_before = learner_.adapter();
    learner_.collect_moments(record.m_before, record.v_before);
    record.updates_before = learner_.updates();
    record.reference = dumped_reference_;
    record.lr = lr;
    record.step = step;
    std::vector<SequenceResult> sequences;
    result = record.result = learner_.update(inputs.groups(), lr, &sequences);
    write_dump(groups, shares, sequences, std::move(record));
  }
  note_skipped(step, result);
  return result;
}

/// Reports an update that changed nothing, for any loss. Several such updates in a row end the run.
void LearnerRole::note_skipped(std::int64_t step, const UpdateResult& result) {
  if (!result.skipped) {
    skipped_ = 0;
    return;
  }
  if (first())
    LOG(WARNING) << "step " << step
                 << ": the loss or its gradient is not finite; the update is skipped on every learner";
  if (++skipped_ > kMostSkipped) {
    fail(
        "cannot train: in {} successive updates, the last in step {}, the loss or gradient was not finite; "
        "lower optimizer.lr and resume from the last checkpoint",
        skipped_, step);
  }
}

void LearnerRole::write_dump(std::span<const Group> groups, const Shares& shares,
                             std::span<const SequenceResult> sequences, StepDump record) {
  const auto gathered = learners_.gather_bytes(serialise_records(sequences), 0);
  record.gradient = learner_.collect_gradient();
  record.adapter_after = learner_.adapter();
  if (!first()) return;
  for (std::size_t rank = 0; rank < gathered.size(); ++rank) {
    std::vector<SequenceResult> theirs = parse_records(gathered[rank]);
    std::size_t next = 0;
    for (const std::size_t index : shares[rank]) {
      const std::vector<Trajectory>& members = groups[index].members;
      for (std::size_t m = 0; m < members.size(); ++m)
        record.sequences[{index, m}] = std::move(theirs.at(next++));
      for (std::size_t m = 0; m < members.size(); ++m) {
        if (learns_stage2(members[m], config_)) record.stage2[{index, m}] = std::move(theirs.at(next++));
      }
    }
  }
  std::vector<std::filesystem::path> images;
  images.reserve(groups.size());
  for (const Group& group : groups)
    images.push_back(data_.train[static_cast<std::size_t>(group.sample_index)].image);
  write_step_dump(dump_file(config_.train.out, record.step), record, groups, images, policy_, config_);
}

}  // namespace biqa
