// SPDX-License-Identifier: Apache-2.0
// The optimizer's operations on flat vectors in device memory. All calls only enqueue work on `stream`.
#pragma once

#include "ops/adamw.h"
#include "tensor/cuda/runtime.h"

namespace biqa::cuda {

/// Number of doubles that squared_norm() needs as working memory.
std::int64_t squared_norm_chunks(std::int64_t elements);
/// *sum = Σ gradient² in f64; gradient [1, n] f32. The vector is divided into chunks of fixed size. The order of all
/// sums depends only on n. `chunks` has squared_norm_chunks(n) doubles.
void squared_norm(ConstView gradient, double* chunks, double* sum, const Stream& stream);
/// Updates every element as adamw_update (ops/adamw.h); all [1, n] f32.
void adamw(View values, ConstView gradient, View m, View v, const AdamWStep& step, const Stream& stream);

}  // namespace biqa::cuda
