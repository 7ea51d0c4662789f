// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/cuda_ops.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "core/error.h"
#include "ops/cpu/row_check.h"
#include "ops/cuda/optimizer.h"
#include "ops/cuda/page_layout.h"
#include "ops/cuda/product_probe.h"
#include "ops/cuda/rows.h"

namespace biqa::cuda {
namespace {

DType selected(DType compute, int local_rank) {
  CHECK(compute == DType::f32 || compute == DType::bf16) << name_of(compute);
  select_device(local_rank);
  return compute;
}

}  // namespace

CudaOps::CudaOps(DType compute, int local_rank, VisionAttentionBy vision_attention)
    : compute_(selected(compute, local_rank)),
      products_(make_matmul_backend(*stream_)),
      vision_attention_(vision_attention == VisionAttentionBy::cudnn ? make_vision_attention(*stream_)
                                                                     : nullptr) {}

KvLayout CudaOps::kv_layout(const HeadShape& shape) const {
  return cuda::kv_layout(shape, compute_);
}

std::unique_ptr<FrozenLinear> CudaOps::pack(ConstView weight, std::span<const float> bias, bool backward) {
  Tensor values = copied_to(memory_, weight, "weights");
  if (values.type() != compute_) {
    Tensor rounded = memory_.allocate(compute_, weight.rows(), weight.columns(), "weights");
    convert(values.view(), rounded.view(), *stream_);
    values = std::move(rounded);
  }
  Tensor offsets;
  if (!bias.empty()) {
    const ConstView host(bias.data(), 1, static_cast<std::int64_t>(bias.size()));
    offsets = copied_to(memory_, host, "weights");
  }
  return std::make_unique<CudaLinear>(std::move(values), std::move(offsets), backward);
}

std::unique_ptr<FrozenLinear> CudaOps::pack_later(std::int64_t out, std::int64_t in, bool bias,
                                                  bool backward) {
  Tensor offsets;
  if (bias) offsets = memory_.allocate(DType::f32, 1, out, "weights");
  return std::make_unique<CudaLinear>(memory_.allocate(compute_, out, in, "weights"), std::move(offsets),
                                      backward);
}

std::vector<View> CudaOps::tensors_of(FrozenLinear& w) {
  auto& linear = dynamic_cast<CudaLinear&>(w);
  std::vector<View> tensors{linear.weight.view()};
  if (!linear.bias.view().empty()) tensors.push_back(linear.bias.view());
  return tensors;
}

void CudaOps::linear(ConstView x, const FrozenLinear& w, View y, bool accumulate) {
  const auto& linear = dynamic_cast<const CudaLinear&>(w);
  products_->linear(x, linear.weight.view(), linear.bias.view(), y, accumulate);
}

void CudaOps::product(ConstView x, const FrozenLinear& w, View y) {
  products_->linear(x, dynamic_cast<const CudaLinear&>(w).weight.view(), {}, y);
}

void CudaOps::linear_backward(ConstView dy, const FrozenLinear& w, View dx, bool accumulate) {
  const auto& linear = dynamic_cast<const CudaLinear&>(w);
  CHECK(linear.backward) << "packed without backward";
  products_->linear_backward(dy, linear.weight.view(), dx, accumulate);
}

std::string CudaOps::product_device() const {
  const std::string library = products_->library().version();
  return cuda::device_type() + (library.empty() ? "" : ", " + library);
}

std::string CudaOps::device_type() const {
  const std::string attention = vision_attention_ == nullptr ? "" : vision_attention_->version();
  return product_device() + (attention.empty() ? "" : ", " + attention);
}

std::string CudaOps::key() const {
  if (products_->library().version().empty()) return {};
  return fmt::format("{}, driver for CUDA {}", product_device(), driver_version());
}

void CudaOps::choose(const FrozenLinear& w) {
  for (const Product& product : products_of(w)) products_->classes().classify(product, memory_);
}

std::vector<Product> CudaOps::products_of(const FrozenLinear& w) const {
  const auto& linear = dynamic_cast<const CudaLinear&>(w);
  const bool bias = linear.result == DType::f32 && !linear.bias.view().empty();
  std::vector<Product> products{dense_product(compute_, linear.result, w.in, w.out, true, bias)};
  if (linear.backward)
    products.push_back(dense_product(compute_, linear.input_gradient, w.out, w.in, false, false));
  return products;
}

void CudaOps::multiply_on_host(const Product& product, const CudaLinear& w, bool below, ConstView x, View y) {
  const Tensor input = copied_to(memory_, x, "scratch");
  Tensor output = memory_.allocate(product.output, y.rows(), y.columns(), "scratch");
  const auto multiply = [&](bool accumulate) {
    if (product.transposed)
      products_->linear(input.view(), w.weight.view(), product.bias ? w.bias.view() : ConstView(),
                        output.view(), accumulate);
    else
      products_->linear_backward(input.view(), w.weight.view(), output.view(), accumulate);
  };
  multiply(false);
  if (below) {
    negate(output.view(), memory_);
    multiply(true);
  }
  if (product.output != y.type()) {
    Tensor exact = memory_.allocate(y.type(), y.rows(), y.columns(), "scratch");
    convert(output.view(), exact.view(), *stream_);
    output = std::move(exact);
  }
  memory_.copy(output.view(), y);
  memory_.wait();
}

void CudaOps::check_rows(const FrozenLinear& w, std::span<const std::int64_t> counts) {
  const auto& linear = dynamic_cast<const CudaLinear&>(w);
  for (const Product& product : products_of(w)) {
    for (const bool below : {false, true}) {
      if (below && product.output == DType::f32) continue;
      const auto rows = cpu::rows_with_other_bits(
          product.inner, product.outer, compute_, counts,
          [&](ConstView x, View y) { multiply_on_host(product, linear, below, x, y); });
      if (!rows) continue;
      fail(
          "cannot use {} on this device: the bits of a row of the {}x{} matrix product differ between a "
          "batch of {} and a larger one, so ratings would depend on the batch and actors would disagree with "
          "learners; use another CUDA version or device cpu",
          name_of(compute_), product.inner, product.outer, *rows);
    }
  }
}

double CudaOps::squared_norm(ConstView gradient) {
  const std::int64_t chunks = squared_norm_chunks(gradient.size());
  // Tensors have no f64 type, so the doubles use the bytes of 64-bit integers.
  Tensor scratch = memory_.allocate(DType::i64, 1, chunks + 1, "scratch");
  auto* doubles = static_cast<double*>(scratch.view().address());
  cuda::squared_norm(gradient, doubles, doubles + chunks, *stream_);
  double sum = 0;
  std::int64_t bits = 0;
  memory_.copy(scratch.view().column_range(chunks, 1), View(&bits, 1, 1));
  memory_.wait();
  std::memcpy(&sum, &bits, sizeof sum);
  return sum;
}

void CudaOps::adamw(View values, ConstView gradient, View m, View v, const AdamWStep& step) {
  cuda::adamw(values, gradient, m, v, step, *stream_);
}

std::unique_ptr<Decoder> CudaOps::make_decoder(const DecoderShape& shape, DecoderWeights weights) {
  return cuda::make_decoder(*this, shape, std::move(weights));
}

std::unique_ptr<VisionEncoder> CudaOps::make_vision(const VisionShape& shape, VisionWeights weights) {
  return cuda::make_vision(*this, shape, std::move(weights));
}

}  // namespace biqa::cuda
