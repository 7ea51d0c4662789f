// SPDX-License-Identifier: Apache-2.0
#include "ops/gpu_cards.h"

#include <fmt/format.h>

#include <array>
#include <cctype>
#include <cstddef>
#include <cstring>

namespace biqa {
namespace {

/// The rows "BFLOAT16 Tensor Core" of the data sheets and "Peak BF16 Tensor TFLOPS with FP32 Accumulate" of the white papers.
/// Where a sheet has only the figure with sparsity, it is halved.
constexpr std::array kCards{
    GpuCard{"B200", 2250.0e12, 7.7e12, "NVIDIA Blackwell data sheet (HGX B200)"},
    GpuCard{"H200 NVL", 835.5e12, 4.8e12, "NVIDIA H200 Tensor Core GPU data sheet"},
    GpuCard{"H200", 989.4e12, 4.8e12, "NVIDIA H200 Tensor Core GPU data sheet"},
    GpuCard{"GH200", 989.4e12, 4.0e12, "NVIDIA GH200 Grace Hopper Superchip data sheet"},
    GpuCard{"H100 NVL", 835.5e12, 3.9e12, "NVIDIA H100 Tensor Core GPU data sheet"},
    GpuCard{"H100 PCIe", 756.0e12, 2.0e12, "NVIDIA H100 Tensor Core GPU data sheet"},
    GpuCard{"H100", 989.4e12, 3.35e12, "NVIDIA H100 Tensor Core GPU data sheet (SXM)"},
    GpuCard{"A100-SXM4-40GB", 312.0e12, 1.555e12, "NVIDIA A100 Tensor Core GPU data sheet"},
    GpuCard{"A100-PCIE-40GB", 312.0e12, 1.555e12, "NVIDIA A100 Tensor Core GPU data sheet"},
    GpuCard{"A100 80GB PCIe", 312.0e12, 1.935e12, "NVIDIA A100 Tensor Core GPU data sheet"},
    GpuCard{"A100", 312.0e12, 2.039e12, "NVIDIA A100 Tensor Core GPU data sheet (80 GB SXM)"},
    GpuCard{"A30", 165.0e12, 0.933e12, "NVIDIA A30 Tensor Core GPU data sheet"},
    GpuCard{"A40", 149.7e12, 0.696e12, "NVIDIA A40 data sheet"},
    GpuCard{"A10G", 70.0e12, 0.6e12, "NVIDIA A10G data sheet of AWS"},
    GpuCard{"A10", 125.0e12, 0.6e12, "NVIDIA A10 Tensor Core GPU data sheet"},
    GpuCard{"L4", 121.0e12, 0.3e12, "NVIDIA L4 Tensor Core GPU data sheet"},
    GpuCard{"L40S", 362.05e12, 0.864e12, "NVIDIA L40S data sheet"},
    GpuCard{"L40", 181.05e12, 0.864e12, "NVIDIA L40 data sheet"},
    GpuCard{"RTX A6000", 154.8e12, 0.768e12, "NVIDIA Ampere GA102 GPU Architecture white paper"},
    GpuCard{"RTX 4090", 165.2e12, 1.008e12, "NVIDIA Ada GPU Architecture white paper"},
    GpuCard{"RTX 3090", 71.0e12, 0.936e12, "NVIDIA Ampere GA102 GPU Architecture white paper"},
    GpuCard{"RTX 5090", 209.5e12, 1.792e12, "NVIDIA RTX Blackwell GPU Architecture white paper"},
};

}  // namespace

const GpuCard* find_gpu_card(const std::string& device) {
  const GpuCard* best = nullptr;
  for (const GpuCard& card : kCards) {
    const std::size_t at = device.find(card.name);
    if (at == std::string::npos) continue;
    // "A10" is no part of "A100".
    const std::size_t end = at + std::strlen(card.name);
    const auto in_word = [&](std::size_t i) {
      return i < device.size() && std::isalnum(static_cast<unsigned char>(device[i])) != 0;
    };
    if (in_word(end) || (at > 0 && in_word(at - 1))) continue;
    if (best == nullptr || std::strlen(card.name) > std::strlen(best->name)) best = &card;
  }
  return best;
}

std::string gpu_card_names() {
  std::string names;
  for (const GpuCard& card : kCards) names += fmt::format("{}{}", names.empty() ? "" : ", ", card.name);
  return names;
}

}  // namespace biqa
