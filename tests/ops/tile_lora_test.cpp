// SPDX-License-Identifier: Apache-2.0
// The adapter's products on the processor's tile registers give the bits of the simulated ones. ops.lora.simulated_tiles holds
// these against the formula on every machine.
#include "ops/cpu/tile_lora.h"

#include <gtest/gtest.h>

#include "core/random.h"
#include "ops/cpu/cpu_ops.h"
#include "support/compare.h"
#include "support/op_cases.h"

namespace biqa {
namespace {

using testing::LoraCase;
using testing::random_tensor;
using testing::same_bits;

/// Forward and backward of one case. Each part has gradients [rank, in] and [out, rank].
struct Results {
  Tensor u, y, d_x;
  std::vector<Tensor> gradients;
};

Results results_of(const LoraCase& c, const cpu::TileSet* tiles) {
  CpuOps ops(DType::bf16, 2, tiles);
  const Tensor x = random_tensor(DType::bf16, c.rows, c.in, 2, c.seed);
  const Tensor dy = random_tensor(DType::bf16, c.rows, c.total_out, 1, c.seed + 2);
  std::vector<Tensor> factors;
  std::vector<LoraFactors> parts;
  Results r{{},
            random_tensor(DType::f32, c.rows, c.total_out, 2, c.seed + 1),
            random_tensor(DType::f32, c.rows, c.in, 1, c.seed + 3),
            {}};
  std::vector<LoraGradients> gradients;
  factors.reserve(2 * c.parts.size());
  r.gradients.reserve(2 * c.parts.size());
  for (const testing::LoraPart& part : c.parts) {
    const Tensor& a =
        factors.emplace_back(random_tensor(DType::f32, part.rank, c.in, 1, c.seed + factors.size()));
    const Tensor& b =
        factors.emplace_back(random_tensor(DType::f32, part.out, part.rank, 1, c.seed + factors.size()));
    parts.push_back({a.row<float>(0), b.row<float>(0), part.rank, part.out, part.offset, part.scale});
    Tensor& of_a = r.gradients.emplace_back(DType::f32, part.rank, c.in, "test");
    Tensor& of_b = r.gradients.emplace_back(DType::f32, part.out, part.rank, "test");
    of_a.zero();
    of_b.zero();
    gradients.push_back({of_a.row<float>(0), of_b.row<float>(0)});
  }
  std::vector<std::uint64_t> keys;
  for (std::int64_t row = 0; row < c.rows; ++row) keys.push_back(mix64(static_cast<std::uint64_t>(row)));
  const Dropout dropout{c.rate, 99, keys};
  const Dropout* const given = c.rate > 0 ? &dropout : nullptr;
  const auto packed = ops.pack_lora(c.in, parts);
  r.u = Tensor(DType::f32, c.rows, packed->rank, "test");
  ops.lora(x.view(), *packed, given, r.u.view(), r.y.view());
  cpu::Scratch scratch;
  ops.lora_backward(x.view(), r.u.view(), dy.view(), *packed, given, r.d_x.view(), gradients, scratch);
  return r;
}

class TileLora : public ::testing::TestWithParam<LoraCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, TileLora, ::testing::ValuesIn(testing::lora_cases()));
INSTANTIATE_TEST_SUITE_P(BatchCases, TileLora, ::testing::ValuesIn(testing::lora_batch_cases()));

TEST_P(TileLora, SimulatedRegistersGiveTheBitsOfTheProcessor) {
  if (cpu::amx_tiles() == nullptr) GTEST_SKIP() << "this processor has no tile registers (AMX)";
  const Results own = results_of(GetParam(), cpu::amx_tiles());
  const Results simulated = results_of(GetParam(), cpu::scalar_tiles());
  EXPECT_TRUE(same_bits(own.u.view(), simulated.u.view()));
  EXPECT_TRUE(same_bits(own.y.view(), simulated.y.view()));
  EXPECT_TRUE(same_bits(own.d_x.view(), simulated.d_x.view()));
  for (std::size_t i = 0; i < own.gradients.size(); ++i)
    EXPECT_TRUE(same_bits(own.gradients[i].view(), simulated.gradients[i].view())) << i;
}

}  // namespace
}  // namespace biqa
