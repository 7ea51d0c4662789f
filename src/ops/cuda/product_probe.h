// SPDX-License-Identifier: Apache-2.0
// Compares the bits that two algorithms give for the same product of made-up numbers.
#pragma once

#include <cstdint>

#include "ops/cuda/product_library.h"
#include "tensor/device_memory.h"

namespace biqa::cuda {

/// Numbers that show the order of a sum: of both signs and of very different magnitudes. In some rows the end of the
/// inner width has the largest numbers, in others the smallest. They depend only on the product. A result in bf16 is also
/// added to the reference with the other sign, which shows bits that its rounding hides.
class ProductProbe {
 public:
  /// Takes device memory for the weight and for at most 1024 rows. They have at most 2^24 inputs and 16 MiB of results,
  /// or more if that is needed for 64 rows. `product` has dense operands.
  ProductProbe(const Product& product, ProductLibrary& library, DeviceMemory& memory);

  /// Computes the results that others are compared with. Returns false if the library refuses.
  bool set_reference(const Algorithm& algorithm);
  /// Whether `algorithm` gives `rows` rows the bits that they have in the reference, written and added. The rows are
  /// the last ones of the reference, so they also have other places. More rows than those of the probe count as all of
  /// them. False if the library refuses.
  bool agrees(const Algorithm& algorithm, std::int64_t rows);
  std::int64_t rows() const { return rows_; }

 private:
  bool compute(const Algorithm& algorithm, std::int64_t rows, bool accumulate, Tensor& result);

  Product product_;
  ProductLibrary& library_;
  DeviceMemory& memory_;
  std::int64_t rows_;
  Tensor x_, weight_, bias_, start_, y_;  // in device memory; start_: what accumulated products are added to
  Tensor written_, added_;                // reference results, in host memory
};

}  // namespace biqa::cuda
