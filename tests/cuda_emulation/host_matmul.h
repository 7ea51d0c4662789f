// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ops/cuda/matmul_backend.h"

namespace biqa::emulation {

/// Stands in for cuBLASLt: plain loops over host memory, sums in f32.
class HostMatmul final : public cuda::MatmulBackend {
  void multiply(ConstView x, ConstView weight, ConstView bias, View y) override;
};

}  // namespace biqa::emulation
