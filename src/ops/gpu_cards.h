// SPDX-License-Identifier: Apache-2.0
// What makers' data sheets say of GPUs: for plans, and for the share of the peak that a run reaches.
#pragma once

#include <string>

namespace biqa {

struct GpuCard {
  const char* name;   ///< as in CUDA's name of the device, or a part of it
  double peak_flop;   ///< operations per second of dense bf16 products with f32 sums
  double bandwidth;   ///< bytes per second of its memory
  const char* sheet;  ///< the data sheet with these figures
};

/// The card whose name `device` contains; nullptr: none is known. The longest such name counts.
const GpuCard* find_gpu_card(const std::string& device);

/// All names, for messages.
std::string gpu_card_names();

}  // namespace biqa
