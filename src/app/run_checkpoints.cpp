// SPDX-License-Identifier: Apache-2.0
#include "app/run_checkpoints.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <cmath>
#include <cstring>
#include <random>

#include "app/evaluation.h"
#include "core/error.h"
#include "learner/checkpoint_store.h"

namespace biqa {
namespace {

/// Names what this run of the program writes, for the first learner to find it.
std::string common_token(Communicator& learners) {
  std::random_device device;
  const std::uint64_t drawn = static_cast<std::uint64_t>(device()) << 32 | device();
  std::vector<std::byte> bytes(sizeof drawn);
  std::memcpy(bytes.data(), &drawn, sizeof drawn);
  learners.broadcast_bytes(bytes, 0);
  std::uint64_t common = 0;
  std::memcpy(&common, bytes.data(), sizeof common);
  return fmt::format("{:016x}", common);
}

}  // namespace

RunCheckpoints::RunCheckpoints(const Config& config, Communicator& learners)
    : figure_(config.checkpoint.best),
      root_(config.train.out / "checkpoints"),
      learners_(learners),
      writer_(root_, config.checkpoint.keep, common_token(learners), learners.rank(), learners.size()) {}

void RunCheckpoints::begin(const Learner& learner, const CheckpointInfo& info) {
  writer_.begin(learner, info);
  under_way_ = true;
}

void RunCheckpoints::check() {
  if (!under_way_) return;
  using State = CheckpointWriter::State;
  const State state = writer_.state();
  const int rank_of_state = state == State::failed ? 2 : state == State::writing ? 1 : 0;
  const double worst = learners_.all_reduce_max(rank_of_state);
  if (worst == 1) return;
  under_way_ = false;
  if (worst == 0) {
    point_to_best();
  } else if (state == State::failed) {
    LOG(WARNING) << writer_.failure() << "; training goes on, earlier checkpoints are untouched";
  } else if (first()) {
    writer_.give_up("another learner could not write its shard");
  }
}

void RunCheckpoints::finish() {
  if (!under_way_) return;
  constexpr Seconds kLook{0.01};
  using State = CheckpointWriter::State;
  for (;;) {
    writer_.wait(kLook);
    const bool failed = writer_.state() == State::failed;
    if (learners_.all_reduce_max(failed ? 1 : 0) > 0) {
      if (failed) throw Error(writer_.failure());
      if (first()) writer_.give_up("another learner could not write its shard");
      fail("cannot save the last checkpoint: another learner failed; see its message");
    }
    if (learners_.all_reduce_max(writer_.state() == State::writing ? 1 : 0) == 0) break;
  }
  under_way_ = false;
  point_to_best();
}

void RunCheckpoints::know_best(std::int64_t step, std::span<const EvalMetrics> figures) {
  best_step_ = step;
  const double figure = best_figure(figures, figure_);
  if (!std::isnan(figure)) best_ = figure;
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
  point_to_best();
  return save;
}

void RunCheckpoints::point_to_best() const {
  if (first() && best_step_ > 0) point_best_checkpoint(root_, best_step_);
}

}  // namespace biqa
