// SPDX-License-Identifier: Apache-2.0
#include "training/trainer.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <exception>
#include <limits>
#include <map>
#include <thread>

#include "actor/engine.h"
#include "actor/rollout.h"
#include "actor/samples.h"
#include "comm/agreement.h"
#include "comm/rank_processors.h"
#include "core/failure.h"
#include "core/processors.h"
#include "core/statistics.h"
#include "data/manifest.h"
#include "data/response.h"
#include "data/wire.h"
#include "evaluation/evaluation_pass.h"
#include "io/files.h"
#include "io/hdf5.h"
#include "learner/checkpoint_reader.h"
#include "learner/checkpoint_store.h"
#include "learner/learner.h"
#include "model/checkpoint.h"
#include "model/frozen_parts.h"
#include "model/peft.h"
#include "policy/policy.h"
#include "policy/version.h"
#include "reward/rewards.h"
#include "run/curves.h"
#include "run/progress.h"
#include "run/rank_log.h"
#include "run/run_folder.h"
#include "training/learn_inputs.h"
#include "training/run_checkpoints.h"
#include "training/run_checks.h"
#include "training/step_dump.h"
#include "training/step_figures.h"
#include "training/training_data.h"
#include "training/work_share.h"

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
  kTagReport = 3,
  kTagWork = 4,
  kTagWorkReply = kTagWork + 1,
  kTagEvaluated /* and up: one per set and decoding */
};

/// Draws of an evaluation are keyed by this instead of a step, so that before and after use the same numbers.
constexpr std::int64_t kEvaluationStep = -1;

/// Going on after this step drops every line of an earlier run.
constexpr std::int64_t kBeforeAll = -1;

/// What a rank tells the first learner of its part of a step.
struct Report {
  double rollout = 0, stage2 = 0, reward = 0, learn = 0;  ///< seconds
  std::array<std::uint64_t, kOperations> sent{};          ///< bytes by kind of traffic since its last report
  bool stop = false, save = false;                        ///< signals it has had
};

/// What the first learner tells all ranks behind a step.
struct Boundary {
  std::int64_t version = 0;    ///< of the adapter that comes with it
  std::int64_t last_step = 0;  ///< the run ends behind it
  std::int64_t save = 0;       ///< learners save now
  std::int64_t evaluate = 0;   ///< only before the first step: kEvaluateFirst, kEvaluated or neither
};
/// Evaluate before the first step; what is left of the run is nothing, not even its evaluation.
constexpr std::int64_t kEvaluateFirst = 1, kEvaluated = 2;

/// How long a learner stays in the middle of an update when a rank is lost that doesn't learn.
constexpr Seconds kUpdatePatience{3};
/// How long the first learner waits for the shards of a checkpoint when a rank is lost.
constexpr Seconds kLastSavePatience{6};

std::uint64_t digest_of_text(const std::string& text) {
  return digest_of_bytes(std::as_bytes(std::span(text)));
}

std::uint64_t digest_of_values(std::span<const float> values) {
  return digest_of_bytes(std::as_bytes(values));
}

class Trainer {
 public:
  Trainer(const Config& config, Communicator& world, StopSignals& signals, Watch* watch)
      : config_(config),
        world_(world),
        signals_(signals),
        watch_(watch),
        roles_(plan_roles(config.roles, world.size())),
        actor_(roles_.is_actor(world.rank())),
        reward_(roles_.is_reward(world.rank())),
        learner_(roles_.is_learner(world.rank())),
        leader_(roles_.learners.front() == world.rank()),
        sft_(row_of(config.objective.loss.loss).imitates),
        lag_(possible_lag()) {
    if (watch_ != nullptr) world_.set_poll([this] { poll(); });
    run_alike(world_, [&] { data_ = read_training_data(config_, leader_); });
    check_agreement(world_, "other manifests", digest_of_text(data_.text()));
    threads_ = threads_for(share_processors(world_), config_.model.threads);
    std::vector<int> holders =
        roles_.learners;  // everyone who needs the adapter; the first learner is rank 0
    for (const int rank : roles_.actors) {
      if (std::find(holders.begin(), holders.end(), rank) == holders.end()) holders.push_back(rank);
    }
    learners_ = world_.split(roles_.learners, "learners");
    holders_ = world_.split(holders, "adapter holders");
    const std::optional<FoundCheckpoint> found = find_checkpoint();
    look_at_pictures();  // the folder is this run's by now
    open_model(found);
    if (learner_) checkpoints_ = std::make_unique<RunCheckpoints>(config_, *learners_);
    run_alike(world_, [&] {
      start_engine();
      start_adapter();
    });
    if (found) resume(*found);
    if (actor_) {
      share_.emplace(world_, roles_.actors, kTagWork,
                     [this](std::int64_t step) { return data_.rows_of_step(step); });
    }
  }
  ~Trainer() {
    if (watch_ != nullptr) world_.set_poll({});
  }
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  ExitCode run() {
    Boundary start{step_, data_.steps, 0, 0};
    run_alike(world_, [&] {
      if (leader_) open_folder(start);
    });
    share_boundary(start);
    if (start.last_step < 0) {
      if (leader_)
        say("{} is finished: {} steps; another train.out starts another run, more train.steps go on\n",
            config_.train.out.string(), step_);
      return ExitCode::done;
    }
    run_alike(world_, [&] {
      log_.emplace(config_.train.out / "logs" / fmt::format("rank-{:05}.log", world_.rank()),
                   fmt::format("rank {} {}", world_.rank(), roles_.role_name(world_.rank())));
    });
    try_saving();
    if (leader_ && world_.size() > 1) LOG(INFO) << roles_.describe();
    sent_ = sent_so_far();  // loading is no part of a step, the first adapter is
    adopt(start);
    const std::int64_t first = step_;
    progress_.emplace("step", data_.steps, step_,
                      leader_ && config_.train.progress ? ProgressMode::automatic : ProgressMode::off);
    bool stopped = start.evaluate == kEvaluateFirst && !evaluate(step_);
    if (!stopped) {
      if (learner_)
        learn_steps();
      else
        follow_steps();
    }
    progress_->finish();
    if (checkpoints_ != nullptr) checkpoints_->finish();
    if (leader_) print_traffic(step_ - first);
    stopped = stopped || step_ < data_.steps || (start.evaluate != kEvaluated && !evaluate(data_.steps));
    if (stopped) {
      if (leader_) {
        say("stopped after step {} of {}: {}; the same command goes on from there\n", step_, data_.steps,
            step_ == 0 ? "nothing to save yet"
                       : fmt::format("checkpoint saved in {}", folder_->checkpoints().string()));
      }
      return ExitCode::stopped;
    }
    if (leader_) finish();
    world_.barrier("the end of the run");
    return ExitCode::done;
  }

  /// A rank is lost, perhaps this one, or the only one has failed: the learners save the last whole step, then all wait for the first learner to
  /// end the job.
  void end_with_checkpoint() {
    save_last_step();
    if (watch_ == nullptr) return;
    const std::optional<LostRank> loss = watch_->loss();
    if (leader_ || (loss && loss->rank == roles_.learners.front())) return;
    std::this_thread::sleep_for(kLastSavePatience + Seconds{2});
  }

 private:
  // ------------------------------------------------------------------------------------------------ set-up

  /// The adapter and moments are those behind step learned_step_.
  bool is_between_steps() const {
    return trainer_ != nullptr && checkpoints_ != nullptr && learned_step_ > 0 && trainer_->whole() &&
           trainer_->updates() == learned_updates_;
  }

  void save_last_step() {
    if (trainer_ == nullptr || checkpoints_ == nullptr || learned_step_ == resumed_step_) return;
    CheckpointWriter& writer = checkpoints_->writer();
    if (writer.state() == CheckpointWriter::State::writing && !writer.wait(kLastSavePatience))
      writer.give_up("a rank is lost");
    if (!is_between_steps()) {
      LOG(WARNING) << "step " << learned_step_ + 1
                   << " broke off in the middle of its update: it is not saved";
      return;
    }
    try {
      record_step();
    } catch (const std::exception& error) {
      say("no checkpoint of step {}: {}\n", learned_step_, error.what());
      return;
    }
    writer.begin(*trainer_, info(learned_step_));
    const bool ended = writer.wait(kLastSavePatience);
    if (!ended) writer.give_up("a learner is lost");
    if (!leader_) return;
    if (writer.state() == CheckpointWriter::State::done)
      say("checkpoint of step {} saved in {}\n", learned_step_, (config_.train.out / "checkpoints").string());
    else
      say("no checkpoint of step {}: {}\n", learned_step_, ended ? writer.failure() : "a learner is lost");
  }

  /// Actors that also learn have nothing to run ahead of.
  std::int64_t possible_lag() const {
    const bool apart = std::none_of(roles_.actors.begin(), roles_.actors.end(),
                                    [&](int rank) { return roles_.is_learner(rank); });
    if (!apart && config_.rollout.max_policy_lag > 0 && leader_)
      LOG(WARNING) << "rollout.max_policy_lag " << config_.rollout.max_policy_lag
                   << ": every actor of this job also learns, so it runs on-policy (lag 0)";
    return apart && !sft_ ? config_.rollout.max_policy_lag : 0;
  }

  /// Called in every wait: gives up on ranks that are known to be lost, and makes use of the moment between a
  /// launcher's SIGTERM and its SIGKILL.
  void poll() {
    if (const std::optional<LostRank> loss = watch_->loss()) {
      // Learners in the middle of an update may still come to its end, if they are all there.
      const bool may_end = in_update_ && !roles_.is_learner(loss->rank) && loss->ago < kUpdatePatience;
      if (!may_end)
        throw PeerLost(fmt::format("rank {} is lost", loss->rank), static_cast<ExitCode>(loss->exit_code));
    }
    if (signals_.stop && !insured_ && is_between_steps() && learned_step_ != resumed_step_ &&
        checkpoints_->writer().state() != CheckpointWriter::State::writing) {
      insured_ = true;
      record_step();
      checkpoints_->writer().begin(*trainer_, info(learned_step_), true);
    }
  }

  void look_at_pictures() {
    // Who wants bad rows left out wants all of them found; else only as long as nobody minds.
    const Seconds patience{config_.data.skip_bad ? std::numeric_limits<double>::infinity() : 20.0};
    const PictureCheck found =
        check_pictures(world_, data_.sets(), threads_, patience, [this] { return signals_.stop.load(); });
    run_alike(world_, [&] { settle_training_data(config_, found, leader_, data_); });
  }

  /// An adapter's parts on frozen modules are in the weights from the start: those of the checkpoint that is gone on
  /// from, else of model.adapter.
  void open_model(const std::optional<FoundCheckpoint>& found) {
    PolicyOptions options{config_.model.path, config_.model.dtype,   config_.model.device, threads_,
                          learner_,           config_.model.pixels()};
    run_alike(world_, [&] {
      const std::filesystem::path& start = config_.model.adapter;
      if (!start.empty()) start_ = read_adapter_for(options.path, start);
      if (start_) options.frozen = start_->frozen;
      if (!found) return;
      Lora then;  // every rank may have to read weights
      if (found->frozen) then = read_adapter_for(options.path, found->path);
      if (start_ && !same_parts(*start_, then)) {
        fail(
            "cannot resume from {}: its parts on frozen modules are not those of model.adapter {}; name the "
            "adapter that it began with",
            found->path.string(), start.string());
      }
      options.frozen = then.frozen;
    });
    frozen_ = options.frozen;
    policy_ = Policy::open(options, world_);
    // What is written down of this run are the limits that it used.
    const PreprocessConfig& used = policy_.pictures->config();
    if (used.min_pixels <= used.max_pixels) {
      config_.model.min_pixels = used.min_pixels;
      config_.model.max_pixels = used.max_pixels;
    }
    run_alike(world_, [&] {
      if (!leader_) return;
      base_weights_ =
          Checkpoint::open(config_.model.path, ModelConfig::load(config_.model.path)).fingerprint();
      training_data_ = data_.fingerprint();
    });
  }

  void start_engine() {
    check_lengths(config_,
                  {policy_.model->config(), *policy_.tokenizer, policy_.chat, policy_.pictures->config()},
                  data_.train, data_.eval);
    if (!actor_) return;
    engine_ = std::make_unique<Engine>(*policy_.model,
                                       Engine::Options{static_cast<std::int64_t>(config_.rollout.kv_memory)});
    rollout_ = std::make_unique<Rollout>(*policy_.model, *policy_.tokenizer, policy_.chat, *engine_);
  }

  void start_adapter() {
    if (holders_ == nullptr) return;
    const ModelConfig& model = policy_.model->config();
    Lora start;
    if (config_.model.adapter.empty()) {
      start = initial_lora(std::make_shared<LoraLayout>(model, config_.lora), config_.train.seed);
      start.frozen = frozen_;
    } else {
      start = *std::move(start_);
      start_.reset();
      if (start.layout->size() == 0) {
        fail(
            "cannot train model.adapter {}: all its parts are on modules that stay frozen; merge it into the "
            "model first (biqa_ckpt merge) and train that",
            config_.model.adapter.string());
      }
      follow_adapter(start.layout->spec());
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
  }

  /// An adapter to start from brings its own shape; config.yaml tells what is trained.
  void follow_adapter(const LoraSpec& given) {
    LoraSpec& asked = config_.lora;
    if (leader_ && (asked.rank != given.rank || asked.alpha != given.alpha || asked.rslora != given.rslora ||
                    asked.targets != given.targets))
      LOG(WARNING) << "lora.rank, alpha and targets of the configuration are not those of model.adapter "
                   << config_.model.adapter.string() << ", which is trained on: rank " << given.rank
                   << ", alpha " << given.alpha << ", " << given.targets.size() << " projections";
    const double dropout = asked.dropout;
    asked = given;
    asked.dropout = dropout;
  }

  /// What was asked for when the checkpoint was written and is asked for otherwise now.
  void warn_of_changes(const std::string& then) const {
    if (!leader_) return;
    if (then.empty()) return;  // an imported adapter has none
    for (const std::string& line : changed_settings(then, config_)) {
      if (line.starts_with("checkpoint.resume:") || line.starts_with("train.out:"))
        continue;  // where, not what
      if (line.starts_with("train.seed:") && config_.checkpoint.resume == "auto") {
        fail_usage(
            "cannot go on with {}: it began with another train.seed, so this is another run; set train.out "
            "to "
            "another folder",
            config_.train.out.string());
      }
      LOG(WARNING) << "going on with another setting than before: " << line;
    }
  }

  /// What the configuration names may hold something else by now.
  void check_inputs(const FoundCheckpoint& found) const {
    const auto differs = [](const std::string& then, const std::string& now) {
      return !then.empty() && then != now;
    };
    if (differs(found.info.base_weights, base_weights_)) {
      fail(
          "cannot resume from {}: its adapter was trained on other weights than {} holds now; name that "
          "model in "
          "model.path, or start a run with another train.out",
          found.path.string(), config_.model.path.string());
    }
    if (differs(found.info.training_data, training_data_))
      LOG(WARNING) << "going on with other training data than before: " << config_.data.train.string()
                   << " has changed";
  }

  /// Where checkpoint.resume says to go on from. The first learner's, who holds the folder's lock.
  struct Candidates {
    std::vector<std::filesystem::path> folders;  ///< the first that is whole
    bool only = false;                           ///< the one that was asked for, or an error
    std::string needed_by;                       ///< an error if none is whole: what was asked for
  };
  Candidates candidates() const {
    const std::filesystem::path own = config_.train.out / "checkpoints";
    const std::string& asked = config_.checkpoint.resume;
    if (asked == "never") return {};
    const auto own_folders = CheckpointStore(own).newest_first();
    if (asked == "auto" || (!own_folders.empty() && began_with(asked))) return {own_folders, false, ""};
    std::error_code ignored;
    const std::filesystem::path start = asked;
    if (!std::filesystem::is_directory(start, ignored))
      fail("cannot resume from {}: there is no such folder; name a checkpoint or a run", asked);
    const bool is_own = std::filesystem::equivalent(start.parent_path(), own, ignored);
    if (!is_own && (!own_folders.empty() || holds_a_run(config_.train.out)) && !began_with(asked)) {
      fail_usage(
          "cannot resume from {} into {}: that holds a run of its own; set train.out to another folder, or "
          "checkpoint.resume: auto to go on with that run",
          asked, config_.train.out.string());
    }
    if (!std::filesystem::exists(start / "checkpoints", ignored)) return {{start}, true, ""};
    return {CheckpointStore(start / "checkpoints").newest_first(), false, asked};
  }
  /// The run in train.out was started with this checkpoint.resume, so that the same command goes on with it.
  bool began_with(const std::string& resume) const {
    const std::filesystem::path file = config_.train.out / "config.yaml";
    try {
      return std::filesystem::exists(file) && load_config(file).checkpoint.resume == resume;
    } catch (const Error&) {
      return false;
    }
  }

  /// The first learner names the checkpoints that may be gone on from, the learners look at them together, all ranks get to
  /// know the result. From here on the folder is this run's: a job that still writes its last checkpoint there has it
  /// until then.
  std::optional<FoundCheckpoint> find_checkpoint() {
    Candidates asked;
    run_alike(world_, [&] {
      if (!leader_) return;
      lock_.emplace(config_.train.out);
      asked = candidates();
    });
    std::optional<FoundCheckpoint> found;
    run_alike(world_, [&] {
      if (!learner_) return;
      reader_ = std::make_unique<CheckpointReader>(*learners_);
      found = reader_->find(asked.folders, asked.only, [&] { return ModelConfig::load(config_.model.path); });
      if (leader_ && !found && !asked.needed_by.empty())
        fail("cannot resume from {}: the run has no whole checkpoint; name another", asked.needed_by);
    });
    const std::string text = FoundCheckpoint::to_text(found);
    const auto letters = std::as_bytes(std::span(text));
    std::vector<std::byte> bytes(letters.begin(), letters.end());
    world_.broadcast_bytes(bytes, roles_.learners.front());
    if (!learner_)
      found = FoundCheckpoint::from_text({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    return found;
  }

  /// Actors get the adapter with the first boundary, rewards need none.
  void resume(const FoundCheckpoint& found) {
    run_alike(world_, [&] {
      if (leader_) check_resumed(found);
      if (learner_) reader_->read_files(found);
    });
    if (learner_) {
      const Learner::Shard own = trainer_->shard();
      const CheckpointReader::State state = reader_->exchange(found, own.begin, own.end);
      trainer_->restore_shard(state.values, state.m, state.v, found.updates);
      adapter_ = trainer_->adapter();
    }
    reader_.reset();
    data_.go_on_after(found.step, found.data_cursor);
    step_ = found.step;
    version_ = found.version;
    learned_step_ = recorded_step_ = resumed_step_ = step_;
    learned_updates_ = found.updates;
    if (!leader_) return;
    LOG(INFO) << "resuming from " << found.path.string() << " after step " << step_;
    if (lag_ > 0)
      LOG(INFO) << "rollout.max_policy_lag " << lag_
                << ": the first steps are sampled by this adapter, without the lag they would have had";
  }

  /// The first learner's.
  void check_resumed(const FoundCheckpoint& found) const {
    if (!(*found.adapter.layout == *adapter_.layout)) {
      fail(
          "cannot resume from {}: its adapter has other modules or ranks than the configuration asks for; "
          "ask for the same (config.yaml beside it), or set train.out to another folder",
          found.path.string());
    }
    check_inputs(found);
    warn_of_changes(found.info.config);
  }

  /// Nothing of the run in this folder can be gone on with, and nothing would be lost by starting it again.
  bool ended_before_a_checkpoint() const {
    return config_.checkpoint.resume == "auto" &&
           !std::filesystem::exists(config_.train.out / "adapter.h5") &&
           CheckpointStore(config_.train.out / "checkpoints").newest_first().empty();
  }
  /// Everything that finish() writes is there and of the last step.
  bool has_results() const {
    const std::filesystem::path& out = config_.train.out;
    try {
      return std::filesystem::exists(out / "adapter" / "adapter_config.json") &&
             std::filesystem::exists(out / "curves.svg") && std::filesystem::exists(out / "adapter.h5") &&
             Hdf5File(out / "adapter.h5").attribute_i64("/", "step") == step_;
    } catch (const Error&) {
      return false;
    }
  }

  /// A folder that cannot hold a checkpoint is better known now than behind the last step.
  void try_saving() {
    run_alike(world_, [&] {
      if (checkpoints_ != nullptr) checkpoints_->writer().try_part();
    });
    run_alike(world_, [&] {
      // The adapter, and with each shard its part of that again, m and v.
      if (leader_) checkpoints_->writer().try_publishing(4 * sizeof(float) * adapter_.values.size());
    });
  }

  /// The first learner: what the folder already holds decides how the run begins.
  void open_folder(Boundary& start) {
    const std::filesystem::path metrics = config_.train.out / "metrics.jsonl";
    std::map<std::int64_t, std::vector<EvalMetrics>> evaluations;
    if (step_ > 0 && std::filesystem::exists(metrics)) {
      const MetricsFile before = read_metrics(metrics);
      for (const EvalMetrics& figure : before.evaluations) evaluations[figure.step].push_back(figure);
      // After a power failure, say.
      const std::int64_t last = before.steps.empty() ? step_ : before.steps.back().step;
      if (last < step_)
        LOG(WARNING) << metrics.string() << " ends with step " << last << ": lines up to step " << step_
                     << ", which the checkpoint has behind it, are lost";
    }
    if (step_ > data_.steps) {
      fail_usage(
          "cannot go on with {}: it has {} steps behind it and train.steps (or the epochs) ask for {}; raise "
          "them, or name another train.out",
          config_.train.out.string(), step_, data_.steps);
    }
    const bool due = !data_.eval.empty() && (step_ == data_.steps || evaluation_due(step_, data_.steps));
    const auto figures = evaluations.find(step_);
    const bool evaluated =
        !due || (figures != evaluations.end() &&
                 figures->second.size() >= figures_of_evaluation(config_, data_.eval.size()));
    const bool ended = step_ == data_.steps && evaluated;
    if (ended && has_results()) {
      start.last_step = -1;
      return;
    }
    if (step_ == 0 && config_.checkpoint.resume == "auto" && holds_a_run(config_.train.out) &&
        !ended_before_a_checkpoint()) {
      fail(
          "cannot go on with the run in {}: none of its checkpoints can be used (see above); mend one, or "
          "set "
          "train.out to another folder",
          config_.train.out.string());
    }
    std::optional<std::int64_t> resumed;
    if (step_ > 0)
      resumed = step_;
    else if (ended_before_a_checkpoint())
      resumed = kBeforeAll;
    folder_.emplace(*std::move(lock_), to_yaml(config_), resumed, evaluated);
    lock_.reset();
    if (!evaluated) evaluations.erase(step_);  // made again
    if (ended)
      start.evaluate = kEvaluated;
    else if (step_ == 0 || (step_ < data_.steps && !evaluated))
      start.evaluate = kEvaluateFirst;
    checkpoints_->take_over(step_, evaluations);
  }

  // ------------------------------------------------------------------------------------------------ one step

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

  /// A learner's run: it knows every step's adapter as soon as there is one.
  void learn_steps() {
    while (step_ < last_step_) {
      const auto start = Clock::now();
      const std::int64_t step = step_ + 1;
      const std::vector<std::size_t> rows = data_.rows_of_step(step);
      Report report;
      if (actor_ && !sft_) roll_out(step, report);
      if (reward_ && !sft_) score_groups(step, report);
      learn_step(step, rows, report);
      send_report(report);
      if (leader_) read_reports();
      const auto begin = Clock::now();
      boundary(step);
      if (leader_) {
        metrics_.sync_seconds = seconds_since(begin);
        metrics_.step_seconds = seconds_since(start);
        record_step();
        if (!sft_) {
          for (const std::string& doubt : doubts_about(metrics_, config_, lag_ == 0)) {
            progress_->clear();
            LOG(WARNING) << "step " << step << ": " << doubt;
          }
        }
        progress_->update(step, sft_ ? fmt::format("loss {:.3f}", metrics_.loss)
                                     : fmt::format("reward {:.3f}  kl {:.3f}  {:.0f} tokens",
                                                   metrics_.reward_mean, metrics_.kl, metrics_.length_mean));
      }
      step_ = step;
      if (!evaluate_if_due(step)) last_step_ = step;
      checkpoints_->check();
      // A slow disk delays the next checkpoint, not the training.
      if (step == last_step_ || (save_due_ && checkpoints_->may_begin(step))) {
        checkpoints_->begin(*trainer_, info(step));
        save_due_ = save_late_ = false;
      } else if (save_due_ && !save_late_) {
        save_late_ = true;
        if (leader_)
          LOG(WARNING) << "the checkpoint before is still being written when that of step " << step
                       << " is due: it is saved as soon as the disk is ready";
      }
    }
  }

  /// Of actors and rewards that don't learn: at most lag_ adapters behind.
  void follow_steps() {
    const std::int64_t first = step_;  // evaluated before, if at all
    std::int64_t known = step_;
    const auto catch_up = [&](std::int64_t version) {
      while (known < version) boundary(++known);
    };
    while (true) {
      if (evaluation_due(step_) && step_ > first) {
        catch_up(step_);
        if (!evaluate_if_due(step_)) return;
      }
      const std::int64_t step = step_ + 1;
      catch_up(step - 1 - lag_);
      if (step > last_step_) break;
      Report report;
      if (actor_ && !sft_) roll_out(step, report);
      if (reward_ && !sft_) score_groups(step, report);
      send_report(report);
      step_ = step;
    }
    catch_up(last_step_);
  }

  void roll_out(std::int64_t step, Report& report) {
    const auto begin = Clock::now();
    /// The share's rows as samples.
    class Source final : public SampleSource {
     public:
      Source(Trainer& trainer, std::int64_t step) : trainer_(trainer) { trainer_.share_->begin(step); }
      std::vector<RolloutSample> next(bool idle) override {
        const std::vector<std::size_t> rows = trainer_.share_->next(idle);
        return rows.empty() ? std::vector<RolloutSample>{}
                            : load_samples(*trainer_.policy_.pictures, trainer_.data_.train, rows);
      }
      void finished(const Group& group, std::int64_t tokens) override {
        trainer_.share_->finished(static_cast<std::size_t>(group.sample_index), tokens);
      }

     private:
      Trainer& trainer_;
    };
    Source source(*this, step);
    rollout_->run(source, rollout_options(step), [&](Group&& group) {
      world_.send(roles_.reward_rank_of(static_cast<std::uint64_t>(group.sample_index)), kTagGroup,
                  serialise(group));
    });
    report.rollout = seconds_since(begin);
    report.stage2 = rollout_->times().stage2_seconds;
  }

  /// Actors that run ahead send groups of later steps: those wait here for their turn.
  Group receive_group(std::int64_t step, int tag, const char* purpose) {
    auto& early = early_[tag];
    const auto waiting = early.find(step);
    if (waiting != early.end()) {
      Group group = std::move(waiting->second);
      early.erase(waiting);
      return group;
    }
    for (;;) {
      Group group = parse_group(world_.receive(kAnyRank, tag, purpose).bytes);
      if (group.step == step) return group;
      CHECK_GT(group.step, step) << "a group of an earlier step came late";
      early.emplace(group.step, std::move(group));
    }
  }

  void score_groups(std::int64_t step, Report& report) {
    for (const std::size_t row : data_.rows_of_step(step)) {
      if (roles_.reward_rank_of(row) != world_.rank()) continue;
      Group group = receive_group(step, kTagGroup, "a rolled-out group");
      const auto begin = Clock::now();
      score(group, config_.rewards, config_.prompts.texts.profile);
      report.reward += seconds_since(begin);
      const std::vector<std::byte> bytes = serialise(group);
      for (const int learner : roles_.learners) world_.send(learner, kTagScored, bytes);
    }
  }

  /// Figures in metrics_, on the first learner.
  void learn_step(std::int64_t step, const std::vector<std::size_t>& rows, Report& report) {
    std::vector<Group> groups;
    if (!sft_) groups = receive_groups(step, rows);
    const auto begin = Clock::now();
    double zero_variance = kNotMeasured;
    UpdateResult result;
    in_update_ = true;
    if (sft_) {
      result = learn_from_answers(rows);
    } else {
      zero_variance = assign_advantages(groups);
      result = learn(step, groups);
    }
    in_update_ = false;
    learned_step_ = step;
    learned_updates_ = trainer_->updates();
    report.learn = seconds_since(begin);
    if (!leader_) return;
    if (!sft_) write_samples(step, groups);
    metrics_ = measure(step, groups, result, zero_variance);
    if (sft_) metrics_.images = metrics_.trajectories = static_cast<std::int64_t>(rows.size());
  }

  /// The line of the step that was learned last, once: behind its boundary, or before a checkpoint of it that can't wait
  /// for that, with the times known so far. Going on from that checkpoint, the step is not run again.
  void record_step() {
    if (!leader_ || recorded_step_ >= learned_step_) return;
    if (metrics_.step != learned_step_) fail("the lines of step {} could not be written", learned_step_);
    metrics_.version = learned_step_;
    folder_->append(metrics_);
    recorded_step_ = learned_step_;
  }

  /// Bytes by kind of traffic, a rank's messages to itself among them.
  std::array<std::uint64_t, kOperations> sent_so_far() const {
    std::array<std::uint64_t, kOperations> sent{};
    for (const Communicator* c : {&world_, learners_.get(), holders_.get()}) {
      for (int kind = 0; kind < kOperations && c != nullptr; ++kind)
        sent[static_cast<std::size_t>(kind)] += c->traffic(static_cast<Operation>(kind)).bytes;
    }
    return sent;
  }

  void send_report(Report& report) {
    report.stop = signals_.stop;
    report.save = signals_.save.exchange(false);
    const auto sent = sent_so_far();
    for (std::size_t kind = 0; kind < sent.size(); ++kind) report.sent[kind] = sent[kind] - sent_[kind];
    sent_ = sent;
    world_.send(roles_.learners.front(), kTagReport, std::as_bytes(std::span(&report, 1)));
  }

  /// Of all ranks; decides how the run goes on.
  void read_reports() {
    for (int rank = 0; rank < world_.size(); ++rank) {
      const Message message = world_.receive(rank, kTagReport, "the report of a step");
      Report theirs;
      CHECK_EQ(message.bytes.size(), sizeof theirs);
      std::memcpy(&theirs, message.bytes.data(), sizeof theirs);
      metrics_.rollout_seconds = std::max(metrics_.rollout_seconds, theirs.rollout);
      metrics_.stage2_seconds = std::max(metrics_.stage2_seconds, theirs.stage2);
      metrics_.reward_seconds = std::max(metrics_.reward_seconds, theirs.reward);
      metrics_.learn_seconds = std::max(metrics_.learn_seconds, theirs.learn);
      for (std::size_t kind = 0; kind < theirs.sent.size(); ++kind) {
        traffic_[kind] += theirs.sent[kind];
        metrics_.traffic_bytes += static_cast<std::int64_t>(theirs.sent[kind]);
      }
      // Actors may be lag_ steps ahead: what they have begun is learned from.
      if (theirs.stop) last_step_ = std::min(last_step_, metrics_.step + lag_);
      if (theirs.save) save_due_ = true;
    }
    if (config_.checkpoint.every > 0 && metrics_.step % config_.checkpoint.every == 0) save_due_ = true;
  }

  /// Behind a step, on every rank in the same order of steps: the adapter to all who hold one, and how the run goes on.
  void boundary(std::int64_t step) {
    Boundary boundary{step, last_step_, save_due_ ? 1 : 0, 0};
    share_boundary(boundary);
    CHECK_EQ(boundary.version, step);
    adopt(boundary);
  }
  void share_boundary(Boundary& boundary) {
    std::array<std::int64_t, 4> numbers{boundary.version, boundary.last_step, boundary.save,
                                        boundary.evaluate};
    world_.broadcast(View(numbers.data(), 1, numbers.size()), roles_.learners.front());
    boundary = {numbers[0], numbers[1], numbers[2], numbers[3]};
  }
  void adopt(const Boundary& boundary) {
    last_step_ = boundary.last_step;
    save_due_ = boundary.save != 0;
    if (holders_ == nullptr) return;
    version_ = boundary.version;
    publish_adapter();
  }

  bool evaluation_due(std::int64_t step, std::int64_t last_step) const {
    return step > 0 && config_.train.eval_every > 0 && step % config_.train.eval_every == 0 &&
           step < last_step;
  }
  bool evaluation_due(std::int64_t step) const { return evaluation_due(step, last_step_); }
  /// False: broken off by a stop.
  bool evaluate_if_due(std::int64_t step) {
    if (!evaluation_due(step)) return true;
    progress_->clear();
    return evaluate(step);
  }

  /// The step's scored groups, in the order of the step's rows whatever order they came in.
  std::vector<Group> receive_groups(std::int64_t step, const std::vector<std::size_t>& rows) {
    std::map<std::int64_t, std::size_t> place;
    for (std::size_t i = 0; i < rows.size(); ++i) place[static_cast<std::int64_t>(rows[i])] = i;
    std::vector<Group> groups(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      Group group = receive_group(step, kTagScored, "a scored group");
      const auto found = place.find(group.sample_index);
      CHECK(found != place.end()) << "group of row " << group.sample_index << " does not belong to this step";
      for (const Trajectory& t : group.members) {
        const auto policy = digests_.find(t.policy_version);
        if (policy == digests_.end() || policy->second != t.adapter_digest ||
            step - 1 - t.policy_version > lag_)
          fail(
              "step {}: a trajectory of {} was sampled by version {} with digest {:016x}; allowed are "
              "versions {} to {} as they were published; end the job and resume",
              step, group.sample_id, t.policy_version, t.adapter_digest, step - 1 - lag_, step - 1);
      }
      groups[found->second] = std::move(group);
    }
    return groups;
  }

  /// Sets every advantage; returns the share of groups without any variance.
  double assign_advantages(std::vector<Group>& groups) const {
    const Advantages advantages = advantages_of(groups, config_);
    std::size_t next = 0;
    for (Group& group : groups) {
      for (Trajectory& t : group.members) t.advantage = advantages.values[next++];
    }
    return advantages.zero_variance_fraction;
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
      const Sample& sample = data_.train[rows[i]];
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
                         data_.steps * config_.objective.updates_per_rollout, config_.optimizer.lr);
  }

  UpdateResult learn(std::int64_t step, const std::vector<Group>& groups) {
    const auto shares = deal(groups);
    LearnInputs inputs(groups, config_, policy_.model->config());
    for (const std::size_t index : shares[static_cast<std::size_t>(roles_.learner_index(world_.rank()))]) {
      inputs.add(index, policy_.pictures->encode(
                            data_.train[static_cast<std::size_t>(groups[index].sample_index)].image));
    }
    UpdateResult result;
    double clipped = 0;
    for (std::int64_t pass = 0; pass < config_.objective.updates_per_rollout; ++pass) {
      const double lr = rate();
      const UpdateResult done = update(step, groups, shares, inputs, dumps(step) && pass == 0);
      // The first pass is the one that is on-policy: its figures are the step's, but for those of clipping.
      if (pass > 0) {
        result.ratio_max_deviation = std::max(result.ratio_max_deviation, done.ratio_max_deviation);
        clipped += done.clip_fraction;
        continue;
      }
      result = done;
      clipped = done.clip_fraction;
      lr_ = lr;
    }
    result.clip_fraction = clipped / static_cast<double>(config_.objective.updates_per_rollout);
    adapter_ = trainer_->adapter();
    return result;
  }

  /// One update, with its dump where one is asked for.
  UpdateResult update(std::int64_t step, const std::vector<Group>& groups,
                      const std::vector<std::vector<std::size_t>>& shares, const LearnInputs& inputs,
                      bool dump) {
    const double lr = rate();
    if (!dump) return note_skipped(step, trainer_->update(inputs.groups(), lr));
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
    return note_skipped(step, result);
  }

  /// Whatever the loss: an update that changed nothing is told, and a few in a row end the run.
  UpdateResult note_skipped(std::int64_t step, const UpdateResult& result) {
    if (!result.skipped) {
      skipped_ = 0;
      return result;
    }
    if (leader_)
      LOG(WARNING) << "step " << step
                   << ": the loss or its gradient is not finite; the update is skipped on every learner";
    if (++skipped_ > kMostSkipped) {
      fail(
          "cannot train: {} updates in a row, the last in step {}, had a loss or gradient that is not "
          "finite; lower optimizer.lr and go on from the last checkpoint",
          skipped_, step);
    }
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
      images.push_back(data_.train[static_cast<std::size_t>(group.sample_index)].image);
    write_step_dump(folder_->dump_file(record.step), record, groups, images, policy_, config_);
  }

  /// The first learner's adapter to everyone who holds one; acknowledged by digest.
  void publish_adapter() {
    holders_->broadcast(View(adapter_.values.data(), 1, static_cast<std::int64_t>(adapter_.values.size())),
                        0);
    digest_ = digest_of_values(adapter_.values);
    digests_[version_] = digest_;
    while (digests_.begin()->first < version_ - lag_) digests_.erase(digests_.begin());
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
                      double zero_variance) const {
    StepMetrics metrics = figures_of(groups, version_, config_);
    metrics.step = step;
    metrics.epoch = data_.epochs_after(step);
    metrics.time = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    metrics.zero_variance_fraction = zero_variance;
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

  /// The first train.samples_per_step trajectories, or all.
  void write_samples(std::int64_t step, const std::vector<Group>& groups) {
    std::int64_t written = 0;
    for (const Group& group : groups) {
      for (const Trajectory& trajectory : group.members) {
        if (config_.train.samples_per_step > 0 && written++ >= config_.train.samples_per_step) return;
        folder_->append(record_of(step, group, trajectory, config_));
      }
    }
  }

  /// All sets and decodings with the adapter of `step`. False when a stop broke it off: then nothing is recorded.
  bool evaluate(std::int64_t step) {
    const auto before = sent_so_far();
    const EvaluationPass pass{config_,           world_,         roles_,       signals_,
                              *policy_.pictures, rollout_.get(), kTagEvaluated};
    const auto figures = pass.run(data_.eval, step, rollout_options(kEvaluationStep));
    if (!figures) return false;
    if (leader_) {
      folder_->append(*figures);
      print_evaluation(*figures);
    }
    if (checkpoints_ != nullptr && checkpoints_->note_evaluation(step, *figures)) save_due_ = true;
    const auto after = sent_so_far();  // an evaluation is no part of a step
    for (std::size_t kind = 0; kind < sent_.size(); ++kind) sent_[kind] += after[kind] - before[kind];
    return true;
  }

  // ------------------------------------------------------------------------------------------------ ends

  CheckpointInfo info(std::int64_t step) const {
    return {step,
            step,
            data_.cursor_after(step),
            to_yaml(config_),
            version_text(),
            config_.model.path.string(),
            checkpoints_->figure_of(step),
            base_weights_,
            training_data_};
  }

  /// Mean of a step, over all ranks.
  void print_traffic(std::int64_t steps) const {
    if (world_.size() == 1 || steps <= 0) return;
    std::vector<std::string> parts;
    for (int kind = 0; kind < kOperations; ++kind) {
      const auto bytes = traffic_[static_cast<std::size_t>(kind)] / static_cast<std::uint64_t>(steps);
      if (bytes > 0)
        parts.push_back(fmt::format("{} {:.1f} KiB", name_of(static_cast<Operation>(kind)),
                                    static_cast<double>(bytes) / 1024));
    }
    say("traffic of a step, {} ranks together: {}\n", world_.size(), fmt::join(parts, ", "));
  }

  void finish() {
    write_adapter_h5(folder_->root() / "adapter.h5", adapter_, info(step_));
    write_peft(folder_->root() / "adapter", adapter_, config_.model.path.string());
    const MetricsFile metrics = read_metrics(folder_->metrics_file());
    write_file_atomically(folder_->root() / "curves.svg",
                          learning_curves_svg(metrics, config_.train.out.filename().string()));
  }

  static constexpr int kMostSkipped = 3;

  Config config_;
  Communicator& world_;
  StopSignals& signals_;
  Watch* watch_;
  RolePlan roles_;
  bool actor_, reward_, learner_, leader_, sft_;
  std::int64_t lag_;
  int threads_ = 1;
  TrainingData data_;
  std::int64_t step_ = 0;                                ///< the last one this rank has done with
  std::int64_t learned_step_ = 0, learned_updates_ = 0;  ///< the last step that has changed the adapter
  std::int64_t resumed_step_ = 0;                        ///< of the checkpoint that this started from
  std::int64_t last_step_ = 0;  ///< as far as the run goes: data_.steps, or less once a stop is asked for
  std::int64_t version_ = 0;    ///< of adapter_
  std::uint64_t digest_ = 0;
  std::map<int, std::multimap<std::int64_t, Group>> early_;  ///< by tag, then step
  std::map<std::int64_t, std::uint64_t> digests_;            ///< by version, those that actors may still use
  bool save_due_ = false, save_late_ = false, insured_ = false, in_update_ = false;
  std::array<std::uint64_t, kOperations> sent_{}, traffic_{};
  std::string base_weights_, training_data_;  ///< the first learner's: fingerprints
  Policy policy_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Rollout> rollout_;
  std::unique_ptr<Communicator> learners_, holders_;
  std::optional<Lora> start_;  ///< model.adapter, until training starts from it
  std::shared_ptr<const FrozenParts> frozen_;
  Lora adapter_;
  std::shared_ptr<const PackedAdapter> reference_;
  std::optional<Lora> dump_reference_;  // unpacked, for dumps
  std::unique_ptr<Learner> trainer_;
  std::unique_ptr<RunCheckpoints> checkpoints_;  ///< of learners
  std::unique_ptr<CheckpointReader> reader_;     ///< of learners, until the run goes on
  std::optional<RunLock> lock_;                  ///< the first learner's, until folder_ has it
  std::optional<WorkShare> share_;
  std::optional<RunFolder> folder_;
  std::optional<RankLog> log_;
  std::optional<Progress> progress_;
  // The first learner's: figures of the last step learned, the last one in metrics.jsonl, and of samples.jsonl.
  StepMetrics metrics_;
  std::int64_t recorded_step_ = 0;
  double lr_ = 0;
  int skipped_ = 0;
};

}  // namespace

ExitCode run_training(const Config& config, Communicator& world, StopSignals& signals, Watch* watch) {
  check_agreement(world, "another configuration", digest_of_text(to_yaml(config)));
  Trainer trainer(config, world, signals, watch);
  if (watch == nullptr && world.size() > 1) return trainer.run();
  try {
    return trainer.run();
  } catch (const PeerLost&) {
    trainer.end_with_checkpoint();
    throw;
  } catch (const std::exception& error) {
    if (watch == nullptr) {
      trainer.end_with_checkpoint();
      throw;
    }
    const auto* known = dynamic_cast<const Error*>(&error);
    const ExitCode code = known != nullptr ? known->code() : ExitCode::world;
    // What a peer's loss has brought about is not told again.
    if (!watch->loss()) {
      report_failure(error.what());
      watch->tell_failure(static_cast<int>(code));
    }
    trainer.end_with_checkpoint();
    throw PeerLost(error.what(), code);
  }
}

}  // namespace biqa
