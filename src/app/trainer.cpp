// SPDX-License-Identifier: Apache-2.0
#include "app/trainer.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <map>
#include <numeric>

#include "actor/engine.h"
#include "actor/rollout.h"
#include "app/curves.h"
#include "app/evaluation.h"
#include "app/learn_inputs.h"
#include "app/plan.h"
#include "app/policy.h"
#include "app/program.h"
#include "app/progress.h"
#include "app/run_checks.h"
#include "app/run_folder.h"
#include "app/step_dump.h"
#include "core/statistics.h"
#include "data/manifest.h"
#include "data/response.h"
#include "data/wire.h"
#include "io/files.h"
#include "learner/checkpoint_store.h"
#include "learner/learner.h"
#include "model/peft.h"
#include "reward/rewards.h"

namespace biqa {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Tags of messages between roles.
enum Tag : int {
  kTagGroup = 1,
  kTagScored = 2,
  kTagTimes = 3,
  kTagEvaluated = 4 /* and up: one per set and decoding */
};

/// Draws of an evaluation are keyed by this instead of a step, so that before and after use the same numbers.
constexpr std::int64_t kEvaluationStep = -1;

/// Going on after this step drops every line of an earlier run.
constexpr std::int64_t kBeforeAll = -1;

/// Wall times of one rank in one step.
struct Times {
  double rollout = 0, stage2 = 0, reward = 0, learn = 0, sync = 0;
};

std::span<const std::byte> as_bytes_of(const Times& times) {
  return std::as_bytes(std::span(&times, 1));
}

std::uint64_t digest_of_values(std::span<const float> values) {
  return digest_of_bytes(std::as_bytes(values));
}

class Trainer {
 public:
  Trainer(const Config& config, Communicator& world, StopSignals& signals)
      : config_(config),
        world_(world),
        signals_(signals),
        roles_(plan_roles(config.roles, world.size())),
        actor_(roles_.is_actor(world.rank())),
        reward_(roles_.is_reward(world.rank())),
        learner_(roles_.is_learner(world.rank())),
        leader_(roles_.learners.front() == world.rank()),
        sft_(config.objective.loss.loss == Loss::sft) {
    run_alike(world_, [&] {
      read_data();
      open_model();
    });
    std::vector<int> holders =
        roles_.learners;  // everyone who needs the adapter; the first learner is rank 0
    for (const int rank : roles_.actors) {
      if (std::find(holders.begin(), holders.end(), rank) == holders.end()) holders.push_back(rank);
    }
    learners_ = world_.split(roles_.learners, "learners");
    holders_ = world_.split(holders, "adapter holders");
    run_alike(world_, [&] {
      start_adapter();
      resume();
    });
  }

  ExitCode run() {
    if (leader_) {
      std::optional<std::int64_t> resumed;
      if (step_ > 0)
        resumed = step_;
      else if (ended_before_a_checkpoint())
        resumed = kBeforeAll;
      folder_.emplace(config_.train.out, to_yaml(config_), resumed);
    }
    world_.barrier("the run folder");
    if (holders_ != nullptr) publish_adapter();
    if (step_ == 0) evaluate(0);
    const ProgressMode mode = leader_ && config_.train.progress ? ProgressMode::automatic : ProgressMode::off;
    Progress progress("step", total_steps_, step_, mode);
    bool stopped = false;
    while (step_ < total_steps_ && !stopped) {
      const StepMetrics metrics = run_step(step_ + 1);
      ++step_;
      if (leader_) {
        folder_->append(metrics);
        warn(metrics, progress);
        progress.update(step_, sft_ ? fmt::format("loss {:.3f}", metrics.loss)
                                    : fmt::format("reward {:.3f}  kl {:.3f}  {:.0f} tokens",
                                                  metrics.reward_mean, metrics.kl, metrics.length_mean));
      }
      stopped = asked(signals_.stop) && step_ < total_steps_;
      const bool save_now = asked(signals_.save);
      signals_.save = false;
      const bool every = config_.checkpoint.every > 0 && step_ % config_.checkpoint.every == 0;
      const bool evaluated =
          config_.train.eval_every > 0 && step_ % config_.train.eval_every == 0 && step_ < total_steps_;
      if (evaluated && !stopped) {
        progress.clear();
        evaluate(step_);
      }
      if (every || save_now || stopped || step_ == total_steps_) save();
    }
    progress.finish();
    if (stopped) {
      if (leader_) {
        fmt::print(
            stderr,
            "stopped after step {} of {}: checkpoint saved in {}; the same command goes on from there\n",
            step_, total_steps_, folder_->checkpoints().string());
      }
      return ExitCode::stopped;
    }
    evaluate(total_steps_);
    if (leader_) finish();
    world_.barrier("the end of the run");
    return ExitCode::done;
  }

 private:
  // ------------------------------------------------------------------------------------------------ set-up

  void read_data() {
    require_inputs(config_);
    std::vector<BadRow> bad;
    train_ = read_manifest(config_.data.train, config_.data.skip_bad, &bad, true);
    for (const auto& file : config_.data.eval) {
      eval_.push_back(read_manifest(file, config_.data.skip_bad, &bad, true));
      if (config_.train.eval_images > 0 &&
          static_cast<std::int64_t>(eval_.back().size()) > config_.train.eval_images) {
        eval_.back().resize(static_cast<std::size_t>(config_.train.eval_images));
      }
      const Overlap overlap = find_overlap(train_, eval_.back());
      if (leader_ && overlap.any()) {
        LOG(WARNING) << file.string() << " shares " << overlap.ids.size() << " ids and "
                     << overlap.images.size() << " image files with " << config_.data.train.string()
                     << ": its figures are not those of unseen images";
      }
    }
    if (leader_) {
      for (const BadRow& row : bad) LOG(WARNING) << "left out " << row.reason;
    }
    check_training_data(config_, train_);
    steps_per_epoch_ = static_cast<std::int64_t>(train_.size()) / config_.rollout.images_per_step;
    total_steps_ = config_.train.steps > 0 ? config_.train.steps : config_.train.epochs * steps_per_epoch_;
    keep_annotations();
  }

  /// data.annotation_fraction of the annotated images keep their human text.
  void keep_annotations() {
    if (config_.data.annotation_fraction >= 1.0) return;
    std::vector<std::size_t> annotated;
    for (std::size_t i = 0; i < train_.size(); ++i) {
      if (!train_[i].human_text().empty()) annotated.push_back(i);
    }
    const auto kept = static_cast<std::size_t>(
        std::llround(config_.data.annotation_fraction * static_cast<double>(annotated.size())));
    const auto order =
        random_order(annotated.size(), RandomStream({config_.train.seed, hash_text("annotations")}));
    for (std::size_t i = kept; i < order.size(); ++i) {
      Sample& sample = train_[annotated[order[i]]];
      sample.description = sample.good = sample.bad = "";
    }
  }

  void open_model() {
    policy_ = Policy::open({config_.model.path, config_.model.dtype, config_.model.device,
                            threads_per_rank(config_.model.threads, world_.size()), learner_,
                            config_.model.min_pixels, config_.model.max_pixels});
    check_lengths(config_,
                  {policy_.model->config(), *policy_.tokenizer, policy_.chat, policy_.pictures->config()},
                  train_, eval_);
    if (actor_) {
      engine_ = std::make_unique<Engine>(
          *policy_.model, Engine::Options{static_cast<std::int64_t>(config_.rollout.kv_memory)});
      rollout_ = std::make_unique<Rollout>(*policy_.model, *policy_.tokenizer, policy_.chat, *engine_);
    }
  }

  void start_adapter() {
    if (holders_ == nullptr) return;
    const ModelConfig& model = policy_.model->config();
    Lora start;
    if (config_.model.adapter.empty()) {
      start = initial_lora(std::make_shared<LoraLayout>(model, config_.lora), config_.train.seed);
    } else {
      start = read_any_adapter(config_.model.adapter, model);
      reference_ = pack_adapter(model, start, *policy_.ops);
      if (leader_ && !config_.train.dump_steps.empty()) dump_reference_ = start;
    }
    adapter_ = start;
    if (!learner_) return;
    LearnerOptions options;
    options.objective = config_.objective.loss;
    options.adamw = config_.optimizer.adamw;
    options.max_grad_norm = config_.optimizer.max_grad_norm;
    options.temperature = static_cast<float>(config_.rollout.temperature);
    options.longest_allowed = static_cast<double>(config_.rollout.max_new_tokens);
    options.micro_batch_tokens = config_.objective.micro_batch_tokens;
    options.recompute_layers = config_.objective.recompute_layers;
    options.dropout = config_.lora.dropout;
    options.seed = config_.train.seed;
    trainer_ = std::make_unique<Learner>(*policy_.model, std::move(start), reference_, *learners_, options);
    store_.emplace(config_.train.out / "checkpoints", config_.checkpoint.keep);
  }

  void resume() {
    if (config_.checkpoint.resume == "never") return;
    const ModelConfig& model = policy_.model->config();
    std::optional<LoadedCheckpoint> found;
    if (config_.checkpoint.resume != "auto") {
      found = CheckpointStore::load(config_.checkpoint.resume, model);
    } else {
      found = CheckpointStore(config_.train.out / "checkpoints", config_.checkpoint.keep).load_newest(model);
    }
    if (!found) return;
    if (holders_ != nullptr && !(*found->adapter.layout == *adapter_.layout)) {
      fail(
          "cannot resume from {}: its adapter has other modules or ranks than the configuration asks for; "
          "use another "
          "train.out or checkpoint.resume never",
          found->path.string());
    }
    step_ = found->info.step;
    version_ = found->info.version;
    if (trainer_ != nullptr) trainer_->restore(found->adapter.values, found->m, found->v, found->updates);
    adapter_ = found->adapter;
    if (leader_) LOG(INFO) << "resuming from " << found->path.string() << " after step " << step_;
  }

  /// Nothing of the run in this folder can be gone on with, and nothing would be lost by starting it again.
  bool ended_before_a_checkpoint() const {
    if (config_.checkpoint.resume != "auto" || std::filesystem::exists(config_.train.out / "adapter.h5"))
      return false;
    std::error_code absent;
    for (const auto& entry : std::filesystem::directory_iterator(config_.train.out / "checkpoints", absent)) {
      if (entry.path().filename().string().starts_with("step-")) return false;
    }
    return true;
  }

  // ------------------------------------------------------------------------------------------------ one step

  /// Rows of the training manifest that a step looks at: a function of seed and step alone.
  std::vector<std::size_t> rows_of_step(std::int64_t step) const {
    const std::int64_t epoch = (step - 1) / steps_per_epoch_;
    const auto first =
        static_cast<std::size_t>((step - 1) % steps_per_epoch_ * config_.rollout.images_per_step);
    const auto order = random_order(train_.size(), RandomStream({config_.train.seed, hash_text("order"),
                                                                 static_cast<std::uint64_t>(epoch)}));
    return {order.begin() + static_cast<std::ptrdiff_t>(first),
            order.begin() + static_cast<std::ptrdiff_t>(
                                first + static_cast<std::size_t>(config_.rollout.images_per_step))};
  }

  RolloutOptions rollout_options(std::int64_t step) const {
    RolloutOptions options;
    options.group_size = config_.rollout.group_size;
    options.sampling.temperature = static_cast<float>(config_.rollout.temperature);
    options.sampling.top_k = static_cast<std::int32_t>(config_.rollout.top_k);
    options.sampling.top_p = static_cast<float>(config_.rollout.top_p);
    options.sampling.max_new_tokens = config_.rollout.max_new_tokens;
    options.stage2_max_new_tokens = config_.rollout.stage2_max_new_tokens;
    options.prompts = config_.prompts.texts;
    options.stage2 = config_.stage2.enabled;
    options.stage2_with_reasoning = config_.stage2.input == Stage2Input::caption_reasoning;
    options.strip_ratings = config_.stage2.leak_guard == LeakGuard::strip;
    options.seed = config_.train.seed;
    options.step = step;
    options.policy_version = version_;
    options.adapter_digest = digest_;
    return options;
  }

  std::vector<RolloutSample> load_samples(const std::vector<Sample>& samples,
                                          const std::vector<std::size_t>& rows) {
    std::vector<std::filesystem::path> paths;
    paths.reserve(rows.size());
    for (const std::size_t row : rows) paths.push_back(samples[row].image);
    const std::vector<EncodedPicture> pictures = policy_.pictures->encode(paths);
    std::vector<RolloutSample> loaded;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const Sample& sample = samples[rows[i]];
      loaded.push_back(
          {sample.id, static_cast<std::int64_t>(rows[i]), sample.score, sample.human_text(), pictures[i]});
    }
    return loaded;
  }

  /// This actor's share of `rows`.
  std::vector<std::size_t> share(const std::vector<std::size_t>& rows) const {
    std::vector<std::size_t> own;
    const auto actors = roles_.actors.size();
    for (std::size_t i = static_cast<std::size_t>(roles_.actor_index(world_.rank())); i < rows.size();
         i += actors)
      own.push_back(rows[i]);
    return own;
  }

  StepMetrics run_step(std::int64_t step) {
    const auto start = Clock::now();
    const std::vector<std::size_t> rows = rows_of_step(step);
    Times times;
    if (actor_ && !sft_) {
      const auto begin = Clock::now();
      const std::vector<RolloutSample> samples = load_samples(train_, share(rows));
      rollout_->run(samples, rollout_options(step), [&](Group&& group) {
        world_.send(roles_.reward_rank_of(static_cast<std::uint64_t>(group.sample_index)), kTagGroup,
                    serialise(group));
      });
      times.rollout = seconds_since(begin);
      times.stage2 = rollout_->times().stage2_seconds;
    }
    if (reward_ && !sft_) {
      for (const std::size_t row : rows) {
        if (roles_.reward_rank_of(row) != world_.rank()) continue;
        Group group = parse_group(world_.receive(kAnyRank, kTagGroup, "a rolled-out group").bytes);
        const auto begin = Clock::now();
        score(group, config_.rewards, config_.prompts.texts.profile);
        times.reward += seconds_since(begin);
        const std::vector<std::byte> bytes = serialise(group);
        for (const int learner : roles_.learners) world_.send(learner, kTagScored, bytes);
      }
    }
    StepMetrics metrics;
    if (sft_) {
      if (learner_) {
        const auto begin = Clock::now();
        const UpdateResult result = learn_from_answers(rows);
        times.learn = seconds_since(begin);
        if (leader_) metrics = measure(step, {}, result, kNotMeasured);
      }
    } else if (learner_) {
      std::vector<Group> groups = receive_groups(rows);
      const auto begin = Clock::now();
      const std::vector<double> zero_variance = assign_advantages(groups);
      const UpdateResult result = learn(step, groups);
      times.learn = seconds_since(begin);
      if (leader_) metrics = measure(step, groups, result, zero_variance.front());
    }
    if (holders_ != nullptr) {
      const auto begin = Clock::now();
      ++version_;
      publish_adapter();
      times.sync = seconds_since(begin);
    }
    world_.send(roles_.learners.front(), kTagTimes, as_bytes_of(times));
    if (leader_) {
      for (int rank = 0; rank < world_.size(); ++rank) {
        const Message message = world_.receive(rank, kTagTimes, "the times of a step");
        Times theirs;
        CHECK_EQ(message.bytes.size(), sizeof theirs);
        std::memcpy(&theirs, message.bytes.data(), sizeof theirs);
        metrics.rollout_seconds = std::max(metrics.rollout_seconds, theirs.rollout);
        metrics.stage2_seconds = std::max(metrics.stage2_seconds, theirs.stage2);
        metrics.reward_seconds = std::max(metrics.reward_seconds, theirs.reward);
        metrics.learn_seconds = std::max(metrics.learn_seconds, theirs.learn);
        metrics.sync_seconds = std::max(metrics.sync_seconds, theirs.sync);
      }
      metrics.step_seconds = seconds_since(start);
      metrics.version = version_;
    }
    return metrics;
  }

  /// The step's scored groups, in the order of the step's rows whatever order they came in.
  std::vector<Group> receive_groups(const std::vector<std::size_t>& rows) {
    std::map<std::int64_t, std::size_t> place;
    for (std::size_t i = 0; i < rows.size(); ++i) place[static_cast<std::int64_t>(rows[i])] = i;
    std::vector<Group> groups(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      Group group = parse_group(world_.receive(kAnyRank, kTagScored, "a scored group").bytes);
      const auto found = place.find(group.sample_index);
      CHECK(found != place.end()) << "group of row " << group.sample_index << " does not belong to this step";
      groups[found->second] = std::move(group);
    }
    return groups;
  }

  /// Sets every advantage; returns {share of groups without any variance}.
  std::vector<double> assign_advantages(std::vector<Group>& groups) const {
    std::vector<double> rewards;
    for (const Group& group : groups) {
      for (const Trajectory& t : group.members) {
        rewards.insert(rewards.end(),
                       {t.rewards.prediction, t.rewards.consistency, t.rewards.reasoning, t.rewards.format});
      }
    }
    const RewardColumns& w = config_.rewards.weights;
    const std::vector<double> weights{w.prediction, w.consistency, w.reasoning, w.format};
    const Advantages advantages = compute_advantages(
        rewards, weights, static_cast<std::size_t>(config_.rollout.group_size), config_.objective.advantage);
    std::size_t next = 0;
    for (Group& group : groups) {
      for (Trajectory& t : group.members) t.advantage = advantages.values[next++];
    }
    return {advantages.zero_variance_fraction};
  }

  /// Groups of each learner: longest first to the least loaded, so that every learner's share is a function
  /// of the groups alone.
  std::vector<std::vector<std::size_t>> deal(const std::vector<Group>& groups) const {
    std::vector<std::pair<std::int64_t, std::size_t>> sizes;
    for (std::size_t i = 0; i < groups.size(); ++i) {
      auto rows = static_cast<std::int64_t>(groups[i].prompt_ids.size());
      for (const Trajectory& t : groups[i].members)
        rows += static_cast<std::int64_t>(t.completion_ids.size());
      sizes.emplace_back(-rows, i);
    }
    std::sort(sizes.begin(), sizes.end());
    std::vector<std::vector<std::size_t>> shares(roles_.learners.size());
    std::vector<std::int64_t> loads(shares.size(), 0);
    for (const auto& [negative, index] : sizes) {
      const auto least =
          static_cast<std::size_t>(std::min_element(loads.begin(), loads.end()) - loads.begin());
      shares[least].push_back(index);
      loads[least] -= negative;
    }
    for (auto& one : shares) std::sort(one.begin(), one.end());
    return shares;
  }

  /// objective.loss sft: cross-entropy on the manifest's completions, no rollout.
  UpdateResult learn_from_answers(const std::vector<std::size_t>& rows) {
    const std::int64_t step = step_ + 1;
    const auto me = static_cast<std::size_t>(roles_.learner_index(world_.rank()));
    std::vector<std::vector<std::size_t>> shares(roles_.learners.size());
    std::vector<Group> groups(rows.size());
    std::vector<EncodedPicture> pictures(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      shares[i % shares.size()].push_back(i);
      if (i % shares.size() != me && !dumps(step)) continue;
      const Sample& sample = train_[rows[i]];
      pictures[i] = policy_.pictures->encode(sample.image);
      Group& group = groups[i];
      group.sample_id = sample.id;
      group.sample_index = static_cast<std::int64_t>(rows[i]);
      group.step = step;
      group.score = sample.score;
      group.human_text = sample.human_text();
      group.prompt_ids =
          policy_
              .prompt(config_.prompts.texts.system, std::span(&pictures[i], 1), config_.prompts.texts.user)
              ->ids;
      Trajectory& answer = group.members.emplace_back();
      answer.text = sample.completion;
      answer.completion_ids = completion_ids(*policy_.tokenizer, policy_.chat, sample.completion);
      answer.finished = true;
    }
    LearnInputs inputs(groups, config_, policy_.model->config());
    for (const std::size_t index : shares[me]) inputs.add(index, pictures[index]);
    lr_ = rate();
    const UpdateResult result = update(step, groups, shares, inputs, dumps(step));
    adapter_ = trainer_->adapter();
    return result;
  }

  bool dumps(std::int64_t step) const {
    const auto& steps = config_.train.dump_steps;
    return std::find(steps.begin(), steps.end(), step) != steps.end();
  }

  /// Learning rate of the next update.
  double rate() const {
    return learning_rate(config_.optimizer.schedule, config_.optimizer.warmup_steps, trainer_->updates(),
                         total_steps_ * config_.objective.updates_per_rollout, config_.optimizer.lr);
  }

  UpdateResult learn(std::int64_t step, const std::vector<Group>& groups) {
    const auto shares = deal(groups);
    LearnInputs inputs(groups, config_, policy_.model->config());
    for (const std::size_t index : shares[static_cast<std::size_t>(roles_.learner_index(world_.rank()))]) {
      inputs.add(index, policy_.pictures->encode(
                            train_[static_cast<std::size_t>(groups[index].sample_index)].image));
    }
    UpdateResult result;
    for (std::int64_t pass = 0; pass < config_.objective.updates_per_rollout; ++pass) {
      const double lr = rate();
      const UpdateResult done = update(step, groups, shares, inputs, dumps(step) && pass == 0);
      if (done.skipped) {
        LOG(WARNING) << "step " << step
                     << ": the gradient is not finite; the update is skipped on every learner";
        if (++skipped_ > kMostSkipped)
          fail("cannot train: {} updates in a row had a gradient that is not finite; lower optimizer.lr",
               skipped_);
      } else {
        skipped_ = 0;
      }
      // The first pass is the one that is on-policy; its figures are the step's.
      if (pass > 0) continue;
      result = done;
      lr_ = lr;
    }
    adapter_ = trainer_->adapter();
    return result;
  }

  /// One update, with its dump where one is asked for.
  UpdateResult update(std::int64_t step, const std::vector<Group>& groups,
                      const std::vector<std::vector<std::size_t>>& shares, const LearnInputs& inputs,
                      bool dump) {
    const double lr = rate();
    if (!dump) return trainer_->update(inputs.groups(), lr);
    StepDump record;
    record.adapter_before = trainer_->adapter();
    trainer_->collect_moments(record.m_before, record.v_before);
    record.updates_before = trainer_->updates();
    record.reference = dump_reference_;
    record.lr = lr;
    record.step = step;
    std::vector<SequenceResult> sequences;
    record.result = trainer_->update(inputs.groups(), lr, &sequences);
    const UpdateResult result = record.result;
    write_dump(groups, shares, sequences, std::move(record));
    return result;
  }

  void write_dump(const std::vector<Group>& groups, const std::vector<std::vector<std::size_t>>& shares,
                  const std::vector<SequenceResult>& sequences, StepDump record) {
    const auto gathered = learners_->gather_bytes(serialise_records(sequences), 0);
    record.gradient = trainer_->collect_gradient();
    record.adapter_after = trainer_->adapter();
    if (!leader_) return;
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
      images.push_back(train_[static_cast<std::size_t>(group.sample_index)].image);
    write_step_dump(folder_->dump_file(record.step), record, groups, images, policy_, config_);
  }

  /// The first learner's adapter to everyone who holds one; acknowledged by digest.
  void publish_adapter() {
    holders_->broadcast(View(adapter_.values.data(), 1, static_cast<std::int64_t>(adapter_.values.size())),
                        0);
    digest_ = digest_of_values(adapter_.values);
    const auto low = static_cast<double>(digest_ >> 32);
    const auto high = static_cast<double>(digest_ & 0xffffffffU);
    if (holders_->all_reduce_max(low) != holders_->all_reduce_min(low) ||
        holders_->all_reduce_max(high) != holders_->all_reduce_min(high)) {
      fail(
          "adapter version {} differs between ranks after its broadcast: memory or network corrupts data; "
          "check the machine",
          version_);
    }
    if (engine_ != nullptr)
      engine_->set_adapter(pack_adapter(policy_.model->config(), adapter_, *policy_.ops));
  }

  // ------------------------------------------------------------------------------------------------ figures

  StepMetrics measure(std::int64_t step, const std::vector<Group>& groups, const UpdateResult& result,
                      double zero_variance) {
    StepMetrics metrics;
    metrics.step = step;
    metrics.epoch = static_cast<double>(step) / static_cast<double>(steps_per_epoch_);
    metrics.time = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    std::map<std::string, std::vector<double>> columns;
    double parsed = 0, stage2_parsed = 0, leaks = 0, captions = 0, truncated = 0, caption_words = 0,
           reasoning_words = 0, reasonings = 0;
    for (const Group& group : groups) {
      for (const Trajectory& t : group.members) {
        ++metrics.trajectories;
        metrics.generated_tokens += static_cast<std::int64_t>(t.completion_ids.size());
        metrics.stage2_tokens += static_cast<std::int64_t>(t.stage2_completion_ids.size());
        metrics.policy_lag_max = std::max(metrics.policy_lag_max, version_ - t.policy_version);
        columns["reward"].push_back(t.reward);
        columns["prediction"].push_back(t.rewards.prediction);
        columns["consistency"].push_back(t.rewards.consistency);
        columns["reasoning"].push_back(t.rewards.reasoning);
        columns["format"].push_back(t.rewards.format);
        parsed += t.rating ? 1 : 0;
        stage2_parsed += t.stage2_rating ? 1 : 0;
        truncated += t.finished ? 0 : 1;
        if (t.caption) {
          ++captions;
          caption_words += static_cast<double>(word_count(*t.caption));
          leaks += t.rating && leaks_rating(*t.caption, *t.rating) ? 1 : 0;
        }
        if (t.reasoning) {
          ++reasonings;
          reasoning_words += static_cast<double>(word_count(*t.reasoning));
        }
        write_sample(step, group, t);
      }
    }
    const auto count = static_cast<double>(metrics.trajectories);
    metrics.images = static_cast<std::int64_t>(groups.size());
    metrics.reward_mean = mean(columns["reward"]);
    metrics.reward_std = standard_deviation(columns["reward"]);
    metrics.reward_prediction_mean = mean(columns["prediction"]);
    metrics.reward_consistency_mean = mean(columns["consistency"]);
    metrics.reward_reasoning_mean = mean(columns["reasoning"]);
    metrics.reward_format_mean = mean(columns["format"]);
    metrics.reward_prediction_std = standard_deviation(columns["prediction"]);
    metrics.reward_consistency_std = standard_deviation(columns["consistency"]);
    metrics.reward_reasoning_std = standard_deviation(columns["reasoning"]);
    metrics.reward_format_std = standard_deviation(columns["format"]);
    metrics.parse_rate = parsed / count;
    metrics.stage2_parse_rate = config_.stage2.enabled ? stage2_parsed / count : kNotMeasured;
    metrics.zero_variance_fraction = zero_variance;
    metrics.leak_rate = captions > 0 ? leaks / captions : 0;
    metrics.truncated_fraction = truncated / count;
    metrics.length_mean = static_cast<double>(metrics.generated_tokens) / count;
    metrics.caption_words = captions > 0 ? caption_words / captions : 0;
    metrics.reasoning_words = reasonings > 0 ? reasoning_words / reasonings : 0;
    metrics.trained_tokens = static_cast<std::int64_t>(result.tokens);
    metrics.loss = result.loss;
    metrics.kl = result.kl;
    metrics.ratio_max_deviation = result.ratio_max_deviation;
    metrics.actor_learner_logp_gap = result.logp_max_gap;
    metrics.clip_fraction = result.clip_fraction;
    metrics.entropy = result.entropy;
    metrics.grad_norm = result.grad_norm;
    metrics.lr = lr_;
    return metrics;
  }

  void write_sample(std::int64_t step, const Group& group, const Trajectory& t) {
    const std::int64_t index = samples_step_ == step ? samples_written_ : 0;
    samples_step_ = step;
    samples_written_ = index + 1;
    if (config_.train.samples_per_step > 0 && index >= config_.train.samples_per_step) return;
    folder_->append(SampleRecord{step,
                                 group.sample_id,
                                 t.member,
                                 config_.prompts.texts.user,
                                 t.text,
                                 t.caption.value_or(""),
                                 t.reasoning.value_or(""),
                                 t.rating,
                                 t.stage2_text,
                                 t.stage2_rating,
                                 group.score,
                                 {{"prediction", t.rewards.prediction},
                                  {"consistency", t.rewards.consistency},
                                  {"reasoning", t.rewards.reasoning},
                                  {"format", t.rewards.format}},
                                 t.advantage});
  }

  void warn(const StepMetrics& metrics, Progress& progress) const {
    const auto say = [&](const std::string& text) {
      progress.clear();
      LOG(WARNING) << "step " << metrics.step << ": " << text;
    };
    if (sft_) return;
    if (metrics.parse_rate < 0.5) {
      say(fmt::format(
          "only {:.0f} % of the answers hold a rating: the rewards teach little; check prompts and profile",
          100 * metrics.parse_rate));
    }
    const RewardColumns& w = config_.rewards.weights;
    const auto constant = [&](const char* name, double weight, double deviation, double value) {
      if (weight != 0 && deviation == 0)
        say(fmt::format("reward {} is {} for every answer: it teaches nothing in this step", name, value));
    };
    constant("prediction", w.prediction, metrics.reward_prediction_std, metrics.reward_prediction_mean);
    if (config_.stage2.enabled)
      constant("consistency", w.consistency, metrics.reward_consistency_std, metrics.reward_consistency_mean);
    constant("reasoning", w.reasoning, metrics.reward_reasoning_std, metrics.reward_reasoning_mean);
    // Every answer well formed is the aim, not a fault.
    if (metrics.reward_format_mean == 0) constant("format", w.format, metrics.reward_format_std, 0);
    if (config_.objective.updates_per_rollout == 1 && config_.lora.dropout == 0 &&
        config_.rollout.max_policy_lag == 0 && metrics.actor_learner_logp_gap != 0) {
      say(fmt::format(
          "actor and learner disagree by {:.3g} in a log-probability though the step is on-policy",
          metrics.actor_learner_logp_gap));
    }
  }

  void evaluate(std::int64_t step) {
    best_value_ = kNotMeasured;
    std::vector<double> chosen;
    int pass = 0;
    for (std::size_t set = 0; set < eval_.size(); ++set) {
      for (const std::string& decoding : config_.train.eval_decodings) {
        // A quick actor may be at the next set while the leader still waits for a slow one.
        const int tag = kTagEvaluated + pass++;
        std::vector<std::size_t> rows(eval_[set].size());
        std::iota(rows.begin(), rows.end(), std::size_t{0});
        if (actor_) {
          RolloutOptions options = rollout_options(kEvaluationStep);
          options.group_size = 1;
          options.stage2 = true;
          options.sampling.greedy = decoding == "greedy";
          rollout_->run(load_samples(eval_[set], share(rows)), options,
                        [&](Group&& group) { world_.send(roles_.learners.front(), tag, serialise(group)); });
        }
        if (!leader_) continue;
        std::vector<Group> groups(rows.size());
        for (std::size_t i = 0; i < rows.size(); ++i) {
          Group group = parse_group(world_.receive(kAnyRank, tag, "an evaluated image").bytes);
          const auto index = static_cast<std::size_t>(group.sample_index);
          groups.at(index) = std::move(group);
        }
        const std::string name = eval_[set].front().set;
        for (const EvalMetrics& metrics : evaluate_groups(groups, step, name, decoding, true)) {
          folder_->append(metrics);
          evaluations_.push_back(metrics);
          if (decoding == "greedy" && fmt::format("{}_plcc", metrics.condition) == config_.checkpoint.best)
            chosen.push_back(metrics.plcc);
        }
      }
    }
    if (!chosen.empty()) best_value_ = mean(chosen);
    if (leader_) print_evaluation(step);
    world_.barrier("the end of an evaluation");
  }

  void print_evaluation(std::int64_t step) const {
    for (const EvalMetrics& m : evaluations_) {
      if (m.step != step) continue;
      fmt::print(stderr,
                 "step {:>4}  {:<10} {:<7} {:<7}  PLCC {:6.3f}  SRCC {:6.3f}  RMSE {:5.3f}{}  {} of {} "
                 "without rating\n",
                 step, m.set, m.condition, m.decoding, m.plcc, m.srcc, m.rmse,
                 std::isnan(m.rouge1_r) ? std::string() : fmt::format("  ROUGE-1 recall {:.3f}", m.rouge1_r),
                 m.parse_failures, m.n);
    }
  }

  // ------------------------------------------------------------------------------------------------ ends

  bool asked(const std::atomic<bool>& flag) { return world_.all_reduce_max(flag ? 1.0 : 0.0) > 0; }

  CheckpointInfo info() const {
    return {step_,
            version_,
            step_ * config_.rollout.images_per_step,
            to_yaml(config_),
            version_text(),
            config_.model.path.string(),
            best_value_};
  }

  void save() {
    if (trainer_ != nullptr) store_->save(*trainer_, *learners_, info());
    world_.barrier("a checkpoint");
  }

  void finish() {
    write_adapter_h5(folder_->root() / "adapter.h5", adapter_, info());
    write_peft(folder_->root() / "adapter", adapter_, config_.model.path.string());
    const MetricsFile metrics = read_metrics(folder_->metrics_file());
    write_file_atomically(folder_->root() / "curves.svg",
                          learning_curves_svg(metrics, config_.train.out.filename().string()));
  }

  static constexpr int kMostSkipped = 3;

  const Config& config_;
  Communicator& world_;
  StopSignals& signals_;
  RolePlan roles_;
  bool actor_, reward_, learner_, leader_, sft_;
  std::vector<Sample> train_;
  std::vector<std::vector<Sample>> eval_;
  std::int64_t steps_per_epoch_ = 0, total_steps_ = 0, step_ = 0, version_ = 0;
  std::uint64_t digest_ = 0;
  Policy policy_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Rollout> rollout_;
  std::unique_ptr<Communicator> learners_, holders_;
  Lora adapter_;
  std::shared_ptr<const PackedAdapter> reference_;
  std::optional<Lora> dump_reference_;  // unpacked, for dumps
  std::unique_ptr<Learner> trainer_;
  std::optional<CheckpointStore> store_;
  std::optional<RunFolder> folder_;
  std::vector<EvalMetrics> evaluations_;
  std::int64_t samples_step_ = -1, samples_written_ = 0;
  double lr_ = 0, best_value_ = kNotMeasured;
  int skipped_ = 0;
};

}  // namespace

void run_alike(Communicator& world, const std::function<void()>& work) {
  std::exception_ptr failure;
  try {
    work();
  } catch (const std::exception&) {
    failure = std::current_exception();
  }
  const double first = world.all_reduce_min(failure ? world.rank() : world.size());
  if (first >= world.size()) return;
  if (first == world.rank()) std::rethrow_exception(failure);
  world.barrier("the end of the job");
}

ExitCode run_training(const Config& config, Communicator& world, StopSignals& signals) {
  return Trainer(config, world, signals).run();
}

}  // namespace biqa
