// SPDX-License-Identifier: Apache-2.0
// One version of an adapter on a CUDA device. Projections that share an input are stored together.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "ops/cuda/lora.h"
#include "ops/decoder.h"
#include "tensor/cuda/memory.h"

namespace biqa::cuda {

/// The four inputs of a layer that feed projections.
enum Input : std::uint8_t { kInputQkv, kInputO, kInputGateUp, kInputDown, kInputs };

/// The dropout of one input in a pass: a DropoutMask without its projection. `rate` 0 means no dropout.
struct InputDropout {
  double rate = 0;
  std::uint64_t key = 0;
  DeviceSpan<std::uint64_t> token_keys;
};

/// The adapter's factors for one input of one layer. Empty if no projection of this input is adapted.
class AdapterInput {
 public:
  struct Part {
    LoraModule module;
    std::int64_t column = 0;       ///< first column of the input's stacked output
    std::int64_t rank_offset = 0;  ///< first column of the inner values u
    Tensor up;                     ///< B transposed: [rank, out] f32
  };
  /// Adds a projection whose output begins at `column`. All projections must have the same input width.
  void add(const LoraModule& module, std::int64_t column, ConstView flat, CudaMemory& memory,
           const Stream& stream);
  /// Call it after the last add().
  void finish(CudaMemory& memory);

  bool empty() const { return parts_.empty(); }
  std::int64_t rank() const { return rank_; }
  /// u [T, rank] f32 = dropout(x) · Aᵀ of all projections. y [T, stacked outputs] f32 += scale · u · Bᵀ, each
  /// projection in its columns.
  void forward(ConstView x, const InputDropout& dropout, View u, View y, const Stream& stream) const;
  /// Adds the gradients of A and B to `gradient` [1, n] f32. Unless d_x is empty, adds the adapter's part to d_x. x and
  /// dy have the compute type. u is the result of forward(). `scratch` [T, rank] f32.
  void backward(ConstView x, ConstView u, ConstView dy, const InputDropout& dropout, View d_x, View gradient,
                View scratch, const Stream& stream) const;

 private:
  DropoutMask mask(const InputDropout& dropout, std::size_t projection) const;

  std::vector<Part> parts_;
  std::vector<Tensor> downs_;  // A of each part; empty after finish()
  Tensor down_;                // all A, stacked row by row: [rank, in] f32
  std::int64_t rank_ = 0;
};

struct CudaAdapter final : PackedAdapter {
  using PackedAdapter::PackedAdapter;
  std::vector<std::array<AdapterInput, kInputs>> layers;
};

}  // namespace biqa::cuda
