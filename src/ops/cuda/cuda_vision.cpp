// SPDX-License-Identifier: Apache-2.0
// Computes features from patches: windowed and full attention, then the merger, which joins the patches of a cell into
// one token.
#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "ops/cuda/attention_tiles.h"
#include "ops/cuda/buffers.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/rows.h"
#include "ops/cuda/tile_heads.h"
#include "ops/cuda/tile_swiglu.h"
#include "ops/cuda/vision_attention.h"
#include "tensor/arena.h"

namespace biqa::cuda {
namespace {

std::vector<SegmentRow> segment_rows(std::span<const std::int64_t> boundaries) {
  std::vector<SegmentRow> rows;
  for (std::size_t s = 0; s + 1 < boundaries.size(); ++s) {
    const SegmentRow row{static_cast<std::int32_t>(boundaries[s]),
                         static_cast<std::int32_t>(boundaries[s + 1] - boundaries[s])};
    rows.insert(rows.end(), static_cast<std::size_t>(row.count), row);
  }
  return rows;
}

std::vector<QueryTile> segment_tiles(std::span<const std::int64_t> boundaries) {
  std::vector<QueryRows> rows;
  for (std::size_t s = 0; s + 1 < boundaries.size(); ++s) {
    const auto first = static_cast<std::int32_t>(boundaries[s]);
    const auto count = static_cast<std::int32_t>(boundaries[s + 1] - boundaries[s]);
    rows.push_back({first, count, {first, count, 0}, {}});
  }
  return query_tiles(rows, 1);
}

/// For each picture, which is a frame, the batches of its segments.
std::vector<std::vector<SegmentBatch>> batches_of_pictures(std::span<const std::int64_t> boundaries,
                                                           std::span<const std::int64_t> frames) {
  std::vector<std::vector<SegmentBatch>> pictures;
  auto begin = boundaries.begin();
  for (std::size_t f = 0; f + 1 < frames.size(); ++f) {
    const auto end = std::find(begin, boundaries.end(), frames[f + 1]);
    CHECK(end != boundaries.end()) << "no segment ends at row " << frames[f + 1];
    pictures.push_back(segment_batches({begin, end + 1}));
    begin = end;
  }
  return pictures;
}

/// Segments for the kernels: on the device as tiles (on tensor cores) or row by row; for cuDNN on the host.
struct Segments {
  DeviceSpan<QueryTile> tiles;
  DeviceSpan<SegmentRow> rows;
  std::vector<std::vector<SegmentBatch>> pictures;
};
struct PlacedSegments {
  PlacedSegments(Upload& upload, std::span<const std::int64_t> boundaries, SegmentKernels kernels)
      : tiles(upload.add(kernels == SegmentKernels::tiles ? segment_tiles(boundaries)
                                                          : std::vector<QueryTile>())),
        rows(upload.add(kernels == SegmentKernels::rows ? segment_rows(boundaries)
                                                        : std::vector<SegmentRow>())) {}
  Segments at(const Upload& upload) const { return {upload.at(tiles), upload.at(rows), {}}; }
  Upload::Place<QueryTile> tiles;
  Upload::Place<SegmentRow> rows;
};

/// A batch of images on the device.
struct Images {
  Images(const VisionBatch& batch, SegmentKernels kernels, CudaMemory& memory)
      : patches(copied_to(memory, batch.patches, "activations")),
        cosines(copied_to(memory, batch.cosines, "activations")),
        sines(copied_to(memory, batch.sines, "activations")) {
    const PlacedSegments windows_place(upload, batch.windows, kernels);
    const PlacedSegments frames_place(upload, batch.frames, kernels);
    const auto cells_place = upload.add(std::vector<std::int64_t>(batch.cells.begin(), batch.cells.end()));
    upload.commit(memory, "activations");
    windows = windows_place.at(upload);
    frames = frames_place.at(upload);
    cells = upload.at(cells_place);
    if (kernels != SegmentKernels::cudnn) return;
    windows.pictures = batches_of_pictures(batch.windows, batch.frames);
    frames.pictures = batches_of_pictures(batch.frames, batch.frames);
  }
  Tensor patches, cosines, sines;
  Upload upload;
  Segments windows, frames;
  DeviceSpan<std::int64_t> cells;
};

class CudaVision final : public VisionEncoder {
 public:
  CudaVision(CudaOps& ops, VisionShape shape, VisionWeights weights)
      : ops_(ops),
        shape_(std::move(shape)),
        weights_(std::move(weights)),
        kernels_(segment_kernels(
            heads(), ops.compute_type(),
            ops.vision_attention() != nullptr ? VisionAttentionBy::cudnn : VisionAttentionBy::own)) {
    const DType wide = vision_wide_type(heads(), shape_.intermediate, ops.compute_type());
    for (const VisionWeights::Block& block : weights_.blocks) {
      as_cuda(*block.qkv).result = wide;
      as_cuda(*block.gate_up).result = wide;
    }
  }

  void encode(const VisionBatch& batch, View features, const Observer* observer) override {
    const auto observe = [&](const std::string& name, ConstView value) {
      if (observer != nullptr) (*observer)(name, value);
    };
    const Images images(batch, kernels_, ops_.device_memory());
    const std::int64_t rows = batch.patches.rows();
    Arena arena("activations", ops_.memory());
    const TowerBuffers b =
        take_tower(ops_.compute_type(), rows, batch.patches.columns(), shape_.hidden, arena);
    const View x = b.x;
    convert(images.patches.view(), b.input, ops_.stream());
    ops_.linear(b.input, *weights_.embed, x);
    observe("patch_embed", x);
    for (std::size_t i = 0; i < weights_.blocks.size(); ++i) {
      const Arena::Scope scope(arena);
      const auto& full = shape_.full_attention_blocks;
      const bool whole_frames =
          std::find(full.begin(), full.end(), static_cast<std::int64_t>(i)) != full.end();
      block(weights_.blocks[i], images, whole_frames ? images.frames : images.windows, x, arena);
      observe(fmt::format("vision_block_{:02}", i), x);
    }
    merge(images, x, features, arena, observe);
  }

 private:
  HeadShape heads() const { return {shape_.heads, shape_.heads, shape_.hidden / shape_.heads}; }

  void block(const VisionWeights::Block& block, const Images& images, const Segments& segments, View x,
             Arena& arena) {
    const std::int64_t hidden = shape_.hidden;
    const Stream& stream = ops_.stream();
    const VisionBlockBuffers b =
        take_vision_block(ops_.compute_type(), kernels_, heads(), shape_.intermediate, x.rows(), arena);
    const bool rounded = b.qkv.type() == DType::bf16;  // then readers add the biases
    rms_norm(x, block.norm1.view(), shape_.rms_eps, b.normed, stream);
    if (rounded) {
      ops_.product(b.normed, *block.qkv, b.qkv);
      finish_heads(b.qkv, bias_of(*block.qkv), {}, heads(), images.cosines.view(), images.sines.view(),
                   stream);
    } else {
      ops_.linear(b.normed, *block.qkv, b.qkv);
      rotate(b.qkv.column_range(0, 2 * hidden), heads().head_dim, images.cosines.view(), images.sines.view(),
             false, stream);
    }
    attend(segments, b);
    ops_.linear(b.attended, *block.projection, x, true);
    rms_norm(x, block.norm2.view(), shape_.rms_eps, b.normed, stream);
    if (rounded) {
      ops_.product(b.normed, *block.gate_up, b.gate_up);
      swiglu(GateUp{b.gate_up, bias_of(*block.gate_up), {}, {}}, b.product, stream);
    } else {
      ops_.linear(b.normed, *block.gate_up, b.gate_up);
      swiglu(b.gate_up, b.product, stream);
    }
    ops_.linear(b.product, *block.down, x, true);
  }

  void attend(const Segments& segments, const VisionBlockBuffers& b) {
    const std::int64_t hidden = shape_.hidden;
    const Stream& stream = ops_.stream();
    const auto part = [&](ConstView rows, std::int64_t i) { return rows.column_range(i * hidden, hidden); };
    switch (kernels_) {
      case SegmentKernels::rows:
        segment_attention(part(b.qkv, 0), part(b.qkv, 1), part(b.qkv, 2), heads(), segments.rows, b.attended,
                          stream);
        break;
      case SegmentKernels::tiles: {
        const ConstView k_v = in_compute_type(b.qkv.column_range(hidden, 2 * hidden), b.k_v);
        tile_segment_attention(part(b.qkv, 0), part(k_v, 0), part(k_v, 1), heads(), segments.tiles,
                               b.attended, stream);
        break;
      }
      case SegmentKernels::cudnn: {
        const ConstView qkv = in_compute_type(b.qkv, b.rounded);
        for (const auto& batches : segments.pictures) {
          ops_.vision_attention()->attend(part(qkv, 0), part(qkv, 1), part(qkv, 2), heads(), batches,
                                          b.attended, b.workspace);
        }
        break;
      }
    }
  }
  /// x in bf16: itself or, from f32, rounded into `to`.
  ConstView in_compute_type(ConstView x, View to) const {
    if (x.type() == DType::bf16) return x;
    convert(x, to, ops_.stream());
    return to;
  }

  template <typename Observe>
  void merge(const Images& images, ConstView x, View features, Arena& arena, const Observe& observe) {
    const DType compute = ops_.compute_type();
    const Stream& stream = ops_.stream();
    const std::int64_t cells = x.rows() / shape_.cell;
    const std::int64_t width = shape_.cell * shape_.hidden;
    const MergerBuffers b = take_merger(compute, x.rows(), shape_.hidden, cells, weights_.merger_in->out,
                                        weights_.merger_out->out, arena);
    rms_norm(x, weights_.merger_norm.view(), shape_.rms_eps, b.normed, stream);
    const ConstView joined(b.normed.address(), compute, cells, width, width, b.normed.memory());
    ops_.linear(joined, *weights_.merger_in, b.wide);
    gelu(b.wide, b.activated, stream);
    ops_.linear(b.activated, *weights_.merger_out, b.merged);
    observe("merger", b.merged);
    scatter_rows(b.merged, images.cells, features, stream);
  }

  CudaOps& ops_;
  VisionShape shape_;
  VisionWeights weights_;
  SegmentKernels kernels_;
};

}  // namespace

std::unique_ptr<VisionEncoder> make_vision(CudaOps& ops, const VisionShape& shape, VisionWeights weights) {
  return std::make_unique<CudaVision>(ops, shape, std::move(weights));
}

}  // namespace biqa::cuda
