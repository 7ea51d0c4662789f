// SPDX-License-Identifier: Apache-2.0
// The layout of pages of keys and values on a CUDA device. This header has no CUDA types, because plans also need it in
// builds without CUDA.
#pragma once

#include <cstdint>

#include "ops/batch.h"

namespace biqa::cuda {

/// Tokens of a page. A page holds, per kv head, keys [64, D] and then values [64, D].
inline constexpr std::int64_t kPageTokens = 64;

/// Number of elements in a page of one layer.
inline std::int64_t kv_page_elements(const HeadShape& shape) {
  return shape.kv_heads * 2 * kPageTokens * shape.head_dim;
}
inline KvLayout kv_layout(const HeadShape& shape, DType compute) {
  return {kPageTokens, cuda::kv_page_elements(shape) * static_cast<std::int64_t>(size_of(compute))};
}

}  // namespace biqa::cuda
