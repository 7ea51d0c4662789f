// SPDX-License-Identifier: Apache-2.0
// A warp has a tile of 16 rows. Its lanes hold runs of neighbouring columns, so that they read and write 16 bytes at once.
#include "ops/cuda/tile_swiglu.h"

#include "ops/cuda/low_rank.h"
#include "ops/cuda/swiglu.h"

namespace biqa::cuda {
namespace {

constexpr int kForwardParts = 8;   // of eight columns, in a block's tile
constexpr int kBackwardParts = 4;  // fewer: three sums are in registers

struct Operands {
  Rows<const Bf16> gate_up;
  const float* bias;  // may be null
  LowRank gate, up;
  Rows<Bf16> h;
  std::int64_t rows;
  int width;  // n
};

/// Two neighbours of `base` with bias and the sums of the adapter.
__device__ FloatPair with_term(std::uint32_t base, const float* bias, int bias_column, const LowRank& term,
                               std::int64_t row, int column, float first, float second) {
  FloatPair offset{0.0F, 0.0F};
  if (bias != nullptr) offset = *reinterpret_cast<const FloatPair*>(bias + bias_column);
  const FloatPair added = scaled_pair(term, row, column, first, second);
  return {first_of(base) + offset.low + added.low, second_of(base) + offset.high + added.high};
}
/// Columns `column` and `column` + 1 of both halves.
struct Pairs {
  FloatPair gate, up;
};
__device__ Pairs load_pairs(const Operands& a, std::uint32_t gate, std::uint32_t up, std::int64_t row,
                            int column, const float (&gate_sums)[4], const float (&up_sums)[4], int half) {
  return {
      with_term(gate, a.bias, column, a.gate, row, column, gate_sums[2 * half], gate_sums[2 * half + 1]),
      with_term(up, a.bias, a.width + column, a.up, row, column, up_sums[2 * half], up_sums[2 * half + 1])};
}
__device__ std::uint32_t product_of(const Pairs& x) {
  return pack_bf16(swiglu_of(x.gate.low, x.up.low), swiglu_of(x.gate.high, x.up.high));
}

/// blockIdx: tile of rows, tile of columns.
__global__ void __launch_bounds__(kTileThreads, 3) tile_swiglu_kernel(Operands a) {
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * kRowsOfTile + warp_index() * 16;
  const int first_column = static_cast<int>(blockIdx.y) * kForwardParts * 8;
  float gate_sums[kForwardParts][4];
  float up_sums[kForwardParts][4];
  low_rank_sums<RunColumns>(a.gate, first_row, a.rows, first_column, a.width, gate_sums);
  low_rank_sums<RunColumns>(a.up, first_row, a.rows, first_column, a.width, up_sums);
  BIQA_UNROLL
  for (int half = 0; half < 2; ++half) {
    BIQA_UNROLL
    for (int part = 0; part < kForwardParts; part += 4) {  // four parts are an octet
      const std::int64_t row = first_row + lane_row(half);
      const int column = run_column<kForwardParts>(first_column) + part * 2;
      if (row >= a.rows || column >= a.width) continue;
      const Octet gates = load_octet(a.gate_up[row] + column, true);
      const Octet ups = load_octet(a.gate_up[row] + a.width + column, true);
      Octet h;
      BIQA_UNROLL
      for (int pair = 0; pair < 4; ++pair) {
        const int at = column + pair * 2;
        const int n = part + pair;
        h.pairs[pair] = product_of(
            load_pairs(a, gates.pairs[pair], ups.pairs[pair], row, at, gate_sums[n], up_sums[n], half));
      }
      store_octet(a.h[row] + column, h);
    }
  }
}

struct BackwardOperands {
  Operands forward;
  Rows<const Bf16> d_h;
  LowRank d_term;
  Rows<Bf16> d_gate_up;
};

/// blockIdx: tile of rows, tile of columns.
__global__ void __launch_bounds__(kTileThreads) tile_swiglu_backward_kernel(BackwardOperands b) {
  const Operands& a = b.forward;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * kRowsOfTile + warp_index() * 16;
  const int first_column = static_cast<int>(blockIdx.y) * kBackwardParts * 8;
  float gate_sums[kBackwardParts][4];
  float up_sums[kBackwardParts][4];
  float d_sums[kBackwardParts][4];
  low_rank_sums<RunColumns>(a.gate, first_row, a.rows, first_column, a.width, gate_sums);
  low_rank_sums<RunColumns>(a.up, first_row, a.rows, first_column, a.width, up_sums);
  low_rank_sums<RunColumns>(b.d_term, first_row, a.rows, first_column, a.width, d_sums);
  const int column = run_column<kBackwardParts>(first_column);
  if (column >= a.width) return;
  BIQA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const std::int64_t row = first_row + lane_row(half);
    if (row >= a.rows) continue;
    const Octet gates = load_octet(a.gate_up[row] + column, true);
    const Octet ups = load_octet(a.gate_up[row] + a.width + column, true);
    const Octet gradients = load_octet(b.d_h[row] + column, true);
    Octet h;
    Octet d_gates;
    Octet d_ups;
    BIQA_UNROLL
    for (int n = 0; n < kBackwardParts; ++n) {
      const int at = column + n * 2;
      const Pairs x = load_pairs(a, gates.pairs[n], ups.pairs[n], row, at, gate_sums[n], up_sums[n], half);
      const FloatPair d = with_term(gradients.pairs[n], nullptr, 0, b.d_term, row, at, d_sums[n][2 * half],
                                    d_sums[n][2 * half + 1]);
      h.pairs[n] = product_of(x);
      const SwigluGradient low = swiglu_gradient(x.gate.low, x.up.low, d.low);
      const SwigluGradient high = swiglu_gradient(x.gate.high, x.up.high, d.high);
      d_gates.pairs[n] = pack_bf16(low.gate, high.gate);
      d_ups.pairs[n] = pack_bf16(low.up, high.up);
    }
    store_octet(a.h[row] + column, h);
    store_octet(b.d_gate_up[row] + column, d_gates);
    store_octet(b.d_gate_up[row] + a.width + column, d_ups);
  }
}

void check_term(const LowRankTerm& term, ConstView h) {
  if (!term.u.empty()) check_low_rank(term, h.rows(), h.columns());
}

Operands operands_of(const GateUp& x, View h) {
  CHECK(x.product.columns() == 2 * h.columns() && x.product.rows() == h.rows())
      << x.product.rows() << "x" << x.product.columns() << " for " << h.rows() << "x" << h.columns();
  CHECK(x.bias.empty() || (x.bias.rows() == 1 && x.bias.columns() == x.product.columns()))
      << x.bias.rows() << "x" << x.bias.columns();
  for (const ConstView matrix : {x.product, ConstView(h)}) check_fits_tiles(matrix);
  for (const LowRankTerm* term : {&x.gate, &x.up}) check_term(*term, h);
  return {rows_of<Bf16>(x.product),
          x.bias.empty() ? nullptr : elements<float>(x.bias),
          low_rank_of(x.gate, h.rows()),
          low_rank_of(x.up, h.rows()),
          rows_of<Bf16>(h),
          h.rows(),
          static_cast<int>(h.columns())};
}

dim3 grid_of(ConstView h, int parts) {
  return {grid_size(tiles(h.rows(), kRowsOfTile)), small_grid_size(tiles(h.columns(), parts * 8))};
}

}  // namespace

void swiglu(const GateUp& gate_up, View h, const Stream& stream) {
  const Operands a = operands_of(gate_up, h);
  if (h.empty()) return;
  launch(tile_swiglu_kernel, grid_of(h, kForwardParts), dim3(kTileThreads), 0, stream, a);
}

void swiglu_backward(const GateUp& gate_up, ConstView d_h, const LowRankTerm& d_term, View h, View d_gate_up,
                     const Stream& stream) {
  const Operands a = operands_of(gate_up, h);
  CHECK(d_h.rows() == h.rows() && d_h.columns() == h.columns() && d_gate_up.rows() == h.rows() &&
        d_gate_up.columns() == 2 * h.columns())
      << "gradients " << d_h.rows() << "x" << d_h.columns() << " and " << d_gate_up.rows() << "x"
      << d_gate_up.columns() << " for " << h.rows() << "x" << h.columns();
  for (const ConstView matrix : {d_h, ConstView(d_gate_up)}) check_fits_tiles(matrix);
  check_term(d_term, h);
  if (h.empty()) return;
  launch(tile_swiglu_backward_kernel, grid_of(h, kBackwardParts), dim3(kTileThreads), 0, stream,
         BackwardOperands{a, rows_of<Bf16>(d_h), low_rank_of(d_term, h.rows()), rows_of<Bf16>(d_gate_up)});
}

}  // namespace biqa::cuda
