// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/matmul_backend.h"

namespace biqa::cuda {

void MatmulBackend::linear(ConstView x, ConstView weight, ConstView bias, View y) {
  CHECK(x.type() == DType::f32 || x.type() == DType::bf16) << name_of(x.type());
  CHECK(weight.type() == x.type()) << name_of(weight.type()) << " weight for " << name_of(x.type());
  CHECK(y.type() == DType::f32 || (y.type() == DType::bf16 && x.type() == DType::bf16)) << name_of(y.type());
  CHECK(weight.columns() == x.columns() && weight.rows() == y.columns() && x.rows() == y.rows())
      << "x " << x.rows() << "x" << x.columns() << ", weight " << weight.rows() << "x" << weight.columns()
      << ", y " << y.rows() << "x" << y.columns();
  CHECK_GT(x.columns(), 0);
  if (!bias.empty()) {
    CHECK(bias.rows() == 1 && bias.columns() == y.columns()) << bias.rows() << "x" << bias.columns();
    CHECK(bias.type() == y.type()) << name_of(bias.type()) << " bias for " << name_of(y.type());
  }
  if (!y.empty()) multiply(x, weight, bias, y);
}

}  // namespace biqa::cuda
