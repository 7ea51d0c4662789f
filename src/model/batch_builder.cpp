// SPDX-License-Identifier: Apache-2.0
#include "model/batch_builder.h"

#include <algorithm>

namespace biqa {

std::int64_t BatchBuilder::add_prompt(const PromptInput& prompt, std::int64_t first, std::int64_t count,
                                      const KvSequence& sequence, std::int64_t outputs) {
  const std::int64_t row = batch_.rows();
  const auto range = [&](const auto& values) { return values.begin() + static_cast<std::ptrdiff_t>(first); };
  batch_.ids.insert(batch_.ids.end(), range(prompt.ids),
                    range(prompt.ids) + static_cast<std::ptrdiff_t>(count));
  batch_.positions.insert(batch_.positions.end(), range(prompt.positions),
                          range(prompt.positions) + static_cast<std::ptrdiff_t>(count));
  for (const FeatureRows& f : prompt.features) {
    const std::int64_t begin = std::max(first, f.first_row);
    const std::int64_t end = std::min(first + count, f.first_row + f.features.rows());
    if (begin >= end) continue;
    batch_.features.push_back({row + begin - first, f.features.row_range(begin - f.first_row, end - begin)});
  }
  for (std::int64_t i = 0; i < count; ++i)
    batch_.writes.push_back(cache_.place(sequence, first + i, row + i));
  batch_.sequences.push_back({row, count, first, outputs, sequence.pages});
  outputs_ += outputs;
  return outputs_ - outputs;
}

std::int64_t BatchBuilder::add_tokens(std::span<const std::int64_t> ids, std::int32_t position,
                                      std::int64_t cached, const KvSequence& sequence) {
  const std::int64_t row = batch_.rows();
  const auto count = static_cast<std::int64_t>(ids.size());
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t at = position + static_cast<std::int32_t>(i);
    batch_.ids.push_back(ids[static_cast<std::size_t>(i)]);
    batch_.positions.push_back({at, at, at});
    batch_.writes.push_back(cache_.place(sequence, cached + i, row + i));
  }
  batch_.sequences.push_back({row, count, cached, count, sequence.pages});
  outputs_ += count;
  return outputs_ - count;
}

std::int64_t BatchBuilder::add_sampled(SampledTokens& sampled, std::int64_t pick, std::int32_t position,
                                       std::int64_t cached, const KvSequence& sequence) {
  CHECK(batch_.sampled == nullptr || batch_.sampled == &sampled);
  batch_.sampled = &sampled;
  batch_.sampled_rows.push_back({batch_.rows(), pick});
  constexpr std::int64_t kUnknown = 0;
  return add_tokens(std::span(&kUnknown, 1), position, cached, sequence);
}

std::int64_t BatchBuilder::begin_group(const PromptInput& prompt, const KvSequence& sequence) {
  group_prompt_ = &prompt;
  group_row_ = batch_.rows();
  batch_.groups.push_back({batch_.sequences.size(), {}});
  return add_prompt(prompt, sequence, 1);
}

std::int64_t BatchBuilder::add_member(std::span<const std::int64_t> ids, const KvSequence& sequence) {
  CHECK(group_prompt_ != nullptr);
  const std::int64_t length = group_prompt_->tokens();
  for (std::int64_t at = cache_.page_start(length); at < length; ++at) {
    batch_.writes.push_back(cache_.place(sequence, at, group_row_ + at));
  }
  batch_.groups.back().members.push_back(batch_.sequences.size());
  return add_tokens(ids, group_prompt_->next_position, length, sequence);
}

}  // namespace biqa
