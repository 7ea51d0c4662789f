// SPDX-License-Identifier: Apache-2.0
// SwiGLU with the adapter's terms (tile_swiglu.h) against formulas in double: in the emulator, or on a device in builds with
// CUDA.
#include <gtest/gtest.h>

#include <cmath>
#include <ostream>
#include <vector>

#include "core/random.h"
#include "ops/cuda/rows.h"
#include "ops/cuda/tile_swiglu.h"
#include "support/compare.h"
#include "support/cuda/aligned_output.h"
#include "support/cuda/device_test.h"
#include "support/cuda/low_rank_operands.h"

namespace biqa {
namespace {

using cuda::LowRankTerm;
using testing::AlignedOutput;
using testing::Bounded;
using testing::DeviceOperands;
using testing::DeviceTable;
using testing::DeviceTest;
using testing::element_of;
using testing::ExpectedMatrix;
using testing::kUnit;
using testing::kUnit16;
using testing::LowRankOperands;
using testing::random_tensor;
using testing::same_bits;
using testing::sum_of;

constexpr std::uint64_t kKey = 99;

struct Case {
  std::int64_t rows, width;
  std::int64_t gate_rank, up_rank, d_rank;  // 0: no term
  double rate;                              // of the mask of the gradient's term
  bool bias = false;
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.rows << "x" << c.width << " ranks " << c.gate_rank << ", " << c.up_rank << ", " << c.d_rank
             << " rate " << c.rate << (c.bias ? " bias" : "");
}

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}
double silu(double x) {
  return x * sigmoid(x);
}
double silu_slope(double x) {
  return sigmoid(x) * (1 + x * (1 - sigmoid(x)));
}

class CudaTileSwiglu : public DeviceTest, public ::testing::WithParamInterface<Case> {
 protected:
  struct Results {
    Tensor h, d_gate_up;
  };
  cuda::GateUp input(DeviceOperands& device, std::int64_t first, std::int64_t count) const {
    return {device.upload(gate_up_.view().row_range(first, count)),
            c_.bias ? device.upload(bias_.view()) : ConstView(), gate_.term(device, first, count),
            up_.term(device, first, count)};
  }

  /// Rows [first, first + count) of h, from the forward alone.
  Tensor forward(std::int64_t first, std::int64_t count) const {
    DeviceOperands device;
    AlignedOutput h(DType::bf16, count, c_.width, device.memory);
    cuda::swiglu(input(device, first, count), h.view(), *device.stream);
    return h.on_host();
  }
  Results backward(std::int64_t first, std::int64_t count) const {
    DeviceOperands device;
    AlignedOutput h(DType::bf16, count, c_.width, device.memory);
    AlignedOutput d_gate_up(DType::bf16, count, 2 * c_.width, device.memory);
    const DeviceTable<std::uint64_t> keys(keys_, device.memory);
    LowRankTerm d_term = d_.term(device, first, count);
    if (c_.rate > 0) d_term.mask = {c_.rate, kKey, 0, {keys.span().data + first, count}};
    cuda::swiglu_backward(input(device, first, count), device.upload(d_h_.view().row_range(first, count)),
                          d_term, h.view(), d_gate_up.view(), *device.stream);
    return {h.on_host(), d_gate_up.on_host()};
  }

  double mask(std::int64_t row, std::int64_t column) const {
    if (c_.rate == 0) return 1;
    const RandomStream stream{kKey, std::uint64_t{0}, keys_[static_cast<std::size_t>(row)]};
    const Words<4> words = stream.bits(static_cast<std::uint64_t>(column / 4));
    return words[static_cast<std::size_t>(column % 4)] * 0x1.0p-32 < c_.rate
               ? 0
               : static_cast<double>(static_cast<float>(1 / (1 - c_.rate)));
  }
  double bias(std::int64_t column) const { return c_.bias ? element_of(bias_.view(), 0, column) : 0; }

  void expect(ExpectedMatrix& h, ExpectedMatrix& d_gate_up) const {
    for (std::int64_t t = 0; t < c_.rows; ++t) {
      for (std::int64_t i = 0; i < c_.width; ++i) {
        const Bounded gate = sum_of(element_of(gate_up_.view(), t, i), bias(i), gate_.at(t, i));
        const Bounded up =
            sum_of(element_of(gate_up_.view(), t, c_.width + i), bias(c_.width + i), up_.at(t, i));
        const Bounded d = sum_of(element_of(d_h_.view(), t, i), 0, d_.at(t, i, mask(t, i)));
        // |silu'| ≤ 1.1 and |silu''| ≤ 0.5. A formula with an exponential rounds to 8 units, silu' to 8 of its larger
        // term.
        const double a = std::abs(gate.value);
        const double product = silu(gate.value) * up.value;
        const double moved = 1.1 * gate.error * std::abs(up.value) + std::abs(silu(gate.value)) * up.error;
        h.set(t, i, product, moved + (kUnit16 + 8 * kUnit) * std::abs(product));
        const double d_gate = d.value * up.value * silu_slope(gate.value);
        const double largest = std::abs(d.value * up.value) * sigmoid(gate.value) * (1 + a);
        d_gate_up.set(t, i, d_gate,
                      1.1 * (d.error * std::abs(up.value) + std::abs(d.value) * up.error) +
                          0.5 * std::abs(d.value * up.value) * gate.error + 8 * kUnit * largest +
                          kUnit16 * std::abs(d_gate));
        const double d_up = d.value * silu(gate.value);
        d_gate_up.set(t, c_.width + i, d_up,
                      std::abs(silu(gate.value)) * d.error + 1.1 * std::abs(d.value) * gate.error +
                          (kUnit16 + 8 * kUnit) * std::abs(d_up));
      }
    }
  }

  const Case& c_ = GetParam();
  const Tensor gate_up_ = random_tensor(DType::bf16, c_.rows, 2 * c_.width, 4, 1);
  const Tensor bias_ = random_tensor(DType::f32, 1, 2 * c_.width, 1, 9);
  const Tensor d_h_ = random_tensor(DType::bf16, c_.rows, c_.width, 1, 2);
  const LowRankOperands gate_{c_.rows, c_.width, c_.gate_rank, 3};
  const LowRankOperands up_{c_.rows, c_.width, c_.up_rank, 5};
  const LowRankOperands d_{c_.rows, c_.width, c_.d_rank, 7};
  const std::vector<std::uint64_t> keys_ = [this] {
    std::vector<std::uint64_t> keys;
    for (std::int64_t r = 0; r < c_.rows; ++r) keys.push_back(mix64(static_cast<std::uint64_t>(r) + 7));
    return keys;
  }();
};
// Tails of every tile, more ranks than a product takes, and every term missing once.
INSTANTIATE_TEST_SUITE_P(Cases, CudaTileSwiglu,
                         ::testing::Values(Case{1, 8, 1, 1, 1, 0}, Case{3, 1096, 16, 16, 16, 0.1},
                                           Case{70, 72, 17, 17, 9, 0, true}, Case{65, 136, 8, 0, 8, 0.5},
                                           Case{16, 64, 0, 8, 0, 0}, Case{20, 40, 0, 0, 100, 0.25},
                                           Case{17, 104, 0, 0, 0, 0, true}));

TEST_P(CudaTileSwiglu, AgreesWithTheFormula) {
  ExpectedMatrix h(c_.rows, c_.width);
  ExpectedMatrix d_gate_up(c_.rows, 2 * c_.width);
  expect(h, d_gate_up);
  const Results results = backward(0, c_.rows);
  EXPECT_TRUE(h.agrees_with(results.h.view()));
  EXPECT_TRUE(d_gate_up.agrees_with(results.d_gate_up.view()));
}

// The backward computes h again: what the next product reads must be what it read in the forward.
TEST_P(CudaTileSwiglu, ForwardAndBackwardHaveTheSameBits) {
  EXPECT_TRUE(same_bits(forward(0, c_.rows).view(), backward(0, c_.rows).h.view()));
}

TEST_P(CudaTileSwiglu, SameBitsInEveryOrderAndForARowAlone) {
  const Results whole = backward(0, c_.rows);
  testing::in_every_order([&] {
    const Results again = backward(0, c_.rows);
    EXPECT_TRUE(same_bits(again.h.view(), whole.h.view()));
    EXPECT_TRUE(same_bits(again.d_gate_up.view(), whole.d_gate_up.view()));
    EXPECT_TRUE(same_bits(forward(0, c_.rows).view(), whole.h.view()));
  });
  for (const std::int64_t row : {std::int64_t{0}, c_.rows / 2, c_.rows - 1}) {
    const Results alone = backward(row, 1);
    EXPECT_TRUE(same_bits(alone.h.view(), whole.h.view().row_range(row, 1)));
    EXPECT_TRUE(same_bits(alone.d_gate_up.view(), whole.d_gate_up.view().row_range(row, 1)));
  }
}

class CudaTileSwigluCalls : public DeviceTest {};

// Log-probabilities of a policy and of its reference are equal as long as B is zero.
TEST_F(CudaTileSwigluCalls, AZeroAdapterHasTheBitsOfNoneAndOfThePlainKernel) {
  const auto stream = std::make_shared<cuda::Stream>();
  cuda::CudaMemory memory(stream);
  const Tensor gate_up = copied_to(memory, random_tensor(DType::bf16, 40, 160, 4, 1).view(), "test");
  const Tensor u = copied_to(memory, random_tensor(DType::f32, 40, 8, 1, 2).view(), "test");
  const Tensor zeros = copied_to(memory, random_tensor(DType::bf16, 8, 80, 0, 3).view(), "test");
  const auto run = [&](const LowRankTerm& term) {
    Tensor h = memory.allocate(DType::bf16, 40, 80, "test");
    cuda::swiglu(cuda::GateUp{gate_up.view(), {}, term, term}, h.view(), *stream);
    return copied_to_host(memory, h.view(), "test");
  };
  const Tensor without = run({});
  EXPECT_TRUE(same_bits(run({u.view(), {zeros.view(), zeros.view()}, 1, {}}).view(), without.view()));
  Tensor plain = memory.allocate(DType::bf16, 40, 80, "test");
  cuda::swiglu(gate_up.view(), plain.view(), *stream);
  EXPECT_TRUE(same_bits(copied_to_host(memory, plain.view(), "test").view(), without.view()));
}

#ifndef BIQA_ON_DEVICE
TEST(CudaTileSwigluDeathTest, RefusesShapesThatDisagreeOrDoNotFit) {
  const auto stream = std::make_shared<cuda::Stream>();
  cuda::CudaMemory memory(stream);
  Tensor wide = memory.allocate(DType::bf16, 2, 48, "wide");
  Tensor h = memory.allocate(DType::bf16, 2, 24, "h");
  Tensor u = memory.allocate(DType::f32, 2, 3, "u");
  const LowRankTerm term{u.view(), {wide.view(), wide.view()}, 1, {}};
  const auto input = [&](ConstView product) { return cuda::GateUp{product, {}, {}, {}}; };
  EXPECT_DEATH(cuda::swiglu(input(h.view()), h.view(), *stream), "2x24 for 2x24");
  EXPECT_DEATH(cuda::swiglu(cuda::GateUp{wide.view(), {}, term, {}}, h.view(), *stream),
               "u 2x3, factors 2x48, matrix 2x24");
  EXPECT_DEATH(cuda::swiglu(input(wide.view().column_range(2, 40)), h.view().column_range(0, 20), *stream),
               "does not fit tiles");
  EXPECT_DEATH(cuda::swiglu_backward(input(wide.view()), wide.view(), {}, h.view(), wide.view(), *stream),
               "gradients 2x48 and 2x48 for 2x24");
}
#endif

}  // namespace
}  // namespace biqa
