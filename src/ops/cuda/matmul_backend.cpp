// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/matmul_backend.h"

namespace biqa::cuda {
namespace {

void check_operands(ConstView x, ConstView weight, bool transposed, View y) {
  CHECK(x.type() == DType::f32 || x.type() == DType::bf16) << name_of(x.type());
  CHECK(weight.type() == x.type()) << name_of(weight.type()) << " weight for " << name_of(x.type());
  CHECK(y.type() == DType::f32 || (y.type() == DType::bf16 && x.type() == DType::bf16)) << name_of(y.type());
  const std::int64_t inner = transposed ? weight.columns() : weight.rows();
  const std::int64_t outer = transposed ? weight.rows() : weight.columns();
  CHECK(inner == x.columns() && outer == y.columns() && x.rows() == y.rows())
      << "x " << x.rows() << "x" << x.columns() << ", weight " << weight.rows() << "x" << weight.columns()
      << ", y " << y.rows() << "x" << y.columns();
  CHECK_GT(x.columns(), 0);
}

}  // namespace

void MatmulBackend::linear(ConstView x, ConstView weight, ConstView bias, View y, bool accumulate) {
  check_operands(x, weight, true, y);
  if (!bias.empty()) {
    CHECK(bias.rows() == 1 && bias.columns() == y.columns()) << bias.rows() << "x" << bias.columns();
    CHECK(bias.type() == y.type()) << name_of(bias.type()) << " bias for " << name_of(y.type());
  }
  if (!y.empty()) multiply(x, weight, true, bias, y, accumulate);
}

void MatmulBackend::linear_backward(ConstView dy, ConstView weight, View dx, bool accumulate) {
  check_operands(dy, weight, false, dx);
  if (!dx.empty()) multiply(dy, weight, false, {}, dx, accumulate);
}

}  // namespace biqa::cuda
