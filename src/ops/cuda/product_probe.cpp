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

}  // namespace

void negate(View results, DeviceMemory& memory) {
  constexpr std::uint16_t kSign = 0x8000;
  Tensor values = copied_to_host(memory, results, "scratch");
  for (Bf16& value : values.span<Bf16>()) value.bits ^= kSign;
  memory.copy(values.const_view(), results);
  memory.wait();
}

ProductProbe::ProductProbe(const Product& product, ProductLibrary& library, DeviceMemory& memory)
    : product_(product), library_(library), memory_(memory), rows_(probe_rows(product)) {
  const auto place = [&](const Tensor& values) {
    return copied_to(memory, values.const_view(), "product probe");
  };
  numbers_ = place(input_numbers(product.input, rows_, product.inner));
  weight_ = place(wide_numbers(product.input, product.transposed ? product.outer : product.inner,
                               product.transposed ? product.inner : product.outer, 1));
  if (product.bias) bias_ = place(wide_numbers(product.output, 1, product.outer, 2));
  start_ = place(wide_numbers(product.output, rows_, product.outer, 3));
  const Product own =
      product_of({numbers_.view(), weight_.view(), bias_.view(), start_.view(), product.transposed});
  CHECK(own.x_stride == product.x_stride && own.weight_stride == product.weight_stride &&
        own.y_stride == product.y_stride)
      << "only products of dense operands have a probe";
}

bool ProductProbe::set_reference(const Algorithm& algorithm) {
  if (!compute(algorithm, rows_, false)) return false;
  written_ = copied_to_host(memory_, y_.view(), "product probe");
  if (product_.output == DType::bf16) {
    // Rounding hides the last 16 bits of a sum. The rest shows the next 8.
    memory_.copy(y_.view(), start_.view());
    negate(start_.view(), memory_);
  }
  if (!compute(algorithm, rows_, true)) return false;
  added_ = copied_to_host(memory_, y_.view(), "product probe");
  return true;
}

std::int64_t ProductProbe::bytes(std::int64_t rows) const {
  return rows * (product_.inner * static_cast<std::int64_t>(size_of(product_.input)) +
                 product_.outer * static_cast<std::int64_t>(size_of(product_.output)));
}

bool ProductProbe::agrees(const Algorithm& algorithm, std::int64_t rows) {
  return compute(algorithm, rows, false) && same_rows(rows, written_.view()) &&
         compute(algorithm, rows, true) && same_rows(rows, added_.view());
}

void ProductProbe::repeat(ConstView from, std::int64_t first, View to) {
  for (std::int64_t row = 0; row < to.rows();) {
    const std::int64_t begin = (first + row) % rows_;
    const std::int64_t count = std::min(rows_ - begin, to.rows() - row);
    memory_.copy(from.row_range(begin, count), to.row_range(row, count));
    row += count;
  }
}

bool ProductProbe::compute(const Algorithm& algorithm, std::int64_t rows, bool accumulate) {
  if (y_.rows() < rows) {
    x_ = {};
    y_ = {};
    x_ = memory_.allocate(product_.input, rows, product_.inner, "product probe");
    y_ = memory_.allocate(product_.output, rows, product_.outer, "product probe");
  }
  const View x = x_.view().row_range(0, rows);
  const View y = y_.view().row_range(0, rows);
  repeat(numbers_.view(), first_of(rows), x);
  // Without accumulation, a result that is not written differs from the reference.
  memory_.zero(y);
  if (accumulate) repeat(start_.view(), first_of(rows), y);
  return library_.multiply({x, weight_.view(), bias_.view(), y, product_.transposed, accumulate}, algorithm);
}

bool ProductProbe::same_rows(std::int64_t rows, ConstView reference) {
  constexpr std::int64_t kSample = 64;
  const std::int64_t count = std::min(rows, kSample);
  const auto bytes = static_cast<std::size_t>(product_.outer) * size_of(product_.output);
  for (const std::int64_t begin : {std::int64_t{0}, (rows - count) / 2, rows - count}) {
    const Tensor sample = copied_to_host(memory_, y_.view().row_range(begin, count), "product probe");
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t row = (first_of(rows) + begin + i) % rows_;
      if (std::memcmp(sample.view().row_range(i, 1).data(), reference.row_range(row, 1).data(), bytes) != 0)
        return false;
    }
  }
  return true;
}

}  // namespace biqa::cuda
