// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ops/cuda/vision_attention.h"

namespace biqa::emulation {

/// Batches that the stand-ins of all threads have computed.
inline std::int64_t attended_batches = 0;

/// Stands in for cuDNN: loops over device memory, sums in f32, weights rounded to bf16. The work is done in the order of the
/// stream.
class HostAttention final : public cuda::VisionAttention {
 public:
  explicit HostAttention(const cuda::Stream& stream) : stream_(stream) {}

 private:
  void attend_batch(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                    const cuda::SegmentBatch& batch, View out, View workspace) override;

  const cuda::Stream& stream_;
};

}  // namespace biqa::emulation
