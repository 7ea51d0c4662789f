// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensor/cuda/runtime.h"

namespace biqa::cuda {

/// y[r,c] = x[r,c] / sqrt(mean over c of x[r,c]² + epsilon) · weight[c], in device memory. x [rows, columns] f32;
/// weight [1, columns] f32; y [rows, columns] f32 or bf16, rounded once at the end. Rows of x and y may be spaced; y
/// may be x if it is f32. The sum is in f32, in an order that depends only on `columns`.
void rms_norm(ConstView x, ConstView weight, float epsilon, View y, const Stream& stream);

}  // namespace biqa::cuda
