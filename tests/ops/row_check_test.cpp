// SPDX-License-Identifier: Apache-2.0
// The check of products while loading notices libraries of the kinds that were met.
#include "ops/cpu/row_check.h"

#include <gtest/gtest.h>

#include <cmath>

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

}  // namespace
}  // namespace biqa
