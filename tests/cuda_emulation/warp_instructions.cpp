// SPDX-License-Identifier: Apache-2.0
#include "warp_instructions.h"

#include <cstdint>

#include "cuda_emulation/access.h"

namespace biqa::emulation {
namespace {

float low_half(std::uint32_t pair) {
  return to_float(Bf16{static_cast<std::uint16_t>(pair)});
}
float high_half(std::uint32_t pair) {
  return to_float(Bf16{static_cast<std::uint16_t>(pair >> 16)});
}

/// Element `column` of row `row` of the matrix, from the lane that gives the row's address.
std::uint32_t element(void* const* lanes, int matrix, int row, int column) {
  return static_cast<const MatrixLane*>(lanes[matrix * 8 + row])->row[column];
}

template <bool kTransposed>
void load_matrices(void* const* lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    if (reinterpret_cast<std::uintptr_t>(static_cast<const MatrixLane*>(lanes[lane])->row) % 16 != 0)
      lane_fault(lane, "ldmatrix from an address that is not aligned to 16 bytes");
    access::reads(thread_of(lane), static_cast<const MatrixLane*>(lanes[lane])->row, 16);
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4;
    const int c = lane % 4 * 2;
    for (int m = 0; m < 4; ++m) {
      const std::uint32_t low = kTransposed ? element(lanes, m, c, g) : element(lanes, m, g, c);
      const std::uint32_t high = kTransposed ? element(lanes, m, c + 1, g) : element(lanes, m, g, c + 1);
      static_cast<const MatrixLane*>(lanes[lane])->elements[m] = low | high << 16;
    }
  }
}

}  // namespace

void run_mma(void* const* lanes) {
  float a[16][16];
  float b[16][8];
  float d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& own = *static_cast<const MmaLane*>(lanes[lane]);
    const int g = lane / 4;
    const int c = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      a[g + i % 2 * 8][c + i / 2 * 8] = low_half(own.a[i]);
      a[g + i % 2 * 8][c + i / 2 * 8 + 1] = high_half(own.a[i]);
      d[g + i / 2 * 8][c + i % 2] = own.d[i];
    }
    b[c][g] = low_half(own.b_low);
    b[c + 1][g] = high_half(own.b_low);
    b[c + 8][g] = low_half(own.b_high);
    b[c + 9][g] = high_half(own.b_high);
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const auto& own = *static_cast<const MmaLane*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) own.d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

void run_ldmatrix(void* const* lanes) {
  load_matrices<false>(lanes);
}

void run_ldmatrix_transposed(void* const* lanes) {
  load_matrices<true>(lanes);
}

}  // namespace biqa::emulation
