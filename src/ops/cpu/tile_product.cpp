// SPDX-License-Identifier: Apache-2.0
// Packs weights for the tile product, and divides a product among threads.
#include "ops/cpu/tile_product.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/random.h"

namespace biqa::cpu {
namespace {

std::int64_t divide_up(std::int64_t value, std::int64_t by) {
  return (value + by - 1) / by;
}

Bf16 element(ConstView weight, std::int64_t row, std::int64_t column) {
  return weight.type() == DType::bf16 ? weight.row<Bf16>(row)[column]
                                      : to_bf16(weight.row<float>(row)[column]);
}

/// Packs one step of one block, element by element. Works for any type and at the edges.
void pack_step(ConstView weight, bool transposed, const TileLayout& layout, std::int64_t step,
               std::int64_t block, Bf16* to) {
  for (std::int64_t half = 0; half < 2; ++half) {
    for (std::int64_t pair = 0; pair < 16; ++pair) {
      for (std::int64_t c = 0; c < 16; ++c) {
        const std::int64_t column = block * TileLayout::kBlock + half * 16 + c;
        for (std::int64_t inner = step * TileLayout::kStep + pair * 2, i = 0; i < 2; ++i, ++inner) {
          const bool there = column < layout.columns && inner < layout.inner;
          *to++ = !there       ? Bf16{}
                  : transposed ? element(weight, column, inner)
                               : element(weight, inner, column);
        }
      }
    }
  }
}

/// Packs one step of one block, if both are completely inside a bf16 matrix.
void pack_whole_step(ConstView weight, bool transposed, std::int64_t step, std::int64_t block, Bf16* to) {
  const std::int64_t inner = step * TileLayout::kStep, column = block * TileLayout::kBlock;
  for (std::int64_t half = 0; half < 2; ++half, to += 512) {
    if (transposed) {
      for (std::int64_t c = 0; c < 16; ++c) {
        const Bf16* from = weight.row<Bf16>(column + half * 16 + c) + inner;
        for (std::int64_t pair = 0; pair < 16; ++pair)
          std::memcpy(to + (pair * 16 + c) * 2, from + pair * 2, 2 * sizeof(Bf16));
      }
      continue;
    }
    for (std::int64_t pair = 0; pair < 16; ++pair) {
      const Bf16* even = weight.row<Bf16>(inner + pair * 2) + column + half * 16;
      const Bf16* odd = weight.row<Bf16>(inner + pair * 2 + 1) + column + half * 16;
      for (std::int64_t c = 0; c < 16; ++c) {
        to[(pair * 16 + c) * 2] = even[c];
        to[(pair * 16 + c) * 2 + 1] = odd[c];
      }
    }
  }
}

class TileMatrix final : public PackedMatrix::Implementation {
 public:
  TileMatrix(const MatrixSource& source, TileKernel kernel)
      : layout_(source.inner(), source.columns()), kernel_(kernel) {
    if (!source.bias.empty()) {
      const auto padded = static_cast<std::size_t>(layout_.blocks * TileLayout::kBlock);
      bias_ = source.claim(".bias", padded * sizeof(float), layout_.fingerprint());
      if (source.filled_here()) {
        auto* bias = static_cast<float*>(bias_.data());
        std::fill(std::copy(source.bias.begin(), source.bias.end(), bias), bias + padded, 0.0F);
      }
    }
    packed_ =
        source.claim("", static_cast<std::size_t>(layout_.elements()) * sizeof(Bf16), layout_.fingerprint());
    if (source.filled_here())
      pack_tiles(source.weight, source.transposed, layout_, static_cast<Bf16*>(packed_.data()));
  }

  void multiply(ConstView x, View y, bool accumulate, int threads) override {
    if (x.rows() == 0) return;
    TileProduct product;
    product.layout = &layout_;
    product.packed = static_cast<const Bf16*>(packed_.data());
    product.bias = static_cast<const float*>(bias_.data());
    product.x = static_cast<const Bf16*>(x.data());
    product.x_stride = x.stride();
    product.rows = x.rows();
    product.y = static_cast<float*>(y.data());
    product.y_stride = y.stride();
    product.accumulate = accumulate;
    product.last_step = last_step_of(x);

    const std::int64_t parts = parts_worth(x.rows(), threads);
    // Grows to the size that the largest product needs, and is kept.
    thread_local Buffer scratch;
    const std::size_t needed = static_cast<std::size_t>(parts * kTileScratch) * sizeof(float);
    if (scratch.bytes() < needed) scratch = Buffer(needed, "scratch");
    auto* floats = static_cast<float*>(scratch.data());
    if (parts == 1) {
      kernel_(product, 0, 1, floats);
      return;
    }
#pragma omp parallel for schedule(static) num_threads(static_cast <int>(parts))
    for (std::int64_t part = 0; part < parts; ++part)
      kernel_(product, part, parts, floats + part * kTileScratch);
  }

  std::size_t bytes() const override {
    return packed_.bytes() + bias_.bytes();
  }

 private:
  /// The last inner elements of each row if they do not fill a whole step, followed by zeros. nullptr if there are
  /// none. Valid until this thread's next product.
  const Bf16* last_step_of(ConstView x) const {
    const std::int64_t rest = layout_.inner % TileLayout::kStep;
    if (rest == 0) return nullptr;
    thread_local Buffer scratch;
    const std::size_t needed = static_cast<std::size_t>(x.rows() * TileLayout::kStep) * sizeof(Bf16);
    if (scratch.bytes() < needed) scratch = Buffer(needed, "scratch");
    auto* const steps = static_cast<Bf16*>(scratch.data());
    Bf16* to = steps;
    for (std::int64_t row = 0; row < x.rows(); ++row, to += TileLayout::kStep) {
      std::copy_n(x.row<Bf16>(row) + layout_.inner - rest, rest, to);
      std::fill(to + rest, to + TileLayout::kStep, Bf16{});
    }
    return steps;
  }

  /// The number of threads that gives each a few microseconds of work. The estimate uses the bytes and multiplications
  /// of a thread per nanosecond.
  std::int64_t parts_worth(std::int64_t rows, int threads) const {
    constexpr std::int64_t kBytes = 40, kMultiplications = 600, kWorth = 3000;
    const std::int64_t elements = layout_.elements();
    const std::int64_t nanoseconds =
        std::max(elements * 2 / kBytes, elements * divide_up(rows, 16) * 16 / kMultiplications);
    return std::clamp<std::int64_t>(nanoseconds / kWorth, 1, threads);
  }

  TileLayout layout_;
  TileKernel kernel_;
  Buffer packed_, bias_;
};

}  // namespace

TileLayout::TileLayout(std::int64_t inner_width, std::int64_t column_count)
    : inner(inner_width),
      columns(column_count),
      steps(divide_up(inner_width, kStep)),
      blocks(divide_up(column_count, kBlock)) {
  // With 8 steps, the rows of x and the weights of a chunk fit into the L1 cache together. Up to 16 steps a single
  // chunk is faster, because no sums are stored between chunks.
  constexpr std::int64_t kUncut = 16, kChunk = 8;
  chunk_steps = steps <= kUncut ? steps : kChunk;
}

std::uint64_t TileLayout::fingerprint() const {
  std::uint64_t state = mix64(0x74696c65);  // "tile"
  for (const std::int64_t value : {inner, columns, steps, blocks, chunk_steps, kPanelBlocks})
    state = mix64(state ^ mix64(static_cast<std::uint64_t>(value)));
  return state;
}

void pack_tiles(ConstView weight, bool transposed, const TileLayout& layout, Bf16* packed) {
  const std::int64_t panels = divide_up(layout.blocks, TileLayout::kPanelBlocks);
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t panel = 0; panel < panels; ++panel) {
    const std::int64_t first = panel * TileLayout::kPanelBlocks;
    const std::int64_t end = std::min(first + TileLayout::kPanelBlocks, layout.blocks);
    Bf16* to = packed + first * layout.steps * TileLayout::kStepElements;
    for (std::int64_t chunk = 0; chunk < layout.steps; chunk += layout.chunk_steps) {
      for (std::int64_t block = first; block < end; ++block) {
        const std::int64_t chunk_end = std::min(chunk + layout.chunk_steps, layout.steps);
        for (std::int64_t step = chunk; step < chunk_end; ++step, to += TileLayout::kStepElements) {
          const bool whole = (block + 1) * TileLayout::kBlock <= layout.columns &&
                             (step + 1) * TileLayout::kStep <= layout.inner;
          if (whole && weight.type() == DType::bf16)
            pack_whole_step(weight, transposed, step, block, to);
          else
            pack_step(weight, transposed, layout, step, block, to);
        }
      }
    }
  }
}

std::unique_ptr<PackedMatrix::Implementation> make_tile_matrix(const MatrixSource& source,
                                                               TileKernel kernel) {
  return std::make_unique<TileMatrix>(source, kernel);
}

}  // namespace biqa::cpu
