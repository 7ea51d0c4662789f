// SPDX-License-Identifier: Apache-2.0
// The own bf16 product: its logic on the scalar stand-in, on every machine; on a processor with tile registers that both
// give the same bits.
#include "ops/cpu/tile_product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "ops/cpu/part.h"
#include "ops/cpu/tile_set.h"
#include "support/compare.h"
#include "support/oracle.h"

namespace biqa {
namespace {

using cpu::TileKernel;
using cpu::TileLayout;
using testing::element_of;
using testing::ExpectedMatrix;
using testing::random_tensor;
using testing::same_bits;

struct Shape {
  std::int64_t rows, inner, columns;
};
// Tails of every kind: rows of one and two tiles, steps, chunks (beyond 16 steps: of 8), blocks, halves of blocks, panels.
constexpr Shape kShapes[] = {{1, 1, 1},      {2, 31, 16},   {15, 32, 17},  {16, 33, 32},
                             {17, 512, 33},  {33, 513, 40}, {31, 544, 48}, {32, 800, 64},
                             {50, 100, 290}, {290, 40, 50}, {40, 576, 300}};

Tensor multiply(TileKernel kernel, const Shape& s, bool transposed, bool with_bias, bool accumulate,
                int threads) {
  const Tensor x = random_tensor(DType::bf16, s.rows, s.inner, 1, 1);
  const Tensor weight = transposed ? random_tensor(DType::bf16, s.columns, s.inner, 1, 2)
                                   : random_tensor(DType::bf16, s.inner, s.columns, 1, 2);
  const Tensor bias = random_tensor(DType::f32, 1, s.columns, 1, 3);
  Tensor y = random_tensor(DType::f32, s.rows, s.columns, 1, 4);
  const auto product =
      cpu::make_tile_matrix({weight.view(), transposed,
                             with_bias ? bias.span<float>() : std::span<const float>{}, DType::bf16, nullptr},
                            kernel);
  product->multiply(x.view(), y.view(), accumulate, threads);
  return y;
}

TEST(TileProduct, AgreesWithTheFormula) {
  for (const Shape& s : kShapes) {
    for (const int choice : {0, 1, 2, 3, 4, 5, 6, 7}) {
      const bool transposed = (choice & 1) != 0, with_bias = (choice & 2) != 0,
                 accumulate = (choice & 4) != 0;
      const Tensor x = random_tensor(DType::bf16, s.rows, s.inner, 1, 1);
      const Tensor weight = transposed ? random_tensor(DType::bf16, s.columns, s.inner, 1, 2)
                                       : random_tensor(DType::bf16, s.inner, s.columns, 1, 2);
      const Tensor bias = random_tensor(DType::f32, 1, s.columns, 1, 3);
      const Tensor before = random_tensor(DType::f32, s.rows, s.columns, 1, 4);
      ExpectedMatrix expected(s.rows, s.columns);
      for (std::int64_t r = 0; r < s.rows; ++r) {
        for (std::int64_t c = 0; c < s.columns; ++c) {
          double sum = 0, magnitude = 0;
          const auto add = [&](double value) {
            sum += value;
            magnitude += std::abs(value);
          };
          if (with_bias) add(element_of(bias.view(), 0, c));
          if (accumulate) add(element_of(before.view(), r, c));
          for (std::int64_t k = 0; k < s.inner; ++k) {
            add(element_of(x.view(), r, k) *
                (transposed ? element_of(weight.view(), c, k) : element_of(weight.view(), k, c)));
          }
          expected.set(r, c, sum, testing::sum_bound(s.inner + 2, magnitude, DType::f32, sum));
        }
      }
      EXPECT_TRUE(expected.agrees_with(
          multiply(cpu::scalar_tiles()->product, s, transposed, with_bias, accumulate, 1).view()))
          << s.rows << " rows, " << s.inner << "x" << s.columns << ", choice " << choice;
    }
  }
}

TEST(TileProduct, ThreadsAndRowsChangeNoBit) {
  for (const Shape& s : kShapes) {
    const Tensor x = random_tensor(DType::bf16, s.rows, s.inner, 1, 1);
    const Tensor weight = random_tensor(DType::bf16, s.columns, s.inner, 1, 2);
    const TileLayout layout(s.inner, s.columns);
    std::vector<Bf16> packed(static_cast<std::size_t>(layout.elements()));
    cpu::pack_tiles(weight.view(), true, layout, packed.data());
    const auto product =
        cpu::make_tile_matrix({weight.view(), true, {}, DType::bf16, nullptr}, cpu::scalar_tiles()->product);
    Tensor whole(DType::f32, s.rows, s.columns, "test");
    product->multiply(x.view(), whole.view(), false, 1);
    for (std::int64_t r = 0; r < s.rows; r += 7) {
      Tensor alone(DType::f32, 1, s.columns, "test");
      product->multiply(x.view().row_range(r, 1), alone.view(), false, 1);
      EXPECT_TRUE(same_bits(alone.view(), whole.view().row_range(r, 1))) << "row " << r << " of " << s.rows;
    }
    if (s.inner % TileLayout::kStep != 0) continue;  // whole steps need no copy of the last one
    for (const std::int64_t parts : {2, 3, 16}) {
      Tensor divided(DType::f32, s.rows, s.columns, "test");
      cpu::TileProduct call;
      call.layout = &layout;
      call.packed = packed.data();
      call.x = x.row<Bf16>(0);
      call.x_stride = x.columns();
      call.rows = s.rows;
      call.y = divided.row<float>(0);
      call.y_stride = divided.columns();
      for (std::int64_t part = 0; part < parts; ++part) {
        Buffer own(static_cast<std::size_t>(cpu::kTileScratch) * sizeof(float), "test");
        cpu::scalar_tiles()->product(call, part, parts, static_cast<float*>(own.data()));
      }
      EXPECT_TRUE(same_bits(divided.view(), whole.view()))
          << parts << " parts of " << s.rows << "x" << s.columns;
    }
  }
}

// What is not finite in one row, or behind the end of a row, must not reach another.
TEST(TileProduct, RowsThatAreNotFiniteKeepToThemselves) {
  const Shape s{20, 40, 33};
  Tensor x = random_tensor(DType::bf16, s.rows, s.inner, 1, 1);
  const Tensor weight = random_tensor(DType::bf16, s.columns, s.inner, 1, 2);
  const auto product =
      cpu::make_tile_matrix({weight.view(), true, {}, DType::bf16, nullptr}, cpu::scalar_tiles()->product);
  Tensor clean(DType::f32, s.rows, s.columns, "test"), spoiled(DType::f32, s.rows, s.columns, "test");
  product->multiply(x.view(), clean.view(), false, 1);
  for (const std::int64_t row : {3, 17, 19}) {
    for (std::int64_t k = 0; k < s.inner; ++k)
      x.row<Bf16>(row)[k] = to_bf16(k % 2 == 0 ? std::numeric_limits<float>::infinity() : std::nanf(""));
  }
  product->multiply(x.view(), spoiled.view(), false, 1);
  for (std::int64_t row = 0; row < s.rows; ++row) {
    if (row == 3 || row == 17 || row == 19)
      EXPECT_TRUE(std::isnan(spoiled.row<float>(row)[0])) << row;
    else
      EXPECT_TRUE(same_bits(spoiled.view().row_range(row, 1), clean.view().row_range(row, 1))) << row;
  }
}

TEST(TileProduct, PackingHoldsEveryElementOnceAndZerosElsewhere) {
  for (const bool transposed : {false, true}) {
    for (const DType type : {DType::f32, DType::bf16}) {
      const std::int64_t inner = 67, columns = 300;
      Tensor weight(type, transposed ? columns : inner, transposed ? inner : columns, "test");
      for (std::int64_t k = 0; k < inner; ++k) {
        for (std::int64_t c = 0; c < columns; ++c) {
          const auto value = static_cast<float>(k % 64 + 1);
          const std::int64_t row = transposed ? c : k, at = transposed ? k : c;
          if (type == DType::f32)
            weight.row<float>(row)[at] = value;
          else
            weight.row<Bf16>(row)[at] = to_bf16(value);
        }
      }
      const TileLayout layout(inner, columns);
      std::vector<Bf16> packed(static_cast<std::size_t>(layout.elements()), to_bf16(-1.0F));
      cpu::pack_tiles(weight.view(), transposed, layout, packed.data());
      std::vector<std::int64_t> seen(65, 0);
      for (const Bf16 element : packed) ++seen.at(static_cast<std::size_t>(to_float(element)));
      for (std::size_t value = 1; value <= 64; ++value)
        EXPECT_EQ(seen[value], value <= 3 ? 2 * columns : columns) << value;
      EXPECT_EQ(seen[0], layout.elements() - inner * columns);
    }
  }
}

TEST(TileProduct, TheProcessorsTilesGiveTheBitsOfTheStandIn) {
  const cpu::TileSet* const tiles = cpu::amx_tiles();
  const TileKernel amx = tiles == nullptr ? nullptr : tiles->product;
  if (amx == nullptr)
    GTEST_SKIP() << "this processor has no AMX: the own bf16 product ran on its scalar stand-in only";
  for (const Shape& s : kShapes) {
    for (const int choice : {0, 3, 5, 6}) {
      const bool transposed = (choice & 1) != 0, with_bias = (choice & 2) != 0,
                 accumulate = (choice & 4) != 0;
      EXPECT_TRUE(
          same_bits(multiply(amx, s, transposed, with_bias, accumulate, 2).view(),
                    multiply(cpu::scalar_tiles()->product, s, transposed, with_bias, accumulate, 1).view()))
          << s.rows << " rows, " << s.inner << "x" << s.columns << ", choice " << choice;
    }
  }
  // Denormal numbers count as zero, in and out.
  Tensor x(DType::bf16, 1, 32, "test"), weight(DType::bf16, 1, 32, "test");
  x.zero();
  weight.zero();
  x.row<Bf16>(0)[0] = weight.row<Bf16>(0)[0] = to_bf16(1e-19F);  // 1e-38 is below the smallest normal number
  x.row<Bf16>(0)[1] = to_bf16(1e-39F);
  weight.row<Bf16>(0)[1] = to_bf16(1e30F);
  for (const TileKernel kernel : {amx, cpu::scalar_tiles()->product}) {
    Tensor y(DType::f32, 1, 1, "test");
    cpu::make_tile_matrix({weight.view(), true, {}, DType::bf16, nullptr}, kernel)
        ->multiply(x.view(), y.view(), false, 1);
    EXPECT_EQ(y.row<float>(0)[0], 0.0F);
  }
}

TEST(Part, EveryOutputBelongsToOnePart) {
  for (const std::int64_t rows : {1, 31, 32, 33, 500}) {
    for (const std::int64_t columns : {1, 2, 7, 64}) {
      for (const std::int64_t parts : {1, 2, 3, 16, 70}) {
        std::vector<int> taken(static_cast<std::size_t>(rows * columns), 0);
        for (std::int64_t part = 0; part < parts; ++part) {
          const cpu::Part p = cpu::part_of(rows, 32, columns, part, parts);
          EXPECT_TRUE(p.first_row % 32 == 0 || p.first_row == rows);
          for (std::int64_t r = p.first_row; r < p.end_row; ++r) {
            for (std::int64_t c = p.first_column; c < p.end_column; ++c)
              ++taken[static_cast<std::size_t>(r * columns + c)];
          }
        }
        EXPECT_EQ(std::count(taken.begin(), taken.end(), 1), rows * columns)
            << rows << "x" << columns << " by " << parts;
      }
    }
  }
}

TEST(Part, NoThreadHasMuchMoreToDoThanOthers) {
  struct Case {
    std::int64_t rows, columns, parts;
  };
  for (const Case& c :
       {Case{512, 112, 64}, Case{512, 16, 16}, Case{32, 16, 16}, Case{2048, 4, 32}, Case{512, 48, 2}}) {
    std::int64_t most = 0;
    for (std::int64_t part = 0; part < c.parts; ++part) {
      const cpu::Part p = cpu::part_of(c.rows, 32, c.columns, part, c.parts);
      most = std::max(most, (p.end_row - p.first_row) * (p.end_column - p.first_column));
    }
    EXPECT_LE(most * c.parts, c.rows * c.columns * 5 / 4) << c.rows << "x" << c.columns << " by " << c.parts;
  }
}

}  // namespace
}  // namespace biqa
