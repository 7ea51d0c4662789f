// SPDX-License-Identifier: Apache-2.0
// Matrix products with packed weights. Weights are packed once, in the layout that their implementation needs, and serve
// any number of rows. The implementation is oneDNN, or our own kernel where a row of oneDNN's result would depend on
// the batch. Our kernels are tile_product.h (bf16 with AMX) and the vector product (f32 below AVX-512, bf16 below
// AVX512_BF16).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/tensor.h"
#include "tensor/weight_arena.h"

namespace biqa::cpu {

struct Kernels;

/// The place of a packed matrix in memory that processes share.
struct ArenaPlace {
  WeightArena* arena = nullptr;
  std::string name;
  WeightPart part = WeightPart::forward;
};

/// The inputs from which a packed matrix is made.
struct MatrixSource {
  ConstView weight;  ///< [n, k] when transposed (y = x·Wᵀ), else [k, n] (y = x·W); f32 or bf16, dense
  bool transposed = false;
  std::span<const float> bias;  ///< [n] or empty
  DType compute = DType::f32;   ///< type of x
  /// Not null: the packed matrix is in this arena, and weight and bias are read only if the arena is filling().
  const ArenaPlace* place = nullptr;

  std::int64_t inner() const { return transposed ? weight.columns() : weight.rows(); }
  std::int64_t columns() const { return transposed ? weight.rows() : weight.columns(); }
  /// Whether the elements must be read and packed.
  bool filled_here() const { return place == nullptr || place->arena->filling(); }
  /// Returns memory for the packed elements (`suffix` empty) or for the bias.
  Buffer claim(const char* suffix, std::size_t bytes, std::uint64_t fingerprint) const;
};

/// A packed matrix B [k, n], which computes y [M, n] f32 (+)= x [M, k] · B + bias. Every bit of an output row depends
/// only on its input row.
class PackedMatrix {
 public:
  /// The product by one library or by our own kernels.
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

/// For tests of the checks: from now on make_matrix() passes its result to `wrap` and returns what `wrap` returns. An
/// empty `wrap` ends this. Call it while no other thread makes matrices.
using MatrixWrapper = std::function<std::unique_ptr<PackedMatrix::Implementation>(
    std::unique_ptr<PackedMatrix::Implementation>)>;
void set_matrix_wrapper(MatrixWrapper wrap);

/// The fastest batch-invariant implementation on this processor.
std::unique_ptr<PackedMatrix::Implementation> make_matrix(const MatrixSource& source);
/// Products through oneDNN.
std::unique_ptr<PackedMatrix::Implementation> make_onednn_matrix(const MatrixSource& source);
/// The name and version of oneDNN, for messages.
std::string library_version();
/// Products through our own loops on the vector unit.
std::unique_ptr<PackedMatrix::Implementation> make_vector_matrix(const MatrixSource& source,
                                                                 const Kernels& kernels);

}  // namespace biqa::cpu
