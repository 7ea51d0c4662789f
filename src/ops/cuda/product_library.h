// SPDX-License-Identifier: Apache-2.0
// The private interface to a library of matrix products (cuBLASLt). It has no CUDA types, so that tests can replace the
// library by host loops. Shapes are those of MatmulBackend: y [rows, outer] = x [rows, inner] · weight (or weightᵀ).
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace biqa::cuda {

class Stream;

/// An algorithm in the library's own words. Only the same version of the library understands them.
struct Algorithm {
  std::array<std::uint64_t, 8> words{};
  auto operator<=>(const Algorithm&) const =
      default;  // NOLINT(modernize-use-nullptr): a fault of clang-tidy 14
};

/// Everything on which the library's answers may depend, except the number of rows. The library does not know whether
/// a product is added to y, so this is not a part.
struct Product {
  DType input = DType::f32, output = DType::f32;
  std::int64_t inner = 0, outer = 0;
  std::int64_t x_stride = 0, weight_stride = 0, y_stride = 0;  ///< in elements
  bool transposed = false;  ///< weight is [outer, inner], else [inner, outer]
  bool bias = false;
  std::uint32_t alignment = 0;  ///< in bytes, at most 16: of all addresses and row strides
  auto operator<=>(const Product&) const =
      default;  // NOLINT(modernize-use-nullptr): a fault of clang-tidy 14
};

/// One product in device memory: y = x · weight (or weightᵀ) + bias, added to y with `accumulate`.
struct ProductOperands {
  ConstView x, weight, bias;  ///< an empty bias means none
  View y;
  bool transposed = false, accumulate = false;
};
Product product_of(const ProductOperands& operands);
/// The product of dense operands at addresses that are multiples of 16.
Product dense_product(DType input, DType output, std::int64_t inner, std::int64_t outer, bool transposed,
                      bool bias);

class ProductLibrary {
 public:
  virtual ~ProductLibrary() = default;
  /// Name and version of the library. Empty: later processes must not use its answers.
  virtual std::string version() const = 0;
  /// At most `most` algorithms for products with `rows` rows, in the library's own order, the best first. They use no
  /// workspace and do not divide the inner sum, unless the library was made for measurements. The library answers by
  /// fixed rules, so every process gets the same answer.
  virtual std::vector<Algorithm> candidates(const Product& product, std::int64_t rows, int most) = 0;
  /// Whether the construction of every algorithm makes a row's bits independent of the other rows. Then the algorithms
  /// are not checked for this.
  virtual bool rows_are_independent() const { return false; }
  /// Enqueues the product. Returns false, and enqueues nothing, if the algorithm cannot compute it.
  virtual bool multiply(const ProductOperands& operands, const Algorithm& algorithm) = 0;
};

/// The library cuBLASLt, with work on `stream`, which must outlive it. In the emulator, host loops.
std::unique_ptr<ProductLibrary> make_product_library(const Stream& stream);
/// For measurements: the same library without the rules that keep rows independent. Its algorithms may divide the inner sum and
/// use 32 MiB of workspace.
std::unique_ptr<ProductLibrary> make_free_product_library(const Stream& stream);

}  // namespace biqa::cuda
