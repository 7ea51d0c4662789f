// SPDX-License-Identifier: Apache-2.0
// The speed of a backend's products alone: the limit that measurements compare a run with. And numbers for measurements.
#pragma once

#include <cstdint>

#include "ops/ops.h"

namespace biqa {

/// Values from −range to range, in host memory. To measure with, since zeros take less power: a processor multiplies them faster
/// than it can anything else.
Tensor random_numbers(DType type, std::int64_t rows, std::int64_t columns, float range = 1.0F);

/// The best rate of [rows, size] x [size, size] in operations per second, with the algorithm that a run of `ops` would use.
double product_rate(Ops& ops, std::int64_t rows, std::int64_t size);

}  // namespace biqa
