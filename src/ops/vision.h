// SPDX-License-Identifier: Apache-2.0
// The frozen vision tower in a backend. ops/cpu/cpu_vision.cpp is the CPU's version.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ops/frozen_linear.h"
#include "tensor/tensor.h"

namespace biqa {

/// Who computes the vision tower's attention on CUDA.
enum class VisionAttentionBy : std::uint8_t {
  own,   ///< our own kernels
  cudnn  ///< cuDNN; only in bf16, for a head dimension that is a multiple of 8 and at most 128
};

struct VisionShape {
  std::int64_t hidden = 0, intermediate = 0, heads = 0;
  std::int64_t cell = 0;  ///< patches that the merger joins into one token
  float rms_eps = 0;
  std::vector<std::int64_t> full_attention_blocks;
};

/// Norms [1, hidden] f32 in the backend's memory.
struct VisionWeights {
  struct Block {
    Tensor norm1, norm2;
    std::unique_ptr<FrozenLinear> qkv, projection, gate_up, down;
  };
  std::unique_ptr<FrozenLinear> embed, merger_in, merger_out;
  std::vector<Block> blocks;
  Tensor merger_norm;
};

/// The tower's input in host memory: the patches of images in window order.
struct VisionBatch {
  ConstView patches;         ///< [patches, 3·temporal·patch²] f32
  ConstView cosines, sines;  ///< [patches, head_dim/2] f32
  std::span<const std::int64_t>
      windows;  ///< boundaries, in patches, of the segments inside which most blocks attend; starts with 0
  std::span<const std::int64_t> frames;  ///< the same for blocks with full attention
  std::span<const std::int64_t> cells;   ///< cells[k]: the raster index of the k-th cell
};

/// Receives intermediate results as (name, tensor in the backend's memory), for traces.
using Observer = std::function<void(const std::string& name, ConstView value)>;

class VisionEncoder {
 public:
  VisionEncoder() = default;
  virtual ~VisionEncoder() = default;
  VisionEncoder(const VisionEncoder&) = delete;
  VisionEncoder& operator=(const VisionEncoder&) = delete;
  /// features [cells, width of the language model] f32 in the backend's memory, in raster order. The batch is read
  /// before this returns. An image's features do not depend on the other images.
  virtual void encode(const VisionBatch& batch, View features, const Observer* observer) = 0;
};

}  // namespace biqa
