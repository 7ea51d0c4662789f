// SPDX-License-Identifier: Apache-2.0
// Stands before CUDA's own header, as cuda_runtime.h does.
#pragma once

#include "core/bf16.h"

using __nv_bfloat16 = biqa::Bf16;

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  return biqa::to_bf16(value);
}
