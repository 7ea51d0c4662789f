// SPDX-License-Identifier: Apache-2.0
// Runs an evaluation on the actors and collects its metrics on the first learner.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "actor/pictures.h"
#include "actor/rollout.h"
#include "comm/communicator.h"
#include "comm/roles.h"
#include "config/config.h"
#include "core/stop_signals.h"
#include "data/manifest.h"
#include "run/records.h"

namespace biqa {

/// An evaluation and everything that it needs.
struct EvaluationPass {
  const Config& config;
  Communicator& world;
  const RolePlan& roles;
  const StopSignals& signals;
  PictureEncoder& pictures;
  Rollout* rollout = nullptr;  ///< set on actors
  int first_tag = 0;           ///< first of the message tags to use; one tag per set and decoding

  /// Evaluates all sets with all decodings of the configuration. Every rank must call it with the same sampling
  /// options. Only the first learner receives the metrics. Returns nullopt on every rank if a stop request ended the
  /// evaluation early.
  std::optional<std::vector<EvalMetrics>> run(std::span<const std::vector<Sample>> sets, std::int64_t step,
                                              const RolloutOptions& options) const;

 private:
  void run_share(const std::vector<Sample>& samples, RolloutOptions options, int tag) const;
  std::vector<Group> collect(std::size_t images, int tag) const;
};

/// Whether train.eval_every requires an evaluation after this step (not the last one).
bool evaluation_due(const Config& config, std::int64_t step, std::int64_t last_step);

/// Number of EvalMetrics that a complete evaluation of `sets` sets produces: one per set, decoding and condition.
std::size_t figures_of_evaluation(const Config& config, std::size_t sets);

/// Prints a line per set, condition and decoding on standard error.
void print_evaluation(std::span<const EvalMetrics> figures);

}  // namespace biqa
