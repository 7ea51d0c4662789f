// SPDX-License-Identifier: Apache-2.0
// The interface to cuDNN: attention inside the segments of an image, in device memory. It has no CUDA types, so that
// tests can replace cuDNN by host loops. Our own kernel for the same work is tile_segment_attention()
// (ops/cuda/attention_tiles.h); `model.vision_attention` chooses.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ops/batch.h"
#include "tensor/tensor.h"

namespace biqa::cuda {

class Stream;

/// Segments of equal length whose starts are evenly spaced: rows first + i · distance … + length − 1 for i < count.
struct SegmentBatch {
  std::int64_t first = 0, count = 0, length = 0;
  std::int64_t distance = 0;  ///< at least `length`
  bool operator==(const SegmentBatch&) const = default;
};
/// Divides the segments between neighbouring `boundaries`, which ascend, into batches. Every segment is in one batch.
/// The batches depend on the lengths alone.
std::vector<SegmentBatch> segment_batches(std::span<const std::int64_t> boundaries);

class VisionAttention {
 public:
  virtual ~VisionAttention() = default;
  /// Name and version of the library, on which the bits depend. Empty for host loops.
  virtual std::string version() const = 0;

  /// For the rows of `batches`: out [T, heads·D] bf16 = softmax(q·Kᵀ / sqrt(D)) · V, where K and V are the rows of the
  /// same segment. q, k and v [T, heads·D] bf16; heads = kv_heads; D is a multiple of 8, at most 128. Products and sums
  /// are f32; the weights exp(score − maximum) are rounded to bf16 (docs/numerics.md). Rows of q, k and v begin at
  /// multiples of 16 bytes and have the same stride; rows of out begin at multiples of 16 bytes. `workspace` are at
  /// least kVisionWorkspaceBytes of device memory, aligned to 256 bytes. Nothing overlaps. Only enqueues work.
  ///
  /// A call must have the segments of one image only, because the library and its kernels may choose the order of their
  /// sums by the number of segments. Then the bits of the result depend on this image alone. Throws Error if the
  /// library cannot compute the batch.
  void attend(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
              std::span<const SegmentBatch> batches, View out, View workspace);

 private:
  virtual void attend_batch(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                            const SegmentBatch& batch, View out, View workspace) = 0;
};

/// Makes the implementation by cuDNN, with work on `stream`, which must outlive it. In the emulator, it makes host
/// loops. Throws Error if cuDNN does not work on the selected device.
std::unique_ptr<VisionAttention> make_vision_attention(const Stream& stream);

}  // namespace biqa::cuda
