// SPDX-License-Identifier: Apache-2.0
// Attention over pages of keys and values, and attention inside segments.
#include <algorithm>
#include <array>
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

/// Page layout: for each kv head, keys [D, 16] and then values [16, padded D]. In bf16, rows are stored in pairs, as products
/// of pairs need them: keys [D rounded up to 32, 16] as [·/2, 16, 2], values as [8, padded D, 2]. The heads follow each other.
struct PageLayout {
  PageLayout(const HeadShape& shape, DType type)
      : padded_dim(round_up(shape.head_dim, kPageTokens)),
        keys((type == DType::bf16 ? round_up(shape.head_dim, 32) : shape.head_dim) * kPageTokens),
        head(keys + kPageTokens * padded_dim) {}
  std::int64_t padded_dim, keys, head;
};

/// Stores the key and the value of one token of one kv head in `slot` of a page.
void store_token(const float* key, const float* value, std::int64_t head_dim, const PageLayout& layout,
                 std::int64_t slot, float* page) {
  for (std::int64_t d = 0; d < head_dim; ++d) page[d * kPageTokens + slot] = key[d];
  std::copy_n(value, head_dim, page + layout.keys + slot * layout.padded_dim);
}
void store_token(const float* key, const float* value, std::int64_t head_dim, const PageLayout& layout,
                 std::int64_t slot, Bf16* page) {
  CHECK_EQ(head_dim % 2, 0) << "pairs of elements";
  Bf16* keys = page + 2 * slot;
  Bf16* values = page + layout.keys + slot / 2 * 2 * layout.padded_dim + slot % 2;
  for (std::int64_t d = 0; d < head_dim; d += 2) {
    const std::array<Bf16, 2> pair{to_bf16(key[d]), to_bf16(key[d + 1])};
    std::memcpy(keys + d * kPageTokens, pair.data(), sizeof pair);
    values[2 * d] = to_bf16(value[d]);
    values[2 * d + 2] = to_bf16(value[d + 1]);
  }
}

/// Keys and values of one kv head.
struct HeadPages {
  const std::int32_t* pages;  // or null: one after another
  const void* keys;
  const void* values;
  std::int64_t page_elements;
  DType type;
};

/// Attention of a few queries that share a kv head: on tile registers if `tiles` is not null, else in vectors.
class QueryBlock {
 public:
  /// `longest`: largest number of keys. `extra_floats`: further memory for the caller.
  QueryBlock(const cpu::Kernels& kernels, const cpu::TileSet* tiles, std::int64_t head_dim,
             std::int64_t longest, Scratch& scratch, std::int64_t extra_floats)
      : k_(kernels),
        tiles_(tiles),
        head_dim_(head_dim),
        padded_(round_up(head_dim, kPageTokens)),
        wide_(round_up(head_dim, 32)),
        stride_(round_up(longest, kPageTokens)) {
    const std::int64_t bf16_floats =
        tiles == nullptr ? 0 : (most() * (stride_ + wide_) + kPageTokens * padded_) / 2;
    results_ = scratch.floats(most() * (padded_ + stride_) + bf16_floats + extra_floats);
    scores_ = results_ + most() * padded_;
    weights_ = reinterpret_cast<Bf16*>(scores_ + most() * stride_);
    q_ = weights_ + most() * stride_;
    page_ = q_ + most() * wide_;
    extra_ = scores_ + most() * stride_ + bf16_floats;
    if (tiles != nullptr) std::fill_n(q_, most() * wide_, Bf16{});
  }
  std::int64_t most() const { return tiles_ == nullptr ? kQueryBlock : cpu::kTileQueries; }

  void set(std::int64_t i, const float* q, std::int64_t length) {
    lengths_[static_cast<std::size_t>(i)] = length;
    queries_[static_cast<std::size_t>(i)] = q;
  }
  void attend(const HeadPages& keys, std::int64_t count) {
    if (tiles_ == nullptr)
      attend_in_vectors(keys, count);
    else
      attend_in_tiles(keys, count);
  }
  const float* result(std::int64_t i) const { return results_ + i * padded_; }
  float lse(std::int64_t i) const { return lse_[static_cast<std::size_t>(i)]; }
  float* extra() const { return extra_; }

 private:
  float scale() const { return 1.0F / std::sqrt(static_cast<float>(head_dim_)); }

  void attend_in_vectors(const HeadPages& keys, std::int64_t count) {
    cpu::AttendBlock block{};
    block.queries = static_cast<int>(count);
    block.head_dim = static_cast<int>(head_dim_);
    for (std::int64_t i = 0; i < count; ++i) {
      block.q[i] = queries_[static_cast<std::size_t>(i)];
      block.lengths[i] = lengths_[static_cast<std::size_t>(i)];
      block.out[i] = results_ + i * padded_;
    }
    block.pages = keys.pages;
    block.keys = keys.keys;
    block.values = keys.values;
    block.page_elements = keys.page_elements;
    block.bf16 = keys.type == DType::bf16;
    block.scale = scale();
    block.scores = scores_;
    block.scores_stride = stride_;
    k_.attend(block);
    std::copy_n(block.lse, count, lse_.begin());
  }

  void attend_in_tiles(const HeadPages& keys, std::int64_t count) {
    cpu::TileAttention block{};
    block.queries = count;
    block.dim_steps = wide_ / 32;
    block.padded_dim = padded_;
    for (std::int64_t i = 0; i < count; ++i) {
      k_.convert(Rows{queries_[static_cast<std::size_t>(i)], false, head_dim_},
                 MutableRows{q_ + i * wide_, true, head_dim_}, 1, head_dim_);
      block.lengths[i] = lengths_[static_cast<std::size_t>(i)];
    }
    block.q = q_;
    block.pages = keys.pages;
    block.keys = static_cast<const Bf16*>(keys.keys);
    block.values = static_cast<const Bf16*>(keys.values);
    block.page_elements = keys.page_elements;
    block.scale = scale();
    block.scores = scores_;
    block.weights = weights_;
    block.scores_stride = stride_;
    block.page = page_;
    block.out = results_;
    tiles_->attention.forward(block, k_);
    for (std::int64_t i = 0; i < count; ++i) {
      float* const result = results_ + i * padded_;
      k_.scaled(result, 1.0F / block.sums[i], padded_, result);
      // A sum that underflows can be −0. The pages of other queries, with weight 0, turn it into 0. So it is 0 in any case.
      for (std::int64_t d = 0; d < padded_; ++d) result[d] += 0.0F;
      lse_[static_cast<std::size_t>(i)] = block.lse[i];
    }
  }

  const cpu::Kernels& k_;
  const cpu::TileSet* tiles_;
  std::int64_t head_dim_, padded_, wide_, stride_;
  float *results_, *scores_, *extra_;
  Bf16 *weights_, *q_, *page_;
  std::array<const float*, cpu::kTileQueries> queries_{};
  std::array<std::int64_t, cpu::kTileQueries> lengths_{};
  std::array<float, cpu::kTileQueries> lse_{};
};

}  // namespace

template <typename T>
void CpuOps::write_pages(ConstView k, ConstView v, const HeadShape& shape, std::span<const KvWrite> writes,
                         const KvPages& pages) const {
  const PageLayout layout(shape, pages.type);
  parallel(static_cast<std::int64_t>(writes.size()), 16, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t i = first; i < first + count; ++i) {
      const KvWrite& write = writes[static_cast<std::size_t>(i)];
      for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
        store_token(k.row<float>(write.row) + h * shape.head_dim,
                    v.row<float>(write.row) + h * shape.head_dim, shape.head_dim, layout, write.slot,
                    static_cast<T*>(pages.data) + write.page * pages.page_elements + h * layout.head);
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
  const PageLayout layout(shape, pages.type);
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
  const std::int64_t element = static_cast<std::int64_t>(size_of(pages.type));
  parallel_tasks(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t t, Scratch& scratch) {
    const cpu::AttentionTask& task = tasks[static_cast<std::size_t>(t)];
    QueryBlock block(k_, pages.type == DType::bf16 ? tiles_ : nullptr, shape.head_dim, longest, scratch, 0);
    auto* base = static_cast<std::byte*>(pages.data) + task.kv_head * layout.head * element;
    const HeadPages keys{task.sequence->pages, base, base + layout.keys * element, pages.page_elements,
                         pages.type};
    for (std::int64_t first = 0; first < task.pairs; first += block.most()) {
      const std::int64_t count = std::min(block.most(), task.pairs - first);
      const auto of = [&](std::int64_t i) {
        const auto [row, head] = cpu::pair_of(task.first_pair + first + i, task.kv_head, sharing);
        return std::pair(task.sequence->first_row + row, head);
      };
      for (std::int64_t i = 0; i < count; ++i) {
        const auto [row, head] = of(i);
        block.set(i, q.row<float>(row) + head * shape.head_dim,
                  task.sequence->first_position + row - task.sequence->first_row + 1);
      }
      block.attend(keys, count);
      for (std::int64_t i = 0; i < count; ++i) {
        const auto [row, head] = of(i);
        store_head(block.result(i), shape.head_dim, head, row, out);
        if (!lse.empty()) lse.row<float>(row)[head] = block.lse(i);
      }
    }
  });
}

template <typename T>
void CpuOps::attend_segment(ConstView q, ConstView k, ConstView v, std::int64_t head_dim,
                            const Segment& segment, std::int64_t longest, Scratch& scratch, View out) const {
  const DType type = dtype_of<T>();
  const PageLayout layout({1, 1, head_dim}, type);
  const std::int64_t pages = round_up(longest, kPageTokens) / kPageTokens;
  const std::int64_t store_floats = pages * layout.head * static_cast<std::int64_t>(sizeof(T)) / 4;
  QueryBlock block(k_, type == DType::bf16 ? tiles_ : nullptr, head_dim, longest, scratch, store_floats);
  T* store = reinterpret_cast<T*>(block.extra());
  std::fill_n(store, round_up(segment.rows, kPageTokens) / kPageTokens * layout.head, T{});
  const std::int64_t column = segment.head * head_dim;
  for (std::int64_t i = 0; i < segment.rows; ++i) {
    store_token(k.row<float>(segment.first_row + i) + column, v.row<float>(segment.first_row + i) + column,
                head_dim, layout, i % kPageTokens, store + i / kPageTokens * layout.head);
  }
  const HeadPages keys{nullptr, store, store + layout.keys, layout.head, type};
  for (std::int64_t first = 0; first < segment.rows; first += block.most()) {
    const std::int64_t count = std::min(block.most(), segment.rows - first);
    const std::int64_t row = segment.first_row + first;
    for (std::int64_t i = 0; i < count; ++i) block.set(i, q.row<float>(row + i) + column, segment.rows);
    block.attend(keys, count);
    for (std::int64_t i = 0; i < count; ++i)
      store_head(block.result(i), head_dim, segment.head, row + i, out);
  }
}

void CpuOps::segment_attention(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                               std::span<const std::int64_t> boundaries, View out) {
  CHECK_EQ(shape.heads, shape.kv_heads);
  const auto segments = static_cast<std::int64_t>(boundaries.size()) - 1;
  std::int64_t longest = 0;
  for (std::int64_t s = 0; s < segments; ++s) {
    longest = std::max(longest,
                       boundaries[static_cast<std::size_t>(s + 1)] - boundaries[static_cast<std::size_t>(s)]);
  }
  parallel_tasks(segments * shape.heads, [&](std::int64_t t, Scratch& scratch) {
    const std::int64_t begin = boundaries[static_cast<std::size_t>(t / shape.heads)];
    const std::int64_t end = boundaries[static_cast<std::size_t>(t / shape.heads + 1)];
    const Segment segment{begin, end - begin, t % shape.heads};
    if (tiles_ != nullptr)
      attend_segment<Bf16>(q, k, v, shape.head_dim, segment, longest, scratch, out);
    else
      attend_segment<float>(q, k, v, shape.head_dim, segment, longest, scratch, out);
  });
}

void CpuOps::store_head(const float* values, std::int64_t head_dim, std::int64_t head, std::int64_t row,
                        View out) const {
  const View target = out.row_range(row, 1).column_range(head * head_dim, head_dim);
  k_.convert(Rows{values, false, head_dim}, rows_of(target), 1, head_dim);
}

std::int64_t kv_page_elements(const HeadShape& shape, DType type) {
  return shape.kv_heads * PageLayout(shape, type).head;
}

}  // namespace biqa
