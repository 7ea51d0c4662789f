// SPDX-License-Identifier: Apache-2.0
// Products on the vector unit, for instruction sets on which a row of oneDNN's result depends on its batch. These are
// f32 without AVX-512 and bf16 without AVX512_BF16. In f32, oneDNN uses another kernel for a single row, and its sums
// depend on the number of threads.
//
// A panel has as many columns as the kernel keeps in registers. Panels form groups. A group is stored chunk by chunk of
// the inner width, and each chunk panel by panel. bf16 weights stay bf16 in memory. They are widened as they are read, which
// is exact. For many rows, a panel's chunk is widened once for all of them.
#include <algorithm>
#include <cstring>

#include "core/bf16.h"
#include "core/random.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/part.h"
#include "ops/cpu/products.h"

namespace biqa::cpu {
namespace {

constexpr std::int64_t kChunk = 256;         // inner elements; a panel's chunk stays in the L1 cache
constexpr std::int64_t kGroupColumns = 256;  // columns whose sums are stored between chunks
constexpr std::int64_t kGroupRows = 240;     // a multiple of every kernel's rows
/// Rows that one call works on, so that the widened x stays small.
constexpr std::int64_t kCallRows = 480;
/// Largest widened chunk of a panel, in bytes: half of an L1 cache. With AVX-512 a chunk is larger, and its kernel takes
/// enough rows at once that widening costs little.
constexpr std::int64_t kWidePanel = 16 * 1024;
constexpr std::int64_t kWideRows = 12;  // rows from which on a panel is widened once

class VectorMatrix final : public PackedMatrix::Implementation {
 public:
  VectorMatrix(const MatrixSource& source, const Kernels& kernels)
      : kernels_(kernels),
        compute_(source.compute),
        inner_(source.inner()),
        columns_(source.columns()),
        width_(kernels.product_columns),
        panels_((columns_ + width_ - 1) / width_),
        group_panels_(kGroupColumns / width_) {
    if (!source.bias.empty()) {
      bias_ =
          source.claim(".bias", static_cast<std::size_t>(panels_ * width_) * sizeof(float), fingerprint());
      if (source.filled_here()) {
        auto* bias = static_cast<float*>(bias_.data());
        std::fill(std::copy(source.bias.begin(), source.bias.end(), bias), bias + panels_ * width_, 0.0F);
      }
    }
    packed_ = source.claim("", static_cast<std::size_t>(panels_ * width_ * inner_) * size_of(compute_),
                           fingerprint());
    if (!source.filled_here()) return;
    if (compute_ == DType::bf16)
      pack<Bf16>(source);
    else
      pack<float>(source);
  }

  void multiply(ConstView x, View y, bool accumulate, int threads) override {
    for (std::int64_t first = 0; first < x.rows(); first += kCallRows) {
      const std::int64_t rows = std::min(kCallRows, x.rows() - first);
      multiply_some(x.row_range(first, rows), y.row_range(first, rows), accumulate, threads);
    }
  }

  std::size_t bytes() const override { return packed_.bytes() + bias_.bytes(); }

 private:
  std::uint64_t fingerprint() const {
    std::uint64_t state = mix64(0x70616e656c);  // "panel"
    for (const std::int64_t value : {inner_, columns_, width_, kChunk, kGroupColumns, std::int64_t(compute_)})
      state = mix64(state ^ mix64(static_cast<std::uint64_t>(value)));
    return state;
  }

  /// Elements before chunk `first` of panel `panel`.
  std::int64_t place_of(std::int64_t panel, std::int64_t first) const {
    const std::int64_t group = panel / group_panels_ * group_panels_;
    const std::int64_t in_group = std::min(group_panels_, panels_ - group);
    const std::int64_t inner = std::min(kChunk, inner_ - first);
    return (group * inner_ + in_group * first + (panel - group) * inner) * width_;
  }

  template <typename T>
  void pack(const MatrixSource& source) {
    const auto element = [&](std::int64_t inner, std::int64_t column) {
      const std::int64_t row = source.transposed ? column : inner;
      const std::int64_t at = source.transposed ? inner : column;
      if constexpr (std::is_same_v<T, Bf16>) {
        return source.weight.type() == DType::bf16 ? source.weight.row<Bf16>(row)[at]
                                                   : to_bf16(source.weight.row<float>(row)[at]);
      } else {
        return source.weight.type() == DType::bf16 ? to_float(source.weight.row<Bf16>(row)[at])
                                                   : source.weight.row<float>(row)[at];
      }
    };
    auto* packed = static_cast<T*>(packed_.data());
#pragma omp parallel for schedule(static)
    for (std::int64_t panel = 0; panel < panels_; ++panel) {
      const std::int64_t column = panel * width_;
      for (std::int64_t first = 0; first < inner_; first += kChunk) {
        T* to = packed + place_of(panel, first);
        const std::int64_t inner = std::min(kChunk, inner_ - first);
        for (std::int64_t c = 0; c < width_; ++c) {
          for (std::int64_t k = 0; k < inner; ++k)
            to[k * width_ + c] = column + c < columns_ ? element(first + k, column + c) : T{};
        }
      }
    }
  }

  void multiply_some(ConstView x, View y, bool accumulate, int threads) {
    if (x.rows() == 0) return;
    const std::int64_t work = x.rows() * inner_ * columns_;
    constexpr std::int64_t kWorth = std::int64_t{1} << 17;  // multiplications that outweigh waking a thread
    const auto parts = static_cast<int>(std::clamp<std::int64_t>(work / kWorth, 1, threads));
    const std::int64_t wide = compute_ == DType::bf16 ? (x.rows() * inner_ + 15) / 16 * 16 : 0;
    constexpr std::int64_t kSums = kGroupRows * kGroupColumns;
    constexpr std::int64_t kOwn =
        kSums + kWidePanel / static_cast<std::int64_t>(sizeof(float));  // of each part
    thread_local Buffer scratch;
    const auto needed = static_cast<std::size_t>(wide + parts * kOwn) * sizeof(float);
    if (scratch.bytes() < needed) scratch = Buffer(needed, "scratch");
    auto* floats = static_cast<float*>(scratch.data());
    const float* input = wide == 0 ? static_cast<const float*>(x.data()) : floats;
    const auto run = [&](std::int64_t part) {
      multiply_part(input, x.rows(), y, accumulate, part, parts, floats + wide + part * kOwn,
                    floats + wide + part * kOwn + kSums);
    };
    const auto widen = [&](std::int64_t part) {
      const std::int64_t first = x.rows() * part / parts, end = x.rows() * (part + 1) / parts;
      kernels_.convert(Rows{x.row_range(first, end - first).data(), true, inner_},
                       MutableRows{floats + first * inner_, false, inner_}, end - first, inner_);
    };
    if (parts == 1) {
      if (wide != 0) widen(0);
      run(0);
      return;
    }
#pragma omp parallel num_threads(parts)
    {
      if (wide != 0) {
#pragma omp for schedule(static)
        for (std::int64_t part = 0; part < parts; ++part) widen(part);
      }
#pragma omp for schedule(static) nowait
      for (std::int64_t part = 0; part < parts; ++part) run(part);
    }
  }

  void multiply_part(const float* x, std::int64_t rows, View y, bool accumulate, std::int64_t part,
                     std::int64_t parts, float* sums, float* wide_panel) const {
    const Part share = part_of(rows, kernels_.product_rows, panels_, part, parts);
    for (std::int64_t row = share.first_row; row < share.end_row; row += kGroupRows) {
      const std::int64_t count = std::min(kGroupRows, share.end_row - row);
      for (std::int64_t panel = share.first_column; panel < share.end_column;) {
        const std::int64_t end = std::min((panel / group_panels_ + 1) * group_panels_, share.end_column);
        multiply_group(x + row * inner_, count, panel, end - panel, sums, wide_panel);
        finish(sums, y.row_range(row, count), panel * width_, (end - panel) * width_, accumulate);
        panel = end;
      }
    }
  }

  /// sums [rows, panels · width] of some panels of one group. wide_panel: scratch of kWidePanel bytes.
  void multiply_group(const float* x, std::int64_t rows, std::int64_t panel, std::int64_t panels, float* sums,
                      float* wide_panel) const {
    const std::int64_t stride = panels * width_;
    const auto* bias = static_cast<const float*>(bias_.data());
    for (std::int64_t r = 0; r < rows; ++r) {
      if (bias == nullptr)
        std::fill_n(sums + r * stride, stride, 0.0F);
      else
        std::copy_n(bias + panel * width_, stride, sums + r * stride);
    }
    PanelProduct product{};
    product.x_stride = inner_;
    const bool bf16 = compute_ == DType::bf16;
    const bool widens =
        bf16 && rows >= kWideRows && kChunk * width_ * static_cast<std::int64_t>(sizeof(float)) <= kWidePanel;
    product.bf16 = bf16 && !widens;
    product.sums_stride = stride;
    for (std::int64_t first = 0; first < inner_; first += kChunk) {
      product.inner = std::min(kChunk, inner_ - first);
      product.panel_stride = product.inner * width_;
      const auto* weights = static_cast<const std::byte*>(packed_.data()) +
                            place_of(panel, first) * static_cast<std::int64_t>(size_of(compute_));
      const std::int64_t most = rows == 1 ? 4 : rows <= 3 ? 2 : 1;
      for (std::int64_t p = 0; p < panels; p += product.panels) {
        product.panels = static_cast<int>(panels - p >= most ? most : 1);
        product.weights = weights + p * product.panel_stride * static_cast<std::int64_t>(size_of(compute_));
        if (widens) {
          kernels_.convert(Rows{product.weights, true, product.panel_stride},
                           MutableRows{wide_panel, false, product.panel_stride}, 1, product.panel_stride);
          product.weights = wide_panel;
        }
        for (std::int64_t r = 0; r < rows; r += product.rows) {
          product.rows = static_cast<int>(std::min<std::int64_t>(kernels_.product_rows, rows - r));
          product.x = x + r * inner_ + first;
          product.sums = sums + r * stride + p * width_;
          kernels_.panel_product(product);
        }
      }
    }
  }

  void finish(const float* sums, View y, std::int64_t column, std::int64_t stride, bool accumulate) const {
    const std::int64_t count = std::min(stride, columns_ - column);
    for (std::int64_t r = 0; r < y.rows(); ++r) {
      float* target = y.row<float>(r) + column;
      if (accumulate)
        kernels_.add_scaled(sums + r * stride, 1.0F, count, target);
      else
        std::memcpy(target, sums + r * stride, static_cast<std::size_t>(count) * sizeof(float));
    }
  }

  const Kernels& kernels_;
  DType compute_;
  std::int64_t inner_, columns_, width_, panels_, group_panels_;
  Buffer packed_, bias_;
};

}  // namespace

std::unique_ptr<PackedMatrix::Implementation> make_vector_matrix(const MatrixSource& source,
                                                                 const Kernels& kernels) {
  return std::make_unique<VectorMatrix>(source, kernels);
}

}  // namespace biqa::cpu
