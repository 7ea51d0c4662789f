// SPDX-License-Identifier: Apache-2.0
#include "training/trainer.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "comm/agreement.h"
#include "comm/rank_processors.h"
#include "core/failure.h"
#include "core/processors.h"
#include "evaluation/evaluation_pass.h"
#include "io/files.h"
#include "learner/checkpoint_store.h"
#include "learner/messages.h"
#include "model/checkpoint.h"
#include "model/peft.h"
#include "ops/gpu_cards.h"
#include "policy/version.h"
#include "run/curves.h"
#include "run/rank_log.h"
#include "tensor/device_use.h"
#include "training/actor_role.h"
#include "training/adapter_exchange.h"
#include "training/clock.h"
#include "training/learner_role.h"
#include "training/meaning_judge.h"
#include "training/messages.h"
#include "training/picture_check.h"
#include "training/refill.h"
#include "training/reward_role.h"
#include "training/run_checkpoints.h"
#include "training/run_checks.h"
#include "training/run_model.h"
#include "training/run_start.h"
#include "training/step_records.h"
#include "training/traffic_meter.h"
#include "training/training_data.h"

namespace biqa {
namespace {

/// Replaces the step in the keys of an evaluation's random numbers, so that all evaluations use the same numbers.
constexpr std::int64_t kEvaluationStep = -1;

/// Time that a learner may continue its update after the loss of a rank that is not a learner.
constexpr Seconds kUpdatePatience{3};
/// Time that the first learner waits for the shards of a checkpoint after the loss of a rank.
constexpr Seconds kLastSavePatience{6};

std::uint64_t digest_of_text(const std::string& text) {
  return digest_of_bytes(std::as_bytes(std::span(text)));
}

/// One rank's part of a run. A member is set if the rank's roles need it.
class Trainer {
 public:
  Trainer(const Config& config, Communicator& world, StopSignals& signals, Watch* watch,
          const std::function<void()>& before_loading);
  ~Trainer() {
    if (watch_ != nullptr) world_.set_poll({});
  }
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  ExitCode run();
  /// Call after a failure on any rank. The learners save the last completed step. Then all ranks wait until the first
  /// learner ends the job.
  void end_with_checkpoint();

 private:
  // Start.
  void settle_data(int threads);
  std::optional<FoundCheckpoint> find_checkpoint();
  void make_roles(StartParts parts);
  void resume(const FoundCheckpoint& found);
  Boundary open_folder();
  void try_saving();

  // Steps.
  void learn_steps();
  void follow_steps();
  StepReport act_and_score(std::int64_t step);
  void report(StepReport own);
  void read_reports(std::int64_t step);
  void boundary(std::int64_t step);
  void adopt(const Boundary& boundary);
  bool evaluate(std::int64_t step);
  bool evaluate_if_due(std::int64_t step);
  RolloutOptions options_of(std::int64_t step) const;

  // Checkpoints and the end.
  CheckpointInfo info(std::int64_t step) const;
  void save_if_due(std::int64_t step);
  void record_learned_step();
  void poll();
  void save_last_step();
  ExitCode stopped() const;
  void write_results() const;

  double gpu_peak() const;
  bool first_learner() const { return roles_.learners.front() == world_.rank(); }

  Config config_;
  Communicator& world_;
  StopSignals& signals_;
  Watch* watch_;
  const RolePlan roles_;
  RankLog log_;
  TrainingData data_;
  std::unique_ptr<Communicator> learners_, holders_;  ///< holders of the adapter: learners and actors
  Policy policy_;
  TrainedOn trained_on_;  ///< the first learner's

  std::optional<AdapterExchange> exchange_;      ///< of holders
  std::unique_ptr<ActorRole> actor_;             ///< of actors
  std::unique_ptr<RewardRole> reward_;           ///< of reward ranks
  std::unique_ptr<TextJudge> judge_;             ///< of reward ranks, until reward_ has it
  std::unique_ptr<LearnerRole> learner_;         ///< of learners
  std::unique_ptr<RunCheckpoints> checkpoints_;  ///< of learners
  std::unique_ptr<CheckpointReader> reader_;     ///< of learners, until the run resumes
  std::optional<RunLock> lock_;                  ///< the first learner's, until records_ has it
  std::optional<StepRecords> records_;           ///< the first learner's
  std::optional<TrafficMeter> traffic_;

  std::int64_t lag_ = 0;
  std::int64_t step_ = 0;       ///< last step that this rank has completed
  std::int64_t last_step_ = 0;  ///< the run ends after this step: data_.steps, or less after a stop request
};

// ---------------------------------------------------------------------------------------------------- start

Trainer::Trainer(const Config& config, Communicator& world, StopSignals& signals, Watch* watch,
                 const std::function<void()>& before_loading)
    : config_(config),
      world_(world),
      signals_(signals),
      watch_(watch),
      roles_(plan_roles(config.roles, world.size())),
      log_(fmt::format("rank {} {}", world.rank(), roles_.role_name(world.rank()))),
      lag_(possible_lag(config, roles_, first_learner())) {
  if (watch_ != nullptr) world_.set_poll([this] { poll(); });
  run_alike(world_, [&] { data_ = read_training_data(config_, first_learner()); });
  check_agreement(world_, "other manifests", digest_of_text(data_.text()));
  const int threads = threads_for(share_processors(world_), config_.model.threads);
  std::vector<int> holders = roles_.learners;  // the first learner is rank 0
  for (const int rank : roles_.actors) {
    if (!roles_.is_learner(rank)) holders.push_back(rank);
  }
  learners_ = world_.split(roles_.learners, "learners");
  holders_ = world_.split(holders, "adapter holders");
  const std::optional<FoundCheckpoint> found = find_checkpoint();  // locks the folder for this run
  settle_data(threads);
  run_alike(world_, [&] {
    if (roles_.is_reward(world_.rank()))
      judge_ = make_text_judge(config_, data_.train, threads, world_.rank() == roles_.rewards.front());
  });
  StartParts parts;
  run_alike(world_, [&] { parts = read_start_parts(config_, found); });
  if (before_loading) before_loading();
  policy_ = open_run_policy(config_, world_, threads, learners_ != nullptr, parts.frozen);
  run_alike(world_, [&] {
    if (!first_learner()) return;
    trained_on_ = {Checkpoint::open(config_.model.path, ModelConfig::load(config_.model.path)).fingerprint(),
                   data_.fingerprint()};
  });
  if (learners_ != nullptr) checkpoints_ = std::make_unique<RunCheckpoints>(config_, *learners_);
  run_alike(world_, [&] { make_roles(std::move(parts)); });
  if (found) resume(*found);
}

/// With data.skip_bad all images are checked. Without it the check stops after a time, so that the start is not
/// delayed.
void Trainer::settle_data(int threads) {
  const Seconds patience{config_.data.skip_bad ? std::numeric_limits<double>::infinity() : 20.0};
  const PictureCheck found =
      check_pictures(world_, data_.sets(), threads, patience, [this] { return signals_.stop.load(); });
  run_alike(world_, [&] { settle_training_data(config_, found, first_learner(), data_); });
}

/// The first learner lists the checkpoints from which the run may resume. The learners check them together, and all
/// ranks get the result. The first learner locks the folder before that, because an earlier job may still write its
/// last checkpoint there.
std::optional<FoundCheckpoint> Trainer::find_checkpoint() {
  ResumeCandidates asked;
  run_alike(world_, [&] {
    if (!first_learner()) return;
    lock_.emplace(config_.train.out);
    asked = resume_candidates(config_);
    // Without a config.json of the model, each checkpoint would look damaged.
    if (!asked.folders.empty()) ModelConfig::load(config_.model.path);
  });
  std::optional<FoundCheckpoint> found;
  run_alike(world_, [&] {
    if (learners_ == nullptr) return;
    reader_ = std::make_unique<CheckpointReader>(*learners_);
    found = reader_->find(asked.folders, asked.only, [&] { return ModelConfig::load(config_.model.path); });
    if (first_learner() && !found && !asked.needed_by.empty())
      fail("cannot resume from {}: the run has no undamaged checkpoint; name another", asked.needed_by);
  });
  const std::string text = share_text(world_, text_of(found), roles_.learners.front());
  if (learners_ == nullptr) found = found_checkpoint_of(text);
  return found;
}

void Trainer::make_roles(StartParts parts) {
  check_lengths(config_,
                {policy_.model->config(), *policy_.tokenizer, policy_.chat, policy_.pictures->config()},
                data_.train, data_.eval);
  const int rank = world_.rank();
  if (roles_.is_actor(rank)) actor_ = std::make_unique<ActorRole>(config_, policy_, world_, roles_, data_);
  if (roles_.is_reward(rank))
    reward_ = std::make_unique<RewardRole>(config_, world_, roles_, std::move(judge_));
  if (holders_ == nullptr) return;
  StartAdapter start = make_start_adapter(config_, std::move(parts), policy_, first_learner());
  exchange_.emplace(*holders_, start.adapter, lag_);
  if (learners_ != nullptr) {
    learner_ = std::make_unique<LearnerRole>(config_, policy_, world_, *learners_, data_, *exchange_,
                                             std::move(start));
  }
}

/// Actors get the adapter with the first boundary, reward ranks need none.
void Trainer::resume(const FoundCheckpoint& found) {
  run_alike(world_, [&] {
    if (first_learner()) check_resumed(config_, found, *exchange_->adapter().layout, trained_on_);
    if (reader_ != nullptr) reader_->read_files(found);
  });
  if (learner_ != nullptr) learner_->resume(found, *reader_);
  reader_.reset();
  data_.go_on_after(found.step, found.data_cursor);
  step_ = found.step;
  if (!first_learner()) return;
  LOG(INFO) << "resuming from " << one_line(found.path.string()) << " after step " << step_;
  if (lag_ > 0)
    LOG(INFO) << "rollout.policy_lag " << lag_
              << ": the first steps are sampled with this adapter, without the usual lag";
}

/// Operations per second of all GPUs of the run at their peak; 0: unknown, or no GPUs.
double Trainer::gpu_peak() const {
  if (policy_.ops->device_name().empty()) return 0;
  std::set<int> computing(roles_.actors.begin(), roles_.actors.end());
  computing.insert(roles_.learners.begin(), roles_.learners.end());
  const auto count = static_cast<double>(computing.size());
  if (config_.model.gpu_tflops > 0) return count * config_.model.gpu_tflops * 1e12;
  const GpuCard* card = find_gpu_card(policy_.ops->card_name());
  return card == nullptr ? 0 : count * card->peak_flop;
}

/// Called on the first learner. The content of the folder decides how the run begins.
Boundary Trainer::open_folder() {
  const RunStart start = plan_start(config_, step_, data_.steps, data_.eval.size());
  if (start.finished) return {step_, -1};
  records_.emplace(config_, data_,
                   RunFolder(*std::move(lock_), to_yaml(config_), start.resumed_step, start.evaluated), step_,
                   gpu_peak());
  lock_.reset();
  checkpoints_->take_over(step_, start.evaluations);
  return {step_, data_.steps, false, start.evaluation};
}

/// Tests now, not only after the last step, that the folder can hold a checkpoint.
void Trainer::try_saving() {
  run_alike(world_, [&] {
    if (checkpoints_ != nullptr) checkpoints_->writer().try_part();
  });
  run_alike(world_, [&] {
    // A checkpoint has the values in adapter.h5, and values, m and v in the shards.
    if (first_learner())
      checkpoints_->writer().try_publishing(4 * sizeof(float) * exchange_->adapter().values.size());
  });
}

// ---------------------------------------------------------------------------------------------------- the run

ExitCode Trainer::run() {
  Boundary start;
  run_alike(world_, [&] {
    if (first_learner()) start = open_folder();
  });
  start = share_boundary(world_, roles_.learners.front(), start);
  if (start.last_step < 0) {
    if (first_learner())
      say("{} is finished: {} steps; to start another run, set another train.out; to train longer, raise "
          "train.steps\n",
          config_.train.out.string(), step_);
    return ExitCode::done;
  }
  run_alike(world_,
            [&] { log_.open(config_.train.out / "logs" / fmt::format("rank-{:05}.log", world_.rank())); });
  try_saving();
  if (first_learner() && world_.size() > 1) LOG(INFO) << roles_.describe();
  if (first_learner()) {
    for (const std::string& doubt : schedule_doubts(config_, data_.steps)) LOG(WARNING) << doubt;
  }
  // Loading is not part of a step, but sending the first adapter is.
  traffic_.emplace(std::vector<const Communicator*>{&world_, learners_.get(), holders_.get()});
  adopt(start);
  const std::int64_t first = step_;
  const bool evaluated = start.evaluation != FirstEvaluation::due || evaluate(step_);
  if (evaluated) {
    if (learner_ != nullptr)
      learn_steps();
    else
      follow_steps();
  }
  if (records_) records_->finish_progress();
  if (checkpoints_ != nullptr) checkpoints_->finish();
  if (records_) records_->print_traffic(step_ - first, world_.size());
  const bool all_steps = evaluated && step_ == data_.steps;
  if (!all_steps || (start.evaluation != FirstEvaluation::recorded && !evaluate(data_.steps)))
    return stopped();
  if (records_) write_results();
  world_.barrier("the end of the run");
  return ExitCode::done;
}

/// The steps of a learner. It knows the adapter of every step as soon as the step is learned.
void Trainer::learn_steps() {
  while (step_ < last_step_) {
    const auto start = Clock::now();
    const std::int64_t step = step_ + 1;
    StepReport own = act_and_score(step);
    const LearnedStep learned = learner_->learn_step(step);
    own.learn = learned.seconds;
    if (records_) records_->learned(learned, exchange_->version());
    report(own);
    if (records_) read_reports(step);
    const auto sync = Clock::now();
    boundary(step);
    if (records_) {
      records_->end_step(seconds_since(sync), seconds_since(start));
      records_->record(step);
      records_->comment(lag_ == 0);
    }
    step_ = step;
    if (!evaluate_if_due(step)) last_step_ = step;
    checkpoints_->check();
    save_if_due(step);
  }
}

/// The steps of actors and reward ranks that are not learners. With lag L they begin step s with version s − 1 − L.
void Trainer::follow_steps() {
  const std::int64_t first = step_;  // evaluated before, if at all
  std::int64_t known = step_;
  const auto catch_up = [&](std::int64_t version) {
    while (known < version) boundary(++known);
  };
  while (true) {
    if (evaluation_due(config_, step_, last_step_) && step_ > first) {
      catch_up(step_);
      if (!evaluate_if_due(step_)) return;
    }
    const std::int64_t step = step_ + 1;
    catch_up(step - 1 - lag_);
    if (step > last_step_) break;
    report(act_and_score(step));
    step_ = step;
  }
  catch_up(last_step_);
}

StepReport Trainer::act_and_score(std::int64_t step) {
  StepReport own;
  if (row_of(config_.objective.loss.loss).imitates) return own;
  if (actor_ != nullptr) {
    const ActorRole::RolloutSeconds seconds = actor_->roll_out(options_of(step));
    own.rollout = seconds.all;
    own.stage2 = seconds.stage2;
  }
  if (reward_ != nullptr) own.reward = reward_->score_step(step, data_.rows_of_step(step));
  if (config_.rollout.refill_rounds > 0) {
    refill_step({config_, world_, roles_, data_, actor_.get(), reward_.get(), learner_.get()},
                options_of(step), own);
  }
  return own;
}

RolloutOptions Trainer::options_of(std::int64_t step) const {
  if (!exchange_) return rollout_options(config_, step, 0, 0);
  return rollout_options(config_, step, exchange_->version(), exchange_->digest());
}

void Trainer::report(StepReport own) {
  own.stop = signals_.stop;
  own.save = signals_.save.exchange(false);
  own.sent = traffic_->take();
  own.device_peak_bytes = static_cast<std::int64_t>(device_memory_total().peak);
  send_report(world_, roles_.learners.front(), own);
}

/// Reads the reports of all ranks, on the first learner, and decides how the run continues.
void Trainer::read_reports(std::int64_t step) {
  bool save = config_.checkpoint.every > 0 && step % config_.checkpoint.every == 0;
  for (int rank = 0; rank < world_.size(); ++rank) {
    const StepReport theirs = receive_report(world_, rank);
    records_->add_report(theirs);
    // Actors may be lag_ steps ahead. The steps that they have begun are still learned.
    if (theirs.stop) last_step_ = std::min(last_step_, step + lag_);
    save = save || theirs.save;
  }
  if (save) checkpoints_->saves().ask();
}

/// Called after each step, on every rank in the same order of steps. Publishes the adapter, and shares how the run
/// continues.
void Trainer::boundary(std::int64_t step) {
  const Boundary next = share_boundary(
      world_, roles_.learners.front(),
      {step, last_step_, checkpoints_ != nullptr && checkpoints_->saves().wanted(), FirstEvaluation::none});
  CHECK_EQ(next.version, step);
  adopt(next);
}

void Trainer::adopt(const Boundary& boundary) {
  last_step_ = boundary.last_step;
  if (checkpoints_ != nullptr && boundary.save) checkpoints_->saves().ask();
  if (checkpoints_ != nullptr && !boundary.save) checkpoints_->saves().withdraw();
  if (!exchange_) return;
  exchange_->publish(boundary.version);
  if (actor_ != nullptr) actor_->set_adapter(exchange_->adapter());
}

/// Evaluates all sets and decodings with the adapter of `step`. Returns false if a stop request ended it early; then
/// nothing is recorded.
bool Trainer::evaluate(std::int64_t step) {
  const SentBytes before = traffic_->total();
  Rollout* rollout = actor_ != nullptr ? &actor_->rollout() : nullptr;
  const EvaluationPass pass{config_, world_, roles_, signals_, *policy_.pictures, rollout, kTagEvaluated};
  const auto figures = pass.run(data_.eval, step, options_of(kEvaluationStep));
  if (!figures) return false;
  if (records_) {
    records_->append(*figures);
    print_evaluation(*figures);
  }
  if (checkpoints_ != nullptr) checkpoints_->note_evaluation(step, *figures);
  traffic_->leave_out_since(before);  // an evaluation is no part of a step
  return true;
}

/// Returns false if a stop request ended the evaluation early.
bool Trainer::evaluate_if_due(std::int64_t step) {
  if (!evaluation_due(config_, step, last_step_)) return true;
  if (records_) records_->clear_progress();
  return evaluate(step);
}

// ---------------------------------------------------------------------------------------------------- checkpoints

CheckpointInfo Trainer::info(std::int64_t step) const {
  return {step,
          step,
          data_.cursor_after(step),
          to_yaml(config_),
          version_text(),
          config_.model.path.string(),
          checkpoints_->figure_of(step),
          trained_on_.base_weights,
          trained_on_.training_data};
}

/// A slow disk delays the next checkpoint, not the training.
void Trainer::save_if_due(std::int64_t step) {
  if (step == last_step_ || (checkpoints_->saves().wanted() && checkpoints_->may_begin(step))) {
    checkpoints_->begin(learner_->learner(), info(step));
  } else if (checkpoints_->saves().delayed() && first_learner()) {
    LOG(WARNING) << "the checkpoint of step " << step
                 << " is due, but the previous one is still being written; the run saves when that is done";
  }
}

/// Called in every wait. Throws PeerLost if a rank is known to be lost. Between a launcher's SIGTERM and its SIGKILL,
/// starts an insurance.
void Trainer::poll() {
  if (const std::optional<LostRank> loss = watch_->loss()) {
    // A running update may still end if all learners are there.
    const bool may_end = learner_ != nullptr && learner_->is_updating() && !roles_.is_learner(loss->rank) &&
                         loss->ago < kUpdatePatience;
    if (!may_end)
      throw PeerLost(fmt::format("rank {} is lost", loss->rank), static_cast<ExitCode>(loss->exit_code));
  }
  if (!signals_.stop || learner_ == nullptr || checkpoints_ == nullptr) return;
  if (!learner_->is_between_steps() || !learner_->has_news() || !checkpoints_->take_insurance()) return;
  record_learned_step();
  checkpoints_->insure(learner_->learner(), info(learner_->learned_step()));
}

/// Called before a checkpoint that cannot wait for the step's boundary. A run that resumes from it does not write this
/// line again.
void Trainer::record_learned_step() {
  if (records_) records_->record(learner_->learned_step());
}

void Trainer::end_with_checkpoint() {
  save_last_step();
  if (watch_ == nullptr) return;
  const std::optional<LostRank> loss = watch_->loss();
  if (first_learner() || (loss && loss->rank == roles_.learners.front())) return;
  std::this_thread::sleep_for(kLastSavePatience + Seconds{2});
}

void Trainer::save_last_step() {
  if (learner_ == nullptr || checkpoints_ == nullptr || !learner_->has_news()) return;
  const std::int64_t step = learner_->learned_step();
  CheckpointWriter& writer = checkpoints_->writer();
  if (writer.state() == CheckpointWriter::State::writing && !writer.wait(kLastSavePatience))
    writer.give_up("a rank is lost");
  if (!learner_->is_between_steps()) {
    LOG(WARNING) << "step " << step + 1 << " is not saved, because its update was interrupted";
    return;
  }
  try {
    record_learned_step();
  } catch (const std::exception& error) {
    say("no checkpoint of step {}: {}\n", step, error.what());
    return;
  }
  writer.begin(learner_->learner(), info(step));
  const bool ended = writer.wait(kLastSavePatience);
  if (!ended) writer.give_up("a learner is lost");
  if (!first_learner()) return;
  if (writer.state() == CheckpointWriter::State::done)
    say("checkpoint of step {} saved in {}\n", step, (config_.train.out / "checkpoints").string());
  else
    say("no checkpoint of step {}: {}\n", step, ended ? writer.failure() : "a learner is lost");
}

// ---------------------------------------------------------------------------------------------------- the end

ExitCode Trainer::stopped() const {
  if (records_) {
    say("stopped after step {} of {}: {}; give the same command again to resume\n", step_, data_.steps,
        step_ == 0 ? "nothing to save yet"
                   : fmt::format("checkpoint saved in {}", records_->folder().checkpoints().string()));
  }
  return ExitCode::stopped;
}

void Trainer::write_results() const {
  const RunFolder& folder = records_->folder();
  write_adapter_h5(folder.root() / "adapter.h5", exchange_->adapter(), info(step_));
  write_peft(folder.root() / "adapter", exchange_->adapter(), config_.model.path.string());
  const MetricsFile metrics = read_metrics(folder.metrics_file());
  write_file_atomically(folder.root() / "curves.svg",
                        learning_curves_svg(metrics, config_.train.out.filename().string()));
  say("finished after step {}: the trained adapter is in {}, curves in {}\n", step_,
      (folder.root() / "adapter").string(), (folder.root() / "curves.svg").string());
}

}  // namespace

ExitCode run_training(const Config& config, Communicator& world, StopSignals& signals, Watch* watch,
                      const std::function<void()>& before_loading) {
  check_agreement(world, "another configuration", digest_of_text(to_yaml(config)));
  Trainer trainer(config, world, signals, watch, before_loading);
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
    // A failure that the loss of a peer has caused is not reported again.
    if (!watch->loss()) {
      report_failure(error.what());
      watch->tell_failure(static_cast<int>(code));
    }
    trainer.end_with_checkpoint();
    throw PeerLost(error.what(), code);
  }
}

}  // namespace biqa
