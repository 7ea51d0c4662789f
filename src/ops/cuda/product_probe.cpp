// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/product_probe.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/random.h"

namespace biqa::cuda {
namespace {

constexpr std::int64_t kTail =
    64;  // no algorithm takes more of the inner width at a time, or a multiple of it

std::int64_t probe_rows(const Product& product) {
  constexpr std::int64_t kResults = (std::int64_t{16} << 20) / sizeof(float);
  constexpr std::int64_t kInputs = std::int64_t{16} << 20;
  return std::clamp<std::int64_t>(std::min(kResults / product.outer, kInputs / product.inner), 64, 1024);
}

/// ±(1 + mantissa) · 2^exponent with an exponent of -8 … 8, from random bits.
float wide_number(std::uint64_t bits) {
  const float mantissa = 1.0F + static_cast<float>(bits >> 40) * 0x1.0p-24F;
  const int exponent = static_cast<int>(bits % 17) - 8;
  return std::ldexp((bits & (1U << 20)) != 0 ? -mantissa : mantissa, exponent);
}

void store(Tensor& tensor, std::size_t at, float value) {
  if (tensor.type() == DType::bf16)
    tensor.span<Bf16>()[at] = to_bf16(value);
  else
    tensor.span<float>()[at] = value;
}

/// A tensor of wide numbers. They repeat after a prime number of elements, so that large weights are made quickly and
/// no two rows are equal.
Tensor wide_numbers(DType type, std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  Tensor tensor(type, rows, columns, "product probe");
  constexpr std::size_t kPeriod = 1048573;
  const auto size = static_cast<std::size_t>(tensor.size());
  for (std::size_t i = 0; i < std::min(size, kPeriod); ++i) store(tensor, i, wide_number(mix64(seed + i)));
  auto* bytes = static_cast<std::byte*>(tensor.view().data());
  for (std::size_t at = kPeriod; at < size; at += kPeriod)
    std::memcpy(bytes + at * size_of(type), bytes, std::min(kPeriod, size - at) * size_of(type));
  return tensor;
}

/// Rows of four kinds, in turn: wide numbers, numbers near 1, the largest at the end, the largest in the first half.
Tensor input_numbers(DType type, std::int64_t rows, std::int64_t columns) {
  Tensor x(type, rows, columns, "product probe");
  std::size_t at = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c, ++at) {
      const float wide = wide_number(mix64(at ^ 0x517cc1b727220a95U));
      float scale = 1;
      if (r % 4 == 1) scale = 1 / std::exp2(std::floor(std::log2(std::abs(wide))));
      if (r % 4 == 2) scale = c + kTail >= columns ? 64.0F : 1.0F / 64;
      if (r % 4 == 3) scale = 2 * c < columns ? 64.0F : 1.0F / 64;
      store(x, at, scale * wide);
    }
  }
  return x;
}

bool same_rows(ConstView result, ConstView reference, std::int64_t rows) {
  const ConstView last = reference.row_range(reference.rows() - rows, rows);
  return std::memcmp(result.data(), last.data(),
                     static_cast<std::size_t>(last.size()) * size_of(last.type())) == 0;
}

}  // namespace

ProductProbe::ProductProbe(const Product& product, ProductLibrary& library, DeviceMemory& memory)
    : product_(product), library_(library), memory_(memory), rows_(probe_rows(product)) {
  const auto place = [&](const Tensor& values) {
    return copied_to(memory, values.const_view(), "product probe");
  };
  x_ = place(input_numbers(product.input, rows_, product.inner));
  weight_ = place(wide_numbers(product.input, product.transposed ? product.outer : product.inner,
                               product.transposed ? product.inner : product.outer, 1));
  if (product.bias) bias_ = place(wide_numbers(product.output, 1, product.outer, 2));
  start_ = place(wide_numbers(product.output, rows_, product.outer, 3));
  y_ = memory.allocate(product.output, rows_, product.outer, "product probe");
  const Product own = product_of({x_.view(), weight_.view(), bias_.view(), y_.view(), product.transposed});
  CHECK(own.x_stride == product.x_stride && own.weight_stride == product.weight_stride &&
        own.y_stride == product.y_stride)
      << "only products of dense operands have a probe";
}

bool ProductProbe::set_reference(const Algorithm& algorithm) {
  if (!compute(algorithm, rows_, false, written_)) return false;
  if (product_.output == DType::bf16) {
    // Rounding hides the last 16 bits of a sum. Added to its own rounded value with the other sign, the rest of the sum is
    // left, and the next 8 bits show.
    Tensor negative = copied_to(host_memory(), written_.const_view(), "product probe");
    for (Bf16& value : negative.span<Bf16>()) value.bits ^= 0x8000U;
    memory_.copy(negative.const_view(), start_.view());
    memory_.wait();
  }
  return compute(algorithm, rows_, true, added_);
}

bool ProductProbe::agrees(const Algorithm& algorithm, std::int64_t rows) {
  const std::int64_t count = std::min(rows, rows_);
  Tensor result;
  if (!compute(algorithm, count, false, result) || !same_rows(result.view(), written_.view(), count))
    return false;
  return compute(algorithm, count, true, result) && same_rows(result.view(), added_.view(), count);
}

bool ProductProbe::compute(const Algorithm& algorithm, std::int64_t rows, bool accumulate, Tensor& result) {
  const std::int64_t first = rows_ - rows;
  const View y = y_.view().row_range(0, rows);
  // Without accumulation, a result that is not written differs from the reference.
  memory_.zero(y);
  if (accumulate) memory_.copy(start_.view().row_range(first, rows), y);
  if (!library_.multiply({x_.view().row_range(first, rows), weight_.view(), bias_.view(), y,
                          product_.transposed, accumulate},
                         algorithm)) {
    return false;
  }
  result = copied_to_host(memory_, y, "product probe");
  return true;
}

}  // namespace biqa::cuda
