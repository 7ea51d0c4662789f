// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "gpu/measures.h"
#include "ops/cuda/attention.h"
#include "ops/cuda/buffers.h"
#include "ops/cuda/cuda_plan.h"
#include "ops/cuda/head.h"
#include "ops/cuda/optimizer.h"
#include "ops/cuda/rows.h"
#include "ops/cuda/tile_heads.h"
#include "ops/cuda/tile_swiglu.h"
#include "ops/gpu_cards.h"
#include "ops/product_rate.h"
#include "ops/rotary.h"

namespace biqa::gpu {
namespace {

constexpr DType kF32 = DType::f32, kBf16 = DType::bf16;
constexpr std::int64_t kRank = 8;

/// Prompts, each with members that share its pages.
struct Groups {
  std::int64_t count, prompt, members, own;
  std::int64_t shared() const { return prompt / cuda::kPageTokens * cuda::kPageTokens; }
  double pairs() const {  // of a row and a key that it sees, when all rows are in one batch
    const auto p = static_cast<double>(prompt);
    const auto o = static_cast<double>(own);
    return static_cast<double>(count) *
           (p * (p + 1) / 2 + static_cast<double>(members) * (o * p + o * (o + 1) / 2));
  }
};

/// Adds a sequence's rows to a batch.
void add_sequence(RowBatch& batch, std::int64_t rows, std::int64_t preceding,
                  std::vector<std::int32_t> pages) {
  const std::int64_t first = batch.rows();
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t position = preceding + i;
    const auto at = static_cast<std::int32_t>(position);
    batch.ids.push_back(position % 100);
    batch.positions.push_back({at, at, at});
    batch.writes.push_back({static_cast<std::int32_t>(first + i),
                            pages[static_cast<std::size_t>(position / cuda::kPageTokens)],
                            static_cast<std::int32_t>(position % cuda::kPageTokens)});
  }
  batch.sequences.push_back({first, rows, preceding, rows, std::move(pages)});
}

struct GroupBatch {
  RowBatch batch;
  std::int32_t pages = 0;
};
/// `decoding`: the last token of each member. Otherwise all rows of prompts and members.
GroupBatch batch_of(const Groups& groups, bool decoding) {
  GroupBatch made;
  const auto extend = [&](std::vector<std::int32_t>& pages, std::int64_t tokens) {
    while (static_cast<std::int64_t>(pages.size()) * cuda::kPageTokens < tokens)
      pages.push_back(made.pages++);
  };
  for (std::int64_t g = 0; g < groups.count; ++g) {
    std::vector<std::int32_t> prompt;
    extend(prompt, groups.prompt);
    GroupRows group{made.batch.sequences.size(), {}};
    if (!decoding) add_sequence(made.batch, groups.prompt, 0, prompt);
    for (std::int64_t m = 0; m < groups.members; ++m) {
      std::vector<std::int32_t> pages(prompt.begin(), prompt.begin() + groups.shared() / cuda::kPageTokens);
      extend(pages, groups.prompt + groups.own);
      group.members.push_back(made.batch.sequences.size());
      if (decoding)
        add_sequence(made.batch, 1, groups.prompt + groups.own - 1, pages);
      else
        add_sequence(made.batch, groups.own, groups.prompt, pages);
    }
    if (!decoding) made.batch.groups.push_back(std::move(group));
  }
  return made;
}

/// What a kernel should reach.
struct Limits {
  double bandwidth, peak;
};
Limits limits_of(cuda::CudaOps& ops, const ModelShape& shape) {
  if (const GpuCard* card = find_gpu_card(ops.card_name())) return {card->bandwidth, card->peak_flop};
  return {copy_rate(ops.memory(), shape.tiny),
          shape.tiny ? product_rate(ops, 16, 16) : product_rate(ops, 4096, 8192)};
}

class Kernels {
 public:
  Kernels(const ModelShape& shape, Report& report)
      : shape_(shape),
        report_(report),
        memory_(ops_.device_memory()),
        stream_(ops_.stream()),
        limits_(limits_of(ops_, shape)) {}

  void rows(const std::string& where, std::int64_t count, bool backward);
  void adapter(const std::string& where, std::int64_t count, bool backward);
  void decoding(const Groups& groups);
  void learning(const Groups& groups);
  void vision(std::int64_t patches);
  void head(std::int64_t count);
  void optimizer(std::int64_t elements);

 private:
  /// Times calls of a kernel, with the bytes that it must move and the operations on tensor cores.
  void time(const std::string& name, double bytes, double operations, const std::function<void()>& call) {
    const double seconds = seconds_of(memory_, shape_.tiny, [&](std::size_t) {
      const Arena::Scope scope(arena_);
      call();
    });
    report_.figure("time", 1e6 * seconds, "us");
    report_.figure("computed", 100 * std::max(bytes / limits_.bandwidth, operations / limits_.peak) / seconds,
                   "% of the time");
    report_.line(name);
  }
  View numbers(DType type, std::int64_t rows, std::int64_t columns) {
    return tensors_.emplace_back(random_numbers(type, rows, columns, memory_)).view();
  }
  template <typename T>
  cuda::DeviceSpan<T> table(std::int64_t count, const T& value) {
    cuda::Upload& upload = uploads_.emplace_back();
    const auto place = upload.add(std::vector<T>(static_cast<std::size_t>(count), value));
    upload.commit(memory_, "numbers");
    return upload.at(place);
  }
  cuda::SplitFactors factors(std::int64_t columns) {
    return {numbers(kBf16, kRank, columns), numbers(kBf16, kRank, columns)};
  }
  cuda::LowRankTerm term(std::int64_t rows, std::int64_t columns) {
    return {numbers(kF32, rows, kRank), factors(columns), 0.01F, {}};
  }
  cuda::CudaPlan& plan(const RowBatch& batch) {
    const std::int64_t half = shape_.heads.head_dim / 2;
    const std::int64_t side = half * 3 / 8;
    RotaryTable rotary(shape_.heads.head_dim, 1e6, {half - 2 * side, side, side});
    return *(plan_ = std::make_unique<cuda::CudaPlan>(batch, rotary, shape_.heads, kBf16, shape_.vocabulary,
                                                      memory_));
  }
  cuda::KvPages pages(std::int64_t count) {
    const std::int64_t elements = cuda::kv_page_elements(shape_.heads);
    return {numbers(kBf16, count, elements).address(), kBf16, elements};
  }
  void finish_heads(const std::string& where, const cuda::CudaPlan& made, View qkv);
  std::int64_t q() const { return shape_.heads.heads * shape_.heads.head_dim; }
  std::int64_t kv() const { return shape_.heads.kv_heads * shape_.heads.head_dim; }
  /// Frees what the kernels so far have read.
  void release() {
    memory_.wait();
    tensors_.clear();
    uploads_.clear();
  }

  const ModelShape& shape_;
  Report& report_;
  cuda::CudaOps ops_{kBf16};
  cuda::CudaMemory& memory_;
  const cuda::Stream& stream_;
  Limits limits_;
  Arena arena_{"numbers", memory_};
  std::deque<Tensor> tensors_;
  std::deque<cuda::Upload> uploads_;
  std::unique_ptr<cuda::CudaPlan> plan_;
};

double product(std::int64_t a, std::int64_t b) {
  return static_cast<double>(a) * static_cast<double>(b);
}

void Kernels::rows(const std::string& where, std::int64_t count, bool backward) {
  const std::int64_t hidden = shape_.hidden;
  const std::int64_t wide = shape_.intermediate;
  const View x = numbers(kF32, count, hidden);
  const View small = numbers(kBf16, count, hidden);
  const View weight = numbers(kF32, 1, hidden);
  const double elements = product(count, hidden);
  time("rms_norm, " + where, 6 * elements, 0, [&] { cuda::rms_norm(x, weight, 1e-6F, small, stream_); });
  time("convert, " + where, 6 * elements, 0, [&] { cuda::convert(x, small, stream_); });
  constexpr std::int64_t kIds = 100;
  const View embedding = numbers(kBf16, kIds, hidden);
  const auto ids = table<std::int64_t>(count, kIds - 1);
  time("embed, " + where, 4 * elements, 0, [&] { cuda::embed(embedding, ids, x, stream_); });

  const cuda::GateUp gate_up{numbers(kBf16, count, 2 * wide), {}, term(count, wide), term(count, wide)};
  const View h = numbers(kBf16, count, wide);
  // Two terms of two split operands: three products each.
  const double narrow = 2 * 3 * 2 * product(count, wide) * kRank;
  time("swiglu, " + where, 6 * product(count, wide), narrow, [&] { cuda::swiglu(gate_up, h, stream_); });
  if (backward) {
    const View d = numbers(kF32, count, hidden);
    time("rms_norm_backward, " + where, 16 * elements, 0,
         [&] { cuda::rms_norm_backward(x, weight, 1e-6F, d, x, stream_); });
    const View d_h = numbers(kBf16, count, wide);
    const View d_gate_up = numbers(kBf16, count, 2 * wide);
    const cuda::LowRankTerm d_term = term(count, wide);
    time("swiglu_backward, " + where, 12 * product(count, wide), 1.5 * narrow,
         [&] { cuda::swiglu_backward(gate_up, d_h, d_term, h, d_gate_up, stream_); });
  }
  release();
}

void Kernels::adapter(const std::string& where, std::int64_t count, bool backward) {
  const std::int64_t columns = shape_.hidden;
  const View x = numbers(kBf16, count, columns);
  const View u = numbers(kF32, count, kRank);
  const cuda::SplitFactors down = factors(columns);
  const double narrow = 2 * product(count, columns) * kRank;
  time("adapter's reduce, " + where, 2 * product(count, columns), 2 * narrow,
       [&] { cuda::reduce(x, down, {}, u, arena_, stream_); });
  const View y = numbers(kF32, count, columns);
  const std::array terms{cuda::LowRankTerm{u, down, 0.01F, {}}};
  time("adapter's expand, " + where, 8 * product(count, columns), 3 * narrow,
       [&] { cuda::expand(terms, y, stream_); });
  if (backward) {
    const View gradient = numbers(kF32, kRank, columns);
    time("adapter's outer, " + where, 2 * product(count, columns), 2 * narrow,
         [&] { cuda::outer(u, x, {}, 0.01F, false, gradient, arena_, stream_); });
  }
  release();
}

void Kernels::finish_heads(const std::string& where, const cuda::CudaPlan& made, View qkv) {
  const std::int64_t count = made.rows;
  const View bias = numbers(kF32, 1, qkv.columns());
  const std::array terms{term(count, q()), term(count, kv()), term(count, kv())};
  time("finish_heads, " + where, 4 * product(count, qkv.columns()),
       3 * 2 * product(count, qkv.columns()) * kRank, [&] {
         cuda::finish_heads(qkv, bias, terms, shape_.heads, made.cosines.view(), made.sines.view(), stream_);
       });
}

void Kernels::decoding(const Groups& groups) {
  const GroupBatch made = batch_of(groups, true);
  const cuda::CudaPlan& tables = plan(made.batch);
  const cuda::KvPages store = pages(made.pages);
  const View qkv = numbers(kBf16, tables.rows, shape_.heads_width());
  const View out = numbers(kBf16, tables.rows, q());
  finish_heads("decoding", tables, qkv);
  time("write_kv, decoding", 8 * product(tables.rows, kv()), 0, [&] {
    cuda::write_kv(qkv.column_range(q(), kv()), qkv.column_range(q() + kv(), kv()), shape_.heads,
                   tables.writes, store, stream_);
  });
  const std::int64_t length = groups.prompt + groups.own;
  const std::int64_t read =
      groups.count * groups.shared() + tables.rows * (length - groups.shared());  // keys, shared ones once
  time("attention, decoding", 4 * product(read, kv()),
       4 * product(tables.rows, q()) * static_cast<double>(length), [&] {
         cuda::tile_attention(qkv.column_range(0, q()), store, shape_.heads, tables.every_tiles.forward,
                              tables.page_table, out, {}, stream_);
       });
  release();
}

void Kernels::learning(const Groups& groups) {
  const GroupBatch made = batch_of(groups, false);
  const cuda::CudaPlan& tables = plan(made.batch);
  const cuda::KvPages store = pages(made.pages);
  const std::int64_t count = tables.rows;
  const View qkv = numbers(kBf16, count, shape_.heads_width());
  const View out = numbers(kBf16, count, q());
  const View lse = numbers(kF32, count, shape_.heads.heads);
  const View queries = qkv.column_range(0, q());
  const View k = qkv.column_range(q(), kv());
  const View v = qkv.column_range(q() + kv(), kv());
  time("write_kv, learner", 8 * product(count, kv()), 0,
       [&] { cuda::write_kv(k, v, shape_.heads, tables.writes, store, stream_); });
  const double work = groups.pairs() * static_cast<double>(q());
  time("attention, learner", 4 * product(count, q() + kv()), 4 * work, [&] {
    cuda::tile_attention(queries, store, shape_.heads, tables.every_tiles.forward, tables.page_table, out,
                         lse, stream_);
  });
  const View d_out = numbers(kF32, count, q());
  const View d_qkv = numbers(kF32, count, shape_.heads_width());
  const double bytes = 12 * product(count, q()) + 12 * product(count, kv());
  time("attention_backward, learner", bytes, 14 * work, [&] {
    cuda::tile_attention_backward(queries, k, v, out, lse, d_out, shape_.heads, tables.every_tiles.backward,
                                  d_qkv.column_range(0, q()), d_qkv.column_range(q(), kv()),
                                  d_qkv.column_range(q() + kv(), kv()), arena_, stream_);
  });
  const std::int64_t rotated = q() + kv();
  time("rotate, learner", 8 * product(count, rotated), 0, [&] {
    cuda::rotate(d_qkv.column_range(0, rotated), shape_.heads.head_dim, tables.cosines.view(),
                 tables.sines.view(), true, stream_);
  });
  finish_heads("learner", tables, qkv);
  release();
}

void Kernels::vision(std::int64_t patches) {
  const HeadShape& heads = shape_.vision_heads;
  const std::int64_t width = shape_.vision_hidden();
  const View qkv = numbers(kBf16, patches, 3 * width);
  const View out = numbers(kBf16, patches, width);
  const auto attend = [&](const std::string& name, std::int64_t segment) {
    std::vector<cuda::QueryRows> rows;
    double pairs = 0;
    for (std::int64_t first = 0; first < patches; first += segment) {
      const auto count = static_cast<std::int32_t>(std::min(segment, patches - first));
      rows.push_back(
          {static_cast<std::int32_t>(first), count, {static_cast<std::int32_t>(first), count, 0}, {}});
      pairs += static_cast<double>(count) * count;
    }
    cuda::Upload upload;
    const auto place = upload.add(cuda::query_tiles(rows, 1));
    upload.commit(memory_, "numbers");
    time(name, 8 * product(patches, width), 4 * pairs * static_cast<double>(width), [&] {
      cuda::tile_segment_attention(qkv.column_range(0, width), qkv.column_range(width, width),
                                   qkv.column_range(2 * width, width), heads, upload.at(place), out, stream_);
    });
  };
  attend("attention, a picture", patches);
  attend("attention, windows of a picture", 64);
  const std::int64_t cells = patches / 4;
  const View merged = numbers(kF32, cells, 4 * width);
  const View activated = numbers(kBf16, cells, 4 * width);
  time("gelu, a picture", 6 * product(cells, 4 * width), 0, [&] { cuda::gelu(merged, activated, stream_); });
  release();
}

void Kernels::head(std::int64_t count) {
  const View logits = numbers(kF32, count, shape_.vocabulary);
  const View weights = numbers(kF32, count, shape_.vocabulary);
  const View d_logits = numbers(kBf16, count, shape_.vocabulary);
  const View scores = numbers(kF32, count, 2);
  const auto targets = table<std::int64_t>(count, 7);
  const double elements = product(count, shape_.vocabulary);
  time("log_prob, learner", 6 * elements, 0,
       [&] { cuda::log_prob(logits, targets, 1.0F, scores, d_logits, stream_); });
  const auto requests = table<cuda::DeviceSampleRequest>(count, {});
  const auto tokens = table<cuda::DeviceSampledToken>(count, {});
  time("sample, decoding", 4 * elements, 0, [&] {
    cuda::sample(logits, requests, {}, weights, const_cast<cuda::DeviceSampledToken*>(tokens.data), stream_);
  });
  release();
}

void Kernels::optimizer(std::int64_t elements) {
  const View values = numbers(kF32, 1, elements);
  const View gradient = numbers(kF32, 1, elements);
  const View m = numbers(kF32, 1, elements);
  const View v = numbers(kF32, 1, elements);
  time("adamw", 28.0 * static_cast<double>(elements), 0,
       [&] { cuda::adamw(values, gradient, m, v, AdamWStep{}, stream_); });
  const std::int64_t chunks = cuda::squared_norm_chunks(elements);
  auto* sums = static_cast<double*>(numbers(kF32, 1, 2 * (chunks + 1)).address());
  time("squared_norm", 4.0 * static_cast<double>(elements), 0,
       [&] { cuda::squared_norm(gradient, sums, sums + chunks, stream_); });
  release();
}

}  // namespace

void measure_kernels(const ModelShape& shape, Report& report) {
  Kernels kernels(shape, report);
  const Groups decoded = shape.tiny ? Groups{2, 70, 2, 10} : Groups{64, 1150, 4, 200};
  const Groups learned = shape.tiny ? Groups{1, 70, 2, 10} : Groups{3, 1150, 4, 300};
  const std::int64_t decoded_rows = decoded.count * decoded.members;
  const std::int64_t learned_rows = learned.count * (learned.prompt + learned.members * learned.own);
  kernels.rows("decoding", decoded_rows, false);
  kernels.adapter("decoding", decoded_rows, false);
  kernels.decoding(decoded);
  kernels.rows("learner", learned_rows, true);
  kernels.adapter("learner", learned_rows, true);
  kernels.learning(learned);
  kernels.head(shape.tiny ? 4 : cuda::kLogitRows);
  kernels.vision(shape.tiny ? 96 : 3996);  // 1,024 x 768 pixels
  kernels.optimizer(shape.tiny ? 1000 : 20'000'000);
}

}  // namespace biqa::gpu
