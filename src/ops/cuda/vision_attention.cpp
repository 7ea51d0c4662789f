// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/vision_attention.h"

#include <cstddef>
#include <utility>

#include "core/error.h"
#include "ops/cuda/buffers.h"

namespace biqa::cuda {
namespace {

/// Whether every row begins at a multiple of 16 bytes.
bool rows_are_aligned(ConstView rows) {
  constexpr std::uintptr_t kAlignment = 16;
  const auto stride = static_cast<std::uintptr_t>(rows.stride()) * size_of(rows.type());
  return (reinterpret_cast<std::uintptr_t>(rows.address()) | stride) % kAlignment == 0;
}

void check_rows(ConstView rows, ConstView q, const char* name) {
  CHECK(rows.type() == DType::bf16) << name << ": " << name_of(rows.type());
  CHECK(rows.rows() == q.rows() && rows.columns() == q.columns())
      << name << " " << rows.rows() << "x" << rows.columns();
  CHECK(rows_are_aligned(rows)) << name << ": rows do not begin at multiples of 16 bytes";
}

/// The longest series of segments that begins with `first`: all have its length and none is in a batch yet.
SegmentBatch longest_from(std::size_t first, const std::vector<SegmentBatch>& segments,
                          const std::vector<bool>& taken) {
  const SegmentBatch& start = segments[first];
  SegmentBatch longest = start;
  for (std::size_t second = first + 1; second < segments.size(); ++second) {
    if (taken[second] || segments[second].length != start.length) continue;
    SegmentBatch series = start;
    series.distance = segments[second].first - start.first;
    std::int64_t next = segments[second].first;
    for (std::size_t i = second; i < segments.size() && segments[i].first <= next; ++i) {
      if (segments[i].first < next) continue;
      if (taken[i] || segments[i].length != start.length) break;
      next += series.distance;
      ++series.count;
    }
    if (series.count > longest.count) longest = series;
  }
  return longest;
}

}  // namespace

std::vector<SegmentBatch> segment_batches(std::span<const std::int64_t> boundaries) {
  std::vector<SegmentBatch> segments;
  for (std::size_t s = 0; s + 1 < boundaries.size(); ++s) {
    const std::int64_t length = boundaries[s + 1] - boundaries[s];
    CHECK_GT(length, 0);
    segments.push_back({boundaries[s], 1, length, length});
  }
  std::vector<bool> taken(segments.size());
  std::vector<SegmentBatch> batches;
  for (std::size_t first = 0; first < segments.size(); ++first) {
    if (taken[first]) continue;
    const SegmentBatch batch = longest_from(first, segments, taken);
    for (std::size_t i = first; i < segments.size(); ++i) {
      const std::int64_t from_first = segments[i].first - batch.first;
      if (from_first % batch.distance == 0 && from_first / batch.distance < batch.count) taken[i] = true;
    }
    batches.push_back(batch);
  }
  return batches;
}

void VisionAttention::attend(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                             std::span<const SegmentBatch> batches, View out, View workspace) {
  CHECK(shape.heads == shape.kv_heads) << shape.heads << " heads, " << shape.kv_heads << " for keys";
  CHECK_EQ(q.columns(), shape.heads * shape.head_dim);
  CHECK(tiles_fit(shape, q.type())) << "heads of " << shape.head_dim << " " << name_of(q.type());
  check_rows(q, q, "q");
  check_rows(k, q, "k");
  check_rows(v, q, "v");
  check_rows(out, q, "out");
  CHECK(k.stride() == q.stride() && v.stride() == q.stride());
  const auto workspace_bytes = workspace.size() * static_cast<std::int64_t>(size_of(workspace.type()));
  CHECK_GE(workspace_bytes, kVisionWorkspaceBytes);
  for (const SegmentBatch& batch : batches) {
    CHECK(batch.first >= 0 && batch.count > 0 && batch.length > 0 && batch.distance >= batch.length);
    CHECK_LE(batch.first + (batch.count - 1) * batch.distance + batch.length, q.rows());
    attend_batch(q, k, v, shape, batch, out, workspace);
  }
}

}  // namespace biqa::cuda
