// SPDX-License-Identifier: Apache-2.0
// Packed weights in memory that processes share: products from them are those of a private copy to the bit.
#include <gtest/gtest.h>

#include <array>

#include "ops/cpu/cpu_ops.h"
#include "support/compare.h"

namespace biqa {
namespace {

using testing::random_tensor;
using testing::same_bits;

struct Shape {
  std::int64_t in, out;
  bool bias;
};
/// Widths that the library's layouts pad, and some that they don't.
constexpr std::array<Shape, 5> kShapes{Shape{64, 64, true}, Shape{37, 100, true}, Shape{96, 19, false},
                                       Shape{1, 1, true}, Shape{256, 160, false}};

class SharedProducts : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, SharedProducts, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& type) { return name_of(type.param); });

TEST_P(SharedProducts, AreThoseOfAPrivateCopyToTheBit) {
  const auto ops = make_cpu_ops(GetParam(), 1);
  ASSERT_NE(ops->shared_packing(), nullptr);
  std::vector<Tensor> weights;
  std::vector<std::vector<float>> biases;
  for (std::size_t i = 0; i < kShapes.size(); ++i) {
    weights.push_back(random_tensor(GetParam(), kShapes[i].out, kShapes[i].in, 1, i));
    const Tensor bias = random_tensor(DType::f32, 1, kShapes[i].out, 1, 100 + i);
    biases.emplace_back();
    if (kShapes[i].bias) biases.back().assign(bias.span<float>().begin(), bias.span<float>().end());
  }
  const auto pack_all = [&](WeightArena& arena, bool with_values, bool backward) {
    std::vector<std::unique_ptr<FrozenLinear>> packed;
    for (std::size_t i = 0; i < kShapes.size(); ++i) {
      const ConstView shape(nullptr, GetParam(), kShapes[i].out, kShapes[i].in, kShapes[i].in);
      const std::vector<float> no_bias(biases[i].size());
      packed.push_back(ops->pack_into(arena, std::to_string(i), with_values ? weights[i].const_view() : shape,
                                      with_values ? biases[i] : no_bias, backward));
    }
    return packed;
  };
  WeightArena filled, attached, forward_only;
  for (WeightArena* arena : {&filled, &attached, &forward_only}) pack_all(*arena, false, true);
  filled.create();
  const auto first = pack_all(filled, true, true);
  filled.seal();
  attached.attach(filled.handle());
  const auto second = pack_all(attached, false, true);
  forward_only.attach(filled.handle());
  const auto third = pack_all(forward_only, false, false);
  for (std::size_t i = 0; i < kShapes.size(); ++i) {
    const auto own = ops->pack(weights[i].const_view(), biases[i], true);
    for (const std::int64_t rows : {1, 5, 70}) {
      const Tensor x = random_tensor(GetParam(), rows, kShapes[i].in, 1, 200 + i);
      const Tensor dy = random_tensor(GetParam(), rows, kShapes[i].out, 1, 300 + i);
      const auto forward = [&](const FrozenLinear& w) {
        Tensor y(DType::f32, rows, kShapes[i].out, "test");
        ops->linear(x.const_view(), w, y.view());
        return y;
      };
      const auto backward = [&](const FrozenLinear& w) {
        Tensor dx(DType::f32, rows, kShapes[i].in, "test");
        ops->linear_backward(dy.const_view(), w, dx.view());
        return dx;
      };
      const Tensor y = forward(*own);
      const Tensor dx = backward(*own);
      for (const auto* other : {&first, &second, &third})
        EXPECT_TRUE(same_bits(forward(*(*other)[i]).const_view(), y.const_view()))
            << i << ", " << rows << " rows";
      for (const auto* other : {&first, &second})
        EXPECT_TRUE(same_bits(backward(*(*other)[i]).const_view(), dx.const_view()))
            << i << ", " << rows << " rows";
    }
  }
}

TEST_P(SharedProducts, AnotherTypeIsAnotherLayout) {
  const DType other_type = GetParam() == DType::f32 ? DType::bf16 : DType::f32;
  WeightArena own, other;
  const auto plan = [](WeightArena& arena, DType type) {
    make_cpu_ops(type, 1)->pack_into(arena, "w", ConstView(nullptr, type, 64, 64, 64), {}, true);
  };
  plan(own, GetParam());
  plan(other, other_type);
  EXPECT_NE(own.digest(WeightPart::forward), other.digest(WeightPart::forward));
  EXPECT_NE(own.digest(WeightPart::backward), other.digest(WeightPart::backward));
  own.create();
  own.seal();
  EXPECT_THROW(other.attach(own.handle()), Error);
}

}  // namespace
}  // namespace biqa
