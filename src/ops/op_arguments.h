// SPDX-License-Identifier: Apache-2.0
// Arguments of single operations of a network, besides tensors. The CPU backend and the operation tests of all backends
// use them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace biqa {

/// The adapter of one projection of a (possibly fused) linear layer: A [rank, in], B [out, rank], f32. pack_lora
/// borrows both.
struct LoraFactors {
  const float* a = nullptr;
  const float* b = nullptr;
  std::int64_t rank = 0, out = 0;
  std::int64_t out_offset = 0;  ///< first column of the fused output that belongs to this projection
  float scale = 0;
};

/// The memory to which the gradients of one adapted projection are added.
struct LoraGradients {
  float* a = nullptr;  ///< [rank, in]
  float* b = nullptr;  ///< [out, rank]
};

/// The packed adapters of all projections that share an input; made by the backend.
class PackedLora {
 public:
  PackedLora(std::int64_t in_width, std::int64_t total_rank) : in(in_width), rank(total_rank) {}
  virtual ~PackedLora() = default;
  PackedLora(const PackedLora&) = delete;
  PackedLora& operator=(const PackedLora&) = delete;
  const std::int64_t in, rank;  ///< rank: sum over the projections
};

/// Inverted dropout on the adapter's input, with counter-based random numbers. Element (row, column) is kept if
/// uniform(key, token_keys[row], column) >= rate. Kept elements are multiplied by 1/(1-rate).
struct Dropout {
  double rate = 0;
  std::uint64_t key = 0;  ///< hash of (seed, step, layer, input); each projection adds its index
  std::span<const std::uint64_t> token_keys{};  ///< [rows]; depend on the token, not on its row in the batch
};

/// The queries of one sequence: `rows` consecutive packed rows. Query r attends to the keys 0 … first_position + r.
struct AttentionRows {
  std::int64_t first_row = 0, rows = 0, first_position = 0;
  const std::int32_t* pages = nullptr;
};

/// A prompt and the completions that follow it, for the backward pass of attention. Key rows are packed rows of k and
/// v. Query rows are packed rows of q. If only some rows have queries, a row has different numbers as a key row and as
/// a query row.
struct SharedPromptRows {
  struct Member {
    std::int64_t first_key_row = 0, rows = 0, first_query_row = 0;
  };
  std::int64_t first_key_row = 0, rows = 0;
  std::int64_t first_query_row = 0,
               query_rows = 0;  ///< the last `query_rows` rows of the prompt have queries
  std::vector<Member> members;
};

}  // namespace biqa
