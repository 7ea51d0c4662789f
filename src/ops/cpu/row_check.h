// SPDX-License-Identifier: Apache-2.0
// Checks during loading that the model's products are batch-invariant: a row of the output depends only on its own
// input row. A library may break it on a processor or in a version that nobody has tried.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "tensor/tensor.h"

namespace biqa::cpu {

/// Multiplies `counts` rows of made-up numbers, and many, by a matrix [inner, columns] and compares each row's bits. The
/// first count whose rows have other bits than among the many, or none. `multiply` computes y [M, columns] f32 from
/// x [M, inner] of type `compute`. Counts are at most 32; many are 256, fewer where the output would take over 16 MiB.
std::optional<std::int64_t> rows_with_other_bits(std::int64_t inner, std::int64_t columns, DType compute,
                                                 std::span<const std::int64_t> counts,
                                                 const std::function<void(ConstView x, View y)>& multiply);

/// Whether some rows have other bits with this process's number of threads than with one thread. Then ranks with
/// different numbers of threads, as on nodes of different sizes, would disagree. Comparing with one thread is enough:
/// ranks that agree with it also agree with each other.
bool threads_change_bits(std::int64_t inner, std::int64_t columns, DType compute, std::int64_t rows,
                         const std::function<void(ConstView x, View y)>& multiply,
                         const std::function<void(ConstView x, View y)>& multiply_alone);

}  // namespace biqa::cpu
