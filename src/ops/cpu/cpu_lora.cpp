// SPDX-License-Identifier: Apache-2.0
// The adapter's part of a product, its backward pass and its dropout.
#include <algorithm>

#include "core/random.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/tile_lora.h"

namespace biqa {
namespace {

using cpu::MutableRows;
using cpu::round_up;
using cpu::Rows;
using cpu::rows_of;

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

/// For products on tile registers.
struct CpuTileLora final : PackedLora {
  CpuTileLora(std::int64_t in_width, std::int64_t total_rank) : PackedLora(in_width, total_rank) {}
  struct Part {
    std::int64_t rank, rank_offset, out, out_offset;
    float scale;
    cpu::SplitReduce down;       // A
    cpu::SplitExpand up;         // scale · B, transposed
    cpu::SplitReduce back_up;    // B, transposed
    cpu::SplitExpand back_down;  // scale · A
  };
  std::vector<Part> parts;

  static bool accepts(std::int64_t in, std::span<const LoraFactors> factors) {
    return cpu::splits(in) && std::all_of(factors.begin(), factors.end(),
                                          [](const LoraFactors& f) { return cpu::splits(f.out); });
  }
};

std::unique_ptr<PackedLora> pack_for_tiles(std::int64_t in, std::int64_t total_rank,
                                           std::span<const LoraFactors> factors) {
  auto packed = std::make_unique<CpuTileLora>(in, total_rank);
  std::int64_t offset = 0;
  for (const LoraFactors& f : factors) {
    std::vector<float> b(static_cast<std::size_t>(f.rank * f.out));  // [rank, out]
    for (std::int64_t o = 0; o < f.out; ++o) {
      for (std::int64_t r = 0; r < f.rank; ++r)
        b[static_cast<std::size_t>(r * f.out + o)] = f.b[o * f.rank + r];
    }
    const auto scaled = [&](const float* matrix, std::int64_t count) {
      std::vector<float> values(matrix, matrix + count);
      for (float& value : values) value *= f.scale;
      return values;
    };
    packed->parts.push_back({f.rank,
                             offset,
                             f.out,
                             f.out_offset,
                             f.scale,
                             {f.a, f.rank, in},
                             {scaled(b.data(), f.rank * f.out).data(), f.rank, f.out},
                             {b.data(), f.rank, f.out},
                             {scaled(f.a, f.rank * in).data(), f.rank, in}});
    offset += f.rank;
  }
  return packed;
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
  mutable Words<4> bits_{};
};

}  // namespace

std::unique_ptr<PackedLora> CpuOps::pack_lora(std::int64_t in, std::span<const LoraFactors> factors) {
  std::int64_t total = 0;
  for (const LoraFactors& f : factors) total += f.rank;
  if (tiles_ != nullptr && CpuTileLora::accepts(in, factors)) return pack_for_tiles(in, total, factors);
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

void CpuOps::lora(ConstView x, const PackedLora& lora, const Dropout* dropout, View u, View y) {
  if (dynamic_cast<const CpuTileLora*>(&lora) != nullptr) {
    tile_lora(x, lora, dropout, u, y);
    return;
  }
  const auto& packed = dynamic_cast<const CpuLora&>(lora);
  CHECK(x.columns() == packed.in && u.columns() == packed.rank && x.rows() == u.rows() &&
        x.rows() == y.rows());
  std::int64_t outputs = 0;
  for (const CpuLora::Part& part : packed.parts) outputs += part.rank * part.out;
  const std::int64_t grain = rows_worth_a_thread(packed.in * packed.padded_rank + outputs);
  const auto expand = [&](std::int64_t first, std::int64_t count) {
    for (const CpuLora::Part& part : packed.parts) {
      k_.expand(u.row<float>(first) + part.rank_offset, u.stride(), count, part.rank, part.up.row<float>(0),
                part.out, part.scale, part.out, y.row<float>(first) + part.out_offset, y.stride());
    }
  };
  if (dropout == nullptr) {
    parallel(x.rows(), grain, [&](std::int64_t first, std::int64_t count) {
      k_.reduce(rows_of(x.row_range(first, count)), count, packed.in, packed.down.row<float>(0), packed.rank,
                packed.padded_rank, u.row<float>(first), u.stride());
      expand(first, count);
    });
    return;
  }
  parallel_pieces(x.rows(), grain, [&](std::int64_t first, std::int64_t count, cpu::Scratch& scratch) {
    float* kept = scratch.floats(count * packed.in);
    for (std::size_t p = 0; p < packed.parts.size(); ++p) {
      const CpuLora::Part& part = packed.parts[p];
      apply_dropout(x, first, count, *dropout, p, kept);
      k_.reduce(Rows{kept, false, packed.in}, count, packed.in, part.down.row<float>(0), part.rank,
                part.padded_rank, u.row<float>(first) + part.rank_offset, u.stride());
    }
    expand(first, count);
  });
}

void CpuOps::lora_backward(ConstView x, ConstView u, ConstView dy, const PackedLora& lora,
                           const Dropout* dropout, View d_x, std::span<const LoraGradients> gradients,
                           cpu::Scratch& scratch) {
  if (dynamic_cast<const CpuTileLora*>(&lora) != nullptr) {
    tile_lora_backward(x, u, dy, lora, dropout, d_x, gradients, scratch);
    return;
  }
  const auto& packed = dynamic_cast<const CpuLora&>(lora);
  CHECK_EQ(gradients.size(), packed.parts.size());
  const std::int64_t rows = x.rows();
  for (std::size_t p = 0; p < packed.parts.size(); ++p) {
    const CpuLora::Part& part = packed.parts[p];
    const ConstView dy_part = dy.column_range(part.out_offset, part.out);
    const std::int64_t g_size = round_up(rows * part.rank, 16);
    const std::int64_t d_up_size = round_up(part.rank * part.out, 16);
    float* const g = scratch.floats(g_size + d_up_size + (dropout == nullptr ? 0 : rows * packed.in));
    float* const d_up = g + g_size;        // [rank, out]
    float* const kept = d_up + d_up_size;  // the input as the projection sees it: [rows, in]
    parallel(rows, 32, [&](std::int64_t first, std::int64_t count) {
      k_.reduce(rows_of(dy_part.row_range(first, count)), count, part.out, part.b.row<float>(0), part.rank,
                part.padded_rank, g + first * part.rank, part.rank);
      if (dropout != nullptr) apply_dropout(x, first, count, *dropout, p, kept + first * packed.in);
    });
    const Rows input = dropout == nullptr ? rows_of(x) : Rows{kept, false, packed.in};
    // Gradients: every thread owns some columns and adds the tokens up in order.
    parallel(packed.in, 64, [&](std::int64_t first, std::int64_t count) {
      k_.outer(g, part.rank, input, rows, part.rank, part.scale, first, first + count, gradients[p].a,
               packed.in);
    });
    std::fill_n(d_up, part.rank * part.out, 0.0F);
    parallel(part.out, 64, [&](std::int64_t first, std::int64_t count) {
      k_.outer(u.row<float>(0) + part.rank_offset, u.stride(), rows_of(dy_part), rows, part.rank, part.scale,
               first, first + count, d_up, part.out);
      for (std::int64_t o = first; o < first + count; ++o) {
        for (std::int64_t r = 0; r < part.rank; ++r)
          gradients[p].b[o * part.rank + r] += d_up[r * part.out + o];
      }
    });
    if (d_x.empty()) continue;
    const auto expand = [&](std::int64_t first, std::int64_t count, float* to, std::int64_t stride) {
      k_.expand(g + first * part.rank, part.rank, count, part.rank, part.a.row<float>(0), packed.in,
                part.scale, packed.in, to, stride);
    };
    if (dropout == nullptr) {
      parallel(rows, 32, [&](std::int64_t first, std::int64_t count) {
        expand(first, count, d_x.row<float>(first), d_x.stride());
      });
      continue;
    }
    parallel_pieces(rows, 32, [&](std::int64_t first, std::int64_t count, cpu::Scratch& own) {
      float* const back = own.floats(count * packed.in);
      std::fill_n(back, count * packed.in, 0.0F);
      expand(first, count, back, packed.in);
      for (std::int64_t r = 0; r < count; ++r) {
        const DropoutRow mask(*dropout, p, first + r);
        float* target = d_x.row<float>(first + r);
        for (std::int64_t c = 0; c < packed.in; ++c) target[c] += mask.factor(c) * back[r * packed.in + c];
      }
    });
  }
}

namespace {

/// Rows of x as one projection sees them, without the factor of kept elements: x itself, or a copy with dropped elements zero.
const Bf16* kept_rows(ConstView x, std::int64_t first, std::int64_t count, const Dropout* dropout,
                      std::size_t projection, Bf16* copy) {
  if (dropout == nullptr) return x.row<Bf16>(first);
  for (std::int64_t r = 0; r < count; ++r) {
    const Bf16* row = x.row<Bf16>(first + r);
    const DropoutRow mask(*dropout, projection, first + r);
    for (std::int64_t c = 0; c < x.columns(); ++c)
      copy[r * x.columns() + c] = mask.factor(c) == 0.0F ? Bf16{} : row[c];
  }
  return copy;
}
float kept_factor(const Dropout* dropout) {
  return dropout == nullptr ? 1.0F : static_cast<float>(1.0 / (1.0 - dropout->rate));
}

constexpr std::int64_t kTileRows = 32;  // rows of a piece, at most

/// Rows of a piece: those of a tile or two. Few rows go to several threads.
std::int64_t piece_rows(std::int64_t rows) {
  return rows < 4 * kTileRows ? kTileRows / 2 : kTileRows;
}

}  // namespace

void CpuOps::tile_lora(ConstView x, const PackedLora& lora, const Dropout* dropout, View u, View y) {
  const auto& packed = dynamic_cast<const CpuTileLora&>(lora);
  CHECK(x.columns() == packed.in && u.columns() == packed.rank && x.rows() == u.rows() &&
        x.rows() == y.rows());
  const float factor = kept_factor(dropout);
  parallel_pieces(
      x.rows(), piece_rows(x.rows()), [&](std::int64_t first, std::int64_t count, cpu::Scratch& scratch) {
        const std::int64_t work = std::max(cpu::SplitReduce::scratch(packed.rank, count),
                                           cpu::SplitExpand::scratch(packed.rank, count));
        float* const own = scratch.floats(work + (dropout == nullptr ? 0 : count * packed.in / 2));
        auto* const copy = reinterpret_cast<Bf16*>(own + work);
        for (std::size_t p = 0; p < packed.parts.size(); ++p) {
          const CpuTileLora::Part& part = packed.parts[p];
          const Bf16* rows = kept_rows(x, first, count, dropout, p, copy);
          float* const inner = u.row<float>(first) + part.rank_offset;
          part.down.multiply(tiles_->product, rows, dropout == nullptr ? x.stride() : packed.in, count,
                             factor, inner, u.stride(), own);
          part.up.add(tiles_->product, inner, u.stride(), count, y.row<float>(first) + part.out_offset,
                      y.stride(), own);
        }
      });
}

void CpuOps::tile_lora_backward(ConstView x, ConstView u, ConstView dy, const PackedLora& lora,
                                const Dropout* dropout, View d_x, std::span<const LoraGradients> gradients,
                                cpu::Scratch& scratch) {
  const auto& packed = dynamic_cast<const CpuTileLora&>(lora);
  CHECK_EQ(gradients.size(), packed.parts.size());
  const std::int64_t rows = x.rows();
  for (std::size_t p = 0; p < packed.parts.size(); ++p) {
    const CpuTileLora::Part& part = packed.parts[p];
    const ConstView dy_part = dy.column_range(part.out_offset, part.out);
    // The transposed splits of g = dy · B and of u, and x after dropout.
    const std::int64_t split = cpu::SplitColumns::elements(part.rank, rows) / 2;
    float* const floats =
        scratch.floats(2 * split + (dropout == nullptr ? 0 : cpu::round_up(rows * packed.in, 2) / 2));
    auto* const g_columns = reinterpret_cast<Bf16*>(floats);
    auto* const u_columns = reinterpret_cast<Bf16*>(floats + split);
    auto* const kept = reinterpret_cast<Bf16*>(floats + 2 * split);
    parallel_pieces(rows, piece_rows(rows), [&](std::int64_t first, std::int64_t count, cpu::Scratch& piece) {
      const std::int64_t work =
          std::max(cpu::SplitReduce::scratch(part.rank, count), cpu::SplitExpand::scratch(part.rank, count));
      const bool masked = dropout != nullptr && !d_x.empty();
      float* const own = piece.floats(work + kTileRows * part.rank + (masked ? count * packed.in : 0));
      float* const g = own + work;
      float* const back = g + kTileRows * part.rank;
      part.back_up.multiply(tiles_->product, dy_part.row<Bf16>(first), dy_part.stride(), count, 1.0F, g,
                            part.rank, own);
      cpu::SplitColumns::write(g, part.rank, part.rank, rows, first, count, g_columns);
      cpu::SplitColumns::write(u.row<float>(first) + part.rank_offset, u.stride(), part.rank, rows, first,
                               count, u_columns);
      if (dropout != nullptr) kept_rows(x, first, count, dropout, p, kept + first * packed.in);
      if (d_x.empty()) return;
      if (!masked) {
        part.back_down.add(tiles_->product, g, part.rank, count, d_x.row<float>(first), d_x.stride(), own);
        return;
      }
      std::fill_n(back, count * packed.in, 0.0F);
      part.back_down.add(tiles_->product, g, part.rank, count, back, packed.in, own);
      for (std::int64_t r = 0; r < count; ++r) {
        const DropoutRow mask(*dropout, p, first + r);
        float* target = d_x.row<float>(first + r);
        for (std::int64_t c = 0; c < packed.in; ++c) target[c] += mask.factor(c) * back[r * packed.in + c];
      }
    });
    // Gradients of 32 columns of A, then of B, at a time.
    const std::int64_t of_a = packed.in / 32;
    const float a_factor = part.scale * kept_factor(dropout);
    parallel_tasks(of_a + part.out / 32, [&](std::int64_t task, cpu::Scratch& piece) {
      float* const own = piece.floats(cpu::kOuterScratch + 32 * part.rank);
      float* const sum = own + cpu::kOuterScratch;
      const bool is_a = task < of_a;
      const std::int64_t column = (is_a ? task : task - of_a) * 32;
      if (is_a) {
        const Bf16* input = dropout == nullptr ? x.row<Bf16>(0) : kept;
        tiles_->outer({g_columns, part.rank, rows, input + column,
                       dropout == nullptr ? x.stride() : packed.in, sum, own},
                      k_);
        for (std::int64_t r = 0; r < part.rank; ++r)
          k_.add_scaled(sum + r * 32, a_factor, 32, gradients[p].a + r * packed.in + column);
        return;
      }
      tiles_->outer({u_columns, part.rank, rows, dy_part.row<Bf16>(0) + column, dy_part.stride(), sum, own},
                    k_);
      for (std::int64_t o = 0; o < 32; ++o) {
        for (std::int64_t r = 0; r < part.rank; ++r)
          gradients[p].b[(column + o) * part.rank + r] += part.scale * sum[r * 32 + o];
      }
    });
  }
}

void CpuOps::apply_dropout(ConstView x, std::int64_t first, std::int64_t count, const Dropout& dropout,
                           std::size_t projection, float* kept) const {
  for (std::int64_t r = 0; r < count; ++r) {
    float* target = kept + r * x.columns();
    k_.convert(rows_of(x.row_range(first + r, 1)), MutableRows{target, false, x.columns()}, 1, x.columns());
    const DropoutRow mask(dropout, projection, first + r);
    for (std::int64_t c = 0; c < x.columns(); ++c) target[c] *= mask.factor(c);
  }
}

}  // namespace biqa
