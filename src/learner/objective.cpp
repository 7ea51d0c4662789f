// SPDX-License-Identifier: Apache-2.0
#include "learner/objective.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>

namespace biqa {
namespace {

LossTerm kl_term(Kl kind, double logp, double reference, double ratio) {
  const double p = reference - logp;
  switch (kind) {
    case Kl::k1:
      return {-p, 1, 0};
    case Kl::k2:
      return {0.5 * p * p, -p, 0};
    case Kl::k3:
      return {std::exp(p) - p - 1, 1 - std::exp(p), 0};
    case Kl::k3_times_ratio: {
      const double k3 = std::exp(p) - p - 1;
      return {k3 * ratio, (1 - std::exp(p)) * ratio, k3};
    }
  }
  LOG(FATAL) << "unknown KL estimator";
}

}  // namespace

double token_weight(Loss loss, double sequence_tokens, const BatchTotals& totals) {
  return row_of(loss).weight(sequence_tokens, totals);
}

template <typename T>
SequenceLoss<T> sequence_loss(const ObjectiveConfig& config, const SequenceInput<T>& input) {
  const std::size_t count = input.logp.size();
  const LossRow& row = row_of(config.loss);
  const bool imitate = row.imitates;
  const bool with_kl = !imitate && config.beta != 0;
  CHECK_EQ(input.mask.size(), count);
  if (!imitate) CHECK_EQ(input.behaviour.size(), count);
  if (with_kl) CHECK_EQ(input.reference.size(), count);
  if (!input.token_advantages.empty()) CHECK_EQ(input.token_advantages.size(), count);

  SequenceLoss<T> result;
  result.token_loss.assign(count, T{0});
  std::vector<double> gradient(count, 0.0);
  // Masked tokens are skipped, not multiplied by 0, because their values may be anything, even NaN.
  double gap_sum = 0;
  for (std::size_t t = 0; t < count; ++t) {
    const double m = input.mask[t];
    if (m == 0) continue;
    result.tokens += m;
    if (imitate) continue;
    const double gap = double{input.logp[t]} - double{input.behaviour[t]};
    const double ratio = std::exp(gap);
    gap_sum += m * gap;
    result.ratio += m * ratio;
    result.ratio_max_deviation = std::max(result.ratio_max_deviation, std::abs(ratio - 1));
    result.logp_max_gap = std::max(result.logp_max_gap, std::abs(gap));
  }
  const double divisor = std::max(result.tokens, 1.0);
  const bool per_sequence = row.one_ratio_per_sequence;
  const ClipBounds clip = row.clip(config);
  const double sequence_ratio = std::exp(gap_sum / divisor);
  const bool far_off_policy =
      !imitate && config.off_policy_mask && -gap_sum / divisor > *config.off_policy_mask;

  double by_sequence_ratio = 0;
  for (std::size_t t = 0; t < count; ++t) {
    const double m = input.mask[t];
    if (m == 0) continue;
    const double logp = input.logp[t];
    double ratio = 1;
    if (!imitate) ratio = per_sequence ? sequence_ratio : std::exp(logp - double{input.behaviour[t]});
    const double advantage =
        input.token_advantages.empty() ? input.advantage : double{input.token_advantages[t]};
    LossTerm total;
    if (far_off_policy && advantage < 0) {
      result.masked_off_policy = true;
    } else {
      total = row.term(config, logp, ratio, advantage);
      if (ratio > clip.high && advantage > 0) result.clipped_high += m;
      if (ratio < clip.low && advantage < 0) result.clipped_low += m;
    }
    if (with_kl) {
      const LossTerm kl = kl_term(config.kl, logp, double{input.reference[t]}, ratio);
      result.kl += m * kl.value;
      total.value += config.beta * kl.value;
      total.by_logp += config.beta * kl.by_logp;
      total.by_ratio += config.beta * kl.by_ratio;
    }
    result.token_loss[t] = static_cast<T>(m * total.value);
    result.loss += input.weight * m * total.value;
    if (per_sequence) {
      by_sequence_ratio += m * total.by_ratio;
      total.by_ratio = 0;
    }
    gradient[t] = input.weight * m * (total.by_logp + total.by_ratio * ratio);
  }
  if (per_sequence) {
    const double each = by_sequence_ratio * sequence_ratio / divisor;
    for (std::size_t t = 0; t < count; ++t) {
      if (input.mask[t] != 0) gradient[t] += input.weight * input.mask[t] * each;
    }
  }
  result.gradient.assign(gradient.begin(), gradient.end());
  return result;
}

template SequenceLoss<float> sequence_loss(const ObjectiveConfig&, const SequenceInput<float>&);
template SequenceLoss<double> sequence_loss(const ObjectiveConfig&, const SequenceInput<double>&);

}  // namespace biqa
