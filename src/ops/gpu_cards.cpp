// SPDX-License-Identifier: Apache-2.0
#include "ops/gpu_cards.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace biqa {
namespace {

/// Dense bf16 products with f32 sums, as the data sheets and white papers of NVIDIA state them. A figure that is stated only
/// with sparsity is halved. Cards are left out whose figures could not be confirmed.
constexpr std::array kCards{
    GpuCard{"B200", 2250.0e12, 7.7e12, 180, "NVIDIA Blackwell data sheet (HGX B200)"},
    GpuCard{"H200", 989.4e12, 4.8e12, 141, "NVIDIA H200 Tensor Core GPU data sheet"},
    GpuCard{"H100 80GB HBM3", 989.4e12, 3.35e12, 80, "NVIDIA H100 Tensor Core GPU data sheet (SXM)"},
    GpuCard{"H100 NVL", 835.5e12, 3.9e12, 94, "NVIDIA H100 Tensor Core GPU data sheet (NVL)"},
    GpuCard{"H100 PCIe", 756.0e12, 2.0e12, 80, "NVIDIA H100 Tensor Core GPU data sheet"},
    GpuCard{"A100-SXM4-80GB", 312.0e12, 2.039e12, 80, "NVIDIA A100 Tensor Core GPU data sheet"},
    GpuCard{"A100-SXM4-40GB", 312.0e12, 1.555e12, 40, "NVIDIA A100 Tensor Core GPU data sheet"},
    GpuCard{"A100 80GB PCIe", 312.0e12, 1.935e12, 80, "NVIDIA A100 Tensor Core GPU data sheet"},
    GpuCard{"A100-PCIE-40GB", 312.0e12, 1.555e12, 40, "NVIDIA A100 Tensor Core GPU data sheet"},
    GpuCard{"A40", 149.7e12, 0.696e12, 48, "NVIDIA A40 data sheet"},
    GpuCard{"A10", 125.0e12, 0.6e12, 24, "NVIDIA A10 Tensor Core GPU data sheet"},
    GpuCard{"A10G", 70.0e12, 0.6e12, 24, "NVIDIA A10G data sheet (Amazon EC2 G5)"},
    GpuCard{"L40S", 362.05e12, 0.864e12, 48, "NVIDIA L40S data sheet"},
    GpuCard{"L40", 181.05e12, 0.864e12, 48, "NVIDIA L40 data sheet"},
    GpuCard{"L4", 121.0e12, 0.3e12, 24, "NVIDIA L4 Tensor Core GPU data sheet"},
    GpuCard{"RTX A6000", 154.8e12, 0.768e12, 48, "NVIDIA Ampere GA102 GPU Architecture white paper"},
    GpuCard{"RTX 3090", 71.0e12, 0.936e12, 24, "NVIDIA Ampere GA102 GPU Architecture white paper"},
    GpuCard{"RTX 4090", 165.2e12, 1.008e12, 24, "NVIDIA Ada GPU Architecture white paper"},
    GpuCard{"RTX 5090", 209.5e12, 1.792e12, 32, "NVIDIA RTX Blackwell GPU Architecture white paper"},
};

}  // namespace

const GpuCard* find_gpu_card(std::string_view device) {
  for (const std::string_view maker : {"NVIDIA ", "GeForce "}) {
    if (device.starts_with(maker)) device.remove_prefix(maker.size());
  }
  const auto* card =
      std::find_if(kCards.begin(), kCards.end(), [&](const GpuCard& c) { return device == c.name; });
  return card == kCards.end() ? nullptr : card;
}

std::string gpu_card_names() {
  std::string names;
  for (const GpuCard& card : kCards) names += fmt::format("{}{}", names.empty() ? "" : ", ", card.name);
  return names;
}

}  // namespace biqa
