// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/host_matmul.h"

#include "cuda_emulation/device_memory.h"
#include "cuda_emulation/streams.h"

namespace biqa::emulation {
namespace {

float element(ConstView matrix, std::int64_t row, std::int64_t column) {
  const std::int64_t index = row * matrix.stride() + column;
  if (matrix.type() == DType::bf16) return to_float(static_cast<const Bf16*>(matrix.address())[index]);
  return static_cast<const float*>(matrix.address())[index];
}

}  // namespace

void HostMatmul::multiply(ConstView x, ConstView weight, ConstView bias, View y) {
  finish_all_work();
  const OpenDeviceMemory open;
  for (std::int64_t t = 0; t < y.rows(); ++t) {
    for (std::int64_t o = 0; o < y.columns(); ++o) {
      float sum = 0.0F;
      for (std::int64_t i = 0; i < x.columns(); ++i) sum += element(x, t, i) * element(weight, o, i);
      if (!bias.empty()) sum += element(bias, 0, o);
      const std::int64_t index = t * y.stride() + o;
      if (y.type() == DType::bf16)
        static_cast<Bf16*>(y.address())[index] = to_bf16(sum);
      else
        static_cast<float*>(y.address())[index] = sum;
    }
  }
}

}  // namespace biqa::emulation
