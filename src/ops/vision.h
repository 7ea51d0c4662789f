// SPDX-License-Identifier: Apache-2.0
// The frozen vision tower as a backend runs it. How one is written on the CPU stands in ops/cpu/cpu_vision.cpp.
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

struct VisionShape {
  std::int64_t hidden = 0, intermediate = 0, heads = 0;
  std::int64_t cell = 0;  ///< patches that the merger joins to one token
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

/// Pictures as the tower takes them, in host memory: patches in window order.
struct VisionBatch {
  ConstView patches;         ///< [patches, 3·temporal·patch²] f32
  ConstView cosines, sines;  ///< [patches, head_dim/2] f32
  std::span<const std::int64_t>
      windows;  ///< boundaries in patches inside which most blocks attend; starts with 0
  std::span<const std::int64_t> frames;  ///< the same for the blocks of full attention
  std::span<const std::int64_t> cells;   ///< cells[k]: the raster index of the k-th cell
};

/// Called with (name, tensor in the backend's memory) as intermediate results appear; for traces.
using Observer = std::function<void(const std::string& name, ConstView value)>;

class VisionEncoder {
 public:
  VisionEncoder() = default;
  virtual ~VisionEncoder() = default;
  VisionEncoder(const VisionEncoder&) = delete;
  VisionEncoder& operator=(const VisionEncoder&) = delete;
  /// features [cells, width of the language model] f32 in the backend's memory, in raster order. The batch is read before
  /// this returns. A picture's features don't depend on the others.
  virtual void encode(const VisionBatch& batch, View features, const Observer* observer) = 0;
};

}  // namespace biqa
