// SPDX-License-Identifier: Apache-2.0
// Checks, during loading, that the products of the model are batch-invariant: a row of the output depends only on its
// own input row. A version of the library that we have not tried on this processor may violate this rule.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "tensor/tensor.h"

namespace biqa::cpu {

/// Multiplies rows of random numbers by a matrix [inner, columns], in batches of each of the `counts` and in one large
/// batch. Returns the first count whose rows have other bits than in the large batch; nullopt if there is none.
/// `multiply` computes y [M, columns] f32 from x [M, inner] of type `compute`. Each count is at most 32. The large batch
/// has 256 rows, or fewer if its output would take more than 16 MiB.
std::optional<std::int64_t> rows_with_other_bits(std::int64_t inner, std::int64_t columns, DType compute,
                                                 std::span<const std::int64_t> counts,
                                                 const std::function<void(ConstView x, View y)>& multiply);

/// Whether some rows have other bits with the threads of this process (`multiply`) than with one thread
/// (`multiply_alone`). If so, ranks with different numbers of threads could disagree. The comparison with one thread is
/// sufficient: ranks that agree with it also agree with each other.
bool threads_change_bits(std::int64_t inner, std::int64_t columns, DType compute, std::int64_t rows,
                         const std::function<void(ConstView x, View y)>& multiply,
                         const std::function<void(ConstView x, View y)>& multiply_alone);

}  // namespace biqa::cpu
