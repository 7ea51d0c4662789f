// SPDX-License-Identifier: Apache-2.0
#include "model/training_pass.h"

#include "core/random.h"

namespace biqa {
namespace {

/// Splits one flat list of values into groups, members and tokens.
TokenValues grouped(std::span<const PromptGroup> groups, std::span<const float> flat) {
  TokenValues values;
  auto next = flat.begin();
  for (const PromptGroup& group : groups) {
    auto& members = values.emplace_back();
    for (const auto& completion : group.completions) {
      const auto end = next + static_cast<std::ptrdiff_t>(completion.size());
      members.emplace_back(next, end);
      next = end;
    }
  }
  return values;
}

}  // namespace

std::int64_t TrainingPass::rows_of(const PromptGroup& group) {
  std::int64_t rows = group.prompt->tokens();
  for (const auto& completion : group.completions) rows += static_cast<std::int64_t>(completion.size()) - 1;
  return rows;
}

/// The cache holds the keys and values of one layer at a time.
void TrainingPass::make_room(std::span<const PromptGroup> groups) {
  const KvLayout layout = model_.ops().kv_layout(head_shape(model_.config().text));
  std::size_t sequences = 0;
  std::int64_t pages = 0;
  for (const PromptGroup& group : groups) {
    const std::int64_t length = group.prompt->tokens();
    sequences += 1 + group.completions.size();
    pages += KvCache::pages_for(length, layout);
    for (const auto& completion : group.completions) {
      CHECK(!completion.empty());
      pages += KvCache::pages_for(length + static_cast<std::int64_t>(completion.size()), layout) -
               length / layout.page_tokens;
    }
  }
  if (!cache_ || cache_->pages() < pages) cache_.emplace(model_.make_cache(pages, 1));
  sequences_.resize(sequences);
}

void TrainingPass::add_group(const PromptGroup& group, BatchBuilder& builder, std::size_t& next_sequence,
                             std::vector<std::int64_t>& targets) {
  KvSequence& parent = sequences_[next_sequence++];
  CHECK(cache_->extend(parent, group.prompt->tokens()));
  const std::int64_t prompt_output = builder.begin_group(*group.prompt, parent);
  for (std::size_t i = 0; i < group.prompt->ids.size(); ++i)
    builder.name_token(mix64(group.dropout_key ^ mix64(i)));
  for (std::size_t m = 0; m < group.completions.size(); ++m) {
    const auto& completion = group.completions[m];
    const auto fed = completion.first(completion.size() - 1);  // the last token is only a target
    KvSequence& member = sequences_[next_sequence++];
    CHECK(cache_->fork_to_write(parent, member) &&
          cache_->extend(member, static_cast<std::int64_t>(fed.size())));
    const std::int64_t output = builder.add_member(fed, member);
    const std::uint64_t member_key = group.member_keys.empty() ? m : group.member_keys[m];
    for (std::size_t i = 0; i < fed.size(); ++i)
      builder.name_token(mix64(group.dropout_key ^ mix64((member_key + 1) << 32 | i)));
    for (std::size_t i = 0; i < completion.size(); ++i) {
      builder.pick(i == 0 ? prompt_output : output + static_cast<std::int64_t>(i) - 1);
      targets.push_back(completion[i]);
    }
  }
}

std::vector<std::int64_t> TrainingPass::pack(std::span<const PromptGroup> groups) {
  release();
  make_room(groups);
  BatchBuilder builder(*cache_);
  std::vector<std::int64_t> targets;
  std::size_t next_sequence = 0;
  for (const PromptGroup& group : groups) add_group(group, builder, next_sequence, targets);
  plan_ = model_.decoder().plan(builder.batch());
  return targets;
}

void TrainingPass::forward(std::span<const PromptGroup> groups, TokenValues& logp, TokenValues& entropy) {
  const std::vector<std::int64_t> targets = pack(groups);
  Ops& ops = model_.ops();
  Decoder& decoder = model_.decoder();
  const std::int64_t width = model_.config().text.hidden;
  Tensor hidden = ops.memory().allocate(ops.compute_type(), plan_->outputs, width, "activations");
  decoder.forward(*plan_, cache_->store(), adapter_, hidden.view(),
                  {options_.gradient ? &tape_ : nullptr, options_.recompute_layers, options_.dropout});
  std::vector<float> flat_logp(targets.size());
  std::vector<float> flat_entropy(targets.size());
  d_picked_ =
      options_.gradient ? ops.memory().allocate(DType::f32, plan_->picks, width, "gradients") : Tensor();
  decoder.log_prob(*plan_, hidden.view(), targets, options_.temperature, flat_logp, flat_entropy,
                   d_picked_.view());
  if (!options_.gradient) release();
  logp = grouped(groups, flat_logp);
  entropy = grouped(groups, flat_entropy);
}

void TrainingPass::backward(const TokenValues& d_logp, View gradient) {
  CHECK(tape_ != nullptr && adapter_ != nullptr) << "backward without a forward that kept its tape";
  std::vector<float> factors;
  for (const auto& group : d_logp) {
    for (const auto& member : group) factors.insert(factors.end(), member.begin(), member.end());
  }
  CHECK_EQ(static_cast<std::int64_t>(factors.size()), plan_->picks);
  Tensor d_hidden =
      model_.ops().memory().allocate(DType::f32, plan_->outputs, d_picked_.columns(), "gradients");
  model_.decoder().spread_picks(*plan_, d_picked_.view(), factors, d_hidden.view());
  d_picked_ = Tensor();
  model_.decoder().backward(*plan_, cache_->store(), *adapter_, *tape_, d_hidden.const_view(), gradient);
  tape_.reset();
  release();
}

void TrainingPass::release() {
  for (KvSequence& sequence : sequences_) cache_->release(sequence);
  sequences_.clear();
}

}  // namespace biqa
