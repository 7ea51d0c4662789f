// SPDX-License-Identifier: Apache-2.0
// Packs rows for the decoder: the one place that knows how prompts, completions and picks become a RowBatch.
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
  /// Image features that take the place of embeddings; first_row counts tokens of the prompt. The tensors are borrowed.
  std::vector<FeatureRows> features;
  std::int64_t tokens() const { return static_cast<std::int64_t>(ids.size()); }
};

/// Cached sequences must have room for what is added (KvCache::extend) before it is added.
class BatchBuilder {
 public:
  explicit BatchBuilder(const KvCache& cache) : cache_(cache) {}

  /// Tokens [first, first + count) of a prompt, stored in `sequence`; the hidden states of the last `outputs` are wanted.
  /// Returns the number of the first of these outputs.
  std::int64_t add_prompt(const PromptInput& prompt, std::int64_t first, std::int64_t count,
                          const KvSequence& sequence, std::int64_t outputs);
  std::int64_t add_prompt(const PromptInput& prompt, const KvSequence& sequence, std::int64_t outputs) {
    return add_prompt(prompt, 0, prompt.tokens(), sequence, outputs);
  }
  /// Tokens that follow `cached` tokens of `sequence`, the first at rotary position `position`; all their hidden states are
  /// wanted. Returns the number of the first of these outputs.
  std::int64_t add_tokens(std::span<const std::int64_t> ids, std::int32_t position, std::int64_t cached,
                          const KvSequence& sequence);
  /// For training: a prompt whose last hidden state is wanted, and the completions that follow it. Each member's cache is a
  /// KvCache::fork_to_write of the prompt's, and so also stores the prompt's tokens of the page that both would write to.
  std::int64_t begin_group(const PromptInput& prompt, const KvSequence& sequence);
  std::int64_t add_member(std::span<const std::int64_t> ids, const KvSequence& sequence);
  /// The output that the next scored or sampled token is read from.
  void pick(std::int64_t output) { batch_.picks.push_back(output); }
  /// Names the rows for dropout, in order of rows.
  void name_token(std::uint64_t key) { batch_.token_keys.push_back(key); }

  std::int64_t rows() const { return batch_.rows(); }
  const RowBatch& batch() const { return batch_; }

 private:
  const KvCache& cache_;
  RowBatch batch_;
  std::int64_t outputs_ = 0;
  const PromptInput* group_prompt_ = nullptr;
  std::int64_t group_row_ = 0;  // of the prompt's first token
};

}  // namespace biqa
