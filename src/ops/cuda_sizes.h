// SPDX-License-Identifier: Apache-2.0
// Computes the GPU memory that the CUDA backend needs. It uses only shapes, because plans are made without a device.
// The network's own functions (ops/cuda/buffers.h) take the buffers here too, from an allocator that only counts bytes.
// So a plan counts the same buffers that a run takes.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/adapter.h"
#include "ops/decoder.h"
#include "ops/vision.h"

namespace biqa {

/// The properties of a batch that determine its memory.
struct BatchSize {
  std::int64_t rows = 0, outputs = 0, picks = 0;
  std::int64_t sequences = 0;
  std::int64_t pages = 0;  ///< of all sequences; a shared page counts for each of them
  bool training = false;   ///< the plan also has the tables of the backward pass, and a key for each row
  bool dropout = false;    ///< of the adapter's inputs, in training
};

/// The adapter's factors for one input of a layer.
struct AdapterInputSize {
  struct Part {
    std::int64_t rank = 0, out = 0;
  };
  std::vector<Part> parts;  ///< of the adapted projections, in the order of the network
  std::int64_t in = 0, rank = 0;
  bool tiled = false;  ///< products on tensor cores
};

/// Sizes of the decoder in bytes.
class CudaDecoderSizes {
 public:
  /// `modules`: the adapter's. Borrows nothing.
  CudaDecoderSizes(const DecoderShape& shape, DType compute, std::span<const LoraModule> modules);

  /// A packed adapter. The vector of its values has the same size.
  std::int64_t adapter() const { return adapter_; }
  /// The maximum while the adapter is packed: what is packed so far and working memory, without the vector of values.
  std::int64_t packing() const { return packing_; }
  /// An upper bound for Decoder::plan. Some tables are shorter if rows attend to the same keys.
  std::int64_t plan(const BatchSize& batch) const;
  /// Decoder::forward without a tape, with the adapter, without dropout. The hidden states belong to the caller.
  std::int64_t forward(const BatchSize& batch) const;
  /// A forward with a tape and its backward.
  struct Training {
    std::int64_t tape = 0, forward = 0, backward = 0;
  };
  Training training(const BatchSize& batch, bool recompute) const;
  /// Decoder::log_prob and Decoder::sample.
  std::int64_t log_prob(std::int64_t picks, bool gradient) const;
  std::int64_t sample(std::int64_t picks) const;
  /// The result of Decoder::sample.
  static std::int64_t tokens(std::int64_t picks);

 private:
  DecoderShape shape_;
  DType compute_;
  std::vector<std::array<AdapterInputSize, 4>> adapter_inputs_;  // [layer][input]
  std::int64_t adapter_ = 0, packing_ = 0;
};

/// The properties of the vision tower that determine its memory.
struct CudaVisionShape {
  std::int64_t hidden = 0, intermediate = 0, heads = 0;  ///< intermediate: cuda_vision_width()
  std::int64_t cell = 0;                                 ///< patches of a token
  std::int64_t patch_values = 0;                         ///< elements of a patch
  std::int64_t out = 0;                                  ///< width of the features
};
/// Inner columns of the vision tower's MLP in memory (Ops::vision_width_unit).
std::int64_t cuda_vision_width(std::int64_t intermediate, DType compute);
/// An upper bound for VisionEncoder::encode of this number of patches, with its result.
std::int64_t cuda_vision_bytes(const CudaVisionShape& shape, DType compute, VisionAttentionBy attention,
                               std::int64_t patches);

}  // namespace biqa
