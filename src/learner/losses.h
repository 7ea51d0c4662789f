// SPDX-License-Identifier: Apache-2.0
// The table of losses. Objective, configuration, step dumps and replay know a loss only through its row. To add a loss,
// add a value of Loss, its functions in losses.cpp and a row there.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

namespace biqa {

struct ObjectiveConfig;

/// Loss L of a token, and its weight in the total loss = sum of weight·m·L over the batch. B: sequences of the batch,
/// m: mask, n: sum of m in the sequence, N: sum of m over the batch (n and N at least 1). l and o: log-probability of
/// learner and actor, A: advantage, c = exp(l - o) the ratio.
enum class Loss : std::uint8_t {
  grpo,     ///< -min(c·A, clip(c, 1 - low, 1 + high)·A); 1/(B·n)
  dr_grpo,  ///< the same; 1/(B·longest completion allowed)
  dapo,     ///< the same; 1/N
  bnpo,     ///< the same; 1/N, where N may be that of a micro-batch
  gspo,     ///< the same with one ratio per sequence, exp(mean of l - o); 1/(B·n)
  cispo,    ///< -min(c, clip_high)·A·l with the factor held constant (clip_high is a cap, e.g. 5); 1/N
  sapo,     ///< -A·sigmoid(T(c - 1))·4/T, T = 1 for A > 0, else 1.05; 1/(B·n)
  sft       ///< -l: no advantage, no ratio, no KL; 1/N
};

/// Totals over all ranks, from which token weights are computed.
struct BatchTotals {
  double sequences = 0;        ///< B
  double tokens = 0;           ///< N
  double longest_allowed = 0;  ///< for losses that need it
};

/// A value and its derivatives with respect to log-probability and ratio.
struct LossTerm {
  double value = 0, by_logp = 0, by_ratio = 0;
};

/// Clipping takes effect outside of these ratios: above `high` for A > 0, below `low` for A < 0.
struct ClipBounds {
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
};

struct LossRow {
  const char* name;  ///< in `objective.loss` and in step dumps
  Loss value;
  /// Weight of each unmasked token of a sequence with `sequence_tokens` unmasked tokens.
  double (*weight)(double sequence_tokens, const BatchTotals& totals);
  /// Loss of one token, without KL term.
  LossTerm (*term)(const ObjectiveConfig& config, double logp, double ratio, double advantage);
  ClipBounds (*clip)(const ObjectiveConfig& config);
  /// Defaults of `objective.clip_high`, `drop_zero_variance` and `mask_truncated`.
  double clip_high = 0.2;
  bool drop_zero_variance = false, mask_truncated = false;
  std::int64_t refill_rounds =
      0;  ///< default of `rollout.refill_rounds`, if groups are dropped and there is no lag
  bool one_ratio_per_sequence = false;
  bool imitates = false;       ///< learns from given texts: no rollout, no advantage, no KL term
  bool needs_longest = false;  ///< its weight divides by the longest completion that is allowed
};

/// All losses, in the order of Loss.
std::span<const LossRow> losses();
const LossRow& row_of(Loss loss);

}  // namespace biqa
