// SPDX-License-Identifier: Apache-2.0
// Computes features from patches: windowed and full attention, then the merger, which joins the patches of a cell into
// one token.
#include "ops/cpu/cpu_network.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "ops/cpu/cpu_ops.h"
#include "tensor/arena.h"

namespace biqa::cpu {
namespace {

class CpuVision final : public VisionEncoder {
 public:
  CpuVision(CpuOps& ops, VisionShape shape, VisionWeights weights)
      : ops_(ops), shape_(std::move(shape)), weights_(std::move(weights)) {}

  void encode(const VisionBatch& batch, View features, const Observer* observer) override {
    const auto observe = [&](const std::string& name, ConstView value) {
      if (observer != nullptr) (*observer)(name, value);
    };
    const std::int64_t rows = batch.patches.rows();
    Arena arena("activations");
    const View input = arena.take(ops_.compute_type(), rows, batch.patches.columns());
    ops_.convert(batch.patches, input);
    const View x = arena.take(DType::f32, rows, shape_.hidden);
    ops_.linear(input, *weights_.embed, x);
    observe("patch_embed", x);
    for (std::size_t i = 0; i < weights_.blocks.size(); ++i) {
      const Arena::Scope scope(arena);
      const auto& full = shape_.full_attention_blocks;
      const bool whole_frames =
          std::find(full.begin(), full.end(), static_cast<std::int64_t>(i)) != full.end();
      block(weights_.blocks[i], batch, whole_frames ? batch.frames : batch.windows, x, arena);
      observe(fmt::format("vision_block_{:02}", i), x);
    }
    merge(batch, x, features, arena, observe);
  }

 private:
  void block(const VisionWeights::Block& block, const VisionBatch& batch,
             std::span<const std::int64_t> segments, View x, Arena& arena) {
    const std::int64_t rows = x.rows();
    const std::int64_t hidden = shape_.hidden;
    const DType compute = ops_.compute_type();
    const HeadShape heads{shape_.heads, shape_.heads, hidden / shape_.heads};
    const View normed = arena.take(compute, rows, hidden);
    ops_.rms_norm(x, block.norm1.view(), shape_.rms_eps, normed);
    const View qkv = arena.take(DType::f32, rows, 3 * hidden);
    ops_.linear(normed, *block.qkv, qkv);
    ops_.rotate(qkv.column_range(0, 2 * hidden), heads.head_dim, batch.cosines, batch.sines, false);
    const View attended = arena.take(compute, rows, hidden);
    ops_.segment_attention(qkv.column_range(0, hidden), qkv.column_range(hidden, hidden),
                           qkv.column_range(2 * hidden, hidden), heads, segments, attended);
    ops_.linear(attended, *block.projection, x, true);
    ops_.rms_norm(x, block.norm2.view(), shape_.rms_eps, normed);
    const View gate_up = arena.take(DType::f32, rows, 2 * shape_.intermediate);
    ops_.linear(normed, *block.gate_up, gate_up);
    const View product = arena.take(compute, rows, shape_.intermediate);
    ops_.swiglu(gate_up, product);
    ops_.linear(product, *block.down, x, true);
  }

  /// The merger reads the patches of a cell as one row.
  template <typename Observe>
  void merge(const VisionBatch& batch, ConstView x, View features, Arena& arena, const Observe& observe) {
    const DType compute = ops_.compute_type();
    const View normed = arena.take(compute, x.rows(), shape_.hidden);
    ops_.rms_norm(x, weights_.merger_norm.view(), shape_.rms_eps, normed);
    const std::int64_t cells = x.rows() / shape_.cell;
    const std::int64_t width = shape_.cell * shape_.hidden;
    const ConstView joined(normed.data(), compute, cells, width, width);
    const View wide = arena.take(DType::f32, cells, weights_.merger_in->out);
    ops_.linear(joined, *weights_.merger_in, wide);
    const View activated = arena.take(compute, cells, weights_.merger_in->out);
    ops_.gelu(wide, activated);
    const View merged = arena.take(DType::f32, cells, weights_.merger_out->out);
    ops_.linear(activated, *weights_.merger_out, merged);
    observe("merger", merged);
    for (std::int64_t k = 0; k < cells; ++k) {
      std::copy_n(merged.row<float>(k), merged.columns(),
                  features.row<float>(batch.cells[static_cast<std::size_t>(k)]));
    }
  }

  CpuOps& ops_;
  VisionShape shape_;
  VisionWeights weights_;
};

}  // namespace

std::unique_ptr<VisionEncoder> make_vision(CpuOps& ops, const VisionShape& shape, VisionWeights weights) {
  return std::make_unique<CpuVision>(ops, shape, std::move(weights));
}

}  // namespace biqa::cpu
