// SPDX-License-Identifier: Apache-2.0
// Random operands of an adapter's term (ops/cuda/tile_lora.h), on the host and on the device, and its elements in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "ops/cuda/tile_lora.h"
#include "support/compare.h"
#include "tensor/cuda/memory.h"

namespace biqa::testing {

inline constexpr double kUnit = 0x1.0p-24;
inline constexpr double kUnit16 = 0x1.0p-8;

/// A number and the bound of its error.
struct Bounded {
  double value = 0, error = 0;
};

/// base + bias + term; each sum rounds once.
inline Bounded sum_of(double base, double bias, const Bounded& term) {
  const double value = base + bias + term.value;
  return {value, term.error + kUnit * (std::abs(base + bias) + std::abs(value))};
}

/// The stream, the memory and what was uploaded for one call of a kernel.
struct DeviceOperands {
  std::shared_ptr<cuda::Stream> stream = std::make_shared<cuda::Stream>();
  cuda::CudaMemory memory{stream};
  std::vector<Tensor> kept;

  ConstView upload(ConstView host) { return kept.emplace_back(copied_to(memory, host, "test")).view(); }
};

class LowRankOperands {
 public:
  /// `rank` 0: no term.
  LowRankOperands(std::int64_t rows, std::int64_t width, std::int64_t rank, std::uint64_t seed)
      : u_(random_tensor(DType::f32, rows, rank, 1, seed)),
        factors_(random_tensor(DType::f32, rank, width, 1, seed + 1)) {}

  /// Rows [first, first + count) of the term, without a mask.
  cuda::LowRankTerm term(DeviceOperands& device, std::int64_t first, std::int64_t count) const {
    if (u_.columns() == 0) return {};
    const ConstView u = device.upload(u_.view().row_range(first, count));
    const ConstView factors = device.upload(factors_.view());
    const auto half = [&] {
      return device.kept
          .emplace_back(device.memory.allocate(DType::bf16, factors.rows(), factors.columns(), "test"))
          .view();
    };
    const View high = half();
    const View low = half();
    cuda::split(factors, high, low, *device.stream);
    return {u, {high, low}, kScale, {}};
  }

  /// Element (row, column) times `mask`. Both operands are split (docs/numerics.md), so three products are added for each
  /// pair; scale and mask round once each.
  Bounded at(std::int64_t row, std::int64_t column, double mask = 1) const {
    constexpr double kSplit = 0x1.0p-15;
    double sum = 0;
    double magnitude = 0;
    for (std::int64_t r = 0; r < u_.columns(); ++r) {
      const double product = element_of(u_.view(), row, r) * element_of(factors_.view(), r, column);
      sum += product;
      magnitude += std::abs(product);
    }
    const double weight = mask * static_cast<double>(kScale);
    return {weight * sum, weight * (sum_bound(3 * u_.columns(), magnitude, DType::f32, 0) +
                                    (kSplit + 2 * kUnit) * magnitude)};
  }

 private:
  static constexpr float kScale = 0.6F;
  Tensor u_, factors_;
};

}  // namespace biqa::testing
