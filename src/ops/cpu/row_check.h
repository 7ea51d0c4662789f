// SPDX-License-Identifier: Apache-2.0
// Finds out while a model loads whether its products keep the promise that everything rests on: a row of the output
// depends on that row alone. A library may break it on a processor or in a version that nobody has tried.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "tensor/tensor.h"

namespace biqa::cpu {

/// Multiplies a few numbers of rows of made-up numbers by a matrix [inner, columns] and compares each row's bits with
/// those that it has in the largest product. The first number of rows that gives other bits, or none. `multiply` computes
/// y [M, columns] f32 from x [M, inner] of type `compute`.
std::optional<std::int64_t> rows_with_other_bits(std::int64_t inner, std::int64_t columns, DType compute,
                                                 const std::function<void(ConstView x, View y)>& multiply);

}  // namespace biqa::cpu
