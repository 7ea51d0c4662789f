// SPDX-License-Identifier: Apache-2.0
// The adapter's part of a product, its backward pass and its dropout.
#include <algorithm>

#include "core/random.h"
#include "ops/cpu/cpu_ops.h"

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
