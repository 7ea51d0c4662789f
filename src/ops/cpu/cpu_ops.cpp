// SPDX-License-Identifier: Apache-2.0
// The CPU backend: splits work into independent outputs, hands each piece to one thread and one kernel.
#include <omp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/processors.h"
#include "core/random.h"
#include "core/threads.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/products.h"
#include "ops/cpu/row_check.h"
#include "ops/ops.h"

namespace biqa {
namespace {

using cpu::kQueryBlock;
using cpu::MutableRows;
using cpu::Rows;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

Rows rows_of(ConstView v) {
  return {v.data(), v.type() == DType::bf16, v.stride()};
}
MutableRows rows_of(View v) {
  return {v.data(), v.type() == DType::bf16, v.stride()};
}
void* row_pointer(View v, std::int64_t row) {
  return v.row_range(row, 1).data();
}
const void* row_pointer(ConstView v, std::int64_t row) {
  return v.row_range(row, 1).data();
}

struct CpuLinear final : FrozenLinear {
  CpuLinear(std::int64_t in_width, std::int64_t out_width, cpu::PackedMatrix forward_matrix)
      : FrozenLinear(in_width, out_width), forward(std::move(forward_matrix)) {}
  // Making a product of a new row count fills a cache, which the caller need not see.
  mutable cpu::PackedMatrix forward;
  mutable std::optional<cpu::PackedMatrix> backward;
};

struct CpuLora final : PackedLora {
  CpuLora(std::int64_t in_width, std::int64_t total_rank) : PackedLora(in_width, total_rank) {}
  struct Part {
    std::int64_t rank, padded_rank, rank_offset, out, out_offset;
    float scale;
    Tensor down;  // A transposed: [in, padded_rank]
    Tensor a;     // A: [rank, in]
    Tensor up;    // B transposed: [rank, out]
    Tensor b;     // B: [out, padded_rank]
  };
  std::vector<Part> parts;
  std::int64_t padded_rank = 0;
  Tensor down;  // all A transposed side by side: [in, padded_rank]
};

/// Page layout: per kv head keys [D, 16] then values [16, padded D]; heads one behind the other.
struct PageLayout {
  explicit PageLayout(const HeadShape& shape)
      : padded_dim(round_up(shape.head_dim, kPageTokens)),
        keys(shape.head_dim * kPageTokens),
        head(keys + kPageTokens * padded_dim) {}
  std::int64_t padded_dim, keys, head;
};

class CpuOps final : public Ops {
 public:
  CpuOps(DType compute, int threads)
      : compute_(compute), threads_(threads_for(usable_processors(), threads)) {
    CHECK(compute == DType::f32 || compute == DType::bf16);
    omp_set_num_threads(threads_);
  }
  DType compute_type() const override { return compute_; }

  std::unique_ptr<FrozenLinear> pack(ConstView weight, std::span<const float> bias, bool backward) override {
    auto linear = std::make_unique<CpuLinear>(weight.columns(), weight.rows(),
                                              cpu::PackedMatrix({weight, true, bias, compute_, nullptr}));
    if (backward) linear->backward.emplace(cpu::MatrixSource{weight, false, {}, compute_, nullptr});
    return linear;
  }
  bool shares_weights() const override { return true; }
  std::unique_ptr<FrozenLinear> pack_into(WeightArena& arena, const std::string& name, ConstView weight,
                                          std::span<const float> bias, bool backward) override {
    const cpu::ArenaPlace forward{&arena, name + ".forward", WeightPart::forward};
    auto linear = std::make_unique<CpuLinear>(weight.columns(), weight.rows(),
                                              cpu::PackedMatrix({weight, true, bias, compute_, &forward}));
    const cpu::ArenaPlace place{&arena, name + ".backward", WeightPart::backward};
    if (backward) linear->backward.emplace(cpu::MatrixSource{weight, false, {}, compute_, &place});
    return linear;
  }
  void check_rows(const FrozenLinear& w, std::span<const std::int64_t> counts) override {
    const auto& linear = dynamic_cast<const CpuLinear&>(w);
    check_rows(linear.forward, w.in, w.out, counts);
    if (linear.backward) check_rows(*linear.backward, w.out, w.in, counts);
  }
  void linear(ConstView x, const FrozenLinear& w, View y, bool accumulate) override {
    dynamic_cast<const CpuLinear&>(w).forward.multiply(x, y, accumulate, threads_);
  }
  void linear_backward(ConstView dy, const FrozenLinear& w, View dx, bool accumulate) override {
    const auto& linear = dynamic_cast<const CpuLinear&>(w);
    CHECK(linear.backward.has_value()) << "packed without backward";
    linear.backward->multiply(dy, dx, accumulate, threads_);
  }

  std::unique_ptr<PackedLora> pack_lora(std::int64_t in, std::span<const LoraFactors> factors) override {
    std::int64_t total = 0;
    for (const LoraFactors& f : factors) total += f.rank;
    auto packed = std::make_unique<CpuLora>(in, total);
    packed->padded_rank = round_up(total, 16);
    packed->down = Tensor(DType::f32, in, packed->padded_rank, "adapter");
    packed->down.zero();
    std::int64_t offset = 0;
    for (const LoraFactors& f : factors) {
      CpuLora::Part part{f.rank, round_up(f.rank, 16), offset, f.out, f.out_offset, f.scale, {}, {}, {}, {}};
      part.down = Tensor(DType::f32, in, part.padded_rank, "adapter");
      part.a = Tensor(DType::f32, f.rank, in, "adapter");
      part.up = Tensor(DType::f32, f.rank, f.out, "adapter");
      part.b = Tensor(DType::f32, f.out, part.padded_rank, "adapter");
      part.down.zero();
      part.b.zero();
      std::copy_n(f.a, f.rank * in, part.a.row<float>(0));
      for (std::int64_t r = 0; r < f.rank; ++r) {
        for (std::int64_t i = 0; i < in; ++i) {
          part.down.row<float>(i)[r] = f.a[r * in + i];
          packed->down.row<float>(i)[offset + r] = f.a[r * in + i];
        }
        for (std::int64_t o = 0; o < f.out; ++o) {
          part.up.row<float>(r)[o] = f.b[o * f.rank + r];
          part.b.row<float>(o)[r] = f.b[o * f.rank + r];
        }
      }
      offset += f.rank;
      packed->parts.push_back(std::move(part));
    }
    return packed;
  }

  void lora(ConstView x, const PackedLora& lora, const Dropout* dropout, View u, View y) override {
    const auto& packed = dynamic_cast<const CpuLora&>(lora);
    CHECK(x.columns() == packed.in && u.columns() == packed.rank && x.rows() == u.rows() &&
          x.rows() == y.rows());
    std::int64_t outputs = 0;
    for (const CpuLora::Part& part : packed.parts) outputs += part.rank * part.out;
    parallel(x.rows(), rows_worth_a_thread(packed.in * packed.padded_rank + outputs),
             [&](std::int64_t first, std::int64_t count) {
               if (dropout == nullptr) {
                 k_.reduce(rows_of(x.row_range(first, count)), count, packed.in, packed.down.row<float>(0),
                           packed.rank, packed.padded_rank, u.row<float>(first), u.stride());
               } else {
                 std::vector<float> kept(static_cast<std::size_t>(count * packed.in));
                 for (std::size_t p = 0; p < packed.parts.size(); ++p) {
                   const CpuLora::Part& part = packed.parts[p];
                   apply_dropout(x, first, count, *dropout, p, kept.data());
                   k_.reduce(Rows{kept.data(), false, packed.in}, count, packed.in, part.down.row<float>(0),
                             part.rank, part.padded_rank, u.row<float>(first) + part.rank_offset, u.stride());
                 }
               }
               for (const CpuLora::Part& part : packed.parts) {
                 k_.expand(u.row<float>(first) + part.rank_offset, u.stride(), count, part.rank,
                           part.up.row<float>(0), part.out, part.scale, part.out,
                           y.row<float>(first) + part.out_offset, y.stride());
               }
             });
  }

  void lora_backward(ConstView x, ConstView u, ConstView dy, const PackedLora& lora, const Dropout* dropout,
                     View d_x, std::span<const LoraGradients> gradients) override {
    const auto& packed = dynamic_cast<const CpuLora&>(lora);
    CHECK_EQ(gradients.size(), packed.parts.size());
    const std::int64_t rows = x.rows();
    for (std::size_t p = 0; p < packed.parts.size(); ++p) {
      const CpuLora::Part& part = packed.parts[p];
      const ConstView dy_part = dy.column_range(part.out_offset, part.out);
      Tensor g(DType::f32, rows, part.rank, "scratch");
      std::optional<Tensor> kept;
      if (dropout != nullptr) kept.emplace(DType::f32, rows, packed.in, "scratch");
      parallel(rows, 32, [&](std::int64_t first, std::int64_t count) {
        k_.reduce(rows_of(dy_part.row_range(first, count)), count, part.out, part.b.row<float>(0), part.rank,
                  part.padded_rank, g.row<float>(first), part.rank);
        if (dropout != nullptr) apply_dropout(x, first, count, *dropout, p, kept->row<float>(first));
      });
      const ConstView input = kept ? kept->const_view() : x;
      // Gradients: every thread owns some columns and adds the tokens up in order.
      parallel(packed.in, 64, [&](std::int64_t first, std::int64_t count) {
        k_.outer(g.row<float>(0), part.rank, rows_of(input), rows, part.rank, part.scale, first,
                 first + count, gradients[p].a, packed.in);
      });
      Tensor d_up(DType::f32, part.rank, part.out, "scratch");
      d_up.zero();
      parallel(part.out, 64, [&](std::int64_t first, std::int64_t count) {
        k_.outer(u.row<float>(0) + part.rank_offset, u.stride(), rows_of(dy_part), rows, part.rank,
                 part.scale, first, first + count, d_up.row<float>(0), part.out);
        for (std::int64_t o = first; o < first + count; ++o) {
          for (std::int64_t r = 0; r < part.rank; ++r)
            gradients[p].b[o * part.rank + r] += d_up.row<float>(r)[o];
        }
      });
      if (d_x.empty()) continue;
      parallel(rows, 32, [&](std::int64_t first, std::int64_t count) {
        if (dropout == nullptr) {
          k_.expand(g.row<float>(first), part.rank, count, part.rank, part.a.row<float>(0), packed.in,
                    part.scale, packed.in, d_x.row<float>(first), d_x.stride());
          return;
        }
        std::vector<float> back(static_cast<std::size_t>(count * packed.in), 0.0F);
        k_.expand(g.row<float>(first), part.rank, count, part.rank, part.a.row<float>(0), packed.in,
                  part.scale, packed.in, back.data(), packed.in);
        for (std::int64_t r = 0; r < count; ++r) {
          const DropoutRow mask(*dropout, p, first + r);
          float* target = d_x.row<float>(first + r);
          for (std::int64_t c = 0; c < packed.in; ++c) {
            target[c] += mask.factor(c) * back[static_cast<std::size_t>(r * packed.in + c)];
          }
        }
      });
    }
  }

  void rms_norm(ConstView x, ConstView weight, float eps, View y) override {
    CHECK(x.rows() == y.rows() && x.columns() == y.columns() && weight.columns() == x.columns());
    parallel(x.rows(), 32, [&](std::int64_t first, std::int64_t count) {
      for (std::int64_t r = first; r < first + count; ++r) {
        k_.rms_norm(x.row<float>(r), weight.row<float>(0), eps, x.columns(), row_pointer(y, r),
                    y.type() == DType::bf16);
      }
    });
  }
  void rms_norm_backward(ConstView x, ConstView weight, float eps, ConstView dy, View d_x) override {
    CHECK(x.rows() == dy.rows() && x.rows() == d_x.rows());
    parallel(x.rows(), 32, [&](std::int64_t first, std::int64_t count) {
      for (std::int64_t r = first; r < first + count; ++r) {
        k_.rms_norm_backward(x.row<float>(r), weight.row<float>(0), eps, dy.row<float>(r), x.columns(),
                             d_x.row<float>(r));
      }
    });
  }
  void swiglu(ConstView gate_up, View h) override {
    const std::int64_t n = h.columns();
    CHECK(gate_up.columns() == 2 * n && gate_up.rows() == h.rows());
    parallel(h.rows(), 16, [&](std::int64_t first, std::int64_t count) {
      for (std::int64_t r = first; r < first + count; ++r) {
        k_.swiglu(gate_up.row<float>(r), gate_up.row<float>(r) + n, n, row_pointer(h, r),
                  h.type() == DType::bf16);
      }
    });
  }
  void swiglu_backward(ConstView gate_up, ConstView dh, View d_gate_up) override {
    const std::int64_t n = dh.columns();
    CHECK(gate_up.columns() == 2 * n && d_gate_up.columns() == 2 * n && gate_up.rows() == dh.rows());
    parallel(dh.rows(), 16, [&](std::int64_t first, std::int64_t count) {
      for (std::int64_t r = first; r < first + count; ++r) {
        k_.swiglu_backward(gate_up.row<float>(r), gate_up.row<float>(r) + n, dh.row<float>(r), n,
                           row_pointer(d_gate_up.column_range(0, n), r),
                           row_pointer(d_gate_up.column_range(n, n), r), d_gate_up.type() == DType::bf16);
      }
    });
  }
  void gelu(ConstView x, View y) override {
    CHECK(x.rows() == y.rows() && x.columns() == y.columns());
    parallel(x.rows(), 8, [&](std::int64_t first, std::int64_t count) {
      for (std::int64_t r = first; r < first + count; ++r) {
        const float* source = x.row<float>(r);
        for (std::int64_t c = 0; c < x.columns(); ++c) {
          const float value = 0.5F * source[c] * (1.0F + std::erf(source[c] * 0.70710678118654752F));
          if (y.type() == DType::bf16)
            y.row<Bf16>(r)[c] = to_bf16(value);
          else
            y.row<float>(r)[c] = value;
        }
      }
    });
  }
  void rotate(View x, std::int64_t head_dim, ConstView cosines, ConstView sines, bool inverse) override {
    CHECK(x.columns() % head_dim == 0 && cosines.rows() == x.rows() && cosines.columns() == head_dim / 2);
    parallel(x.rows(), 32, [&](std::int64_t first, std::int64_t count) {
      for (std::int64_t r = first; r < first + count; ++r) {
        k_.rotate(x.row<float>(r), x.columns() / head_dim, head_dim, cosines.row<float>(r),
                  sines.row<float>(r), inverse);
      }
    });
  }
  void convert(ConstView x, View y) override {
    CHECK(x.rows() == y.rows() && x.columns() == y.columns());
    parallel(x.rows(), 32, [&](std::int64_t first, std::int64_t count) {
      k_.convert(rows_of(x.row_range(first, count)), rows_of(y.row_range(first, count)), count, x.columns());
    });
  }
  void gather_rows(ConstView x, std::span<const std::int64_t> rows, View y) override {
    CHECK(x.type() == y.type() && x.columns() == y.columns() &&
          static_cast<std::int64_t>(rows.size()) == y.rows());
    const std::size_t bytes = static_cast<std::size_t>(x.columns()) * size_of(x.type());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::memcpy(row_pointer(y, static_cast<std::int64_t>(i)), row_pointer(x, rows[i]), bytes);
    }
  }
  void scatter_add_rows(ConstView x, std::span<const std::int64_t> rows, View y) override {
    CHECK(static_cast<std::int64_t>(rows.size()) == x.rows() && x.columns() == y.columns());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      k_.add_scaled(x.row<float>(static_cast<std::int64_t>(i)), 1.0F, x.columns(), y.row<float>(rows[i]));
    }
  }
  void scale_rows(ConstView x, std::span<const float> factors, View y) override {
    CHECK(static_cast<std::int64_t>(factors.size()) == x.rows());
    parallel(x.rows(), 64, [&](std::int64_t first, std::int64_t count) {
      for (std::int64_t r = first; r < first + count; ++r) {
        k_.scaled(x.row<float>(r), factors[static_cast<std::size_t>(r)], x.columns(), y.row<float>(r));
      }
    });
  }
  void embed(ConstView table, std::span<const std::int64_t> ids, View x) override {
    CHECK(static_cast<std::int64_t>(ids.size()) == x.rows() && table.columns() == x.columns());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      CHECK(ids[i] >= 0 && ids[i] < table.rows()) << "token id " << ids[i] << " of " << table.rows();
      const auto row = static_cast<std::int64_t>(i);
      k_.convert(rows_of(table.row_range(ids[i], 1)), rows_of(x.row_range(row, 1)), 1, x.columns());
    }
  }

  void write_kv(ConstView k, ConstView v, const HeadShape& shape, std::span<const KvWrite> writes,
                const KvPages& pages) override {
    if (pages.type == DType::bf16)
      write_pages<Bf16>(k, v, shape, writes, pages);
    else
      write_pages<float>(k, v, shape, writes, pages);
  }
  void copy_page(const KvPages& pages, std::int32_t from, std::int32_t to) override {
    const std::size_t bytes = static_cast<std::size_t>(pages.page_elements) * size_of(pages.type);
    auto* base = static_cast<std::byte*>(pages.data);
    std::memcpy(base + static_cast<std::size_t>(to) * bytes, base + static_cast<std::size_t>(from) * bytes,
                bytes);
  }

  void attention(ConstView q, const KvPages& pages, const HeadShape& shape,
                 std::span<const AttentionRows> sequences, View out, View lse) override {
    const PageLayout layout(shape);
    const std::int64_t sharing = shape.heads / shape.kv_heads;
    // A task: one kv head and up to 64 (row, head) pairs of one sequence.
    struct Task {
      const AttentionRows* sequence;
      std::int64_t kv_head, first_pair, pairs;
    };
    std::vector<Task> tasks;
    std::int64_t longest = 0;
    for (const AttentionRows& s : sequences) {
      longest = std::max(longest, s.first_position + s.rows);
      for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
        for (std::int64_t pair = 0; pair < s.rows * sharing; pair += 64) {
          tasks.push_back({&s, h, pair, std::min<std::int64_t>(64, s.rows * sharing - pair)});
        }
      }
    }
    const std::int64_t stride = round_up(longest, kPageTokens);
    const std::int64_t element = static_cast<std::int64_t>(size_of(pages.type));
    const float scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim));
    parallel_tasks(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t t, Scratch& scratch) {
      const Task& task = tasks[static_cast<std::size_t>(t)];
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

  void attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse,
                          ConstView d_out, const HeadShape& shape, DType kv_type,
                          std::span<const SharedPromptRows> groups, View d_q, View d_k, View d_v) override {
    const auto tasks = static_cast<std::int64_t>(groups.size()) * shape.kv_heads;
    parallel_tasks(tasks, [&](std::int64_t t, Scratch& scratch) {
      BackwardTask task(*this, shape, kv_type, t % shape.kv_heads, scratch,
                        groups[static_cast<std::size_t>(t / shape.kv_heads)]);
      task.run(q, k, v, out, lse, d_out, d_q, d_k, d_v);
    });
  }

  void segment_attention(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                         std::span<const std::int64_t> boundaries, View out) override {
    CHECK_EQ(shape.heads, shape.kv_heads);
    const PageLayout layout(shape);
    const auto segments = static_cast<std::int64_t>(boundaries.size()) - 1;
    std::int64_t longest = 0;
    for (std::int64_t s = 0; s < segments; ++s) {
      longest = std::max(
          longest, boundaries[static_cast<std::size_t>(s + 1)] - boundaries[static_cast<std::size_t>(s)]);
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

  void log_prob(ConstView h, const FrozenLinear& head, std::span<const std::int64_t> targets,
                float temperature, std::span<float> logp, std::span<float> entropy, View d_hidden) override {
    CHECK_EQ(static_cast<std::int64_t>(targets.size()), h.rows());
    const float inverse = 1.0F / temperature;
    for_logit_chunks(h, head, [&](std::int64_t first, std::int64_t count, Tensor& logits) {
      Tensor d_logits;
      if (!d_hidden.empty()) d_logits = Tensor(compute_, count, head.out, "logits");
      parallel(count, 4, [&](std::int64_t begin, std::int64_t rows) {
        for (std::int64_t r = begin; r < begin + rows; ++r) {
          const auto index = static_cast<std::size_t>(first + r);
          const float* row = logits.row<float>(r);
          const cpu::RowStatistics s = k_.row_statistics(row, head.out, inverse);
          CHECK(targets[index] >= 0 && targets[index] < head.out) << targets[index];
          logp[index] = row_logp(s, row[targets[index]], inverse);
          entropy[index] = row_entropy(s);
          if (d_hidden.empty()) continue;
          // ∂logp/∂logits = (1[i = target] − p_i) / temperature
          View d_row = d_logits.view().row_range(r, 1);
          k_.row_exp(row, head.out, inverse, s.maximum, -inverse / s.sum, d_row.data(),
                     compute_ == DType::bf16);
          const float p = std::exp(logp[index]);
          if (compute_ == DType::bf16)
            d_row.row<Bf16>(0)[targets[index]] = to_bf16((1.0F - p) * inverse);
          else
            d_row.row<float>(0)[targets[index]] = (1.0F - p) * inverse;
        }
      });
      if (!d_hidden.empty())
        linear_backward(d_logits.const_view(), head, d_hidden.row_range(first, count), false);
    });
  }

  void sample(ConstView h, const FrozenLinear& head, std::span<const SampleRequest> requests,
              std::span<const std::int64_t> suppressed, std::span<SampledToken> tokens) override {
    CHECK(static_cast<std::int64_t>(requests.size()) == h.rows() && tokens.size() == requests.size());
    for_logit_chunks(h, head, [&](std::int64_t first, std::int64_t count, Tensor& logits) {
      parallel(count, 1, [&](std::int64_t begin, std::int64_t rows) {
        std::vector<float> weights(static_cast<std::size_t>(head.out));
        for (std::int64_t r = begin; r < begin + rows; ++r) {
          const auto index = static_cast<std::size_t>(first + r);
          tokens[index] = sample_row(logits.view().row_range(r, 1).span<const float>(), requests[index],
                                     suppressed, weights);
        }
      });
    });
  }

 private:
  struct Scratch {
    float* floats(std::int64_t count) {
      if (static_cast<std::int64_t>(buffer.bytes()) < count * 4) {
        buffer = Buffer(static_cast<std::size_t>(count) * 4, "scratch");
      }
      return static_cast<float*>(buffer.data());
    }
    Buffer buffer;
  };

  void check_rows(cpu::PackedMatrix& matrix, std::int64_t inner, std::int64_t columns,
                  std::span<const std::int64_t> counts) const {
    const auto rows = cpu::rows_with_other_bits(inner, columns, compute_, counts, [&](ConstView x, View y) {
      matrix.multiply(x, y, false, threads_);
    });
    if (!rows) return;
    fail(
        "cannot use {} on this processor: a row of the {}x{} product has other bits in a batch of {} than in "
        "a "
        "larger one ({}), so a rating would depend on its batch and actors would disagree with learners; set "
        "the "
        "variable ONEDNN_MAX_CPU_ISA={}, which takes biqa's own products",
        name_of(compute_), inner, columns, *rows, cpu::library_version(),
        compute_ == DType::bf16 ? "AVX512_CORE" : "AVX2");
  }

  /// Rows of so many multiplications each that outweigh waking a thread, in eights as the kernels work.
  static std::int64_t rows_worth_a_thread(std::int64_t multiplications) {
    constexpr std::int64_t kEight = 8, kMost = 32, kWorth = std::int64_t{1} << 16;  // some 2 µs
    return round_up(std::clamp(kWorth / std::max<std::int64_t>(multiplications, 1), kEight, kMost), kEight);
  }

  /// body(first, count) over pieces of `grain`; which thread takes a piece changes nothing.
  template <typename Body>
  void parallel(std::int64_t count, std::int64_t grain, const Body& body) const {
    const std::int64_t pieces = (count + grain - 1) / grain;
    if (threads_ == 1 || pieces <= 1) {
      if (count > 0) body(0, count);
      return;
    }
    FirstFailure failure;
#pragma omp parallel for schedule(static) num_threads(threads_)
    for (std::int64_t p = 0; p < pieces; ++p)
      failure.guard([&] { body(p * grain, std::min(grain, count - p * grain)); });
    failure.rethrow();
  }
  template <typename Body>
  void parallel_tasks(std::int64_t count, const Body& body) {
    if (scratch_.size() < static_cast<std::size_t>(threads_))
      scratch_.resize(static_cast<std::size_t>(threads_));
    if (threads_ == 1 || count <= 1) {
      for (std::int64_t t = 0; t < count; ++t) body(t, scratch_[0]);
      return;
    }
    FirstFailure failure;
#pragma omp parallel for schedule(dynamic) num_threads(threads_)
    for (std::int64_t t = 0; t < count; ++t)
      failure.guard([&] { body(t, scratch_[static_cast<std::size_t>(omp_get_thread_num())]); });
    failure.rethrow();
  }

  /// Mask of one row of one projection's input: 0 or 1/(1-rate).
  class DropoutRow {
   public:
    DropoutRow(const Dropout& dropout, std::size_t projection, std::int64_t row)
        : rate_(dropout.rate),
          factor_(static_cast<float>(1.0 / (1.0 - dropout.rate))),
          stream_({dropout.key, projection, dropout.token_keys[static_cast<std::size_t>(row)]}) {}
    float factor(std::int64_t column) const {
      const auto block = static_cast<std::uint64_t>(column / 4);
      if (block != block_) {
        block_ = block;
        bits_ = stream_.bits(block);
      }
      return static_cast<double>(bits_[static_cast<std::size_t>(column % 4)]) * 0x1.0p-32 < rate_ ? 0.0F
                                                                                                  : factor_;
    }

   private:
    double rate_;
    float factor_;
    RandomStream stream_;
    mutable std::uint64_t block_ = ~std::uint64_t{0};
    mutable std::array<std::uint32_t, 4> bits_{};
  };
  void apply_dropout(ConstView x, std::int64_t first, std::int64_t count, const Dropout& dropout,
                     std::size_t projection, float* kept) const {
    for (std::int64_t r = 0; r < count; ++r) {
      float* target = kept + r * x.columns();
      k_.convert(rows_of(x.row_range(first + r, 1)), MutableRows{target, false, x.columns()}, 1, x.columns());
      const DropoutRow mask(dropout, projection, first + r);
      for (std::int64_t c = 0; c < x.columns(); ++c) target[c] *= mask.factor(c);
    }
  }

  static std::pair<std::int64_t, std::int64_t> pair_of(std::int64_t pair, std::int64_t kv_head,
                                                       std::int64_t sharing) {
    return {pair / sharing, kv_head * sharing + pair % sharing};
  }
  void store_head(const float* values, std::int64_t head_dim, std::int64_t head, std::int64_t row,
                  View out) const {
    const View target = out.row_range(row, 1).column_range(head * head_dim, head_dim);
    k_.convert(Rows{values, false, head_dim}, rows_of(target), 1, head_dim);
  }

  template <typename T>
  void write_pages(ConstView k, ConstView v, const HeadShape& shape, std::span<const KvWrite> writes,
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

  /// Backward of attention for one kv head of one group: keys of the prompt stay in place, those of each
  /// member are put behind them in turn; gradients of the prompt's keys add up over the members in order.
  class BackwardTask {
   public:
    BackwardTask(const CpuOps& ops, const HeadShape& shape, DType kv_type, std::int64_t kv_head,
                 Scratch& scratch, const SharedPromptRows& group)
        : ops_(ops),
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
                                   2 * kQueryBlock * padded_);
      const auto take = [&](std::int64_t count) { return std::exchange(next, next + count); };
      keys_transposed_ = take(length_ * dim_);
      values_transposed_ = take(length_ * dim_);
      keys_ = take(length_ * padded_);
      d_keys_ = take(length_ * padded_);
      d_values_ = take(length_ * padded_);
      scores_ = take(2 * kQueryBlock * length_);
      d_outs_ = take(kQueryBlock * padded_);
      d_qs_ = take(kQueryBlock * padded_);
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

    /// `first_position`: keys that the first query sees, less one.
    void queries(ConstView q, ConstView out, ConstView lse, ConstView d_out, View d_q, std::int64_t first_row,
                 std::int64_t rows, std::int64_t first_position) {
      const std::int64_t pairs = rows * sharing_;
      std::vector<float> output(static_cast<std::size_t>(dim_));
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
          ops_.k_.convert(rows_of(result), MutableRows{output.data(), false, dim_}, 1, dim_);
          block.d_out[i] = padded_d_out;
          block.delta[i] = ops_.k_.dot(padded_d_out, output.data(), dim_);
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
        ops_.k_.attend_backward(block);
        for (int i = 0; i < block.queries; ++i) {
          const auto [row, head] = pair_of(first + i, kv_head_, sharing_);
          std::copy_n(block.d_q[i], dim_, d_q.row<float>(first_row + row) + head * dim_);
        }
      }
    }

    void store_gradients(View d_k, View d_v, std::int64_t first_row, std::int64_t rows,
                         std::int64_t at) const {
      for (std::int64_t i = 0; i < rows; ++i) {
        std::copy_n(d_keys_ + (at + i) * padded_, dim_, d_k.row<float>(first_row + i) + kv_head_ * dim_);
        std::copy_n(d_values_ + (at + i) * padded_, dim_, d_v.row<float>(first_row + i) + kv_head_ * dim_);
      }
    }

    const CpuOps& ops_;
    const HeadShape& shape_;
    DType kv_type_;
    std::int64_t kv_head_;
    const SharedPromptRows& group_;
    std::int64_t dim_, padded_, sharing_, length_ = 0;
    float *keys_transposed_, *values_transposed_, *keys_, *d_keys_, *d_values_, *scores_, *d_outs_, *d_qs_;
  };

  /// Logits of a few rows at a time, so that [rows, vocabulary] never exists.
  template <typename Body>
  void for_logit_chunks(ConstView h, const FrozenLinear& head, const Body& body) {
    constexpr std::int64_t kChunkBytes = std::int64_t{16} << 20;
    const std::int64_t chunk = std::clamp<std::int64_t>(kChunkBytes / (head.out * 4) / 32 * 32, 32, 512);
    for (std::int64_t first = 0; first < h.rows(); first += chunk) {
      const std::int64_t count = std::min(chunk, h.rows() - first);
      Tensor logits(DType::f32, count, head.out, "logits");
      linear(h.row_range(first, count), head, logits.view(), false);
      body(first, count, logits);
    }
  }
  static float row_logp(const cpu::RowStatistics& s, float logit, float inverse) {
    return (logit * inverse - s.maximum) - std::log(s.sum);
  }
  static float row_entropy(const cpu::RowStatistics& s) {
    return std::log(s.sum) - s.weighted / s.sum;
  }

  SampledToken sample_row(std::span<const float> logits, const SampleRequest& request,
                          std::span<const std::int64_t> suppressed, std::vector<float>& weights) const {
    const auto n = static_cast<std::int64_t>(logits.size());
    const float inverse = request.greedy ? 1.0F : 1.0F / request.temperature;
    const cpu::RowStatistics s = k_.row_statistics(logits.data(), n, inverse);
    if (!std::isfinite(s.maximum) || !std::isfinite(s.sum)) {
      fail(
          "cannot sample a token: the network's output is not finite; use other weights or another adapter, "
          "or train with a lower optimizer.lr");
    }
    SampledToken token;
    token.entropy = row_entropy(s);
    k_.row_exp(logits.data(), n, inverse, s.maximum, 1.0F, weights.data(), false);
    for (const std::int64_t id : suppressed) weights[static_cast<std::size_t>(id)] = -1.0F;
    if (request.greedy) {
      token.id = -1;
      for (std::int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<std::size_t>(i);
        if (weights[at] < 0) continue;
        if (token.id < 0 || logits[at] > logits[static_cast<std::size_t>(token.id)]) token.id = i;
      }
    } else {
      for (const std::int64_t id : suppressed) weights[static_cast<std::size_t>(id)] = 0.0F;
      if (request.top_k > 0 || request.top_p < 1.0F) truncate(request, weights);
      token.id = draw(weights, request.uniform);
    }
    CHECK_GE(token.id, 0) << "no token may be sampled";
    token.logp = row_logp(s, logits[static_cast<std::size_t>(token.id)], inverse);
    return token;
  }
  /// Inverse of the cumulative weights, in order of ids.
  static std::int64_t draw(const std::vector<float>& weights, double uniform) {
    constexpr std::size_t kBlock = 256;
    std::vector<double> sums;
    double total = 0;
    for (std::size_t first = 0; first < weights.size(); first += kBlock) {
      const std::size_t end = std::min(weights.size(), first + kBlock);
      std::array<double, 8> lanes{};  // chains of their own: one alone would wait for itself
      std::size_t i = first;
      for (; i + lanes.size() <= end; i += lanes.size()) {
        for (std::size_t lane = 0; lane < lanes.size(); ++lane)
          lanes[lane] += static_cast<double>(weights[i + lane]);
      }
      for (; i < end; ++i) lanes[0] += static_cast<double>(weights[i]);
      const double sum = std::accumulate(lanes.begin(), lanes.end(), 0.0);
      sums.push_back(sum);
      total += sum;
    }
    double rest = uniform * total;
    std::int64_t last = -1;
    for (std::size_t b = 0; b < sums.size(); ++b) {
      if (rest >= sums[b] && b + 1 < sums.size()) {
        rest -= sums[b];
        continue;
      }
      const std::size_t end = std::min(weights.size(), (b + 1) * kBlock);
      for (std::size_t i = b * kBlock; i < end; ++i) {
        if (weights[i] <= 0) continue;
        last = static_cast<std::int64_t>(i);
        rest -= static_cast<double>(weights[i]);
        if (rest < 0) return last;
      }
    }
    if (last >= 0) return last;
    // Rounding carried the draw past the end and the last block is empty: the last token that may be drawn.
    for (std::size_t i = weights.size(); i-- > 0;) {
      if (weights[i] > 0) return static_cast<std::int64_t>(i);
    }
    return -1;
  }
  /// top-k (ties with the k-th stay), then top-p on what is left: the fewest largest whose mass exceeds p, as the
  /// reference's warpers do (ascending order, drop while the cumulative mass ≤ 1 − p, always keep the largest).
  static void truncate(const SampleRequest& request, std::vector<float>& weights) {
    const auto n = static_cast<std::int64_t>(weights.size());
    if (request.top_k > 0 && request.top_k < n) {
      std::vector<float> sorted = weights;
      std::nth_element(sorted.begin(), sorted.begin() + request.top_k - 1, sorted.end(), std::greater<>());
      const float threshold = sorted[static_cast<std::size_t>(request.top_k - 1)];
      for (float& w : weights) {
        if (w < threshold) w = 0.0F;
      }
    }
    if (request.top_p < 1.0F) {
      std::vector<std::size_t> order(weights.size());
      std::iota(order.begin(), order.end(), std::size_t{0});
      std::stable_sort(order.begin(), order.end(),
                       [&](std::size_t a, std::size_t b) { return weights[a] < weights[b]; });
      double total = 0;
      for (const float w : weights) total += static_cast<double>(w);
      double cumulative = 0;
      for (std::size_t i = 0; i + 1 < order.size(); ++i) {
        cumulative += static_cast<double>(weights[order[i]]);
        if (cumulative > (1.0 - static_cast<double>(request.top_p)) * total) break;
        weights[order[i]] = 0.0F;
      }
    }
  }

  DType compute_;
  int threads_;
  std::vector<Scratch> scratch_;
  const cpu::Kernels& k_ = cpu::kernels();
};

}  // namespace

std::int64_t kv_page_elements(const HeadShape& shape) {
  return shape.kv_heads * PageLayout(shape).head;
}

std::unique_ptr<Ops> make_cpu_ops(DType compute, int threads) {
  return std::make_unique<CpuOps>(compute, threads);
}

}  // namespace biqa
