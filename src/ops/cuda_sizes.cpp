// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda_sizes.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "ops/cuda/buffers.h"
#include "tensor/device_memory.h"

namespace biqa {
namespace {

using namespace cuda;

constexpr std::int64_t kFloat = sizeof(float);
/// Where each uploaded table begins.
constexpr std::int64_t kTableAlignment = 16;

/// Counts what is allocated. Its addresses are never used.
class CountingMemory final : public DeviceMemory {
 public:
  Memory kind() const override { return Memory::device; }
  Tensor allocate(DType type, std::int64_t rows, std::int64_t columns, std::string label) override {
    const auto bytes = static_cast<std::size_t>(rows * columns) * size_of(type);
    bytes_ += static_cast<std::int64_t>(bytes);
    return {type, rows, columns,
            Buffer::borrow(&place_, bytes, std::move(label), owner_, false, Memory::device)};
  }
  void copy(ConstView /*from*/, View /*to*/) override {}
  void zero(View /*values*/) override {}
  void wait() override {}
  std::int64_t bytes() const { return bytes_; }

 private:
  std::byte place_{};
  std::shared_ptr<const void> owner_{std::shared_ptr<void>(), &place_};  // it owns nothing
  std::int64_t bytes_ = 0;
};

/// What `take` makes an arena allocate.
template <typename Take>
std::int64_t arena_bytes(const Take& take) {
  CountingMemory memory;
  Arena arena("plan", memory);
  take(arena);
  return memory.bytes();
}

using AdapterInputs = std::array<AdapterInputSize, 4>;
static_assert(kInputs == 4);

/// The sizes of all layers of a batch, the last one of which ends at the outputs.
std::vector<LayerSize> layer_sizes(const DecoderShape& shape, DType compute, const BatchSize& batch,
                                   const std::vector<AdapterInputs>& adapter) {
  std::vector<LayerSize> sizes;
  for (std::int64_t l = 0; l < shape.layers; ++l) {
    const std::int64_t rows = l + 1 == shape.layers ? batch.outputs : batch.rows;
    LayerSize& size = sizes.emplace_back(shape, compute, tiles_fit(shape.heads, compute), batch.rows, rows);
    for (std::size_t input = 0; input < kInputs; ++input)
      size.ranks[input] = adapter[static_cast<std::size_t>(l)][input].rank;
  }
  return sizes;
}

std::int64_t rows_of(const LayerSize& size, Input input) {
  return input == kInputQkv ? size.all : size.rows;
}

/// The partial sums of one product with the stacked factors or, with dropout, of a product for each projection.
void take_reduce(const AdapterInputSize& a, std::int64_t rows, bool dropout, Arena& arena) {
  if (!a.tiled || reduce_parts(a.in).count == 1) return;
  const auto take = [&](std::int64_t rank) {
    const Arena::Scope scope(arena);
    take_reduce_sums(rows, a.in, rank, arena);
  };
  if (!dropout) {
    if (a.rank > 0) take(a.rank);
    return;
  }
  for (const AdapterInputSize::Part& part : a.parts) take(part.rank);
}

/// The buffers of an input's part of the backward: the inner gradients of all projections, and sums in parts.
void take_adapter_backward(const AdapterInputSize& a, std::int64_t rows, Arena& arena) {
  if (a.rank == 0) return;
  const Arena::Scope scope(arena);
  arena.take(DType::f32, rows, a.rank);
  if (!a.tiled) return;
  for (const AdapterInputSize::Part& part : a.parts) {
    if (reduce_parts(part.out).count > 1) {
      const Arena::Scope of_reduce(arena);
      take_reduce_sums(rows, part.out, part.rank, arena);
    }
  }
  for (const AdapterInputSize::Part& part : a.parts) {
    for (const std::int64_t columns : {a.in, part.out}) {
      const Arena::Scope of_outer(arena);
      take_outer_sums(rows, columns, part.rank, arena);
    }
  }
}

/// The buffers of a layer's forward without its record.
void take_layer_forward(const LayerSize& size, const AdapterInputs& adapter, bool dropout, Arena& arena) {
  take_forward(size, arena);
  for (const Input input : {kInputQkv, kInputO, kInputGateUp, kInputDown})
    take_reduce(adapter[input], rows_of(size, input), dropout, arena);
}

/// The buffers of a layer's backward, besides what its forward left.
void take_layer_backward(const LayerSize& size, const AdapterInputs& adapter, bool first_layer,
                         Arena& arena) {
  const auto take_adapter = [&](Input input) {
    take_adapter_backward(adapter[input], rows_of(size, input), arena);
  };
  {
    const Arena::Scope scope(arena);
    take_mlp_backward(size, arena);
    take_adapter(kInputDown);
    take_adapter(kInputGateUp);
  }
  take_attention_backward(size, arena);
  take_adapter(kInputO);
  if (size.tiled) {
    const Arena::Scope scope(arena);
    if (size.projected == DType::f32) take_rounded_keys(size, arena);
    take_tile_scratch(size.rows, size.q, size.heads, arena);
  }
  take_projection_backward(size, first_layer, arena);
  take_adapter(kInputQkv);
}

/// What packing one input takes for a moment besides the packed factors (AdapterInput::finish).
std::int64_t packing_of(const AdapterInputSize& a) {
  std::int64_t downs = kFloat * a.rank * a.in;
  std::int64_t most = downs;  // all A a second time, until they are one matrix, and while that is split
  for (const AdapterInputSize::Part& part : a.parts) {
    downs -= kFloat * part.rank * a.in;
    if (a.tiled) most = std::max(most, downs + kFloat * part.rank * part.out);  // while its B is split
  }
  return most;
}

}  // namespace

CudaDecoderSizes::CudaDecoderSizes(const DecoderShape& shape, DType compute,
                                   std::span<const LoraModule> modules)
    : shape_(shape), compute_(compute), adapter_inputs_(static_cast<std::size_t>(shape.layers)) {
  for (std::size_t layer = 0; layer < adapter_inputs_.size(); ++layer) {
    for (const Input input : {kInputQkv, kInputO, kInputGateUp, kInputDown}) {
      AdapterInputSize& size = adapter_inputs_[layer][input];
      std::vector<std::int64_t> widths{outputs_of(shape, input)};
      for (const InputPart& part : parts_of(shape, input)) {
        const auto is_part = [&](const LoraModule& m) {
          return m.projection == part.projection && m.layer == static_cast<std::int64_t>(layer);
        };
        const auto module = std::find_if(modules.begin(), modules.end(), is_part);
        if (module == modules.end()) continue;
        size.in = module->in;
        size.rank += module->rank;
        size.parts.push_back({module->rank, module->out});
        widths.insert(widths.end(), {module->in, part.column, module->out});
        adapter_ += kFloat * module->rank * (module->in + module->out);  // in f32, or two bf16
      }
      size.tiled = adapter_fits_tiles(compute, widths);
      packing_ = std::max(packing_, adapter_ + packing_of(size));
    }
  }
}

std::int64_t CudaDecoderSizes::plan(const BatchSize& b) const {
  using T = TableBytes;
  constexpr std::int64_t kTables = 24;  // that are not empty, at most; each may begin with a gap
  const bool tiled = tiles_fit(shape_.heads, compute_);
  const std::int64_t sharing = shape_.heads.heads / shape_.heads.kv_heads;
  std::int64_t bytes = b.rows * (T::kId + T::kKvWrite + T::kQueryRow) + b.pages * T::kPage +
                       b.outputs * (T::kQueryRow + T::kIndex) + (4 * b.picks + 1) * T::kIndex +
                       kTables * kTableAlignment;
  // Training gives each row a key. In a rollout, the token of every sequence may be one that only the device knows.
  bytes += b.training ? (b.rows + b.outputs) * T::kTokenKey : b.sequences * T::kSampledRow;
  const std::int64_t queries = b.rows + b.outputs;  // tables are made for all rows and for the outputs
  if (tiled) {
    const std::int64_t tiles = queries * sharing / T::kTilePairs + 2 * b.sequences;
    bytes += (b.training ? 2 : 1) * tiles * T::kQueryTile + 2 * b.sequences * T::kKeyRun;
    if (b.training)
      bytes += 2 * (b.rows / T::kBlockKeys + b.sequences) * T::kKeyBlock + 4 * b.sequences * T::kQueryRun;
  } else if (b.training) {
    bytes += queries * T::kQueryKeys + 2 * b.rows * T::kKeyQueries + 2 * b.sequences * T::kQueryRange;
  }
  return bytes + 2 * b.rows * shape_.heads.head_dim / 2 * kFloat;  // cosines and sines
}

std::int64_t CudaDecoderSizes::forward(const BatchSize& batch) const {
  return arena_bytes([&](Arena& arena) {
    take_streams(shape_.hidden, batch.rows, batch.outputs, arena);
    const std::vector<LayerSize> sizes = layer_sizes(shape_, compute_, batch, adapter_inputs_);
    for (std::size_t l = 0; l < sizes.size(); ++l) {
      const Arena::Scope scope(arena);
      take_record(sizes[l], false, arena);
      take_layer_forward(sizes[l], adapter_inputs_[l], false, arena);
    }
  });
}

CudaDecoderSizes::Training CudaDecoderSizes::training(const BatchSize& batch, bool recompute) const {
  const std::vector<LayerSize> sizes = layer_sizes(shape_, compute_, batch, adapter_inputs_);
  Training result;
  result.tape = arena_bytes([&](Arena& tape) {
    for (const LayerSize& size : sizes) {
      if (!recompute) take_record(size, true, tape);
      tape.take(DType::f32, batch.rows, shape_.hidden);  // the layer's input
    }
    tape.take(DType::f32, batch.outputs, shape_.hidden);  // that of the final norm
  });
  result.forward = arena_bytes([&](Arena& arena) {
    take_streams(shape_.hidden, batch.rows, batch.outputs, arena);
    for (std::size_t l = 0; l < sizes.size(); ++l) {
      const Arena::Scope scope(arena);
      if (recompute) take_record(sizes[l], false, arena);
      take_layer_forward(sizes[l], adapter_inputs_[l], batch.dropout, arena);
    }
  });
  result.backward = arena_bytes([&](Arena& arena) {
    take_streams(shape_.hidden, batch.rows, batch.outputs, arena);
    if (recompute) take_streams(shape_.hidden, batch.rows, batch.outputs, arena);
    for (std::size_t l = sizes.size(); l-- > 0;) {
      const Arena::Scope scope(arena);
      if (recompute) {
        take_record(sizes[l], true, arena);
        const Arena::Scope of_forward(arena);
        take_layer_forward(sizes[l], adapter_inputs_[l], batch.dropout, arena);
      }
      take_layer_backward(sizes[l], adapter_inputs_[l], l == 0, arena);
    }
  });
  return result;
}

std::int64_t CudaDecoderSizes::log_prob(std::int64_t picks, bool gradient) const {
  const std::int64_t count = std::min(kLogitRows, picks);
  const std::int64_t scores = picks * (2 * kFloat + static_cast<std::int64_t>(sizeof(std::int64_t)));
  return scores + arena_bytes([&](Arena& arena) {
           arena.take(compute_, picks, shape_.hidden);  // the picked hidden states
           if (gradient)
             take_logits(count, shape_.vocabulary, compute_, arena);
           else
             take_logits(count, shape_.vocabulary, arena);
         });
}

std::int64_t CudaDecoderSizes::tokens(std::int64_t picks) {
  return picks * TableBytes::kSampledToken;
}

std::int64_t CudaDecoderSizes::sample(std::int64_t picks) const {
  constexpr std::int64_t kRequest = 40;  // DeviceSampleRequest, and a share of the ids that are never sampled
  return picks * kRequest + tokens(picks) + arena_bytes([&](Arena& arena) {
           arena.take(compute_, picks, shape_.hidden);
           take_logits(std::min(kLogitRows, picks), shape_.vocabulary, DType::f32, arena);
         });
}

std::int64_t cuda_vision_width(std::int64_t intermediate, DType compute) {
  const std::int64_t unit = vision_width_unit(compute);
  return (intermediate + unit - 1) / unit * unit;
}

std::int64_t cuda_vision_bytes(const CudaVisionShape& v, DType compute, VisionAttentionBy attention,
                               std::int64_t patches) {
  using T = TableBytes;
  const std::int64_t head_dim = v.hidden / v.heads;
  const HeadShape heads{v.heads, v.heads, head_dim};
  const SegmentKernels kernels = segment_kernels(heads, compute, attention);
  const std::int64_t cells = patches / v.cell;
  std::int64_t segments = 0;
  // A segment has at least one cell.
  if (kernels == SegmentKernels::tiles) segments = 2 * (patches / T::kTilePairs + cells) * T::kQueryTile;
  if (kernels == SegmentKernels::rows) segments = 2 * patches * T::kQueryRange;
  const std::int64_t input =
      patches * (v.patch_values + head_dim) * kFloat + segments + cells * T::kIndex + 3 * kTableAlignment;
  return input + cells * v.out * kFloat + arena_bytes([&](Arena& arena) {
           take_tower(compute, patches, v.patch_values, v.hidden, arena);
           {
             const Arena::Scope scope(arena);
             take_vision_block(compute, kernels, heads, v.intermediate, patches, arena);
           }
           take_merger(compute, patches, v.hidden, cells, v.cell * v.hidden, v.out, arena);
         });
}

}  // namespace biqa
