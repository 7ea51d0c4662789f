// SPDX-License-Identifier: Apache-2.0
// The limits that biqa_bench measures on a GPU.
#include "ops/product_rate.h"

#include <gtest/gtest.h>

#include "cuda_emulation/emulator.h"
#include "cuda_emulation/host_matmul.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/gpu_cards.h"

namespace biqa {
namespace {

TEST(CudaProductRate, UsesTheAlgorithmForItsRows) {
  using emulation::rows_of_algorithm;
  emulation::proposals = emulation::Proposals::several;
  cuda::CudaOps ops(DType::bf16);
  constexpr std::int64_t kRows = 1500, kTimes = 12;
  EXPECT_GT(product_rate(ops, kRows, 16), 0);  // chooses
  rows_of_algorithm[0] = rows_of_algorithm[2] = 0;
  EXPECT_GT(product_rate(ops, kRows, 16), 0);
  emulation::proposals = emulation::Proposals::none;
  EXPECT_EQ(rows_of_algorithm[2], kRows * kTimes);
  EXPECT_EQ(rows_of_algorithm[0], 0) << "the anchor's";
}

TEST(CudaProductRate, TheCardIsFoundByItsMakersName) {
  emulation::set_device_name("NVIDIA GeForce RTX 4090");
  const cuda::CudaOps ops(DType::bf16);
  EXPECT_EQ(find_gpu_card(ops.device_name()), nullptr) << "names one card, not its kind";
  const GpuCard* card = find_gpu_card(ops.card_name());
  emulation::set_device_name("emulated device");
  ASSERT_NE(card, nullptr);
  EXPECT_STREQ(card->name, "RTX 4090");
}

}  // namespace
}  // namespace biqa
