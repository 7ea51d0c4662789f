// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ops/cuda/matmul_backend.h"

namespace biqa::emulation {

/// If positive: products of this thread with so many rows have other bits, as in a library that breaks batch invariance.
inline thread_local std::int64_t altered_rows = 0;

/// Stands in for cuBLASLt: loops over device memory, sums in f32. Waits for all streams first, and is done when the call
/// returns.
class HostMatmul final : public cuda::MatmulBackend {
  void multiply(ConstView x, ConstView weight, bool transposed, ConstView bias, View y,
                bool accumulate) override;
};

}  // namespace biqa::emulation
