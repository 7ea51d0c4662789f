// SPDX-License-Identifier: Apache-2.0
// The speed of a backend's products alone: the limit that measurements compare a run with.
#pragma once

#include <cstdint>

#include "ops/ops.h"

namespace biqa {

/// The best rate of [rows, size] x [size, size] in operations per second, with the algorithm that a run of `ops` would use.
double product_rate(Ops& ops, std::int64_t rows, std::int64_t size);

}  // namespace biqa
