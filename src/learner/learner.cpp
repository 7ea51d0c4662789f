// SPDX-License-Identifier: Apache-2.0
#include "learner/learner.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/random.h"

namespace biqa {
namespace {

std::int64_t prompt_rows(const LearnerGroup& group) {
  return static_cast<std::int64_t>(group.prompt->ids.size());
}
std::int64_t completion_rows(const LearnerSequence& sequence) {
  return static_cast<std::int64_t>(sequence.completion.size()) - 1;
}
double mask_sum(const LearnerSequence& sequence) {
  if (sequence.mask.empty()) return static_cast<double>(sequence.completion.size());
  return std::accumulate(sequence.mask.begin(), sequence.mask.end(), 0.0);
}

/// Selects the sequences that have a token that counts (`weighty`), or those that have none. `places` receives the
/// original index of each.
std::vector<LearnerGroup> select(std::span<const LearnerGroup> groups, bool weighty,
                                 std::vector<std::size_t>& places) {
  std::vector<LearnerGroup> selected;
  std::size_t place = 0;
  for (const LearnerGroup& group : groups) {
    LearnerGroup part{group.prompt, {}, group.dropout_key, group.dropped, group.name};
    for (const LearnerSequence& sequence : group.sequences) {
      if ((!group.dropped && mask_sum(sequence) != 0) == weighty) {
        part.sequences.push_back(sequence);
        places.push_back(place);
      }
      ++place;
    }
    if (!part.sequences.empty()) selected.push_back(std::move(part));
  }
  return selected;
}

std::vector<PromptGroup> pass_inputs(std::span<const LearnerGroup> groups) {
  std::vector<PromptGroup> inputs;
  for (const LearnerGroup& group : groups) {
    PromptGroup input{group.prompt.get(), {}, group.dropout_key};
    for (const LearnerSequence& sequence : group.sequences) {
      input.completions.push_back(sequence.completion);
      input.member_keys.push_back(sequence.member);
    }
    inputs.push_back(std::move(input));
  }
  return inputs;
}

}  // namespace

std::vector<std::vector<LearnerGroup>> plan_micro_batches(std::span<const LearnerGroup> groups,
                                                          std::int64_t tokens) {
  std::vector<std::vector<LearnerGroup>> batches;
  std::int64_t used = 0;
  const auto open = [&] {
    batches.emplace_back();
    used = 0;
  };
  for (const LearnerGroup& group : groups) {
    LearnerGroup piece{group.prompt, {}, group.dropout_key, group.dropped, group.name};
    std::int64_t rows = prompt_rows(group);
    const auto close = [&] {
      if (piece.sequences.empty()) return;
      if (batches.empty() || (used > 0 && used + rows > tokens)) open();
      used += rows;
      batches.back().push_back(piece);
      piece.sequences.clear();
      rows = prompt_rows(group);
    };
    for (const LearnerSequence& sequence : group.sequences) {
      if (!piece.sequences.empty() && rows + completion_rows(sequence) > tokens) close();
      rows += completion_rows(sequence);
      piece.sequences.push_back(sequence);
    }
    close();
  }
  return batches;
}

struct Learner::Sums {
  std::array<double, kSumsOfUpdate> added{};
  std::array<double, kMaxima> maxima{};
};

Learner::Learner(const QwenVl& model, Lora start, std::shared_ptr<const PackedAdapter> reference,
                 Communicator& learners, LearnerOptions options)
    : model_(model),
      adapter_(std::move(start)),
      reference_(std::move(reference)),
      learners_(learners),
      options_(options),
      memory_(model.ops().memory()) {
  const auto ranks = static_cast<std::size_t>(learners.size());
  shard_size_ = (adapter_.layout->size() + ranks - 1) / ranks;
  link_ = make_tensor_link(learners, memory_,
                           Shards::even(learners.size(), static_cast<std::int64_t>(shard_size_)));
  gradient_ = flat(ranks * shard_size_);
  for (Tensor* tensor : {&shard_gradient_, &values_, &m_, &v_}) {
    *tensor = flat(shard_size_);
    memory_.zero(tensor->view());
  }
  const auto [begin, end] = own_range();
  put(std::span(adapter_.values).subspan(begin, end - begin), values_);
}

Tensor Learner::flat(std::size_t size) const {
  return memory_.allocate(DType::f32, 1, static_cast<std::int64_t>(size), "learner");
}

std::pair<std::size_t, std::size_t> Learner::own_range() const {
  const std::size_t size = adapter_.layout->size();
  const std::size_t begin = std::min(size, shard_size_ * static_cast<std::size_t>(learners_.rank()));
  return {begin, std::min(size, begin + shard_size_)};
}

void Learner::put(std::span<const float> values, Tensor& shard) {
  const auto count = static_cast<std::int64_t>(values.size());
  memory_.copy(ConstView(values.data(), 1, count), shard.view().column_range(0, count));
}

DropoutKey Learner::dropout_of_update() const {
  return {options_.dropout, mix64(options_.seed ^ mix64(static_cast<std::uint64_t>(updates_)))};
}

/// Log-probabilities of the reference; empty where the loss needs none.
TokenValues Learner::reference_values(std::span<const PromptGroup> inputs) const {
  TokenValues values, unused;
  if (row_of(options_.objective.loss).imitates || options_.objective.beta == 0) return values;
  PassOptions plain;
  plain.temperature = options_.temperature;
  TrainingPass(model_, reference_.get(), plain).forward(inputs, values, unused);
  return values;
}

void Learner::run_micro_batch(std::span<const LearnerGroup> groups, const BatchTotals& totals, Sums& sums,
                              std::vector<SequenceResult>* records) {
  const std::vector<PromptGroup> inputs = pass_inputs(groups);
  const TokenValues reference = reference_values(inputs);
  TokenValues logp, entropy;
  PassOptions options;
  options.temperature = options_.temperature;
  options.gradient = true;
  options.recompute_layers = options_.recompute_layers;
  options.dropout = dropout_of_update();
  TrainingPass pass(model_, packed_.get(), options);
  pass.forward(inputs, logp, entropy);

  TokenValues d_logp;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    auto& group_gradient = d_logp.emplace_back();
    for (std::size_t s = 0; s < groups[g].sequences.size(); ++s) {
      const LearnerSequence& sequence = groups[g].sequences[s];
      const std::vector<float> ones(sequence.mask.empty() ? sequence.completion.size() : 0, 1.0F);
      SequenceInput<float> input;
      input.logp = logp[g][s];
      input.behaviour = sequence.behaviour_logp;
      if (!reference.empty()) input.reference = reference[g][s];
      input.mask = sequence.mask.empty() ? std::span<const float>(ones) : sequence.mask;
      input.advantage = sequence.advantage;
      input.token_advantages = sequence.token_advantages;
      input.weight = token_weight(options_.objective.loss, mask_sum(sequence), totals);
      SequenceLoss<float> result = sequence_loss(options_.objective, input);
      if (!std::isfinite(result.loss)) {
        LOG(WARNING) << "the loss of a completion of " << sequence.completion.size() << " tokens for "
                     << (groups[g].name.empty() ? "a group without a name" : one_line(groups[g].name))
                     << " is not finite";
      }
      sums.added[kSumOfLoss] += result.loss;
      sums.added[kSumOfKl] += result.kl;
      sums.added[kSumOfTokens] += result.tokens;
      sums.added[kSumOfClipped] += result.clipped_low + result.clipped_high;
      sums.maxima[kRatioDeviation] = std::max(sums.maxima[kRatioDeviation], result.ratio_max_deviation);
      sums.maxima[kLogpGap] = std::max(sums.maxima[kLogpGap], result.logp_max_gap);
      for (std::size_t t = 0; t < sequence.completion.size(); ++t) {
        sums.added[kSumOfEntropy] +=
            static_cast<double>(entropy[g][s][t]) * static_cast<double>(input.mask[t]);
      }
      if (records != nullptr) {
        records->push_back(
            {logp[g][s], reference.empty() ? std::vector<float>{} : reference[g][s], result.token_loss});
      }
      group_gradient.push_back(std::move(result.gradient));
    }
  }
  pass.backward(d_logp, gradient_.view().column_range(0, static_cast<std::int64_t>(adapter_.layout->size())));
}

void Learner::look_at(std::span<const LearnerGroup> groups, std::vector<SequenceResult>& records) const {
  const std::vector<PromptGroup> inputs = pass_inputs(groups);
  const TokenValues reference = reference_values(inputs);
  PassOptions options;
  options.temperature = options_.temperature;
  options.dropout = dropout_of_update();
  TokenValues logp, entropy;
  TrainingPass(model_, packed_.get(), options).forward(inputs, logp, entropy);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < groups[g].sequences.size(); ++s) {
      records.push_back({logp[g][s], reference.empty() ? std::vector<float>{} : reference[g][s],
                         std::vector<float>(logp[g][s].size(), 0.0F)});
    }
  }
}

UpdateResult Learner::update(std::span<const LearnerGroup> groups, double lr,
                             std::vector<SequenceResult>* records) {
  std::array<double, kCounts> counts{};
  for (const LearnerGroup& group : groups) {
    if (group.dropped) continue;
    counts[kSequences] += static_cast<double>(group.sequences.size());
    for (const LearnerSequence& sequence : group.sequences) counts[kTokens] += mask_sum(sequence);
  }
  learners_.all_reduce_sum(std::span<double>(counts));
  const BatchTotals totals{counts[kSequences], counts[kTokens], options_.longest_allowed};

  packed_ = pack_adapter(model_, adapter_);
  memory_.zero(gradient_.view());
  Sums sums;
  std::vector<std::size_t> places;
  std::vector<SequenceResult> seen;
  const std::vector<LearnerGroup> weighty = select(groups, true, places);
  for (const auto& batch : plan_micro_batches(weighty, options_.micro_batch_tokens)) {
    run_micro_batch(batch, totals, sums, records == nullptr ? nullptr : &seen);
    learners_.progress();
  }
  if (records != nullptr) {
    const std::vector<LearnerGroup> idle = select(groups, false, places);
    for (const auto& batch : plan_micro_batches(idle, options_.micro_batch_tokens)) {
      look_at(batch, seen);
      learners_.progress();
    }
    records->resize(seen.size());
    for (std::size_t i = 0; i < seen.size(); ++i) (*records)[places[i]] = std::move(seen[i]);
  }

  memory_.wait();  // the backward passes are no part of the optimizer's time
  const auto start = std::chrono::steady_clock::now();
  link_->reduce_scatter_sum(gradient_.view(), shard_gradient_.view());
  sums.added[kSumOfSquares] = model_.ops().squared_norm(shard_gradient_.const_view());
  learners_.all_reduce_sum(std::span<double>(sums.added));
  for (double& maximum : sums.maxima) maximum = learners_.all_reduce_max(maximum);
  static_assert(sizeof counts + sizeof sums == kReducedValues * sizeof(double), "nothing else is reduced");
  UpdateResult result;
  result.loss = sums.added[kSumOfLoss];
  result.tokens = sums.added[kSumOfTokens];
  const double tokens = std::max(1.0, result.tokens);
  result.kl = sums.added[kSumOfKl] / tokens;
  result.entropy = sums.added[kSumOfEntropy] / tokens;
  result.clip_fraction = sums.added[kSumOfClipped] / tokens;
  result.ratio_max_deviation = sums.maxima[kRatioDeviation];
  result.logp_max_gap = sums.maxima[kLogpGap];
  result.grad_norm = std::sqrt(sums.added[kSumOfSquares]);
  result.skipped = !std::isfinite(result.grad_norm) || !std::isfinite(result.loss);
  if (result.skipped) return result;

  const auto [begin, end] = own_range();
  const auto count = static_cast<std::int64_t>(end - begin);
  const auto own = [count](Tensor& tensor) { return tensor.view().column_range(0, count); };
  whole_ = false;
  ++updates_;
  model_.ops().adamw(own(values_), own(shard_gradient_), own(m_), own(v_),
                     {options_.adamw, lr, clip_scale(result.grad_norm, options_.max_grad_norm), updates_});
  gather_values();
  whole_ = true;
  result.optimizer_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

std::vector<float> Learner::gathered(const Tensor& shard) {
  Tensor whole = flat(static_cast<std::size_t>(gradient_.size()));
  link_->all_gather(shard.view(), whole.view());
  std::vector<float> values(adapter_.layout->size());
  const auto count = static_cast<std::int64_t>(values.size());
  memory_.copy(whole.const_view().column_range(0, count), View(values.data(), 1, count));
  memory_.wait();
  return values;
}

void Learner::gather_values() {
  adapter_.values = gathered(values_);
}

Learner::Shard Learner::shard() const {
  const auto [begin, end] = own_range();
  const std::size_t count = end - begin;
  const bool on_host = memory_.kind() != Memory::device;
  if (!on_host) {
    host_m_ = copied_to_host(memory_, m_.view(), "learner");
    host_v_ = copied_to_host(memory_, v_.view(), "learner");
  }
  const Tensor& m = on_host ? m_ : host_m_;
  const Tensor& v = on_host ? v_ : host_v_;
  return {begin, end, std::span(adapter_.values).subspan(begin, count), m.span<float>().first(count),
          v.span<float>().first(count)};
}

std::vector<float> Learner::collect_gradient() {
  return gathered(shard_gradient_);
}

void Learner::collect_moments(std::vector<float>& m, std::vector<float>& v) {
  m = gathered(m_);
  v = gathered(v_);
}

void Learner::restore(std::span<const float> values, std::span<const float> m, std::span<const float> v,
                      std::int64_t updates) {
  CHECK(values.size() == adapter_.values.size() && m.size() == values.size() && v.size() == values.size());
  std::copy(values.begin(), values.end(), adapter_.values.begin());
  const auto [begin, end] = own_range();
  put(values.subspan(begin, end - begin), values_);
  put(m.subspan(begin, end - begin), m_);
  put(v.subspan(begin, end - begin), v_);
  updates_ = updates;
}

void Learner::restore_shard(std::span<const float> values, std::span<const float> m, std::span<const float> v,
                            std::int64_t updates) {
  const auto [begin, end] = own_range();
  CHECK(values.size() == end - begin && m.size() == values.size() && v.size() == values.size());
  put(values, values_);
  put(m, m_);
  put(v, v_);
  updates_ = updates;
  gather_values();
}

}  // namespace biqa
