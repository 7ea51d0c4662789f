// SPDX-License-Identifier: Apache-2.0
// The check of products while loading notices libraries of the kinds that were met.
#include "ops/cpu/row_check.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <filesystem>
#include <iterator>

#include "ops/cpu/kernels.h"
#include "ops/cpu/products.h"
#include "support/compare.h"

namespace biqa {
namespace {

constexpr std::int64_t kCounts[] = {1, 7, 31};

/// y[r][c] = Σ x[r][k] · w(k, c), the sum cut into `pieces`.
void multiply_in_pieces(ConstView x, View y, std::int64_t pieces) {
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    for (std::int64_t c = 0; c < y.columns(); ++c) {
      float sum = 0;
      for (std::int64_t piece = 0; piece < pieces; ++piece) {
        float part = 0;
        for (std::int64_t k = x.columns() * piece / pieces; k < x.columns() * (piece + 1) / pieces; ++k) {
          const auto weight = static_cast<float>(std::sin(static_cast<double>(k * 7 + c)));
          part += weight * (x.type() == DType::f32 ? x.row<float>(r)[k] : to_float(x.row<Bf16>(r)[k]));
        }
        sum += part;
      }
      y.row<float>(r)[c] = sum;
    }
  }
}

std::ptrdiff_t threads_of_this_process() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                       std::filesystem::directory_iterator());
}

TEST(RowCheck, NoticesRowsThatDependOnTheirBatch) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const auto check = [type](std::int64_t columns,
                              const std::function<std::int64_t(std::int64_t)>& pieces_of) {
      return cpu::rows_with_other_bits(300, columns, type, kCounts, [&](ConstView x, View y) {
        multiply_in_pieces(x, y, pieces_of(x.rows()));
      });
    };
    EXPECT_EQ(check(20, [](std::int64_t) { return 1; }), std::nullopt);
    EXPECT_EQ(check(20, [](std::int64_t) { return 3; }), std::nullopt);
    EXPECT_EQ(check(20, [](std::int64_t rows) { return rows == 1 ? 1 : 2; }),
              1);  // a kernel of its own for one row
    EXPECT_EQ(check(20, [](std::int64_t rows) { return rows < 16 ? 2 : 1; }),
              1);  // the sum divided among threads
    EXPECT_EQ(check(20, [](std::int64_t rows) { return rows % 2 == 1 ? 2 : 1; }), 1);
    EXPECT_EQ(check(20, [](std::int64_t rows) { return rows == 7 ? 2 : 1; }), 7);
    EXPECT_EQ(check(20, [](std::int64_t rows) { return rows > 200 ? 2 : 1; }), 1);
  }
}

TEST(RowCheck, OneWrongElementIsEnough) {
  const auto rows = cpu::rows_with_other_bits(64, 30, DType::f32, kCounts, [](ConstView x, View y) {
    multiply_in_pieces(x, y, 1);
    if (x.rows() == 7) y.row<float>(6)[29] = std::nextafter(y.row<float>(6)[29], 1e9F);
  });
  EXPECT_EQ(rows, 7);
}

TEST(RowCheck, NoticesBitsThatDependOnTheThreads) {
  const auto in_pieces = [](std::int64_t pieces) {
    return [pieces](ConstView x, View y) { multiply_in_pieces(x, y, pieces); };
  };
  for (const DType type : {DType::f32, DType::bf16}) {
    EXPECT_FALSE(cpu::threads_change_bits(300, 20, type, 3, in_pieces(2), in_pieces(2)));
    EXPECT_TRUE(cpu::threads_change_bits(300, 20, type, 3, in_pieces(2), in_pieces(1)));
  }
}

// Else the check would compare the library's threads with themselves.
TEST(RowCheck, OneThreadOfTheLibraryIsOneThread) {
  const int before = omp_get_max_threads();
  const Tensor weight = testing::random_tensor(DType::f32, 512, 512, 1, 1);
  const Tensor x = testing::random_tensor(DType::f32, 256, 512, 1, 2);
  Tensor y(DType::f32, 256, 512, "test");
  omp_set_num_threads(1);  // packing starts no threads either
  const auto product = cpu::make_onednn_matrix({weight.view(), true, {}, DType::f32, nullptr});
  omp_set_num_threads(2);
  const std::ptrdiff_t at_first = threads_of_this_process();
  product->multiply(x.view(), y.view(), false, 1);
  EXPECT_EQ(threads_of_this_process(), at_first);
  EXPECT_EQ(omp_get_max_threads(), 2);
  product->multiply(x.view(), y.view(), false, 2);
  EXPECT_EQ(threads_of_this_process(), at_first + 1) << "the same product, divided among two threads";
  omp_set_num_threads(before);
}

}  // namespace
}  // namespace biqa
