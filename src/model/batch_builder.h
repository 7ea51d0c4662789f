// SPDX-License-Identifier: Apache-2.0
// Packs rows for the decoder. Only this class knows how prompts, completions and picks become a RowBatch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/kv_cache.h"
#include "ops/batch.h"

namespace biqa {

/// A prompt ready for the decoder.
struct PromptInput {
  std::vector<std::int64_t> ids;
  std::vector<Position> positions;
  std::int32_t next_position = 0;
  /// Image features that replace embeddings; first_row counts the prompt's tokens. The tensors are borrowed.
  std::vector<FeatureRows> features;
  std::int64_t tokens() const { return static_cast<std::int64_t>(ids.size()); }
};

/// Before tokens are added, their sequence must have room for them (KvCache::extend).
class BatchBuilder {
 public:
  explicit BatchBuilder(const KvCache& cache) : cache_(cache) {}

  /// Adds tokens [first, first + count) of a prompt and stores them in `sequence`. The last `outputs` of these tokens
  /// have hidden states as outputs. Returns the index of the first output.
  std::int64_t add_prompt(const PromptInput& prompt, std::int64_t first, std::int64_t count,
                          const KvSequence& sequence, std::int64_t outputs);
  std::int64_t add_prompt(const PromptInput& prompt, const KvSequence& sequence, std::int64_t outputs) {
    return add_prompt(prompt, 0, prompt.tokens(), sequence, outputs);
  }
  /// Adds tokens that follow `cached` tokens of `sequence`. The first has rotary position `position`. All of them have
  /// outputs. Returns the index of the first output.
  std::int64_t add_tokens(std::span<const std::int64_t> ids, std::int32_t position, std::int64_t cached,
                          const KvSequence& sequence);
  /// As add_tokens() for one token: the one sampled for pick `pick` of `sampled`. The device may still be computing it.
  /// All such tokens of a batch have the same `sampled`.
  std::int64_t add_sampled(SampledTokens& sampled, std::int64_t pick, std::int32_t position,
                           std::int64_t cached, const KvSequence& sequence);
  /// For training: adds a prompt, whose last token has an output, and then its completions. Each member's sequence is a
  /// KvCache::fork_to_write of the prompt's. So add_member() also stores the prompt's tokens of the partly filled page.
  std::int64_t begin_group(const PromptInput& prompt, const KvSequence& sequence);
  std::int64_t add_member(std::span<const std::int64_t> ids, const KvSequence& sequence);
  /// Selects the output from which the next scored or sampled token is computed.
  void pick(std::int64_t output) { batch_.picks.push_back(output); }
  /// Sets the next row's key for dropout. Call it once per row, in order.
  void name_token(std::uint64_t key) { batch_.token_keys.push_back(key); }

  std::int64_t rows() const { return batch_.rows(); }
  const RowBatch& batch() const { return batch_; }

 private:
  const KvCache& cache_;
  RowBatch batch_;
  std::int64_t outputs_ = 0;
  const PromptInput* group_prompt_ = nullptr;
  std::int64_t group_row_ = 0;  // row of the prompt's first token
};

}  // namespace biqa
