// SPDX-License-Identifier: Apache-2.0
// The operations of a backend (support/operations.h) as the checks of op_cases.h call them.
#pragma once

#include <cstring>
#include <string>

#include "support/op_cases.h"
#include "support/operations.h"

namespace biqa::testing {

inline void copy_rows(ConstView from, View to) {
  const std::size_t bytes = static_cast<std::size_t>(to.columns()) * size_of(to.type());
  for (std::int64_t r = 0; r < to.rows(); ++r) {
    std::memcpy(to.row_range(r, 1).data(), from.row_range(r, 1).data(), bytes);
  }
}

inline RunRmsNorm rms_norm_of(const std::string& backend) {
  return [backend](ConstView x, ConstView weight, float epsilon, View y) {
    Tensor dense(y.type(), y.rows(), y.columns(), "test output");
    make_operations_of(backend, DType::f32, 0)->rms_norm(x, weight, epsilon, dense.view());
    copy_rows(dense.view(), y);
  };
}

/// A product writes f32. A bf16 output is this result, rounded.
inline RunLinear linear_of(const std::string& backend) {
  return [backend](ConstView x, ConstView weight, ConstView bias, View y) {
    const auto ops = make_operations_of(backend, x.type(), 0);
    Tensor bias_f32(DType::f32, bias.rows(), bias.columns(), "test bias");
    if (!bias.empty()) ops->convert(bias, bias_f32.view());
    const auto packed = ops->pack(weight, bias_f32.span<float>(), false);
    Tensor dense(DType::f32, y.rows(), y.columns(), "test output");
    ops->linear(x, *packed, dense.view());
    Tensor rounded(y.type(), y.rows(), y.columns(), "test output");
    ops->convert(dense.view(), rounded.view());
    copy_rows(rounded.view(), y);
  };
}

}  // namespace biqa::testing
