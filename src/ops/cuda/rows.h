// SPDX-License-Identifier: Apache-2.0
// Operations that take the rows of a matrix one by one, in device memory. Every sum over a row runs in an order that
// depends only on the row's length. Rows of inputs and outputs may have a stride. An output may overlap an input only
// if the function says so. All calls only enqueue work on `stream`.
#pragma once

#include <cstdint>

#include "tensor/cuda/runtime.h"
#include "tensor/cuda/span.h"

namespace biqa::cuda {

/// y[r,c] = x[r,c] / sqrt(mean over c of x[r,c]² + epsilon) · weight[c]. x [rows, columns] f32; weight [1, columns] f32; y
/// [rows, columns] f32 or bf16, rounded once at the end. y may be x if it is f32.
void rms_norm(ConstView x, ConstView weight, float epsilon, View y, const Stream& stream);
/// d_x += r · (dy⊙w − x̂ · mean(dy⊙w⊙x̂)) with r = 1/sqrt(mean(x²) + epsilon), x̂ = x·r; all f32.
void rms_norm_backward(ConstView x, ConstView weight, float epsilon, ConstView dy, View d_x,
                       const Stream& stream);
/// h [T, n] = silu(gate) ⊙ up with gate_up [T, 2n] = [gate | up]; each f32 or bf16, computed in f32.
void swiglu(ConstView gate_up, View h, const Stream& stream);
/// d_gate_up [T, 2n] (f32 or bf16) from dh [T, n] f32 and gate_up [T, 2n] (f32 or bf16).
void swiglu_backward(ConstView gate_up, ConstView dh, View d_gate_up, const Stream& stream);
/// y = x · Φ(x), exact erf form; x f32, y f32 or bf16.
void gelu(ConstView x, View y, const Stream& stream);
/// Rotates the pairs (j, j + D/2) of every head of x [T, heads·D] f32 in place. `cosines` and `sines` [T, D/2] f32 are
/// those of the angles. `inverse` rotates back.
void rotate(View x, std::int64_t head_dim, ConstView cosines, ConstView sines, bool inverse,
            const Stream& stream);
/// y = x; each f32 or bf16; same shape.
void convert(ConstView x, View y, const Stream& stream);
/// y = x with every element rounded to bf16 and back; f32; y may be x.
void round_to_bf16(ConstView x, View y, const Stream& stream);
/// y[i] = x[rows[i]]; f32 or bf16, the same type.
void gather_rows(ConstView x, DeviceSpan<std::int64_t> rows, View y, const Stream& stream);
/// y[rows[i]] = x[i]; f32. `rows` must not name a row twice.
void scatter_rows(ConstView x, DeviceSpan<std::int64_t> rows, View y, const Stream& stream);

/// Assigns source rows to target rows. Row targets[t] receives the rows sources[first[t] … first[t+1] − 1], in this
/// order.
struct RowSums {
  DeviceSpan<std::int64_t> targets;  ///< [m], each row at most once
  DeviceSpan<std::int64_t> first;    ///< [m + 1]
  DeviceSpan<std::int64_t> sources;  ///< [first[m]]
};
/// y[targets[t]] += Σ x[source], in the order of the sources; f32.
void add_rows(ConstView x, const RowSums& sums, View y, const Stream& stream);

/// y[i] = factors[i] · x[i]; f32; y may be x.
void scale_rows(ConstView x, DeviceSpan<float> factors, View y, const Stream& stream);
/// x [T, hidden] f32 = rows of table [vocabulary, hidden] (f32 or bf16). Ids must be valid (the host has checked them).
void embed(ConstView table, DeviceSpan<std::int64_t> ids, View x, const Stream& stream);

}  // namespace biqa::cuda
