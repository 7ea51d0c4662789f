// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensor/cuda/runtime.h"

namespace biqa::cuda {

/// y [n, m] = transpose of x [m, n]; f32, in device memory. y must not overlap x. Only enqueues work on `stream`.
void transpose(ConstView x, View y, const Stream& stream);

}  // namespace biqa::cuda
