// SPDX-License-Identifier: Apache-2.0
// The kernels of ops/cuda/rows.h in the emulator: a row's bits depend on nothing but the row. What they compute is compared
// with formulas where every backend is (rows_test.cpp); here only what other backends don't have.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <vector>

#include "cuda_emulation/emulator.h"
#include "ops/cuda/rows.h"
#include "support/compare.h"
#include "support/cuda_arrays.h"
#include "support/device_matrix.h"

namespace biqa {
namespace {

using cuda::Stream;
using testing::DeviceArray;
using testing::DeviceMatrix;
using testing::element_of;
using testing::Layout;
using testing::random_tensor;
using testing::same_bits;

/// Inputs of a case with n columns: x [rows, 2n], dy [rows, n], weight [1, n]; y [rows, 2n] or [rows, n] is given to the kernel
/// with values in it.
struct RowKernel {
  const char* name;
  DType input, output;
  std::int64_t output_width;
  std::function<void(ConstView x, ConstView dy, ConstView weight, View y, const Stream&)> run;
};
std::ostream& operator<<(std::ostream& out, const RowKernel& kernel) {
  return out << kernel.name;
}

std::vector<RowKernel> row_kernels() {
  constexpr DType kF32 = DType::f32;
  constexpr DType kBf16 = DType::bf16;
  std::vector<RowKernel> all;
  for (const DType out : {kF32, kBf16}) {
    all.push_back({"rms_norm", kF32, out, 1, [](auto x, auto dy, auto weight, auto y, const Stream& s) {
                     cuda::rms_norm(x.column_range(0, dy.columns()), weight, 1e-6F, y, s);
                   }});
    all.push_back(
        {"gelu", kF32, out, 2, [](auto x, auto, auto, auto y, const Stream& s) { cuda::gelu(x, y, s); }});
    for (const DType in : {kF32, kBf16}) {
      all.push_back(
          {"swiglu", in, out, 1, [](auto x, auto, auto, auto y, const Stream& s) { cuda::swiglu(x, y, s); }});
      all.push_back({"swiglu_backward", in, out, 2, [](auto x, auto dy, auto, auto y, const Stream& s) {
                       cuda::swiglu_backward(x, dy, y, s);
                     }});
      all.push_back({"convert", in, out, 2,
                     [](auto x, auto, auto, auto y, const Stream& s) { cuda::convert(x, y, s); }});
    }
  }
  all.push_back(
      {"rms_norm_backward", kF32, kF32, 1, [](auto x, auto dy, auto weight, auto y, const Stream& s) {
         cuda::rms_norm_backward(x.column_range(0, dy.columns()), weight, 1e-6F, dy, y, s);
       }});
  all.push_back({"rotate", kF32, kF32, 2, [](auto x, auto dy, auto, auto y, const Stream& s) {
                   cuda::rotate(y, y.columns(), dy, x.column_range(0, dy.columns()), true, s);
                 }});
  all.push_back({"round_to_bf16", kF32, kF32, 2,
                 [](auto x, auto, auto, auto y, const Stream& s) { cuda::round_to_bf16(x, y, s); }});
  return all;
}

struct Shape {
  std::int64_t rows, columns;
};
constexpr std::array<Shape, 7> kShapes{{{1, 1}, {3, 2}, {1, 33}, {5, 4}, {3, 130}, {2, 2051}, {2, 4100}}};

class CudaRows : public ::testing::TestWithParam<RowKernel> {
 protected:
  void TearDown() override { emulation::set_order(emulation::Order::forward); }
  /// The kernel on rows first … first + count of the case.
  static Tensor run(const Shape& shape, Layout layout, std::int64_t first, std::int64_t count) {
    const RowKernel& kernel = GetParam();
    const Stream stream;
    const auto [rows, n] = shape;
    const DeviceMatrix x(random_tensor(kernel.input, rows, 2 * n, 3, 1).view(), layout, stream);
    const DeviceMatrix dy(random_tensor(DType::f32, rows, n, 2, 2).view(), layout, stream);
    const DeviceMatrix weight(random_tensor(DType::f32, 1, n, 2, 3).view(), layout, stream);
    DeviceMatrix y(random_tensor(kernel.output, rows, kernel.output_width * n, 2, 4).view(), layout, stream);
    kernel.run(x.view().row_range(first, count), dy.view().row_range(first, count), weight.view(),
               y.view().row_range(first, count), stream);
    return y.fetch();
  }
};
INSTANTIATE_TEST_SUITE_P(Kernels, CudaRows, ::testing::ValuesIn(row_kernels()));

TEST_P(CudaRows, SameBitsInEveryOrderOfThreads) {
  for (const Shape& shape : kShapes) {
    const Tensor y = run(shape, Layout::dense, 0, shape.rows);
    for (const emulation::Order order : {emulation::Order::backward, emulation::Order::shuffled}) {
      emulation::set_order(order);
      EXPECT_TRUE(same_bits(run(shape, Layout::dense, 0, shape.rows).view(), y.view())) << shape.columns;
    }
    emulation::set_order(emulation::Order::forward);
  }
}

TEST_P(CudaRows, SameBitsWhereRowsAreSpacedOrAlone) {
  for (const Shape& shape : kShapes) {
    const Tensor y = run(shape, Layout::dense, 0, shape.rows);
    EXPECT_TRUE(same_bits(run(shape, Layout::spaced, 0, shape.rows).view(), y.view())) << shape.columns;
    for (std::int64_t r = 0; r < shape.rows; ++r) {
      const Tensor alone = run(shape, Layout::spaced, r, 1);
      EXPECT_TRUE(same_bits(alone.view().row_range(r, 1), y.view().row_range(r, 1))) << shape.columns;
    }
  }
}

TEST_P(CudaRows, NoRowsIsNoWork) {
  run({0, 5}, Layout::dense, 0, 0);
  run({2, 5}, Layout::spaced, 1, 0);
}

TEST(CudaRowValues, RoundToBf16AndBack) {
  const Stream stream;
  const Tensor x = random_tensor(DType::f32, 3, 70, 3, 1);
  DeviceMatrix device(x.view(), Layout::spaced, stream);
  cuda::round_to_bf16(device.view(), device.view(), stream);
  const Tensor y = device.fetch();
  for (std::int64_t i = 0; i < x.size(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    EXPECT_EQ(y.span<float>()[at], to_float(to_bf16(x.span<float>()[at])));
  }
}

/// Rows that are copied, added and scaled; every result is exact.
class CudaSelect : public ::testing::TestWithParam<std::tuple<Layout, Shape>> {
 protected:
  CudaSelect() : x_(random_tensor(DType::f32, kRows, std::get<1>(GetParam()).columns, 3, 5)) {}
  static constexpr std::int64_t kRows = 9;
  Stream stream_;
  Tensor x_;
  Layout layout_ = std::get<0>(GetParam());
  std::int64_t columns_ = x_.columns();
};
INSTANTIATE_TEST_SUITE_P(Shapes, CudaSelect,
                         ::testing::Combine(::testing::Values(Layout::dense, Layout::spaced),
                                            ::testing::ValuesIn(kShapes)));

TEST_P(CudaSelect, GatherAndEmbed) {
  const std::vector<std::int64_t> rows{8, 0, 3, 3};
  const DeviceArray<std::int64_t> device_rows(rows, stream_);
  for (const DType type : {DType::f32, DType::bf16}) {
    const Tensor source = random_tensor(type, kRows, columns_, 3, 6);
    const DeviceMatrix table(source.view(), layout_, stream_);
    DeviceMatrix gathered(random_tensor(type, 4, columns_, 1, 7).view(), layout_, stream_);
    cuda::gather_rows(table.view(), device_rows.span(), gathered.view(), stream_);
    DeviceMatrix embedded(random_tensor(DType::f32, 4, columns_, 1, 7).view(), layout_, stream_);
    cuda::embed(table.view(), device_rows.span(), embedded.view(), stream_);
    const Tensor result = gathered.fetch();
    const Tensor as_floats = embedded.fetch();
    for (std::int64_t i = 0; i < 4; ++i) {
      const std::int64_t row = rows[static_cast<std::size_t>(i)];
      EXPECT_TRUE(same_bits(result.view().row_range(i, 1), source.view().row_range(row, 1)));
      for (std::int64_t c = 0; c < columns_; ++c)
        ASSERT_EQ(as_floats.row<float>(i)[c], element_of(source.view(), row, c));
    }
  }
}

TEST_P(CudaSelect, ScatterWritesTheNamedRowsOnly) {
  const std::vector<std::int64_t> rows{6, 1};
  const Tensor before = random_tensor(DType::f32, kRows, columns_, 3, 8);
  const DeviceMatrix x(x_.view(), layout_, stream_);
  DeviceMatrix y(before.view(), layout_, stream_);
  const DeviceArray<std::int64_t> device_rows(rows, stream_);
  cuda::scatter_rows(x.view().row_range(0, 2), device_rows.span(), y.view(), stream_);
  const Tensor result = y.fetch();
  for (std::int64_t r = 0; r < kRows; ++r) {
    const ConstView expected = r == 6   ? x_.const_view().row_range(0, 1)
                               : r == 1 ? x_.const_view().row_range(1, 1)
                                        : before.view().row_range(r, 1);
    EXPECT_TRUE(same_bits(result.view().row_range(r, 1), expected)) << r;
  }
}

TEST_P(CudaSelect, AddRowsAddsInTheOrderOfTheSources) {
  const std::vector<std::int64_t> targets{4, 0, 7};
  const std::vector<std::int64_t> first{0, 3, 3, 5};
  const std::vector<std::int64_t> sources{5, 2, 8, 2, 1};
  const Tensor before = random_tensor(DType::f32, kRows, columns_, 3, 9);
  Tensor expected = before.clone();
  for (std::size_t t = 0; t < targets.size(); ++t) {
    for (auto i = static_cast<std::size_t>(first[t]); i < static_cast<std::size_t>(first[t + 1]); ++i) {
      for (std::int64_t c = 0; c < columns_; ++c)
        expected.row<float>(targets[t])[c] += x_.row<float>(sources[i])[c];
    }
  }
  const DeviceMatrix x(x_.view(), layout_, stream_);
  DeviceMatrix y(before.view(), layout_, stream_);
  const DeviceArray<std::int64_t> device_targets(targets, stream_);
  const DeviceArray<std::int64_t> device_first(first, stream_);
  const DeviceArray<std::int64_t> device_sources(sources, stream_);
  cuda::add_rows(x.view(), {device_targets.span(), device_first.span(), device_sources.span()}, y.view(),
                 stream_);
  EXPECT_TRUE(same_bits(y.fetch().view(), expected.view()));
}

TEST_P(CudaSelect, ScaleRowsInPlace) {
  std::vector<float> factors(kRows);
  for (std::size_t i = 0; i < factors.size(); ++i) factors[i] = 0.3F * static_cast<float>(i);
  Tensor expected = x_.clone();
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t c = 0; c < columns_; ++c)
      expected.row<float>(r)[c] *= factors[static_cast<std::size_t>(r)];
  }
  DeviceMatrix y(x_.view(), layout_, stream_);
  const DeviceArray<float> device_factors(factors, stream_);
  cuda::scale_rows(y.view(), device_factors.span(), y.view(), stream_);
  EXPECT_TRUE(same_bits(y.fetch().view(), expected.view()));
}

TEST(CudaRowsDeathTest, RefusesShapesThatDisagree) {
  const Stream stream;
  Tensor x(DType::f32, 2, 4, "x");
  Tensor y(DType::f32, 2, 3, "y");
  EXPECT_DEATH(cuda::convert(x.view(), y.view(), stream), "2x4 and 2x3");
  EXPECT_DEATH(cuda::swiglu(x.view(), y.view(), stream), "2x4 for 2x3");
  EXPECT_DEATH(cuda::rotate(x.view(), 3, y.view(), y.view(), false, stream), "head dimension 3");
  EXPECT_DEATH(cuda::gather_rows(x.view(), {}, y.view(), stream), "0 rows named");
}

}  // namespace
}  // namespace biqa
