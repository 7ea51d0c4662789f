// SPDX-License-Identifier: Apache-2.0
// Attention over pages of keys and values, its backward pass, and attention inside segments.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "ops/cpu/cpu_ops.h"

namespace biqa {
namespace {

using cpu::kQueryBlock;
using cpu::MutableRows;
using cpu::round_up;
using cpu::Rows;
using cpu::rows_of;
using cpu::Scratch;

/// Page layout: for each kv head, keys [D, 16] and then values [16, padded D]. The heads follow each other.
struct PageLayout {
  explicit PageLayout(const HeadShape& shape)
      : padded_dim(round_up(shape.head_dim, kPageTokens)),
        keys(shape.head_dim * kPageTokens),
        head(keys + kPageTokens * padded_dim) {}
  std::int64_t padded_dim, keys, head;
};

std::pair<std::int64_t, std::int64_t> pair_of(std::int64_t pair, std::int64_t kv_head, std::int64_t sharing) {
  return {pair / sharing, kv_head * sharing + pair % sharing};
}

/// The backward pass of attention for one kv head of one group. The keys of the prompt stay in place, and the keys of
/// one member at a time follow them. Gradients of the prompt's keys are summed over the members in order.
class BackwardTask {
 public:
  BackwardTask(const cpu::Kernels& kernels, const HeadShape& shape, DType kv_type, std::int64_t kv_head,
               Scratch& scratch, const SharedPromptRows& group)
      : k_(kernels),
        shape_(shape),
        kv_type_(kv_type),
        kv_head_(kv_head),
        group_(group),
        dim_(shape.head_dim),
        padded_(round_up(shape.head_dim, kPageTokens)),
        sharing_(shape.heads / shape.kv_heads) {
    std::int64_t longest = 0;
    for (const auto& member : group.members) longest = std::max(longest, member.rows);
    length_ = round_up(group.rows + longest, kPageTokens);
    float* next = scratch.floats(length_ * (2 * dim_ + 3 * padded_) + 2 * kQueryBlock * length_ +
                                 2 * kQueryBlock * padded_ + dim_);
    const auto take = [&](std::int64_t count) { return std::exchange(next, next + count); };
    keys_transposed_ = take(length_ * dim_);
    values_transposed_ = take(length_ * dim_);
    keys_ = take(length_ * padded_);
    d_keys_ = take(length_ * padded_);
    d_values_ = take(length_ * padded_);
    scores_ = take(2 * kQueryBlock * length_);
    d_outs_ = take(kQueryBlock * padded_);
    d_qs_ = take(kQueryBlock * padded_);
    output_ = take(dim_);
    std::fill_n(keys_transposed_, length_ * (2 * dim_ + 3 * padded_), 0.0F);
  }

  void run(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse, ConstView d_out, View d_q,
           View d_k, View d_v) {
    load_keys(k, v, group_.first_key_row, group_.rows, 0);
    queries(q, out, lse, d_out, d_q, group_.first_query_row, group_.query_rows,
            group_.rows - group_.query_rows);
    for (const auto& member : group_.members) {
      load_keys(k, v, member.first_key_row, member.rows, group_.rows);
      std::fill_n(d_keys_ + group_.rows * padded_, member.rows * padded_, 0.0F);
      std::fill_n(d_values_ + group_.rows * padded_, member.rows * padded_, 0.0F);
      queries(q, out, lse, d_out, d_q, member.first_query_row, member.rows, group_.rows);
      store_gradients(d_k, d_v, member.first_key_row, member.rows, group_.rows);
    }
    store_gradients(d_k, d_v, group_.first_key_row, group_.rows, 0);
  }

 private:
  void load_keys(ConstView k, ConstView v, std::int64_t first_row, std::int64_t rows, std::int64_t at) {
    const auto rounded = [&](float value) {
      return kv_type_ == DType::bf16 ? to_float(to_bf16(value)) : value;
    };
    for (std::int64_t i = 0; i < rows; ++i) {
      const float* key = k.row<float>(first_row + i) + kv_head_ * dim_;
      const float* value = v.row<float>(first_row + i) + kv_head_ * dim_;
      const std::int64_t position = at + i;
      const std::int64_t transposed = position / kPageTokens * kPageTokens * dim_ + position % kPageTokens;
      for (std::int64_t d = 0; d < dim_; ++d) {
        keys_[position * padded_ + d] = keys_transposed_[transposed + d * kPageTokens] = rounded(key[d]);
        values_transposed_[transposed + d * kPageTokens] = rounded(value[d]);
      }
    }
  }

  /// `first_position`: number of keys to which the first query attends, minus one.
  void queries(ConstView q, ConstView out, ConstView lse, ConstView d_out, View d_q, std::int64_t first_row,
               std::int64_t rows, std::int64_t first_position) {
    const std::int64_t pairs = rows * sharing_;
    for (std::int64_t first = 0; first < pairs; first += kQueryBlock) {
      cpu::AttendBackwardBlock block{};
      block.queries = static_cast<int>(std::min<std::int64_t>(kQueryBlock, pairs - first));
      block.head_dim = static_cast<int>(dim_);
      block.padded_dim = padded_;
      for (int i = 0; i < block.queries; ++i) {
        const auto [row, head] = pair_of(first + i, kv_head_, sharing_);
        const std::int64_t packed = first_row + row;
        block.q[i] = q.row<float>(packed) + head * dim_;
        float* padded_d_out = d_outs_ + i * padded_;
        std::fill_n(padded_d_out, padded_, 0.0F);
        std::copy_n(d_out.row<float>(packed) + head * dim_, dim_, padded_d_out);
        const ConstView result = out.row_range(packed, 1).column_range(head * dim_, dim_);
        k_.convert(rows_of(result), MutableRows{output_, false, dim_}, 1, dim_);
        block.d_out[i] = padded_d_out;
        block.delta[i] = k_.dot(padded_d_out, output_, dim_);
        block.lse[i] = lse.row<float>(packed)[head];
        block.lengths[i] = first_position + row + 1;
        block.d_q[i] = d_qs_ + i * padded_;
      }
      block.keys_transposed = keys_transposed_;
      block.values_transposed = values_transposed_;
      block.keys = keys_;
      block.scale = 1.0F / std::sqrt(static_cast<float>(dim_));
      block.scores = scores_;
      block.scores_stride = length_;
      block.d_keys = d_keys_;
      block.d_values = d_values_;
      k_.attend_backward(block);
      for (int i = 0; i < block.queries; ++i) {
        const auto [row, head] = pair_of(first + i, kv_head_, sharing_);
        std::copy_n(block.d_q[i], dim_, d_q.row<float>(first_row + row) + head * dim_);
      }
    }
  }

  void store_gradients(View d_k, View d_v, std::int64_t first_row, std::int64_t rows, std::int64_t at) const {
    for (std::int64_t i = 0; i < rows; ++i) {
      std::copy_n(d_keys_ + (at + i) * padded_, dim_, d_k.row<float>(first_row + i) + kv_head_ * dim_);
      std::copy_n(d_values_ + (at + i) * padded_, dim_, d_v.row<float>(first_row + i) + kv_head_ * dim_);
    }
  }

  const cpu::Kernels& k_;
  const HeadShape& shape_;
  DType kv_type_;
  std::int64_t kv_head_;
  const SharedPromptRows& group_;
  std::int64_t dim_, padded_, sharing_, length_ = 0;
  float *keys_transposed_, *values_transposed_, *keys_, *d_keys_, *d_values_, *scores_, *d_outs_, *d_qs_,
      *output_;
};

}  // namespace

template <typename T>
void CpuOps::write_pages(ConstView k, ConstView v, const HeadShape& shape, std::span<const KvWrite> writes,
                         const KvPages& pages) const {
  const PageLayout layout(shape);
  const auto store = [](float value) {
    if constexpr (std::is_same_v<T, Bf16>)
      return to_bf16(value);
    else
      return value;
  };
  parallel(static_cast<std::int64_t>(writes.size()), 16, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t i = first; i < first + count; ++i) {
      const KvWrite& write = writes[static_cast<std::size_t>(i)];
      for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
        T* page = static_cast<T*>(pages.data) + write.page * pages.page_elements + h * layout.head;
        const float* key = k.row<float>(write.row) + h * shape.head_dim;
        const float* value = v.row<float>(write.row) + h * shape.head_dim;
        T* values = page + layout.keys + write.slot * layout.padded_dim;
        for (std::int64_t d = 0; d < shape.head_dim; ++d) {
          page[d * kPageTokens + write.slot] = store(key[d]);
          values[d] = store(value[d]);
        }
      }
    }
  });
}

void CpuOps::write_kv(ConstView k, ConstView v, const HeadShape& shape, std::span<const KvWrite> writes,
                      const KvPages& pages) {
  if (pages.type == DType::bf16)
    write_pages<Bf16>(k, v, shape, writes, pages);
  else
    write_pages<float>(k, v, shape, writes, pages);
}

void CpuOps::copy_page(const KvPages& pages, std::int32_t from, std::int32_t to) {
  const std::size_t bytes = static_cast<std::size_t>(pages.page_elements) * size_of(pages.type);
  auto* base = static_cast<std::byte*>(pages.data);
  std::memcpy(base + static_cast<std::size_t>(to) * bytes, base + static_cast<std::size_t>(from) * bytes,
              bytes);
}

void CpuOps::attention(ConstView q, const KvPages& pages, const HeadShape& shape,
                       std::span<const AttentionRows> sequences, View out, View lse) {
  const PageLayout layout(shape);
  const std::int64_t sharing = shape.heads / shape.kv_heads;
  constexpr std::int64_t kPairs = 64;  // of a task, at most
  std::vector<cpu::AttentionTask>& tasks = attention_tasks_;
  tasks.clear();
  std::int64_t longest = 0;
  for (const AttentionRows& s : sequences) {
    longest = std::max(longest, s.first_position + s.rows);
    for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
      for (std::int64_t pair = 0; pair < s.rows * sharing; pair += kPairs) {
        tasks.push_back({&s, h, pair, std::min(kPairs, s.rows * sharing - pair)});
      }
    }
  }
  const std::int64_t stride = round_up(longest, kPageTokens);
  const std::int64_t element = static_cast<std::int64_t>(size_of(pages.type));
  const float scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim));
  parallel_tasks(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t t, Scratch& scratch) {
    const cpu::AttentionTask& task = tasks[static_cast<std::size_t>(t)];
    float* scores = scratch.floats(kQueryBlock * stride + kQueryBlock * layout.padded_dim);
    float* results = scores + kQueryBlock * stride;
    auto* base = static_cast<std::byte*>(pages.data) + task.kv_head * layout.head * element;
    for (std::int64_t first = 0; first < task.pairs; first += kQueryBlock) {
      cpu::AttendBlock block{};
      block.queries = static_cast<int>(std::min<std::int64_t>(kQueryBlock, task.pairs - first));
      block.head_dim = static_cast<int>(shape.head_dim);
      for (int i = 0; i < block.queries; ++i) {
        const auto [row, head] = pair_of(task.first_pair + first + i, task.kv_head, sharing);
        block.q[i] = q.row<float>(task.sequence->first_row + row) + head * shape.head_dim;
        block.lengths[i] = task.sequence->first_position + row + 1;
        block.out[i] = results + i * layout.padded_dim;
      }
      block.pages = task.sequence->pages;
      block.keys = base;
      block.values = base + layout.keys * element;
      block.page_elements = pages.page_elements;
      block.bf16 = pages.type == DType::bf16;
      block.scale = scale;
      block.scores = scores;
      block.scores_stride = stride;
      k_.attend(block);
      for (int i = 0; i < block.queries; ++i) {
        const auto [row, head] = pair_of(task.first_pair + first + i, task.kv_head, sharing);
        const std::int64_t packed = task.sequence->first_row + row;
        store_head(block.out[i], shape.head_dim, head, packed, out);
        if (!lse.empty()) lse.row<float>(packed)[head] = block.lse[i];
      }
    }
  });
}

void CpuOps::attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse,
                                ConstView d_out, const HeadShape& shape, DType kv_type,
                                std::span<const SharedPromptRows> groups, View d_q, View d_k, View d_v) {
  const auto tasks = static_cast<std::int64_t>(groups.size()) * shape.kv_heads;
  parallel_tasks(tasks, [&](std::int64_t t, Scratch& scratch) {
    BackwardTask task(k_, shape, kv_type, t % shape.kv_heads, scratch,
                      groups[static_cast<std::size_t>(t / shape.kv_heads)]);
    task.run(q, k, v, out, lse, d_out, d_q, d_k, d_v);
  });
}

void CpuOps::segment_attention(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                               std::span<const std::int64_t> boundaries, View out) {
  CHECK_EQ(shape.heads, shape.kv_heads);
  const PageLayout layout(shape);
  const auto segments = static_cast<std::int64_t>(boundaries.size()) - 1;
  std::int64_t longest = 0;
  for (std::int64_t s = 0; s < segments; ++s) {
    longest = std::max(longest,
                       boundaries[static_cast<std::size_t>(s + 1)] - boundaries[static_cast<std::size_t>(s)]);
  }
  const std::int64_t stride = round_up(longest, kPageTokens);
  const float scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim));
  parallel_tasks(segments * shape.heads, [&](std::int64_t t, Scratch& scratch) {
    const std::int64_t begin = boundaries[static_cast<std::size_t>(t / shape.heads)];
    const std::int64_t length = boundaries[static_cast<std::size_t>(t / shape.heads + 1)] - begin;
    const std::int64_t head = t % shape.heads;
    const std::int64_t pages = round_up(length, kPageTokens) / kPageTokens;
    float* scores = scratch.floats(kQueryBlock * (stride + layout.padded_dim) + pages * layout.head);
    float* results = scores + kQueryBlock * stride;
    float* store = results + kQueryBlock * layout.padded_dim;
    std::fill_n(store, pages * layout.head, 0.0F);
    for (std::int64_t i = 0; i < length; ++i) {
      const float* key = k.row<float>(begin + i) + head * shape.head_dim;
      const float* value = v.row<float>(begin + i) + head * shape.head_dim;
      float* page = store + i / kPageTokens * layout.head;
      for (std::int64_t d = 0; d < shape.head_dim; ++d) page[d * kPageTokens + i % kPageTokens] = key[d];
      std::copy_n(value, shape.head_dim, page + layout.keys + i % kPageTokens * layout.padded_dim);
    }
    for (std::int64_t first = 0; first < length; first += kQueryBlock) {
      cpu::AttendBlock block{};
      block.queries = static_cast<int>(std::min<std::int64_t>(kQueryBlock, length - first));
      block.head_dim = static_cast<int>(shape.head_dim);
      for (int i = 0; i < block.queries; ++i) {
        block.q[i] = q.row<float>(begin + first + i) + head * shape.head_dim;
        block.lengths[i] = length;
        block.out[i] = results + i * layout.padded_dim;
      }
      block.keys = store;
      block.values = store + layout.keys;
      block.page_elements = layout.head;
      block.scale = scale;
      block.scores = scores;
      block.scores_stride = stride;
      k_.attend(block);
      for (int i = 0; i < block.queries; ++i) {
        store_head(block.out[i], shape.head_dim, head, begin + first + i, out);
      }
    }
  });
}

void CpuOps::store_head(const float* values, std::int64_t head_dim, std::int64_t head, std::int64_t row,
                        View out) const {
  const View target = out.row_range(row, 1).column_range(head * head_dim, head_dim);
  k_.convert(Rows{values, false, head_dim}, rows_of(target), 1, head_dim);
}

std::int64_t kv_page_elements(const HeadShape& shape) {
  return shape.kv_heads * PageLayout(shape).head;
}

}  // namespace biqa
