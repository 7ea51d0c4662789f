// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/host_matmul.h"

namespace biqa::emulation {
namespace {

float element(ConstView matrix, std::int64_t row, std::int64_t column) {
  if (matrix.type() == DType::bf16) return to_float(matrix.row<Bf16>(row)[column]);
  return matrix.row<float>(row)[column];
}

}  // namespace

void HostMatmul::multiply(ConstView x, ConstView weight, ConstView bias, View y) {
  for (std::int64_t t = 0; t < y.rows(); ++t) {
    for (std::int64_t o = 0; o < y.columns(); ++o) {
      float sum = 0.0F;
      for (std::int64_t i = 0; i < x.columns(); ++i) sum += element(x, t, i) * element(weight, o, i);
      if (!bias.empty()) sum += element(bias, 0, o);
      if (y.type() == DType::bf16)
        y.row<Bf16>(t)[o] = to_bf16(sum);
      else
        y.row<float>(t)[o] = sum;
    }
  }
}

}  // namespace biqa::emulation
