// SPDX-License-Identifier: Apache-2.0
// SwiGLU of results in bf16, to which the adapter has not been added yet. Each kernel adds the adapter's terms in registers and
// on tensor cores. So the wide matrices of the MLP are written once and read once, both in bf16, and a sum of base and adapter
// is never rounded (docs/decisions/0029-the-reader-adds-the-adapter.md). Rows may have a stride. All matrices fit tiles
// (fits_tiles in tile_lora.h). All calls only enqueue work on `stream`.
#pragma once

#include "ops/cuda/tile_lora.h"

namespace biqa::cuda {

/// A product [T, 2n] bf16 = [gate | up] and what is still to be added to it.
struct GateUp {
  ConstView product;
  ConstView bias;        ///< [1, 2n] f32, or empty
  LowRankTerm gate, up;  ///< [T, n] each; without a mask, since dropout concerns inputs
};

/// h [T, n] bf16 = silu(G) ⊙ U, where [G | U] = product + bias + [gate | up]. Computed in f32.
void swiglu(const GateUp& gate_up, View h, const Stream& stream);

/// h as above, and d_gate_up [T, 2n] bf16 from the gradient d_h + d_term of h; d_h [T, n] bf16.
void swiglu_backward(const GateUp& gate_up, ConstView d_h, const LowRankTerm& d_term, View h, View d_gate_up,
                     const Stream& stream);

}  // namespace biqa::cuda
