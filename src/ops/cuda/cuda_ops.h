// SPDX-License-Identifier: Apache-2.0
// The CUDA backend. All work runs on one stream, in the order of the calls. A call only enqueues its work, unless
// ops/ops.h says that it waits. The network is made of the kernels of this folder and of cuBLASLt's products.
#pragma once

#include <memory>
#include <vector>

#include "ops/cuda/buffers.h"
#include "ops/cuda/matmul_backend.h"
#include "ops/cuda/vision_attention.h"
#include "ops/ops.h"
#include "tensor/cuda/memory.h"

namespace biqa::cuda {

/// W [out, in] of the compute type and the bias [1, out] f32 (or empty) in device memory. Forward and backward pass use
/// the same copy of W.
struct CudaLinear final : FrozenLinear {
  CudaLinear(Tensor weight_values, Tensor bias_values, bool with_backward)
      : FrozenLinear(weight_values.columns(), weight_values.rows()),
        weight(std::move(weight_values)),
        bias(std::move(bias_values)),
        backward(with_backward) {}
  Tensor weight, bias;
  bool backward;
  /// Types of the results of the network's products with W, forward and backward. A result in bf16 is without the bias.
  DType result = DType::f32, input_gradient = DType::f32;
};

inline CudaLinear& as_cuda(FrozenLinear& w) {
  return dynamic_cast<CudaLinear&>(w);
}
/// The bias of a packed weight, or an empty view.
inline ConstView bias_of(const FrozenLinear& w) {
  return dynamic_cast<const CudaLinear&>(w).bias.view();
}

class CudaOps final : public Ops, public DevicePacking, public ProductTuning {
 public:
  /// Selects the device first (select_device). Throws Error if none works.
  explicit CudaOps(DType compute, int local_rank = 0,
                   VisionAttentionBy vision_attention = VisionAttentionBy::own);

  DType compute_type() const override { return compute_; }
  std::string device_name() const override { return cuda::device_name(); }
  std::string card_name() const override { return selected_device().name; }
  std::string device_type() const override;
  DeviceMemory& memory() override { return memory_; }
  KvLayout kv_layout(const HeadShape& shape) const override;
  std::int64_t vision_width_unit() const override { return cuda::vision_width_unit(compute_); }
  std::unique_ptr<FrozenLinear> pack(ConstView weight, std::span<const float> bias, bool backward) override;
  DevicePacking* device_packing() override { return this; }
  std::unique_ptr<FrozenLinear> pack_later(std::int64_t out, std::int64_t in, bool bias,
                                           bool backward) override;
  std::vector<View> tensors_of(FrozenLinear& w) override;
  ProductTuning* product_tuning() override { return this; }
  std::string key() const override;
  void choose(const FrozenLinear& w) override;
  std::string saved() const override { return products_->classes().saved(key()); }
  std::string restore(const std::string& text) override { return products_->classes().restore(text, key()); }
  void check_rows(const FrozenLinear& w, std::span<const std::int64_t> counts) override;
  std::unique_ptr<Decoder> make_decoder(const DecoderShape& shape, DecoderWeights weights) override;
  std::unique_ptr<VisionEncoder> make_vision(const VisionShape& shape, VisionWeights weights) override;
  void linear(ConstView x, const FrozenLinear& w, View y, bool accumulate = false) override;
  double squared_norm(ConstView gradient) override;
  void adamw(View values, ConstView gradient, View m, View v, const AdamWStep& step) override;

  /// dx [T, in] (+)= dy [T, out] · W; dy has the compute type. dx is f32, or bf16 if dy is.
  void linear_backward(ConstView dy, const FrozenLinear& w, View dx, bool accumulate = false);
  MatmulBackend& products() { return *products_; }
  /// y [T, out] = x [T, in] · Wᵀ, without the bias, which the reader of y adds. x has the compute type. y is f32, or bf16 if
  /// x is.
  void product(ConstView x, const FrozenLinear& w, View y);
  const Stream& stream() const { return *stream_; }
  CudaMemory& device_memory() { return memory_; }
  /// cuDNN's attention for the vision tower; nullptr: our own kernels compute it.
  VisionAttention* vision_attention() { return vision_attention_.get(); }

 private:
  /// Type of the GPU and version of cuBLASLt.
  std::string product_device() const;
  /// The products that the network makes with `w`, for any number of rows.
  std::vector<Product> products_of(const FrozenLinear& w) const;
  /// y = x · weight; x and y (f32) are in host memory. With `below`, y is instead the remainder that the product's
  /// rounding to bf16 has cut off.
  void multiply_on_host(const Product& product, const CudaLinear& w, bool below, ConstView x, View y);

  DType compute_;
  std::shared_ptr<const Stream> stream_ = std::make_shared<Stream>();
  CudaMemory memory_{stream_};
  std::unique_ptr<MatmulBackend> products_;
  std::unique_ptr<VisionAttention> vision_attention_;
};

/// Make the parts of the network for CudaOps. Both results borrow `ops`.
std::unique_ptr<Decoder> make_decoder(CudaOps& ops, const DecoderShape& shape, DecoderWeights weights);
std::unique_ptr<VisionEncoder> make_vision(CudaOps& ops, const VisionShape& shape, VisionWeights weights);

}  // namespace biqa::cuda
