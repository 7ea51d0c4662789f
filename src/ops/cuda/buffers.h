// SPDX-License-Identifier: Apache-2.0
// The buffers of a pass on a CUDA device, in the order in which the network takes them from its arena. Plans of memory take
// them in the same order (ops/cuda_sizes.h), so a plan and the network cannot differ. This header has no CUDA types,
// because plans are also made without a device.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/adapter.h"
#include "ops/batch.h"
#include "ops/decoder.h"
#include "ops/vision.h"
#include "tensor/arena.h"

namespace biqa::cuda {

/// The four inputs of a layer that feed projections.
enum Input : std::uint8_t { kInputQkv, kInputO, kInputGateUp, kInputDown, kInputs };

/// Rows of logits that are in memory at a time: 0.16 GB of f32 for 152,000 ids.
inline constexpr std::int64_t kLogitRows = 256;

/// Number of bf16 elements in 16 bytes. Tensor cores read 16 bytes at a time, so the widths of their matrices must be
/// multiples of this number (fits_tiles in tile_lora.h).
inline constexpr std::int64_t kTileUnit = 8;

/// The vision tower's MLP has 3,420 inner columns in most models. In bf16 every second row would not begin at a
/// multiple of 16 bytes. So the width is padded to a multiple of this unit.
inline std::int64_t vision_width_unit(DType compute) {
  constexpr std::int64_t kUnit = 64;
  return compute == DType::bf16 ? kUnit : 1;
}

/// Whether the kernels of attention_tiles.h support the shape: bf16, and a head dimension that is a multiple of 8 and at most
/// 128.
inline bool tiles_fit(const HeadShape& shape, DType type) {
  constexpr std::int64_t kLargest = 128;
  return type == DType::bf16 && shape.head_dim % kTileUnit == 0 && shape.head_dim <= kLargest;
}

/// Whether finish_heads() of tile_heads.h supports the shape: one of the head dimensions for which kernels are compiled.
inline bool heads_fit(const HeadShape& shape, DType type) {
  constexpr std::array<std::int64_t, 5> kCompiled{16, 32, 64, 80, 128};
  return tiles_fit(shape, type) &&
         std::find(kCompiled.begin(), kCompiled.end(), shape.head_dim) != kCompiled.end();
}

/// Who computes attention inside the segments of the vision tower.
enum class SegmentKernels : std::uint8_t {
  rows,   ///< segment_attention(), row by row
  tiles,  ///< tile_segment_attention(), on tensor cores
  cudnn   ///< VisionAttention
};
inline SegmentKernels segment_kernels(const HeadShape& shape, DType type, VisionAttentionBy choice) {
  if (choice == VisionAttentionBy::cudnn) return SegmentKernels::cudnn;
  return tiles_fit(shape, type) ? SegmentKernels::tiles : SegmentKernels::rows;
}
/// Workspace of VisionAttention, which never uses an engine of cuDNN that needs more.
inline constexpr std::int64_t kVisionWorkspaceBytes = std::int64_t{1} << 20;

/// Bytes of the tables that a plan uploads: per row, per tile and so on. cuda_plan.cpp checks them against the tables.
struct TableBytes {
  static constexpr std::int64_t kId = 8, kKvWrite = 12, kPage = 4, kQueryRow = 8, kTokenKey = 8, kIndex = 8;
  static constexpr std::int64_t kQueryKeys = 20, kKeyQueries = 20, kQueryRange = 8;
  static constexpr std::int64_t kQueryTile = 40, kKeyRun = 12, kKeyBlock = 20, kQueryRun = 16;
  static constexpr std::int64_t kSampledRow = 16, kSampledToken = 24;
  static constexpr std::int64_t kTilePairs = 64, kBlockKeys = 64;
};

/// Whether the wide results of the MLP stay in bf16 and their readers add the adapter (tile_swiglu.h). This is so if
/// the compute type is bf16 and the widths fit tiles. It must not depend on the adapter, so that actor, learner and
/// reference compute the same bits.
inline bool reader_adds_adapter(const DecoderShape& shape, DType compute) {
  return compute == DType::bf16 && shape.hidden % kTileUnit == 0 && shape.intermediate % kTileUnit == 0;
}

/// The sizes and types that determine the buffers of one decoder layer.
struct LayerSize {
  LayerSize(const DecoderShape& shape, DType compute_type, bool tiled_attention, std::int64_t all_rows,
            std::int64_t output_rows)
      : all(all_rows),
        rows(output_rows),
        hidden(shape.hidden),
        intermediate(shape.intermediate),
        heads(shape.heads.heads),
        q(shape.heads.heads * shape.heads.head_dim),
        kv(shape.heads.kv_heads * shape.heads.head_dim),
        compute(compute_type),
        wide(reader_adds_adapter(shape, compute_type) ? DType::bf16 : DType::f32),
        projected(wide == DType::bf16 && heads_fit(shape.heads, compute_type) ? DType::bf16 : DType::f32),
        tiled(tiled_attention) {}
  /// Whether only the rows with an output are computed from attention on.
  bool compacts() const { return rows < all; }

  std::int64_t all;   ///< T: rows of the batch
  std::int64_t rows;  ///< T': rows from attention on, all or the outputs
  std::int64_t hidden, intermediate, heads, q, kv;
  DType compute;
  DType wide;                                 ///< of the MLP's wide results
  DType projected;                            ///< of queries, keys and values
  bool tiled;                                 ///< attention on tensor cores
  std::array<std::int64_t, kInputs> ranks{};  ///< of the adapter at each input; 0: none
};

/// The results of a layer's forward pass that its backward pass reads. The others can be computed again from `input`.
struct LayerRecord {
  View input;                   // [T, hidden] f32; take_record() leaves it empty
  View qkv;                     // [T, q + 2 kv] `projected`, rotated
  View attended;                // [T', q] compute type
  View lse;                     // [T', heads] f32
  View middle;                  // [T', hidden] f32
  View gate_up;                 // [T', 2 intermediate] `wide`: f32 includes the adapter, bf16 does not
  std::array<View, kInputs> u;  // the adapter's inner values, [T or T', ranks] f32
};
inline LayerRecord take_record(const LayerSize& s, bool for_backward, Arena& arena) {
  LayerRecord record;
  record.qkv = arena.take(s.projected, s.all, s.q + 2 * s.kv);
  record.attended = arena.take(s.compute, s.rows, s.q);
  if (for_backward) {
    record.lse = arena.take(DType::f32, s.rows, s.heads);
    record.middle = arena.take(DType::f32, s.rows, s.hidden);
  }
  record.gate_up = arena.take(s.wide, s.rows, 2 * s.intermediate);
  for (std::size_t input = 0; input < kInputs; ++input) {
    if (s.ranks[input] > 0)
      record.u[input] = arena.take(DType::f32, input == kInputQkv ? s.all : s.rows, s.ranks[input]);
  }
  return record;
}

/// The residual stream of a pass: for all rows, and for the outputs after the last layer. Both are the same buffer if
/// every row has an output.
struct StreamBuffers {
  View all;   // [T, hidden] f32
  View last;  // [outputs, hidden] f32
};
inline StreamBuffers take_streams(std::int64_t hidden, std::int64_t rows, std::int64_t outputs,
                                  Arena& arena) {
  StreamBuffers b;
  b.all = arena.take(DType::f32, rows, hidden);
  b.last = outputs < rows ? arena.take(DType::f32, outputs, hidden) : b.all;
  return b;
}

struct ForwardBuffers {
  View normed;         // [T, hidden] compute type
  View queries;        // [T', q] `projected`, only if compacts()
  View middle_normed;  // [T', hidden] compute type
  View product;        // [T', intermediate] compute type
};
inline ForwardBuffers take_forward(const LayerSize& s, Arena& arena) {
  ForwardBuffers b;
  b.normed = arena.take(s.compute, s.all, s.hidden);
  if (s.compacts()) b.queries = arena.take(s.projected, s.rows, s.q);
  b.middle_normed = arena.take(s.compute, s.rows, s.hidden);
  b.product = arena.take(s.compute, s.rows, s.intermediate);
  return b;
}

// --- adapter: the network takes these while it multiplies (cuda_adapter.cpp, tile_lora.cu) -------------------------------

/// A projection of an input, and the first column of its output in the input's stacked output.
struct InputPart {
  Projection projection;
  std::int64_t column;
};
inline std::vector<InputPart> parts_of(const DecoderShape& shape, Input input) {
  const std::int64_t q = shape.heads.heads * shape.heads.head_dim;
  const std::int64_t kv = shape.heads.kv_heads * shape.heads.head_dim;
  switch (input) {
    case kInputQkv:
      return {{Projection::q, 0}, {Projection::k, q}, {Projection::v, q + kv}};
    case kInputO:
      return {{Projection::o, 0}};
    case kInputGateUp:
      return {{Projection::gate, 0}, {Projection::up, shape.intermediate}};
    default:
      return {{Projection::down, 0}};
  }
}
/// Columns of the input's stacked output.
inline std::int64_t outputs_of(const DecoderShape& shape, Input input) {
  switch (input) {
    case kInputQkv:
      return (shape.heads.heads + 2 * shape.heads.kv_heads) * shape.heads.head_dim;
    case kInputGateUp:
      return 2 * shape.intermediate;
    default:
      return shape.hidden;
  }
}
/// Whether tensor cores can compute the adapter's products for an input. `widths`: those of the input and of its stacked
/// output, and for each projection its first column and its width.
inline bool adapter_fits_tiles(DType compute, std::span<const std::int64_t> widths) {
  return compute == DType::bf16 &&
         std::all_of(widths.begin(), widths.end(), [](std::int64_t width) { return width % kTileUnit == 0; });
}

/// Divides a sum over `length` terms into at most 16 parts. All parts but the last have `size` terms, a multiple of
/// `unit`. `size` is about `wished`, or larger if the sum would otherwise have more than 16 parts.
struct SumParts {
  SumParts(std::int64_t length, std::int64_t wished, std::int64_t unit)
      : size(divided(divided(length, std::clamp<std::int64_t>(length / wished, 1, 16)), unit) * unit),
        count(divided(length, size)) {}
  static std::int64_t divided(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }
  std::int64_t size, count;
};
inline constexpr std::int64_t kReduceUnit = 32, kOuterUnit = 64;
inline SumParts reduce_parts(std::int64_t columns) {
  return {columns, 512, kReduceUnit};
}
inline SumParts outer_parts(std::int64_t rows) {
  return {rows, 256, kOuterUnit};
}
/// The partial sums of reduce() in tile_lora.h, [parts · rows, rank] f32. They are needed only for more than one part.
inline View take_reduce_sums(std::int64_t rows, std::int64_t columns, std::int64_t rank, Arena& arena) {
  return arena.take(DType::f32, reduce_parts(columns).count * rows, rank);
}
/// Those of outer(), [parts · rank, columns] f32.
inline View take_outer_sums(std::int64_t rows, std::int64_t columns, std::int64_t rank, Arena& arena) {
  return arena.take(DType::f32, outer_parts(rows).count * rank, columns);
}

// --- backward ----------------------------------------------------------------------------------------------------------

struct MlpBackwardBuffers {
  View product;    // [T', intermediate] compute type
  View dy;         // [T', hidden] compute type
  View d_product;  // [T', intermediate] `wide`: f32 includes the adapter, bf16 does not
  View d_gate_up;  // [T', 2 intermediate] compute type
  View normed;     // [T', hidden] compute type
  View d_normed;   // [T', hidden] f32
};
inline MlpBackwardBuffers take_mlp_backward(const LayerSize& s, Arena& arena) {
  MlpBackwardBuffers b;
  b.product = arena.take(s.compute, s.rows, s.intermediate);
  b.dy = arena.take(s.compute, s.rows, s.hidden);
  b.d_product = arena.take(s.wide, s.rows, s.intermediate);
  b.d_gate_up = arena.take(s.compute, s.rows, 2 * s.intermediate);
  b.normed = arena.take(s.compute, s.rows, s.hidden);
  b.d_normed = arena.take(DType::f32, s.rows, s.hidden);
  return b;
}

struct AttentionBackwardBuffers {
  View dy;          // [T', hidden] compute type
  View d_attended;  // [T', q] f32
  View d_qkv;       // [T, q + 2 kv] f32
  View queries;     // [T', q] `projected`, only if compacts()
  View d_q;         // [T', q] f32; columns of d_qkv unless compacts()
};
inline AttentionBackwardBuffers take_attention_backward(const LayerSize& s, Arena& arena) {
  AttentionBackwardBuffers b;
  b.dy = arena.take(s.compute, s.rows, s.hidden);
  b.d_attended = arena.take(DType::f32, s.rows, s.q);
  b.d_qkv = arena.take(DType::f32, s.all, s.q + 2 * s.kv);
  b.d_q = b.d_qkv.column_range(0, s.q);
  if (s.compacts()) {
    b.queries = arena.take(s.projected, s.rows, s.q);
    b.d_q = arena.take(DType::f32, s.rows, s.q);
  }
  return b;
}
/// Keys and values [T, 2 kv] rounded to the compute type, for attention's backward on tensor cores. Needed only if
/// `projected` is f32.
inline View take_rounded_keys(const LayerSize& s, Arena& arena) {
  return arena.take(s.compute, s.all, 2 * s.kv);
}
/// Working memory of attention's backward on tensor cores: what it reads for each query row.
struct TileScratch {
  View q, d_out;    // [rows, q] bf16
  View lse, delta;  // [rows, heads] f32
};
inline TileScratch take_tile_scratch(std::int64_t rows, std::int64_t q, std::int64_t heads, Arena& arena) {
  TileScratch b;
  b.q = arena.take(DType::bf16, rows, q);
  b.d_out = arena.take(DType::bf16, rows, q);
  b.lse = arena.take(DType::f32, rows, heads);
  b.delta = arena.take(DType::f32, rows, heads);
  return b;
}

/// The backward pass through the projections of queries, keys and values, after attention's backward.
struct ProjectionBackwardBuffers {
  View d_projected;  // [T, q + 2 kv] compute type
  View normed;       // [T, hidden] compute type
  View d_normed;     // [T, hidden] f32; none in the first layer
};
inline ProjectionBackwardBuffers take_projection_backward(const LayerSize& s, bool first_layer,
                                                          Arena& arena) {
  ProjectionBackwardBuffers b;
  b.d_projected = arena.take(s.compute, s.all, s.q + 2 * s.kv);
  b.normed = arena.take(s.compute, s.all, s.hidden);
  if (!first_layer) b.d_normed = arena.take(DType::f32, s.all, s.hidden);
  return b;
}

/// Logits of a chunk of rows, and what is computed from them: their gradient, or weights to draw from.
struct LogitBuffers {
  View logits;    // [count, vocabulary] f32
  View computed;  // [count, vocabulary]; none where no gradient is wanted
};
inline LogitBuffers take_logits(std::int64_t count, std::int64_t vocabulary, Arena& arena) {
  return {arena.take(DType::f32, count, vocabulary), {}};
}
inline LogitBuffers take_logits(std::int64_t count, std::int64_t vocabulary, DType computed, Arena& arena) {
  LogitBuffers b = take_logits(count, vocabulary, arena);
  b.computed = arena.take(computed, count, vocabulary);
  return b;
}

// --- vision tower: rows are patches, cells the tokens that they become --------------------------------------------------

struct TowerBuffers {
  View input;  // [rows, values of a patch] compute type
  View x;      // [rows, hidden] f32
};
inline TowerBuffers take_tower(DType compute, std::int64_t rows, std::int64_t patch_values,
                               std::int64_t hidden, Arena& arena) {
  TowerBuffers b;
  b.input = arena.take(compute, rows, patch_values);
  b.x = arena.take(DType::f32, rows, hidden);
  return b;
}

/// The type of the wide results of a block: bf16 if their readers can add the bias (tile_heads.h, tile_swiglu.h).
inline DType vision_wide_type(const HeadShape& heads, std::int64_t intermediate, DType compute) {
  return heads_fit(heads, compute) && intermediate % kTileUnit == 0 ? DType::bf16 : DType::f32;
}

struct VisionBlockBuffers {
  View normed;    // [rows, hidden] compute type
  View qkv;       // [rows, 3 hidden] vision_wide_type()
  View attended;  // [rows, hidden] compute type
  View k_v;       // [rows, 2 hidden] compute type; only for an f32 qkv with our own attention on tensor cores
  View rounded;   // [rows, 3 hidden] compute type; only for an f32 qkv with cuDNN's attention
  View workspace;  // [1, kVisionWorkspaceBytes] bytes; only with cuDNN's attention
  View gate_up;    // [rows, 2 intermediate] vision_wide_type()
  View product;    // [rows, intermediate] compute type
};
inline VisionBlockBuffers take_vision_block(DType compute, SegmentKernels kernels, const HeadShape& heads,
                                            std::int64_t intermediate, std::int64_t rows, Arena& arena) {
  const std::int64_t hidden = heads.heads * heads.head_dim;
  const DType wide = vision_wide_type(heads, intermediate, compute);
  VisionBlockBuffers b;
  b.normed = arena.take(compute, rows, hidden);
  b.qkv = arena.take(wide, rows, 3 * hidden);
  b.attended = arena.take(compute, rows, hidden);
  if (wide == DType::f32 && kernels == SegmentKernels::tiles) b.k_v = arena.take(compute, rows, 2 * hidden);
  if (wide == DType::f32 && kernels == SegmentKernels::cudnn)
    b.rounded = arena.take(compute, rows, 3 * hidden);
  if (kernels == SegmentKernels::cudnn) b.workspace = arena.take(DType::u8, 1, kVisionWorkspaceBytes);
  b.gate_up = arena.take(wide, rows, 2 * intermediate);
  b.product = arena.take(compute, rows, intermediate);
  return b;
}

struct MergerBuffers {
  View normed;     // [rows, hidden] compute type
  View wide;       // [cells, wide] f32
  View activated;  // [cells, wide] compute type
  View merged;     // [cells, out] f32
};
inline MergerBuffers take_merger(DType compute, std::int64_t rows, std::int64_t hidden, std::int64_t cells,
                                 std::int64_t wide, std::int64_t out, Arena& arena) {
  MergerBuffers b;
  b.normed = arena.take(compute, rows, hidden);
  b.wide = arena.take(DType::f32, cells, wide);
  b.activated = arena.take(compute, cells, wide);
  b.merged = arena.take(DType::f32, cells, out);
  return b;
}

}  // namespace biqa::cuda
