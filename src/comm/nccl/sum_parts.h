// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensor/cuda/runtime.h"

namespace biqa::nccl {

/// sum [1, n] = part 0 + part 1 + … + part ranks-1, added in this order in f32. Part `own_rank` is `own` [1, n].
/// The others are the rows of `received` [ranks-1, n], in rank order. Dense, in device memory. Only enqueues work.
void sum_parts(ConstView own, ConstView received, int own_rank, View sum, const cuda::Stream& stream);

}  // namespace biqa::nccl
