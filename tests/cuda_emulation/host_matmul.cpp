// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/host_matmul.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "cuda_emulation/device_memory.h"
#include "cuda_emulation/streams.h"

namespace biqa::emulation {
namespace {

/// Calls f with the address and the bytes of every row.
void for_rows(ConstView matrix, const std::function<void(const void*, std::size_t)>& f) {
  if (matrix.empty()) return;
  const std::size_t element = size_of(matrix.type());
  for (std::int64_t row = 0; row < matrix.rows(); ++row) {
    f(static_cast<const unsigned char*>(matrix.address()) +
          static_cast<std::size_t>(row * matrix.stride()) * element,
      static_cast<std::size_t>(matrix.columns()) * element);
  }
}

/// A row as f32.
void load_row(ConstView matrix, std::int64_t row, float* to) {
  if (matrix.type() == DType::bf16) {
    const Bf16* from = static_cast<const Bf16*>(matrix.address()) + row * matrix.stride();
    for (std::int64_t c = 0; c < matrix.columns(); ++c) to[c] = to_float(from[c]);
  } else {
    const float* from = static_cast<const float*>(matrix.address()) + row * matrix.stride();
    std::copy_n(from, matrix.columns(), to);
  }
}

std::vector<float> as_floats(ConstView matrix) {
  std::vector<float> values(static_cast<std::size_t>(matrix.size()));
  for (std::int64_t r = 0; r < matrix.rows(); ++r)
    load_row(matrix, r, &values[static_cast<std::size_t>(r * matrix.columns())]);
  return values;
}

constexpr std::uint64_t kOnly = 0, kHalves = 1, kOtherName = 2;
cuda::Algorithm named(std::uint64_t name) {
  return {{name}};
}

}  // namespace

std::vector<cuda::Algorithm> HostProducts::candidates(const cuda::Product& /*product*/, std::int64_t rows,
                                                      int most) {
  std::vector<cuda::Algorithm> all{named(kOnly)};
  if (proposals == Proposals::several) {
    if (rows <= 64)
      all = {named(kHalves), named(kOtherName), named(kOnly)};
    else if (rows >= 1024)
      all = {named(kOtherName), named(kOnly)};
  }
  all.resize(std::min(all.size(), static_cast<std::size_t>(most)));
  return all;
}

bool HostProducts::multiply(const cuda::ProductOperands& operands, const cuda::Algorithm& algorithm) {
  const auto& [x, weight, bias, y, transposed, accumulate] = operands;
  const bool halves = algorithm == named(kHalves);
  rows_of_algorithm[algorithm.words[0]] += y.rows();
  finish_all_work();
  const OpenDeviceMemory open;
  for (const ConstView& input : {x, weight, bias}) for_rows(input, &library_reads);
  if (accumulate) for_rows(y, &library_reads);
  for_rows(y, &library_writes);
  const std::int64_t inner = x.columns();
  const std::int64_t columns = y.columns();
  // [inner, columns], so that the loop over a row of sums is one over neighbours.
  std::vector<float> factors = as_floats(weight);
  if (transposed) {
    std::vector<float> turned(factors.size());
    for (std::int64_t o = 0; o < columns; ++o) {
      for (std::int64_t i = 0; i < inner; ++i)
        turned[static_cast<std::size_t>(i * columns + o)] = factors[static_cast<std::size_t>(o * inner + i)];
    }
    factors = std::move(turned);
  }
  std::vector<float> row(static_cast<std::size_t>(inner));
  std::vector<float> sums(static_cast<std::size_t>(columns));
  std::vector<float> before(static_cast<std::size_t>(columns));
  std::vector<float> offsets(static_cast<std::size_t>(columns), 0.0F);
  if (!bias.empty()) load_row(bias, 0, offsets.data());
  for (std::int64_t t = 0; t < y.rows(); ++t) {
    load_row(x, t, row.data());
    std::fill(sums.begin(), sums.end(), 0.0F);
    std::vector<float> first_half;
    for (std::int64_t i = 0; i < inner; ++i) {
      if (halves && i == inner / 2) first_half = std::exchange(sums, std::vector<float>(sums.size()));
      const float factor = row[static_cast<std::size_t>(i)];
      const float* from = &factors[static_cast<std::size_t>(i * columns)];
      for (std::int64_t o = 0; o < columns; ++o) sums[static_cast<std::size_t>(o)] += factor * from[o];
    }
    for (std::size_t o = 0; o < first_half.size(); ++o) sums[o] += first_half[o];
    if (accumulate) load_row(y.row_range(t, 1), 0, before.data());
    for (std::int64_t o = 0; o < columns; ++o) {
      const auto at = static_cast<std::size_t>(o);
      float sum = sums[at] + offsets[at];
      if (y.rows() == altered_rows) sum += sum * altered_share + altered_value;
      const float value = (accumulate ? before[at] : 0.0F) + sum;
      if (y.type() == DType::bf16)
        static_cast<Bf16*>(y.address())[t * y.stride() + o] = to_bf16(value);
      else
        static_cast<float*>(y.address())[t * y.stride() + o] = value;
    }
  }
  return true;
}

}  // namespace biqa::emulation

namespace biqa::cuda {

std::unique_ptr<ProductLibrary> make_product_library(const Stream& /*stream*/) {
  return std::make_unique<emulation::HostProducts>();
}

namespace {
/// Without Proposals::several it knows nothing faster than what a run uses.
class FreeHostProducts final : public emulation::HostProducts {
 public:
  std::vector<Algorithm> candidates(const Product& product, std::int64_t rows, int most) override {
    if (emulation::proposals == emulation::Proposals::none) return {};
    return HostProducts::candidates(product, rows, most);
  }
};
}  // namespace

std::unique_ptr<ProductLibrary> make_free_product_library(const Stream& /*stream*/) {
  return std::make_unique<FreeHostProducts>();
}

}  // namespace biqa::cuda
