// SPDX-License-Identifier: Apache-2.0
// The numerical contract: what a backend computes. Model code calls these and nothing else that does arithmetic.
//
// Rules that hold for every operation
// - Outputs are arguments. Activations that feed a product have the compute type (f32 or bf16); everything else is f32:
//   residual stream, projections' results, gradients. Products accumulate in f32.
// - Activation gradients are written with `=` unless a parameter says accumulate; weight gradients accumulate with `+=`.
// - Batch invariance: a row of an output depends on that row's inputs alone, to the bit: not on the number of rows,
//   on the other rows, or on the thread count. Sums over tokens (weight gradients) run in row order.
// - Outputs never alias inputs unless the operation says so.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/tensor.h"
#include "tensor/weight_arena.h"

namespace biqa {

/// Frozen W [out, in] and bias [out], in the backend's own layout; made by Ops::pack.
class FrozenLinear {
 public:
  FrozenLinear(std::int64_t in_width, std::int64_t out_width) : in(in_width), out(out_width) {}
  virtual ~FrozenLinear() = default;
  FrozenLinear(const FrozenLinear&) = delete;
  FrozenLinear& operator=(const FrozenLinear&) = delete;
  const std::int64_t in, out;
};

/// One adapted projection of a (possibly fused) linear: A [rank, in], B [out, rank], f32, borrowed while packing.
struct LoraFactors {
  const float* a = nullptr;
  const float* b = nullptr;
  std::int64_t rank = 0, out = 0;
  std::int64_t out_offset = 0;  ///< first column of the fused output that belongs to this projection
  float scale = 0;
};

/// Where the gradients of one adapted projection are accumulated.
struct LoraGradients {
  float* a = nullptr;  ///< [rank, in]
  float* b = nullptr;  ///< [out, rank]
};

/// Adapter factors of all projections that share an input, in the backend's own layout; made by Ops::pack_lora.
class PackedLora {
 public:
  PackedLora(std::int64_t in_width, std::int64_t total_rank) : in(in_width), rank(total_rank) {}
  virtual ~PackedLora() = default;
  PackedLora(const PackedLora&) = delete;
  PackedLora& operator=(const PackedLora&) = delete;
  const std::int64_t in, rank;  ///< rank: summed over the projections
};

/// Inverted dropout on the adapter's input, drawn from counters: element (row, column) is kept iff
/// uniform(key, token_keys[row], column) >= rate; kept elements are scaled by 1/(1-rate).
struct Dropout {
  double rate = 0;
  std::uint64_t key = 0;  ///< (seed, step, layer, input) mixed; a projection adds its index
  std::span<const std::uint64_t> token_keys{};  ///< one per row; names the token, not the row
};

/// Shape of grouped-query attention.
struct HeadShape {
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
};

inline constexpr std::int64_t kPageTokens = 16;

/// Keys and values of one layer in pages of 16 tokens.
/// A page holds, per kv head, keys transposed [head_dim, 16] and values [16, padded_dim].
struct KvPages {
  void* data = nullptr;
  DType type = DType::f32;
  std::int64_t page_elements = 0;  ///< elements from one page to the next
};

/// Elements one page of one layer needs.
std::int64_t kv_page_elements(const HeadShape& shape);

/// Row `row` of the packed keys and values is stored at `slot` of `page`.
struct KvWrite {
  std::int32_t row = 0, page = 0, slot = 0;
};

/// The queries of one sequence: `rows` consecutive packed rows; row r sees keys 0 … first_position + r.
struct AttentionRows {
  std::int64_t first_row = 0, rows = 0, first_position = 0;
  const std::int32_t* pages = nullptr;
};

/// A prompt and the completions behind it, for the backward of attention. Key rows are packed rows of k and
/// v, query rows are packed rows of q (the two differ where only some rows have queries).
struct SharedPromptRows {
  struct Member {
    std::int64_t first_key_row = 0, rows = 0, first_query_row = 0;
  };
  std::int64_t first_key_row = 0, rows = 0;
  std::int64_t first_query_row = 0,
               query_rows = 0;  ///< queries belong to the prompt's last `query_rows` rows
  std::vector<Member> members;
};

/// How a next token is chosen. Greedy takes the first of the largest logits.
struct SampleRequest {
  float temperature = 1.0F;
  std::int32_t top_k = 0;  ///< 0: off
  float top_p = 1.0F;      ///< 1: off
  bool greedy = false;
  double uniform = 0.5;  ///< the draw, in (0, 1)
};
struct SampledToken {
  std::int64_t id = 0;
  float logp = 0;     ///< log-probability under the full softmax at the sampling temperature
  float entropy = 0;  ///< of that softmax, in nats
};

class Ops {
 public:
  virtual ~Ops() = default;
  virtual DType compute_type() const = 0;

  /// --- products ---
  /// weight [out, in] of any float type, dense; bias empty or [out] f32. `backward`: also made for linear_backward.
  virtual std::unique_ptr<FrozenLinear> pack(ConstView weight, std::span<const float> bias,
                                             bool backward) = 0;
  /// Whether pack_into is there: the packed weights are memory that processes can share.
  virtual bool shares_weights() const { return false; }
  /// As pack, into blocks of `arena` whose names begin with `name`. The elements of weight and bias are read
  /// where the arena is filling(), else only their sizes count; without memory (planning) the result is of no
  /// use.
  virtual std::unique_ptr<FrozenLinear> pack_into(WeightArena& /*arena*/, const std::string& /*name*/,
                                                  ConstView /*weight*/, std::span<const float> /*bias*/,
                                                  bool /*backward*/) {
    LOG(FATAL) << "this backend's weights are not in memory that processes share";
    return nullptr;
  }
  /// Multiplies `counts` rows (at most 32 each) and many by w, which holds its weights. Throws Error when a row's bits
  /// depend on the others: a library may break batch invariance on a processor or in a version that nobody has tried.
  virtual void check_rows(const FrozenLinear& /*w*/, std::span<const std::int64_t> /*counts*/) {}
  /// y [T, out] f32 (+)= x [T, in] · Wᵀ + b; x has the compute type; both dense.
  virtual void linear(ConstView x, const FrozenLinear& w, View y, bool accumulate = false) = 0;
  /// dx [T, in] f32 (+)= dy [T, out] · W; dy has the compute type; both dense.
  virtual void linear_backward(ConstView dy, const FrozenLinear& w, View dx, bool accumulate = false) = 0;

  virtual std::unique_ptr<PackedLora> pack_lora(std::int64_t in, std::span<const LoraFactors> factors) = 0;
  /// u [T, rank] f32 = x̂ · Aᵀ;  y[:, projection's columns] += scale · u · Bᵀ. x [T, in] compute type.
  virtual void lora(ConstView x, const PackedLora& lora, const Dropout* dropout, View u, View y) = 0;
  /// g = scale · dy · B;  dA += gᵀ x̂;  dB += scale · dyᵀ u;  d_x += g · A (through the dropout mask) unless
  /// d_x is empty. x, dy [T, ·] compute type; u f32 as written by lora(); one LoraGradients per projection.
  virtual void lora_backward(ConstView x, ConstView u, ConstView dy, const PackedLora& lora,
                             const Dropout* dropout, View d_x, std::span<const LoraGradients> gradients) = 0;

  /// --- rows ---
  /// y = x · rsqrt(mean(x²) + eps) · weight, per row; x f32, weight [1, n] f32, y f32 or bf16.
  virtual void rms_norm(ConstView x, ConstView weight, float eps, View y) = 0;
  /// d_x += r · (dy⊙w − x̂ · mean(dy⊙w⊙x̂)), x̂ = x·r.
  virtual void rms_norm_backward(ConstView x, ConstView weight, float eps, ConstView dy, View d_x) = 0;
  /// h [T, n] = silu(gate) ⊙ up with gate_up [T, 2n] f32 = [gate | up]; h f32 or bf16.
  virtual void swiglu(ConstView gate_up, View h) = 0;
  /// d_gate_up [T, 2n] (f32 or bf16) from dh [T, n] f32.
  virtual void swiglu_backward(ConstView gate_up, ConstView dh, View d_gate_up) = 0;
  /// y = x · Φ(x), exact erf form; x f32, y f32 or bf16.
  virtual void gelu(ConstView x, View y) = 0;
  /// Rotates in place the pairs (j, j + D/2) of every head of x [T, heads·D] f32 by the angles whose cosines
  /// and sines are rows of [T, D/2] f32; `inverse` rotates back (which is the backward).
  virtual void rotate(View x, std::int64_t head_dim, ConstView cosines, ConstView sines, bool inverse) = 0;
  /// y = x with another float type; same shape.
  virtual void convert(ConstView x, View y) = 0;
  /// y[i] = x[rows[i]]; same type.
  virtual void gather_rows(ConstView x, std::span<const std::int64_t> rows, View y) = 0;
  /// y[rows[i]] += x[i], in order of i; f32.
  virtual void scatter_add_rows(ConstView x, std::span<const std::int64_t> rows, View y) = 0;
  /// y[i] = factors[i] · x[i]; f32; y may be x.
  virtual void scale_rows(ConstView x, std::span<const float> factors, View y) = 0;
  /// x [T, hidden] f32 = rows of table [vocabulary, hidden] (any float type).
  virtual void embed(ConstView table, std::span<const std::int64_t> ids, View x) = 0;

  /// --- attention ---
  /// Stores k and v rows [T, kv_heads·D] f32 in pages, rounded to the pages' type.
  virtual void write_kv(ConstView k, ConstView v, const HeadShape& shape, std::span<const KvWrite> writes,
                        const KvPages& pages) = 0;
  /// Copies a page: what fork() does with a page that is not full.
  virtual void copy_page(const KvPages& pages, std::int32_t from, std::int32_t to) = 0;
  /// out [·, heads·D] (compute type) = softmax(scale · q·Kᵀ) · V, causal; lse [·, heads] f32 unless empty.
  /// scale = 1/sqrt(D). q [T, heads·D] f32.
  virtual void attention(ConstView q, const KvPages& pages, const HeadShape& shape,
                         std::span<const AttentionRows> sequences, View out, View lse) = 0;
  /// d_q, d_k, d_v (f32, written; rows without queries or keys in `groups` are left alone) from d_out f32.
  /// k and v are packed rows f32 and are rounded to `kv_type` as write_kv does.
  virtual void attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse,
                                  ConstView d_out, const HeadShape& shape, DType kv_type,
                                  std::span<const SharedPromptRows> groups, View d_q, View d_k, View d_v) = 0;
  /// Bidirectional attention inside segments [begin, end) of the packed rows (vision tower); heads = kv_heads.
  virtual void segment_attention(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                                 std::span<const std::int64_t> boundaries, View out) = 0;

  /// --- head ---
  /// For each row of h [T, hidden] (compute type): log-probability of targets[t] under softmax(h·Wᵀ /
  /// temperature), the entropy of that softmax, and unless empty d_hidden [T, hidden] f32 = ∂logp/∂h. The
  /// loss's gradient with respect to h is linear in the derivative with respect to logp, so the vocabulary is
  /// swept once for forward and backward. Never holds more than a chunk of rows' logits.
  virtual void log_prob(ConstView h, const FrozenLinear& head, std::span<const std::int64_t> targets,
                        float temperature, std::span<float> logp, std::span<float> entropy,
                        View d_hidden) = 0;
  /// One token per row of h; `suppressed` ids are never chosen but count in the softmax.
  virtual void sample(ConstView h, const FrozenLinear& head, std::span<const SampleRequest> requests,
                      std::span<const std::int64_t> suppressed, std::span<SampledToken> tokens) = 0;
};

/// The CPU backend: oneDNN for every product, own vectorised loops for the rest. `threads`: 0 takes all
/// processors that this process may use, or OMP_NUM_THREADS.
std::unique_ptr<Ops> make_cpu_ops(DType compute, int threads);

}  // namespace biqa
