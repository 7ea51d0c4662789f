// SPDX-License-Identifier: Apache-2.0
#include "training/run_checkpoints.h"

#include <glog/logging.h>

#include <chrono>
#include <cmath>

#include "core/error.h"
#include "evaluation/evaluation.h"
#include "learner/checkpoint_store.h"
#include "learner/messages.h"

namespace biqa {

RunCheckpoints::RunCheckpoints(const Config& config, Communicator& learners)
    : figure_(config.checkpoint.best),
      root_(config.train.out / "checkpoints"),
      learners_(learners),
      writer_(root_, config.checkpoint.keep, share_token(learners), learners.rank(), learners.size()) {}

void RunCheckpoints::take_over(std::int64_t step,
                               const std::map<std::int64_t, std::vector<EvalMetrics>>& figures) {
  take_over_checkpoints(root_, step);
  const auto best = best_checkpoint(root_);
  if (!best) return;
  best_step_ = *best;
  const auto evaluated = figures.find(*best);
  const double figure = evaluated == figures.end() ? kNotMeasured : best_figure(evaluated->second, figure_);
  if (!std::isnan(figure)) best_ = figure;
}

void RunCheckpoints::begin(const Learner& learner, const CheckpointInfo& info) {
  writer_.begin(learner, info);
  saves_.begin();
}

bool RunCheckpoints::take_insurance() {
  if (insurance_taken_ || writer_.state() == CheckpointWriter::State::writing) return false;
  insurance_taken_ = true;
  return true;
}

void RunCheckpoints::check() {
  if (!saves_.running()) return;
  const bool failed = writer_.state() == CheckpointWriter::State::failed;
  const bool writing = writer_.state() == CheckpointWriter::State::writing;
  const int first_failed = first_of_learners(failed);
  if (first_failed < learners_.size()) {
    saves_.ended();
    if (first_failed == learners_.rank())
      LOG(WARNING) << writer_.failure() << "; training continues, earlier checkpoints are unchanged";
    else if (first())
      writer_.give_up("another learner could not write its shard");
  } else if (learners_.all_reduce_max(writing ? 1 : 0) == 0) {
    saves_.ended();
    point_to_best();
  }
}

void RunCheckpoints::finish() {
  constexpr Seconds kLook{0.01}, kPatience{30};
  const auto start = std::chrono::steady_clock::now();
  Seconds told{0};
  while (saves_.running()) {
    writer_.wait(kLook);
    const int first_failed = first_of_learners(writer_.state() == CheckpointWriter::State::failed);
    if (first_failed == learners_.rank()) throw Error(writer_.failure());
    if (first_failed < learners_.size()) {
      if (first()) writer_.give_up("another learner could not write its shard");
      learners_.barrier("the end of the job");  // only the learner that failed reports it
    }
    const int slowest = first_of_learners(writer_.state() == CheckpointWriter::State::writing);
    if (slowest == learners_.size()) saves_.ended();
    // A running write cannot be cancelled, so a person must decide.
    const Seconds waited = std::chrono::steady_clock::now() - start;
    if (slowest == learners_.rank() && waited - told > kPatience) {
      told = waited;
      LOG(WARNING) << "the last checkpoint is not written after " << std::llround(waited.count())
                   << " s: the disk of " << root_.string() << " is slow or hangs";
    }
  }
  point_to_best();
}

int RunCheckpoints::first_of_learners(bool mine) const {
  return static_cast<int>(learners_.all_reduce_min(mine ? learners_.rank() : learners_.size()));
}

bool RunCheckpoints::note_evaluation(std::int64_t step, std::span<const EvalMetrics> figures) {
  evaluated_step_ = step;
  evaluated_ = first() ? best_figure(figures, figure_) : kNotMeasured;
  const bool better = first() && step > 0 && evaluated_ > best_;
  if (better) {
    best_ = evaluated_;
    best_step_ = step;
  }
  const bool save = learners_.all_reduce_max(better ? 1 : 0) > 0;
  if (save) saves_.ask_at_once(step);
  point_to_best();
  return save;
}

void RunCheckpoints::point_to_best() const {
  if (first() && best_step_ > 0) point_best_checkpoint(root_, best_step_);
}

}  // namespace biqa
