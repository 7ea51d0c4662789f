// SPDX-License-Identifier: Apache-2.0
#include "ops/backends.h"

#include <utility>

#include "core/error.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/buffers.h"
#include "ops/cuda/device.h"
#include "ops/cuda/page_layout.h"

namespace biqa {
namespace {

using Maker = std::function<std::unique_ptr<Ops>(const DeviceChoice&)>;
Maker& further() {
  static Maker maker;
  return maker;
}

}  // namespace

void set_further_backend(Maker make) {
  further() = std::move(make);
}

KvLayout kv_layout(const DeviceChoice& choice, const HeadShape& shape) {
  if (choice.device == "cuda") return cuda::kv_layout(shape, choice.compute);
  return {kPageTokens,
          kv_page_elements(shape, choice.compute) * static_cast<std::int64_t>(size_of(choice.compute))};
}

void check_vision_attention(const DeviceChoice& choice, std::int64_t head_dim) {
  if (choice.vision_attention != VisionAttentionBy::cudnn) return;
  if (choice.device != "cuda" || choice.compute != DType::bf16) {
    fail_usage(
        "cannot use model.vision_attention cudnn with device {} and dtype {}: cuDNN needs device cuda and "
        "dtype "
        "bf16; set "
        "model.vision_attention: own",
        choice.device, name_of(choice.compute));
  }
  if (!cuda::tiles_fit({1, 1, head_dim}, choice.compute)) {
    fail_usage(
        "cannot use model.vision_attention cudnn with this model: its vision tower has heads of dimension "
        "{}, and "
        "cuDNN needs a multiple of 8, at most 128; set model.vision_attention: own",
        head_dim);
  }
}

std::unique_ptr<Ops> make_ops(const DeviceChoice& choice) {
  if (further()) {
    if (auto ops = further()(choice)) return ops;
  }
  if (choice.device == "cuda")
    return make_cuda_ops(choice.compute, choice.local_rank, choice.vision_attention);
  if (choice.device != "cpu")
    fail_usage("cannot compute on device {}: set model.device (or the flag --device) to cpu or cuda",
               choice.device);
  return make_cpu_ops(choice.compute, choice.threads);
}

}  // namespace biqa
