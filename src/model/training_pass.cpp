// SPDX-License-Identifier: Apache-2.0
#include "model/training_pass.h"

#include "core/random.h"

namespace biqa {

std::int64_t TrainingPass::rows_of(const PromptGroup& group) {
  auto rows = static_cast<std::int64_t>(group.prompt->ids.size());
  for (const auto& completion : group.completions) rows += static_cast<std::int64_t>(completion.size()) - 1;
  return rows;
}

void TrainingPass::forward(std::span<const PromptGroup> groups, TokenValues& logp, TokenValues& entropy) {
  const QwenVl& model = model_;
  Ops& ops = model.ops();
  release();
  batch_ = {};
  scored_rows_.clear();
  std::size_t sequence_count = 0;
  std::int64_t pages = 0;
  for (const PromptGroup& group : groups) {
    const auto length = static_cast<std::int64_t>(group.prompt->ids.size());
    sequence_count += 1 + group.completions.size();
    pages += KvCache::pages_for(length);
    for (const auto& completion : group.completions) {
      CHECK(!completion.empty());
      pages +=
          KvCache::pages_for(length + static_cast<std::int64_t>(completion.size())) - length / kPageTokens;
    }
  }
  // One layer's keys and values at a time.
  if (!cache_ || cache_->pages() < pages) cache_.emplace(model.config(), ops.compute_type(), pages, 1);
  sequences_.resize(sequence_count);

  std::vector<std::int64_t> targets;
  std::int64_t output = 0;
  std::size_t next = 0;
  for (const PromptGroup& group : groups) {
    const PromptInput& prompt = *group.prompt;
    const auto length = static_cast<std::int64_t>(prompt.ids.size());
    const std::size_t prompt_index = next++;
    KvSequence& parent = sequences_[prompt_index];
    CHECK(cache_->extend(parent, length));
    const std::int64_t first_row = batch_.rows();
    for (std::size_t i = 0; i < prompt.ids.size(); ++i) {
      batch_.append(prompt.ids[i], prompt.positions[i], prompt.features[i]);
      batch_.token_keys.push_back(mix64(group.dropout_key ^ mix64(i)));
      const auto at = static_cast<std::int64_t>(i);
      batch_.writes.push_back({static_cast<std::int32_t>(first_row + at), parent.pages[i / kPageTokens],
                               static_cast<std::int32_t>(at % kPageTokens)});
    }
    batch_.sequences.push_back({first_row, length, 0, 1, parent.pages.data()});
    const std::int64_t prompt_output = output++;
    GroupRows rows{prompt_index, {}};
    for (std::size_t m = 0; m < group.completions.size(); ++m) {
      const auto& completion = group.completions[m];
      const auto fed = static_cast<std::int64_t>(completion.size()) - 1;
      rows.members.push_back(next);
      KvSequence& member = sequences_[next++];
      CHECK(cache_->fork(parent, member, nullptr) && cache_->extend(member, fed));
      // The prompt's last, partly filled page is this member's own.
      for (std::int64_t at = length / kPageTokens * kPageTokens; at < length; ++at) {
        batch_.writes.push_back({static_cast<std::int32_t>(first_row + at),
                                 member.pages[static_cast<std::size_t>(at / kPageTokens)],
                                 static_cast<std::int32_t>(at % kPageTokens)});
      }
      const std::int64_t member_row = batch_.rows();
      for (std::int64_t i = 0; i < fed; ++i) {
        const std::int32_t position = prompt.next_position + static_cast<std::int32_t>(i);
        batch_.append(completion[static_cast<std::size_t>(i)], {position, position, position}, nullptr);
        const std::uint64_t member_key = group.member_keys.empty() ? m : group.member_keys[m];
        batch_.token_keys.push_back(
            mix64(group.dropout_key ^ mix64((member_key + 1) << 32 | static_cast<std::uint64_t>(i))));
        const std::int64_t at = length + i;
        batch_.writes.push_back({static_cast<std::int32_t>(member_row + i),
                                 member.pages[static_cast<std::size_t>(at / kPageTokens)],
                                 static_cast<std::int32_t>(at % kPageTokens)});
      }
      batch_.sequences.push_back({member_row, fed, length, fed, member.pages.data()});
      for (std::size_t i = 0; i < completion.size(); ++i) {
        scored_rows_.push_back(i == 0 ? prompt_output : output + static_cast<std::int64_t>(i) - 1);
        targets.push_back(completion[i]);
      }
      output += fed;
    }
    batch_.groups.push_back(std::move(rows));
  }
  outputs_ = output;

  const std::int64_t width = model.config().text.hidden;
  Tensor hidden(ops.compute_type(), outputs_, width, "activations");
  model.forward(batch_, *cache_, adapter_, hidden.view(), options_.gradient ? &tape_ : nullptr,
                options_.recompute_layers, options_.dropout);
  const auto scored = static_cast<std::int64_t>(scored_rows_.size());
  Tensor rows(ops.compute_type(), scored, width, "activations");
  ops.gather_rows(hidden.const_view(), scored_rows_, rows.view());
  std::vector<float> flat_logp(targets.size());
  std::vector<float> flat_entropy(targets.size());
  d_hidden_ = options_.gradient ? Tensor(DType::f32, scored, width, "gradients") : Tensor();
  ops.log_prob(rows.const_view(), model.head(), targets, options_.temperature, flat_logp, flat_entropy,
               d_hidden_.view());
  if (!options_.gradient) release();

  logp.clear();
  entropy.clear();
  std::size_t at = 0;
  for (const PromptGroup& group : groups) {
    auto& group_logp = logp.emplace_back();
    auto& group_entropy = entropy.emplace_back();
    for (const auto& completion : group.completions) {
      const auto first = static_cast<std::ptrdiff_t>(at);
      at += completion.size();
      const auto end = static_cast<std::ptrdiff_t>(at);
      group_logp.emplace_back(flat_logp.begin() + first, flat_logp.begin() + end);
      group_entropy.emplace_back(flat_entropy.begin() + first, flat_entropy.begin() + end);
    }
  }
}

void TrainingPass::backward(const TokenValues& d_logp, std::span<float> gradient) {
  CHECK(tape_ != nullptr && adapter_ != nullptr) << "backward without a forward that kept its tape";
  std::vector<float> factors;
  for (const auto& group : d_logp) {
    for (const auto& member : group) factors.insert(factors.end(), member.begin(), member.end());
  }
  CHECK_EQ(factors.size(), scored_rows_.size());
  Ops& ops = model_.ops();
  ops.scale_rows(d_hidden_.const_view(), factors, d_hidden_.view());
  Tensor d_outputs(DType::f32, outputs_, d_hidden_.columns(), "gradients");
  d_outputs.zero();
  ops.scatter_add_rows(d_hidden_.const_view(), scored_rows_, d_outputs.view());
  d_hidden_ = Tensor();
  model_.backward(batch_, *cache_, *adapter_, *tape_, d_outputs.const_view(), gradient);
  tape_.reset();
  release();
}

void TrainingPass::release() {
  for (KvSequence& sequence : sequences_) cache_->release(sequence);
  sequences_.clear();
}

}  // namespace biqa
