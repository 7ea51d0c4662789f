// SPDX-License-Identifier: Apache-2.0
// Matrix products: weights are packed once in the layout of what multiplies them and serve every row count. That is
// oneDNN, or an own kernel where oneDNN's rows would depend on their batch (bf16 with AMX: ops/cpu/tile_product.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/tensor.h"
#include "tensor/weight_arena.h"

namespace biqa::cpu {

struct Kernels;

/// The place of a packed matrix that processes share.
struct ArenaPlace {
  WeightArena* arena = nullptr;
  std::string name;
  WeightPart part = WeightPart::forward;
};

/// What a packed matrix is made of.
struct MatrixSource {
  ConstView weight;  ///< [n, k] when transposed (y = x·Wᵀ), else [k, n] (y = x·W); f32 or bf16, dense
  bool transposed = false;
  std::span<const float> bias;  ///< [n] or empty
  DType compute = DType::f32;   ///< type of x
  /// With it the memory is the arena's, and weight and bias are read only where that is filling.
  const ArenaPlace* place = nullptr;

  std::int64_t inner() const { return transposed ? weight.columns() : weight.rows(); }
  std::int64_t columns() const { return transposed ? weight.rows() : weight.columns(); }
  /// Whether the elements are to be read and packed.
  bool filled_here() const { return place == nullptr || place->arena->filling(); }
  /// Memory for the packed elements (`suffix` empty) or the bias.
  Buffer claim(const char* suffix, std::size_t bytes, std::uint64_t fingerprint) const;
};

/// B of y [M, n] f32 (+)= x [M, k] · B + bias. Every bit of a row's result depends only on that row.
class PackedMatrix {
 public:
  /// How one library does it.
  class Implementation {
   public:
    Implementation() = default;
    virtual ~Implementation() = default;
    Implementation(const Implementation&) = delete;
    Implementation& operator=(const Implementation&) = delete;
    virtual void multiply(ConstView x, View y, bool accumulate, int threads) = 0;
    virtual std::size_t bytes() const = 0;
  };

  explicit PackedMatrix(const MatrixSource& source);
  /// x has the type `compute` of the source; x and y are dense.
  void multiply(ConstView x, View y, bool accumulate, int threads);
  std::size_t bytes() const { return implementation_->bytes(); }

 private:
  std::int64_t inner_, columns_;
  DType compute_;
  std::unique_ptr<Implementation> implementation_;
};

/// What multiplies fastest here with rows that don't depend on their batch.
std::unique_ptr<PackedMatrix::Implementation> make_matrix(const MatrixSource& source);
/// Products through oneDNN.
std::unique_ptr<PackedMatrix::Implementation> make_onednn_matrix(const MatrixSource& source);
/// oneDNN and its version, for messages.
std::string library_version();
/// Products through own loops on the vector unit.
std::unique_ptr<PackedMatrix::Implementation> make_vector_matrix(const MatrixSource& source,
                                                                 const Kernels& kernels);

}  // namespace biqa::cpu
