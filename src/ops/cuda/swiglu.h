// SPDX-License-Identifier: Apache-2.0
// SwiGLU of one pair of numbers, h = silu(gate) · up. Private to the .cu files.
#pragma once

#include "ops/cuda/launch.h"

namespace biqa::cuda {

__device__ inline float sigmoid(float x) {
  return 1.0F / (1.0F + expf(-x));
}
__device__ inline float swiglu_of(float gate, float up) {
  return gate * sigmoid(gate) * up;
}

struct SwigluGradient {
  float gate, up;
};
/// From the gradient d of h.
__device__ inline SwigluGradient swiglu_gradient(float gate, float up, float d) {
  const float s = sigmoid(gate);
  return {d * up * s * (1.0F + gate * (1.0F - s)), d * gate * s};
}

}  // namespace biqa::cuda
