// SPDX-License-Identifier: Apache-2.0
// The loss of one sequence as a function of its per-token log-probabilities, and its derivative. All arithmetic is
// double; the network's inputs and outputs are float. l, o, r: log-probability of learner, actor (behaviour) and
// reference; A: advantage; c = exp(l - o): ratio; m: mask.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/names.h"
#include "learner/losses.h"

namespace biqa {

/// Estimator of the divergence from the reference, with p = r - l:
enum class Kl : std::uint8_t {
  k1,             ///< -p
  k2,             ///< p²/2
  k3,             ///< exp(p) - p - 1
  k3_times_ratio  ///< k3·c, c differentiable: the unbiased gradient (TRL's default from 1.16 on)
};
inline constexpr std::array kKlNames{Named<Kl>{"k1", Kl::k1}, Named<Kl>{"k2", Kl::k2},
                                     Named<Kl>{"k3", Kl::k3},
                                     Named<Kl>{"k3_times_ratio", Kl::k3_times_ratio}};

struct ObjectiveConfig {
  Loss loss = Loss::grpo;
  double clip_low = 0.2, clip_high = LossRow{}.clip_high;
  Kl kl = Kl::k3;
  double beta = 0.001;  ///< weight of the KL term; 0: no reference needed
  /// For stale rollouts. Caps the ratio on the unclipped side: min(c, cap)·A ("two-sided clipping", "truncation").
  std::optional<double> ratio_cap;
  /// For stale rollouts. In a sequence with mean(o - l) above this value, tokens with A < 0 have no policy term, only their KL
  /// term.
  std::optional<double> off_policy_mask;
};

/// Weight of each unmasked token of a sequence with `sequence_tokens` unmasked tokens.
double token_weight(Loss loss, double sequence_tokens, const BatchTotals& totals);

/// All spans have the same length, but some may be empty: `behaviour` for sft; `reference` for sft or if beta is 0;
/// `token_advantages` for every loss.
template <typename T>
struct SequenceInput {
  std::span<const T> logp, behaviour, reference, mask;
  double advantage = 0;
  double weight = 1;                      ///< from token_weight
  std::span<const T> token_advantages{};  ///< A of each token; empty: `advantage` for each
};

template <typename T>
struct SequenceLoss {
  std::vector<T> token_loss;                 ///< m·L with the KL term, not weighted
  std::vector<T> gradient;                   ///< of `loss` with respect to logp
  double loss = 0;                           ///< this sequence's part of the total: weight·sum of token_loss
  double tokens = 0;                         ///< sum of m; the sums below are over these tokens
  double kl = 0;                             ///< sum of the KL estimator, without beta; 0 if beta is 0
  double ratio = 0;                          ///< sum of per-token exp(l - o)
  double ratio_max_deviation = 0;            ///< largest |exp(l - o) - 1|
  double logp_max_gap = 0;                   ///< largest |l - o|
  double clipped_low = 0, clipped_high = 0;  ///< clipped tokens (see ClipBounds) with A < 0 and A > 0
  bool masked_off_policy = false;
};

/// Instantiated for float (the trainer) and double (checks).
template <typename T>
SequenceLoss<T> sequence_loss(const ObjectiveConfig& config, const SequenceInput<T>& input);

extern template SequenceLoss<float> sequence_loss(const ObjectiveConfig&, const SequenceInput<float>&);
extern template SequenceLoss<double> sequence_loss(const ObjectiveConfig&, const SequenceInput<double>&);

}  // namespace biqa
