// SPDX-License-Identifier: Apache-2.0
// One version of an adapter on a CUDA device. Projections that share an input are stored together.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "ops/cuda/buffers.h"
#include "ops/cuda/tile_lora.h"
#include "ops/decoder.h"
#include "tensor/cuda/memory.h"

namespace biqa::cuda {

/// The dropout of one input in a pass: a DropoutMask without its projection. `rate` 0 means no dropout.
struct InputDropout {
  double rate = 0;
  std::uint64_t key = 0;
  DeviceSpan<std::uint64_t> token_keys;
};

/// Narrow factors [rank, n] in the form that the kernels read: f32, or split for tensor cores.
class Factors {
 public:
  Factors() = default;
  /// `values` f32, dense.
  Factors(Tensor values, bool tiled, CudaMemory& memory, const Stream& stream);
  bool tiled() const { return values_.bytes() == 0; }
  ConstView values() const { return values_.view(); }
  SplitFactors split() const { return {high_.view(), low_.view()}; }

 private:
  Tensor values_;      // empty if split
  Tensor high_, low_;  // empty if not
};

/// The adapter's factors for one input of one layer. Empty if no projection of this input is adapted. Tensor cores compute
/// the products (tile_lora.h) if the compute type is bf16 and all widths are multiples of 8, else simple kernels (lora.h). In
/// all functions x and dy have the compute type, and all matrices are dense.
class AdapterInput {
 public:
  /// Adds a projection whose output begins at `column`. All projections must have the same input width.
  void add(const LoraModule& module, std::int64_t column, ConstView flat, CudaMemory& memory,
           const Stream& stream);
  /// Call it after the last add(). `compute`: the type of x and dy. `outputs`: the columns of y and dy.
  void finish(DType compute, std::int64_t outputs, CudaMemory& memory, const Stream& stream);

  bool empty() const { return parts_.empty(); }
  std::int64_t rank() const { return rank_; }
  /// u [T, rank] f32 = dropout(x) · Aᵀ of all projections.
  void reduce_input(ConstView x, const InputDropout& dropout, View u, Arena& arena,
                    const Stream& stream) const;
  /// y [T, outputs] f32 += scale · u · Bᵀ, each projection in its columns.
  void add_output(ConstView u, View y, const Stream& stream) const;
  /// The term that add_output() adds to the columns of the projection that begins at `column`. Kernels that add it
  /// themselves take it from here. Empty if that projection is not adapted. Call it only if the products run on tensor
  /// cores. Borrows u and the factors.
  LowRankTerm output_term(ConstView u, std::int64_t column) const;

  /// g [T, rank] f32 = dy · B of all projections.
  void reduce_gradient(ConstView dy, View g, Arena& arena, const Stream& stream) const;
  /// Adds the gradients of A and B to `gradient` [1, n] f32. u and g are the results of the functions above.
  void add_gradients(ConstView x, ConstView u, ConstView dy, ConstView g, const InputDropout& dropout,
                     View gradient, Arena& arena, const Stream& stream) const;
  /// d_x [T, in] f32 += scale · mask ⊙ (g · A) of each projection.
  void add_input_gradient(ConstView g, const InputDropout& dropout, View d_x, const Stream& stream) const;
  /// The term that add_input_gradient() adds, with the rules of output_term(). Only for inputs with one projection.
  LowRankTerm input_gradient_term(ConstView g, const InputDropout& dropout) const;

 private:
  struct Part {
    LoraModule module;
    std::int64_t column = 0;       // first column of the input's stacked output
    std::int64_t rank_offset = 0;  // first column of the inner values u
    Tensor down, up_values;        // until finish(): A [rank, in] and Bᵀ [rank, out], both f32
    Factors up;                    // B transposed
  };
  DropoutMask mask(const InputDropout& dropout, std::size_t projection) const;
  LowRankTerm input_gradient_term(std::size_t projection, ConstView g, const InputDropout& dropout) const;
  /// The projection's columns of inner values [T, rank].
  template <typename Inner>
  static Inner inner_of(const Part& part, Inner inner);

  std::vector<Part> parts_;
  Factors down_;  // all A, stacked row by row: [rank, in]
  std::int64_t rank_ = 0;
};

struct CudaAdapter final : PackedAdapter {
  using PackedAdapter::PackedAdapter;
  std::vector<std::array<AdapterInput, kInputs>> layers;
};

}  // namespace biqa::cuda
