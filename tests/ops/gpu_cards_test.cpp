// SPDX-License-Identifier: Apache-2.0
#include "ops/gpu_cards.h"

#include <gtest/gtest.h>

namespace biqa {
namespace {

double peak(const std::string& name) {
  const GpuCard* card = find_gpu_card(name);
  return card == nullptr ? 0 : card->peak_flop / 1e12;
}

TEST(GpuCards, AreFoundByCudasName) {
  EXPECT_DOUBLE_EQ(peak("NVIDIA H100 80GB HBM3"), 989.4);
  EXPECT_DOUBLE_EQ(peak("NVIDIA H100 PCIe"), 756);
  EXPECT_DOUBLE_EQ(peak("NVIDIA A100-SXM4-80GB"), 312);
  EXPECT_DOUBLE_EQ(find_gpu_card("NVIDIA A100-SXM4-40GB")->bandwidth, 1.555e12);
  EXPECT_DOUBLE_EQ(find_gpu_card("NVIDIA A100-SXM4-40GB")->memory, 40);
  EXPECT_DOUBLE_EQ(find_gpu_card("NVIDIA H200")->memory, 141);
  EXPECT_DOUBLE_EQ(find_gpu_card("RTX 4090")->memory, 24);
  EXPECT_DOUBLE_EQ(peak("NVIDIA A10"), 125);
  EXPECT_DOUBLE_EQ(peak("NVIDIA L40S"), 362.05);
  EXPECT_DOUBLE_EQ(peak("NVIDIA GeForce RTX 4090"), 165.2);
  EXPECT_DOUBLE_EQ(peak("RTX 4090"), 165.2) << "as a user names it";
  EXPECT_DOUBLE_EQ(peak("NVIDIA B200"), 2250);
}

struct Sheet {
  const char* device;  // as CUDA names it
  double peak, bandwidth, memory;
};
TEST(GpuCards, HaveTheFiguresOfTheirSheets) {
  for (const Sheet& sheet :
       {Sheet{"NVIDIA L4", 121, 0.3, 24}, Sheet{"NVIDIA A10G", 70, 0.6, 24},
        Sheet{"NVIDIA GeForce RTX 3090", 71, 0.936, 24}, Sheet{"NVIDIA H100 NVL", 835.5, 3.9, 94}}) {
    const GpuCard* card = find_gpu_card(sheet.device);
    ASSERT_NE(card, nullptr) << sheet.device;
    EXPECT_DOUBLE_EQ(card->peak_flop, sheet.peak * 1e12) << sheet.device;
    EXPECT_DOUBLE_EQ(card->bandwidth, sheet.bandwidth * 1e12) << sheet.device;
    EXPECT_DOUBLE_EQ(card->memory, sheet.memory) << sheet.device;
  }
}

// A variant with a longer name has other figures.
TEST(GpuCards, AnotherCardIsUnknown) {
  for (const char* name :
       {"", "NVIDIA ", "emulated device", "NVIDIA A1000", "NVIDIA XA10", "NVIDIA L4000", "NVIDIA H200 NVL",
        "NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GB200"})
    EXPECT_EQ(find_gpu_card(name), nullptr) << name;
  EXPECT_NE(gpu_card_names().find("RTX 4090"), std::string::npos);
}

}  // namespace
}  // namespace biqa
