// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/matmul_backend.h"

#include <algorithm>
#include <initializer_list>

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

/// The lowest bit of all these numbers: the largest power of two that divides them.
std::uint32_t common_alignment(std::initializer_list<std::uintptr_t> numbers) {
  std::uintptr_t bits = 16;
  for (const std::uintptr_t number : numbers) bits |= number;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

std::uintptr_t stride_bytes(DType type, std::int64_t stride) {
  return static_cast<std::uintptr_t>(stride) * size_of(type);
}

}  // namespace

Product product_of(const ProductOperands& operands) {
  const auto& [x, weight, bias, y, transposed, accumulate] = operands;
  const auto address = [](ConstView view) { return reinterpret_cast<std::uintptr_t>(view.address()); };
  return {
      x.type(),
      y.type(),
      x.columns(),
      y.columns(),
      x.stride(),
      weight.stride(),
      y.stride(),
      transposed,
      !bias.empty(),
      common_alignment({address(x), address(weight), address(y), stride_bytes(x.type(), x.stride()),
                        stride_bytes(weight.type(), weight.stride()), stride_bytes(y.type(), y.stride())})};
}

Product dense_product(DType input, DType output, std::int64_t inner, std::int64_t outer, bool transposed,
                      bool bias) {
  const std::int64_t weight_columns = transposed ? inner : outer;
  return {input,
          output,
          inner,
          outer,
          inner,
          weight_columns,
          outer,
          transposed,
          bias,
          common_alignment({stride_bytes(input, inner), stride_bytes(input, weight_columns),
                            stride_bytes(output, outer)})};
}

void MatmulBackend::linear(ConstView x, ConstView weight, ConstView bias, View y, bool accumulate) {
  check_operands(x, weight, true, y);
  if (!bias.empty()) {
    CHECK(bias.rows() == 1 && bias.columns() == y.columns()) << bias.rows() << "x" << bias.columns();
    CHECK(bias.type() == y.type()) << name_of(bias.type()) << " bias for " << name_of(y.type());
  }
  if (!y.empty()) classes_.multiply({x, weight, bias, y, true, accumulate});
}

void MatmulBackend::linear_backward(ConstView dy, ConstView weight, View dx, bool accumulate) {
  check_operands(dy, weight, false, dx);
  if (!dx.empty()) classes_.multiply({dy, weight, {}, dx, false, accumulate});
}

std::unique_ptr<MatmulBackend> make_matmul_backend(const Stream& stream) {
  return std::make_unique<MatmulBackend>(make_product_library(stream));
}

}  // namespace biqa::cuda
