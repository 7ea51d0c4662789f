// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/row_check.h"

#include <algorithm>
#include <cstring>

namespace biqa::cpu {
namespace {

std::int64_t most_rows(std::int64_t columns) {
  return std::clamp<std::int64_t>((std::int64_t{1} << 22) / columns, 32, 256);
}

Tensor made_up_rows(DType compute, std::int64_t rows, std::int64_t columns) {
  Tensor x(compute, rows, columns, "scratch");
  std::uint64_t state = 0;
  for (std::int64_t i = 0; i < x.size(); ++i) {
    state = state * 6364136223846793005U +
            1442695040888963407U;  // Knuth's linear congruence; its upper bits are good
    const float value = static_cast<float>(state >> 40) * 0x1.0p-23F - 1.0F;
    const auto at = static_cast<std::size_t>(i);
    if (compute == DType::bf16)
      x.span<Bf16>()[at] = to_bf16(value);
    else
      x.span<float>()[at] = value;
  }
  return x;
}

}  // namespace

std::optional<std::int64_t> rows_with_other_bits(std::int64_t inner, std::int64_t columns, DType compute,
                                                 std::span<const std::int64_t> counts,
                                                 const std::function<void(ConstView x, View y)>& multiply) {
  const std::int64_t most = most_rows(columns);
  const Tensor x = made_up_rows(compute, most, inner);
  Tensor all(DType::f32, most, columns, "scratch");
  multiply(x.const_view(), all.view());
  Tensor some(DType::f32, most, columns, "scratch");
  for (const std::int64_t rows : counts) {
    const std::int64_t first = most - rows;  // so the rows also change their places in the batch
    const View y = some.view().row_range(0, rows);
    multiply(x.const_view().row_range(first, rows), y);
    const auto bytes = static_cast<std::size_t>(rows * columns) * sizeof(float);
    if (std::memcmp(y.data(), all.row<float>(first), bytes) != 0) return rows;
  }
  return std::nullopt;
}

bool threads_change_bits(std::int64_t inner, std::int64_t columns, DType compute, std::int64_t rows,
                         const std::function<void(ConstView x, View y)>& multiply,
                         const std::function<void(ConstView x, View y)>& multiply_alone) {
  const Tensor x = made_up_rows(compute, rows, inner);
  Tensor together(DType::f32, rows, columns, "scratch"), alone(DType::f32, rows, columns, "scratch");
  multiply(x.const_view(), together.view());
  multiply_alone(x.const_view(), alone.view());
  return std::memcmp(together.row<float>(0), alone.row<float>(0),
                     static_cast<std::size_t>(rows * columns) * sizeof(float)) != 0;
}

}  // namespace biqa::cpu
