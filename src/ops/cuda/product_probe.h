// SPDX-License-Identifier: Apache-2.0
// Compares the bits that two algorithms give for the same product of made-up numbers.
#pragma once

#include <cstdint>

#include "ops/cuda/product_library.h"
#include "tensor/device_memory.h"

namespace biqa::cuda {

/// Overwrites results in bf16, in device memory, with their negatives. If a product is then added to its own negated
/// result, the remainder that rounding had cut off is left. Waits.
void negate(View results, DeviceMemory& memory);

/// Compares products of numbers that show the order of a sum. The numbers have both signs and very different
/// magnitudes. In some rows the largest ones are at the end of the inner width, in others the smallest. They depend
/// only on the product. A product in bf16 is also added to the negated reference, which shows bits that its rounding
/// hides.
class ProductProbe {
 public:
  /// Takes device memory for the weight and for 64 to 1024 rows of numbers. More than 64 rows have at most 2^24 inputs,
  /// and at most 2^22 results. `product` has dense operands.
  ProductProbe(const Product& product, ProductLibrary& library, DeviceMemory& memory);

  /// Computes the results that others are compared with. Returns false if the library refuses.
  bool set_reference(const Algorithm& algorithm);
  /// Rows of the reference.
  std::int64_t reference_rows() const { return rows_; }
  /// Bytes of device memory that `rows` rows and their results take.
  std::int64_t bytes(std::int64_t rows) const;
  /// Whether the library computes `rows` rows with `algorithm`.
  bool accepts(const Algorithm& algorithm, std::int64_t rows) { return compute(algorithm, rows, false); }
  /// Whether `algorithm` gives each of `rows` rows the bits that the row has in the reference. Compares written and
  /// added results. If `rows` is smaller than the reference, the last rows of the reference are used, so a row has
  /// another place in its batch. If it is larger, the rows of the reference repeat. Compares the first, middle and last
  /// 64 rows. False if the library refuses. Throws Error if the device has too little memory.
  bool agrees(const Algorithm& algorithm, std::int64_t rows);

 private:
  bool compute(const Algorithm& algorithm, std::int64_t rows, bool accumulate);
  bool same_rows(std::int64_t rows, ConstView reference);
  /// The row of the numbers with which a product of `rows` rows begins.
  std::int64_t first_of(std::int64_t rows) const { return rows < rows_ ? rows_ - rows : 0; }
  /// to[r] = from[(first + r) modulo rows_].
  void repeat(ConstView from, std::int64_t first, View to);

  Product product_;
  ProductLibrary& library_;
  DeviceMemory& memory_;
  std::int64_t rows_;               // of the numbers and of the reference
  Tensor numbers_, weight_, bias_;  // in device memory
  Tensor start_;                    // what accumulated products are added to
  Tensor x_, y_;                    // as many rows as were needed so far
  Tensor written_, added_;          // reference results, in host memory
};

}  // namespace biqa::cuda
