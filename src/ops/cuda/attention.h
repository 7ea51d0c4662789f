// SPDX-License-Identifier: Apache-2.0
// Attention in device memory with plain kernels: any head dimension up to 256, f32 or bf16 keys and values, f32 sums.
// They are the reference for the tensor-core kernels. f32 and shapes that tiles_fit() rejects always use them. A row's
// result depends only on its query and on the keys that the row attends to. Each sum has a fixed order, which does
// not depend on the number of rows. No sum uses atomics. All calls only enqueue work on `stream`.
#pragma once

#include <cstdint>

#include "ops/batch.h"
#include "ops/cuda/page_layout.h"
#include "tensor/cuda/runtime.h"
#include "tensor/cuda/span.h"

namespace biqa::cuda {

/// Keys and values of one layer in pages (ops/cuda/page_layout.h).
struct KvPages {
  void* data = nullptr;  ///< device memory
  DType type = DType::f32;
  std::int64_t page_elements = 0;  ///< elements from one page to the next
};

/// Stores k and v rows [T, kv_heads·D] (both f32 or both bf16) in pages, rounded to the pages' type. `writes` must not name a slot twice.
void write_kv(ConstView k, ConstView v, const HeadShape& shape, DeviceSpan<KvWrite> writes,
              const KvPages& pages, const Stream& stream);
void copy_page(const KvPages& pages, std::int32_t from, std::int32_t to, const Stream& stream);

/// The keys that one query row attends to: 0 … length − 1 of a sequence. The pages of the sequence begin at entry
/// `first_page` of the page table.
struct QueryRow {
  std::int32_t first_page = 0;
  std::int32_t length = 0;
};
/// out [T, heads·D] (f32 or bf16) = softmax(q·Kᵀ / sqrt(D)) · V; lse [T, heads] f32 (natural logarithm) unless empty. q
/// [T, heads·D] f32; rows[t] describes row t of q; heads / kv_heads consecutive heads share a kv head.
void attention(ConstView q, const KvPages& pages, const HeadShape& shape, DeviceSpan<QueryRow> rows,
               DeviceSpan<std::int32_t> page_table, View out, View lse, const Stream& stream);

/// The packed key rows that one query row attends to: `prompt_keys` rows from `prompt_first` on, then `own_keys` rows
/// from `own_first` on.
struct QueryKeys {
  std::int32_t query_row = 0;
  std::int32_t prompt_first = 0, prompt_keys = 0;
  std::int32_t own_first = 0, own_keys = 0;
};
/// Consecutive query rows.
struct QueryRange {
  std::int32_t first = 0, count = 0;
};
/// The query rows that attend to one packed key row: those in `first`, then those in BackwardTables::ranges[range_begin
/// … range_end − 1], in this order.
struct KeyQueries {
  std::int32_t key_row = 0;
  QueryRange first;
  std::int32_t range_begin = 0, range_end = 0;
};
struct BackwardTables {
  DeviceSpan<QueryKeys> queries;
  DeviceSpan<KeyQueries> keys;
  DeviceSpan<QueryRange> ranges;
};
/// Computes d_q, d_k and d_v f32 from d_out f32. Only the rows in `tables` are written. q, k and v are packed rows in
/// f32. k and v are rounded to `kv_type`, as in write_kv(). out and lse are the results of attention().
void attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse, ConstView d_out,
                        const HeadShape& shape, DType kv_type, const BackwardTables& tables, View d_q,
                        View d_k, View d_v, const Stream& stream);

/// The segment of a packed row: it attends to the rows first … first + count − 1.
struct SegmentRow {
  std::int32_t first = 0, count = 0;
};
/// Bidirectional attention inside segments (vision tower). q, k, v [T, heads·D] f32 with heads = kv_heads; out f32 or
/// bf16.
void segment_attention(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                       DeviceSpan<SegmentRow> rows, View out, const Stream& stream);

}  // namespace biqa::cuda
