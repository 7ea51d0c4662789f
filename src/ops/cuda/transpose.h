// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensor/cuda/runtime.h"

namespace biqa::cuda {

/// y [n, m] = the transpose of x [m, n]; f32, in device memory; y is not x. Only enqueues work on `stream`.
void transpose(ConstView x, View y, const Stream& stream);

}  // namespace biqa::cuda
