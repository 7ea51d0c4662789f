// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ops/cuda/vision_attention.h"

namespace biqa::emulation {

/// Stands in for cuDNN: loops over device memory, sums in f32, weights rounded to bf16. The bits depend on the
/// number of segments in the batch, as they may in cuDNN. The work is done in the order of the stream.
/// What the library calls itself, for this thread.
inline thread_local std::string attention_version;

class HostAttention final : public cuda::VisionAttention {
 public:
  explicit HostAttention(const cuda::Stream& stream) : stream_(stream) {}
  std::string version() const override { return attention_version; }

 private:
  void attend_batch(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                    const cuda::SegmentBatch& batch, View out, View workspace) override;

  const cuda::Stream& stream_;
};

}  // namespace biqa::emulation
