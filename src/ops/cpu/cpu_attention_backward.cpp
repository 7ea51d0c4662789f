// SPDX-License-Identifier: Apache-2.0
// The backward pass of attention.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "ops/backends.h"
#include "ops/cpu/cpu_ops.h"

namespace biqa {
namespace {

using cpu::kBackwardQueries;
using cpu::kQueryBlock;
using cpu::MutableRows;
using cpu::round_up;
using cpu::Rows;
using cpu::rows_of;
using cpu::Scratch;

/// What the rows of a pass give to the backward pass, and where it writes the gradients.
struct AttentionRecord {
  ConstView q, k, v, out, lse, d_out;
  View d_q, d_k, d_v;
};

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
    float* next = scratch.floats(floats(dim_, length_));
    const auto take = [&](std::int64_t count) { return std::exchange(next, next + count); };
    keys_transposed_ = take(length_ * dim_);
    values_transposed_ = take(length_ * dim_);
    keys_ = take(length_ * padded_);
    d_keys_ = take(length_ * padded_);
    d_values_ = take(length_ * padded_);
    scores_ = take(2 * kQueryBlock * length_);
    qs_ = take(kQueryBlock * padded_);
    d_outs_ = take(kQueryBlock * padded_);
    d_qs_ = take(kQueryBlock * padded_);
    output_ = take(dim_);
    std::fill_n(keys_transposed_, length_ * (2 * dim_ + 3 * padded_), 0.0F);
    std::fill_n(qs_, 2 * kQueryBlock * padded_, 0.0F);
  }

  /// Working memory for `length` keys.
  static std::int64_t floats(std::int64_t dim, std::int64_t length) {
    const std::int64_t padded = round_up(dim, kPageTokens);
    return length * (2 * dim + 3 * padded) + 2 * kQueryBlock * length + 3 * kQueryBlock * padded + dim;
  }

  void run(const AttentionRecord& r) {
    load_keys(r.k, r.v, group_.first_key_row, group_.rows, 0);
    queries(r, group_.first_query_row, group_.query_rows, group_.rows - group_.query_rows);
    for (const auto& member : group_.members) {
      load_keys(r.k, r.v, member.first_key_row, member.rows, group_.rows);
      std::fill_n(d_keys_ + group_.rows * padded_, member.rows * padded_, 0.0F);
      std::fill_n(d_values_ + group_.rows * padded_, member.rows * padded_, 0.0F);
      queries(r, member.first_query_row, member.rows, group_.rows);
      store_gradients(r.d_k, r.d_v, member.first_key_row, member.rows, group_.rows);
    }
    store_gradients(r.d_k, r.d_v, group_.first_key_row, group_.rows, 0);
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
  void queries(const AttentionRecord& r, std::int64_t first_row, std::int64_t rows,
               std::int64_t first_position) {
    View d_q = r.d_q;
    const std::int64_t pairs = rows * sharing_;
    for (std::int64_t first = 0; first < pairs; first += kQueryBlock) {
      cpu::AttendBackwardBlock block{};
      block.queries = static_cast<int>(std::min<std::int64_t>(kQueryBlock, pairs - first));
      block.head_dim = static_cast<int>(dim_);
      block.padded_dim = padded_;
      for (int i = 0; i < block.queries; ++i) {
        const auto [row, head] = cpu::pair_of(first + i, kv_head_, sharing_);
        const std::int64_t packed = first_row + row;
        float* q = qs_ + i * padded_;
        float* d_out = d_outs_ + i * padded_;
        std::copy_n(r.q.row<float>(packed) + head * dim_, dim_, q);
        std::copy_n(r.d_out.row<float>(packed) + head * dim_, dim_, d_out);
        const ConstView result = r.out.row_range(packed, 1).column_range(head * dim_, dim_);
        k_.convert(rows_of(result), MutableRows{output_, false, dim_}, 1, dim_);
        block.q[i] = q;
        block.d_out[i] = d_out;
        block.delta[i] = k_.dot(d_out, output_, dim_);
        block.lse[i] = r.lse.row<float>(packed)[head];
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
        const auto [row, head] = cpu::pair_of(first + i, kv_head_, sharing_);
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
  float *keys_transposed_, *values_transposed_, *keys_, *d_keys_, *d_values_, *scores_, *qs_, *d_outs_,
      *d_qs_, *output_;
};

/// The same on tile registers, for 32 queries at a time. Gradients of keys and values are stored transposed in pages.
class TileBackwardTask {
 public:
  TileBackwardTask(const cpu::Kernels& kernels, const cpu::TileSet& tiles, const HeadShape& shape,
                   std::int64_t kv_head, Scratch& scratch, const SharedPromptRows& group)
      : k_(kernels),
        tiles_(tiles),
        kv_head_(kv_head),
        group_(group),
        dim_(shape.head_dim),
        padded_(round_up(shape.head_dim, kPageTokens)),
        wide_(round_up(shape.head_dim, 32)),
        sharing_(shape.heads / shape.kv_heads) {
    std::int64_t longest = 0;
    for (const auto& member : group.members) longest = std::max(longest, member.rows);
    length_ = round_up(group.rows + longest, kPageTokens);
    const std::int64_t kept = length_ * (wide_ + padded_ / 2 + 2 * padded_);
    const std::int64_t queries =
        kBackwardQueries * (wide_ + padded_ + length_ / 2 + padded_) + cpu::kBackwardScratch;
    float* next = scratch.floats(kept + queries + 2 * round_up(dim_, kPageTokens));
    const auto take = [&](std::int64_t floats) { return std::exchange(next, next + floats); };
    const auto take_bf16 = [&](std::int64_t count) { return reinterpret_cast<Bf16*>(take(count / 2)); };
    float* const first = next;
    keys_ = take_bf16(length_ * wide_);
    values_ = take_bf16(length_ * wide_);
    key_pairs_ = take_bf16(length_ * padded_);
    d_keys_ = take(length_ * padded_);
    d_values_ = take(length_ * padded_);
    std::memset(first, 0, static_cast<std::size_t>(next - first) * sizeof(float));
    float* const first_query = next;
    q_ = take_bf16(kBackwardQueries * wide_);
    d_out_ = take_bf16(kBackwardQueries * wide_);
    q_transposed_ = take_bf16(kBackwardQueries * padded_);
    d_out_transposed_ = take_bf16(kBackwardQueries * padded_);
    std::memset(first_query, 0, static_cast<std::size_t>(next - first_query) * sizeof(float));
    d_scores_ = take_bf16(kBackwardQueries * length_);
    d_q_ = take(kBackwardQueries * padded_);
    own_ = take(cpu::kBackwardScratch);
    output_ = take(round_up(dim_, kPageTokens));
    d_output_ = take(dim_);
  }

  void run(const AttentionRecord& r) {
    load_keys(r, group_.first_key_row, group_.rows, 0);
    queries(r, group_.first_query_row, group_.query_rows, group_.rows - group_.query_rows);
    for (const auto& member : group_.members) {
      load_keys(r, member.first_key_row, member.rows, group_.rows);
      clear_gradients(member.rows, group_.rows);
      queries(r, member.first_query_row, member.rows, group_.rows);
      store_gradients(r, member.first_key_row, member.rows, group_.rows);
    }
    store_gradients(r, group_.first_key_row, group_.rows, 0);
  }

 private:
  void load_keys(const AttentionRecord& r, std::int64_t first_row, std::int64_t rows, std::int64_t at) {
    for (std::int64_t i = 0; i < rows; ++i) {
      const float* key = r.k.row<float>(first_row + i) + kv_head_ * dim_;
      const float* value = r.v.row<float>(first_row + i) + kv_head_ * dim_;
      const std::int64_t page = (at + i) / kPageTokens;
      const std::int64_t slot = (at + i) % kPageTokens;
      const std::int64_t to = page * kPageTokens * wide_ + 2 * slot;
      Bf16* pairs = key_pairs_ + page * kPageTokens * padded_ + slot / 2 * 2 * padded_ + slot % 2;
      for (std::int64_t d = 0; d < dim_; ++d) {
        const std::int64_t element = to + d / 2 * 2 * kPageTokens + d % 2;
        keys_[element] = pairs[2 * d] = to_bf16(key[d]);
        values_[element] = to_bf16(value[d]);
      }
    }
    clear_keys(at + rows);
  }
  /// Clears the rest of a page from this position on: keys of a longer member, which get the weight 0, may be no numbers.
  void clear_keys(std::int64_t position) {
    for (; position % kPageTokens != 0; ++position) {
      const std::int64_t slot = position % kPageTokens;
      Bf16* pairs = key_pairs_ + (position - slot) * padded_ + slot / 2 * 2 * padded_ + slot % 2;
      for (std::int64_t d = 0; d < padded_; ++d) pairs[2 * d] = Bf16{};
    }
  }

  /// `first_position`: as in BackwardTask.
  void queries(const AttentionRecord& r, std::int64_t first_row, std::int64_t rows,
               std::int64_t first_position) {
    const std::int64_t pairs = rows * sharing_;
    for (std::int64_t first = 0; first < pairs; first += kBackwardQueries) {
      cpu::TileAttentionBackward block{};
      const std::int64_t count = std::min(kBackwardQueries, pairs - first);
      for (std::int64_t i = 0; i < kBackwardQueries; ++i) {
        if (i >= count) {
          std::fill_n(q_ + i * wide_, dim_, Bf16{});
          std::fill_n(d_out_ + i * wide_, dim_, Bf16{});
          continue;
        }
        const auto [row, head] = cpu::pair_of(first + i, kv_head_, sharing_);
        const std::int64_t packed = first_row + row;
        k_.convert(rows_of(r.q.row_range(packed, 1).column_range(head * dim_, dim_)),
                   MutableRows{q_ + i * wide_, true, dim_}, 1, dim_);
        k_.convert(rows_of(r.d_out.row_range(packed, 1).column_range(head * dim_, dim_)),
                   MutableRows{d_out_ + i * wide_, true, dim_}, 1, dim_);
        k_.convert(rows_of(r.out.row_range(packed, 1).column_range(head * dim_, dim_)),
                   MutableRows{output_, false, dim_}, 1, dim_);
        // Rounded like the factor of d_out · values, from whose results it is subtracted.
        k_.convert(Rows{d_out_ + i * wide_, true, dim_}, MutableRows{d_output_, false, dim_}, 1, dim_);
        block.delta[i] = k_.dot(d_output_, output_, dim_);
        block.lse[i] = r.lse.row<float>(packed)[head];
        block.lengths[i] = first_position + row + 1;
      }
      transpose(q_, q_transposed_);
      transpose(d_out_, d_out_transposed_);
      run_block(block);
      for (std::int64_t i = 0; i < count; ++i) {
        const auto [row, head] = cpu::pair_of(first + i, kv_head_, sharing_);
        View d_q = r.d_q;
        std::copy_n(d_q_ + i * padded_, dim_, d_q.row<float>(first_row + row) + head * dim_);
      }
    }
  }

  void transpose(const Bf16* from, Bf16* to) const {
    for (std::int64_t d = 0; d < dim_; ++d) {
      for (std::int64_t i = 0; i < kBackwardQueries; ++i) to[d * kBackwardQueries + i] = from[i * wide_ + d];
    }
  }

  void run_block(cpu::TileAttentionBackward& block) {
    block.dim_steps = wide_ / 32;
    block.padded_dim = padded_;
    block.q = q_;
    block.d_out = d_out_;
    block.q_transposed = q_transposed_;
    block.d_out_transposed = d_out_transposed_;
    block.keys = keys_;
    block.values = values_;
    block.key_pairs = key_pairs_;
    block.scale = 1.0F / std::sqrt(static_cast<float>(dim_));
    block.scratch = own_;
    block.d_scores = d_scores_;
    block.d_scores_stride = length_;
    block.d_q = d_q_;
    block.d_keys = d_keys_;
    block.d_values = d_values_;
    tiles_.attention.backward(block, k_);
  }

  /// Place of the first element of a position's gradient. The others follow 16 elements apart.
  std::int64_t gradient_at(std::int64_t position) const {
    return position / kPageTokens * kPageTokens * padded_ + position % kPageTokens;
  }
  void clear_gradients(std::int64_t rows, std::int64_t at) {
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t first = gradient_at(at + i);
      for (std::int64_t d = 0; d < dim_; ++d)
        d_keys_[first + d * kPageTokens] = d_values_[first + d * kPageTokens] = 0.0F;
    }
  }
  void store_gradients(const AttentionRecord& r, std::int64_t first_row, std::int64_t rows,
                       std::int64_t at) const {
    View d_k = r.d_k;
    View d_v = r.d_v;
    for (std::int64_t i = 0; i < rows; ++i) {
      float* d_key = d_k.row<float>(first_row + i) + kv_head_ * dim_;
      float* d_value = d_v.row<float>(first_row + i) + kv_head_ * dim_;
      const std::int64_t first = gradient_at(at + i);
      for (std::int64_t d = 0; d < dim_; ++d) {
        d_key[d] = d_keys_[first + d * kPageTokens];
        d_value[d] = d_values_[first + d * kPageTokens];
      }
    }
  }

  const cpu::Kernels& k_;
  const cpu::TileSet& tiles_;
  std::int64_t kv_head_;
  const SharedPromptRows& group_;
  std::int64_t dim_, padded_, wide_, sharing_, length_ = 0;
  Bf16 *keys_, *values_, *key_pairs_, *q_, *d_out_, *q_transposed_, *d_out_transposed_, *d_scores_;
  float *d_keys_, *d_values_, *d_q_, *own_, *output_, *d_output_;
};

}  // namespace

std::int64_t backward_thread_bytes(const HeadShape& shape, std::int64_t tokens) {
  // The form on tile registers takes less.
  const std::int64_t floats = BackwardTask::floats(shape.head_dim, round_up(tokens, kPageTokens));
  return floats * static_cast<std::int64_t>(sizeof(float));
}

void CpuOps::attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse,
                                ConstView d_out, const HeadShape& shape, DType kv_type,
                                std::span<const SharedPromptRows> groups, View d_q, View d_k, View d_v) {
  const auto tasks = static_cast<std::int64_t>(groups.size()) * shape.kv_heads;
  const AttentionRecord record{q, k, v, out, lse, d_out, d_q, d_k, d_v};
  parallel_tasks(tasks, [&](std::int64_t t, Scratch& scratch) {
    const SharedPromptRows& group = groups[static_cast<std::size_t>(t / shape.kv_heads)];
    const std::int64_t kv_head = t % shape.kv_heads;
    if (tiles_ != nullptr && kv_type == DType::bf16)
      TileBackwardTask(k_, *tiles_, shape, kv_head, scratch, group).run(record);
    else
      BackwardTask(k_, shape, kv_type, kv_head, scratch, group).run(record);
  });
}

}  // namespace biqa
