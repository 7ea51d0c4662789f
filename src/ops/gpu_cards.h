// SPDX-License-Identifier: Apache-2.0
// Figures of GPUs from their makers' data sheets. Plans use them, and so does the metric for the share of the peak that
// a run reaches.
#pragma once

#include <string>
#include <string_view>

namespace biqa {

struct GpuCard {
  const char* name;   ///< CUDA's name of the device without "NVIDIA" and "GeForce"
  double peak_flop;   ///< operations per second of dense bf16 products with f32 sums
  double bandwidth;   ///< bytes per second of its memory
  double memory;      ///< GB as in the sheet; CUDA reports about as many GiB, fewer with error correction
  const char* sheet;  ///< the data sheet with these figures
};

/// The card that CUDA calls `device`; nullptr if it is not known. Variants such as "RTX 4090 D" are cards of their own.
const GpuCard* find_gpu_card(std::string_view device);

/// All names, for messages.
std::string gpu_card_names();

}  // namespace biqa
