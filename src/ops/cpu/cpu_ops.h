// SPDX-License-Identifier: Apache-2.0
// The CPU backend. Matrix products use oneDNN or our own kernels. All other operations use our own vectorised loops.
// The outputs of an operation are divided into independent pieces. One thread computes a piece with one kernel. An
// operation has finished when its call returns.
//
// The decoder and the vision tower (cpu_network.h) call the operations below. The rules of ops/ops.h apply to all
// operations. In addition:
// - Outputs are arguments. They never alias inputs unless the operation says so.
// - Gradients of activations are overwritten unless a parameter `accumulate` is true. Gradients of weights are added to
//   the output.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ops/cpu/kernels.h"
#include "ops/cpu/products.h"
#include "ops/cpu/tile_set.h"
#include "ops/op_arguments.h"
#include "ops/ops.h"
#include "tensor/arena.h"

namespace biqa {

inline constexpr std::int64_t kPageTokens = 16;

/// Keys and values of one layer in pages of 16 tokens.
/// A page holds, per kv head, keys transposed [head_dim, 16] and values [16, padded_dim]. bf16 rows are stored in pairs.
struct KvPages {
  void* data = nullptr;
  DType type = DType::f32;
  std::int64_t page_elements = 0;  ///< elements from one page to the next
};

/// Number of elements of one page of one layer; `type`: that of keys and values.
std::int64_t kv_page_elements(const HeadShape& shape, DType type);

namespace cpu {
/// A part of the work of attention: one kv head and some (row, head) pairs of one sequence.
struct AttentionTask {
  const AttentionRows* sequence;
  std::int64_t kv_head, first_pair, pairs;
};

/// The (row, head) of a pair. Consecutive pairs are the heads of one row that share a kv head, then those of the next
/// row. `sharing`: number of these heads.
inline std::pair<std::int64_t, std::int64_t> pair_of(std::int64_t pair, std::int64_t kv_head,
                                                     std::int64_t sharing) {
  return {pair / sharing, kv_head * sharing + pair % sharing};
}

/// Working memory of one thread or of one pass. It grows to the size that the largest call needs.
struct Scratch {
  /// Uninitialised; valid until the next call.
  float* floats(std::int64_t count) {
    if (static_cast<std::int64_t>(buffer.bytes()) < count * 4) {
      buffer = Buffer();  // frees the old memory before taking more
      buffer = Buffer(static_cast<std::size_t>(count) * 4, "scratch");
    }
    return static_cast<float*>(buffer.data());
  }
  Buffer buffer;
};

inline std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
inline Rows rows_of(ConstView v) {
  return {v.data(), v.type() == DType::bf16, v.stride()};
}
inline MutableRows rows_of(View v) {
  return {v.data(), v.type() == DType::bf16, v.stride()};
}
inline void* row_pointer(View v, std::int64_t row) {
  return v.row_range(row, 1).data();
}
inline const void* row_pointer(ConstView v, std::int64_t row) {
  return v.row_range(row, 1).data();
}
}  // namespace cpu

class CpuOps final : public Ops, public SharedPacking {
 public:
  /// `threads`: 0 means OMP_NUM_THREADS or, if that is unset, all processors that this process may use.
  CpuOps(DType compute, int threads);
  /// For tests: with these tile kernels for bf16. Null: attention and the adapter use vector kernels.
  CpuOps(DType compute, int threads, const cpu::TileSet* tiles);

  DType compute_type() const override { return compute_; }
  DeviceMemory& memory() override { return host_memory(); }
  KvLayout kv_layout(const HeadShape& shape) const override;
  SharedPacking* shared_packing() override { return this; }
  std::unique_ptr<Decoder> make_decoder(const DecoderShape& shape, DecoderWeights weights) override;
  std::unique_ptr<VisionEncoder> make_vision(const VisionShape& shape, VisionWeights weights) override;
  double squared_norm(ConstView gradient) override;
  void adamw(View values, ConstView gradient, View m, View v, const AdamWStep& step) override;

  /// --- products ---
  std::unique_ptr<FrozenLinear> pack(ConstView weight, std::span<const float> bias, bool backward) override;
  std::unique_ptr<FrozenLinear> pack_into(WeightArena& arena, const std::string& name, ConstView weight,
                                          std::span<const float> bias, bool backward) override;
  void check_rows(const FrozenLinear& w, std::span<const std::int64_t> counts) override;
  void linear(ConstView x, const FrozenLinear& w, View y, bool accumulate = false) override;
  /// dx [T, in] f32 = dy [T, out] · W, or += with `accumulate`. dy has the compute type. Both are dense.
  void linear_backward(ConstView dy, const FrozenLinear& w, View dx, bool accumulate = false);

  std::unique_ptr<PackedLora> pack_lora(std::int64_t in, std::span<const LoraFactors> factors);
  /// u [T, rank] f32 = x̂ · Aᵀ;  y[:, columns of the projection] += scale · u · Bᵀ. x [T, in] has the compute type; x̂ is
  /// x after dropout.
  void lora(ConstView x, const PackedLora& lora, const Dropout* dropout, View u, View y);
  /// g = scale · dy · B;  dA += gᵀ x̂;  dB += scale · dyᵀ u;  d_x += g · A (through the dropout mask) unless
  /// d_x is empty. x, dy [T, ·] have the compute type. u is f32, as lora() wrote it. One LoraGradients per projection.
  /// `scratch` belongs to the pass, because its size depends on the number of rows.
  void lora_backward(ConstView x, ConstView u, ConstView dy, const PackedLora& lora, const Dropout* dropout,
                     View d_x, std::span<const LoraGradients> gradients, cpu::Scratch& scratch);

  /// --- rows ---
  /// y = x · rsqrt(mean(x²) + eps) · weight, per row; x f32, weight [1, n] f32, y f32 or bf16.
  void rms_norm(ConstView x, ConstView weight, float eps, View y);
  /// d_x += r · (dy⊙w − x̂ · mean(dy⊙w⊙x̂)), x̂ = x·r.
  void rms_norm_backward(ConstView x, ConstView weight, float eps, ConstView dy, View d_x);
  /// h [T, n] = silu(gate) ⊙ up with gate_up [T, 2n] f32 = [gate | up]; h f32 or bf16.
  void swiglu(ConstView gate_up, View h);
  /// d_gate_up [T, 2n] (f32 or bf16) from dh [T, n] f32.
  void swiglu_backward(ConstView gate_up, ConstView dh, View d_gate_up);
  /// y = x · Φ(x), exact erf form; x f32, y f32 or bf16.
  void gelu(ConstView x, View y);
  /// Rotates the pairs (j, j + D/2) of every head of x [T, heads·D] f32 in place. `cosines` and `sines` [T, D/2] f32 are
  /// those of the angles. `inverse` rotates back, which is the backward operation.
  void rotate(View x, std::int64_t head_dim, ConstView cosines, ConstView sines, bool inverse);
  /// y = x with another float type; same shape.
  void convert(ConstView x, View y);
  /// y[i] = x[rows[i]]; same type.
  void gather_rows(ConstView x, std::span<const std::int64_t> rows, View y);
  /// y[rows[i]] += x[i], in order of i; f32.
  void scatter_add_rows(ConstView x, std::span<const std::int64_t> rows, View y);
  /// y[i] = factors[i] · x[i]; f32; y may be x.
  void scale_rows(ConstView x, std::span<const float> factors, View y);
  /// x [T, hidden] f32 = rows of table [vocabulary, hidden] (any float type).
  void embed(ConstView table, std::span<const std::int64_t> ids, View x);

  /// --- attention ---
  /// Whether attention and the adapter run on tile registers. Then attention rounds every factor of its products to bf16
  /// (tile_attention.h), and the adapter's factors are split (tile_lora.h).
  bool uses_tiles() const { return tiles_ != nullptr; }
  /// Stores k and v rows [T, kv_heads·D] f32 in pages, rounded to the pages' type.
  void write_kv(ConstView k, ConstView v, const HeadShape& shape, std::span<const KvWrite> writes,
                const KvPages& pages);
  void copy_page(const KvPages& pages, std::int32_t from, std::int32_t to);
  /// out [·, heads·D] (compute type) = softmax(scale · q·Kᵀ) · V, causal; lse [·, heads] f32 unless empty.
  /// scale = 1/sqrt(D). q [T, heads·D] f32.
  void attention(ConstView q, const KvPages& pages, const HeadShape& shape,
                 std::span<const AttentionRows> sequences, View out, View lse);
  /// Overwrites d_q, d_k and d_v (f32) with the gradients that follow from d_out (f32). Rows that are not in `groups` do
  /// not change. k and v are packed rows in f32. They are rounded to `kv_type` like in write_kv.
  void attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse,
                          ConstView d_out, const HeadShape& shape, DType kv_type,
                          std::span<const SharedPromptRows> groups, View d_q, View d_k, View d_v);
  /// Bidirectional attention within each segment of the packed rows (vision tower). Segment i is the rows
  /// [boundaries[i], boundaries[i + 1]). heads = kv_heads.
  void segment_attention(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                         std::span<const std::int64_t> boundaries, View out);

  /// --- head ---
  /// Like Decoder::log_prob, with one target per row of h [T, hidden] (compute type). `arena`: memory for the logits of
  /// a few rows at a time.
  void log_prob(ConstView h, const FrozenLinear& head, std::span<const std::int64_t> targets,
                float temperature, std::span<float> logp, std::span<float> entropy, View d_hidden,
                Arena& arena);
  /// Like Decoder::sample, with one token per row of h. `arena`: as in log_prob.
  void sample(ConstView h, const FrozenLinear& head, std::span<const SampleRequest> requests,
              std::span<const std::int64_t> suppressed, std::span<SampledToken> tokens, Arena& arena);

 private:
  void check_matrix(cpu::PackedMatrix& matrix, std::int64_t inner, std::int64_t columns,
                    std::span<const std::int64_t> counts) const;
  /// Writes rows of x after the projection's dropout to `kept`, in f32.
  void apply_dropout(ConstView x, std::int64_t first, std::int64_t count, const Dropout& dropout,
                     std::size_t projection, float* kept) const;
  void tile_lora(ConstView x, const PackedLora& lora, const Dropout* dropout, View u, View y);
  void tile_lora_backward(ConstView x, ConstView u, ConstView dy, const PackedLora& lora,
                          const Dropout* dropout, View d_x, std::span<const LoraGradients> gradients,
                          cpu::Scratch& scratch);
  void store_head(const float* values, std::int64_t head_dim, std::int64_t head, std::int64_t row,
                  View out) const;
  /// Rows of one segment and one head of the vision tower.
  struct Segment {
    std::int64_t first_row, rows, head;
  };
  /// Attention of one head in one segment, with keys and values rounded to T.
  template <typename T>
  void attend_segment(ConstView q, ConstView k, ConstView v, std::int64_t head_dim, const Segment& segment,
                      std::int64_t longest, cpu::Scratch& scratch, View out) const;
  template <typename T>
  void write_pages(ConstView k, ConstView v, const HeadShape& shape, std::span<const KvWrite> writes,
                   const KvPages& pages) const;
  /// Computes the logits of a few rows at a time, so that the full [rows, vocabulary] matrix is never built.
  template <typename Body>
  void for_logit_chunks(ConstView h, const FrozenLinear& head, Arena& arena, const Body& body);

  /// Smallest number of rows, a multiple of 8, for which it pays to wake a thread. `multiplications`: per row.
  static std::int64_t rows_worth_a_thread(std::int64_t multiplications) {
    constexpr std::int64_t kEight = 8, kMost = 32, kWorth = std::int64_t{1} << 16;  // some 2 µs
    return cpu::round_up(std::clamp(kWorth / std::max<std::int64_t>(multiplications, 1), kEight, kMost),
                         kEight);
  }
  /// Calls body(first, count) for pieces of `grain`. With a single thread or piece it makes one call for everything.
  /// The results must not depend on which thread computes a piece.
  template <typename Body>
  void parallel(std::int64_t count, std::int64_t grain, const Body& body) const {
    const std::int64_t pieces = (count + grain - 1) / grain;
    if (threads_ == 1 || pieces <= 1) {
      if (count > 0) body(0, count);
      return;
    }
    const auto piece = [&](std::int64_t p, int) { body(p * grain, std::min(grain, count - p * grain)); };
    on_threads_of_library(threads_, pieces, false, call<decltype(piece)>, &piece);
  }
  /// Calls body(task, working memory of the thread) for each task.
  template <typename Body>
  void parallel_tasks(std::int64_t count, const Body& body) {
    if (scratch_.size() < static_cast<std::size_t>(threads_))
      scratch_.resize(static_cast<std::size_t>(threads_));
    if (threads_ == 1 || count <= 1) {
      for (std::int64_t t = 0; t < count; ++t) body(t, scratch_[0]);
      return;
    }
    const auto task = [&](std::int64_t t, int thread) {
      body(t, scratch_[static_cast<std::size_t>(thread)]);
    };
    on_threads_of_library(threads_, count, true, call<decltype(task)>, &task);
  }

  /// Calls body(first, count, working memory of the thread) for pieces of `grain`.
  template <typename Body>
  void parallel_pieces(std::int64_t count, std::int64_t grain, const Body& body) {
    parallel_tasks((count + grain - 1) / grain, [&](std::int64_t piece, cpu::Scratch& scratch) {
      body(piece * grain, std::min(grain, count - piece * grain), scratch);
    });
  }

  template <typename Body>
  static void call(const void* body, std::int64_t index, int thread) {
    (*static_cast<const Body*>(body))(index, thread);
  }
  /// Calls body(context, i, thread) for i = 0 … count − 1 on OpenMP's threads. Threads get equal shares, or with
  /// `dynamic` the next i as soon as they are free. Rethrows the first exception. Not a template, so that only this
  /// backend's files need OpenMP.
  static void on_threads_of_library(int threads, std::int64_t count, bool dynamic,
                                    void (*body)(const void*, std::int64_t, int), const void* context);

  DType compute_;
  int threads_;
  std::vector<cpu::Scratch> scratch_;  // one per thread
  std::vector<cpu::AttentionTask> attention_tasks_;
  const cpu::Kernels& k_ = cpu::kernels();
  const cpu::TileSet* tiles_;  // null: attention and the adapter use vector kernels
};

std::unique_ptr<CpuOps> make_cpu_ops(DType compute, int threads);

}  // namespace biqa
