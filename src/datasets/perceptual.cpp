// SPDX-License-Identifier: Apache-2.0
#include "datasets/perceptual.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <vector>

namespace biqa {
namespace {

constexpr int kSide = Impression::kSide;
constexpr int kFrequencies = 8;

/// The mean luma of the pixels below each cell. A pixel that crosses a border counts with its share.
std::array<double, kSide * kSide> small_copy(const Image& image) {
  // Shares of the columns, so that each row of pixels is one pass.
  struct Share {
    std::size_t cell;
    double weight;
  };
  const auto shares_of = [](std::int64_t count) {
    std::vector<std::vector<Share>> shares(static_cast<std::size_t>(count));
    const double scale = static_cast<double>(kSide) / static_cast<double>(count);
    for (std::int64_t i = 0; i < count; ++i) {
      const double begin = static_cast<double>(i) * scale, end = static_cast<double>(i + 1) * scale;
      for (int cell = static_cast<int>(begin); cell < kSide && cell < end; ++cell) {
        const double weight = std::min<double>(end, cell + 1) - std::max<double>(begin, cell);
        if (weight > 0)
          shares[static_cast<std::size_t>(i)].push_back({static_cast<std::size_t>(cell), weight});
      }
    }
    return shares;
  };
  const auto columns = shares_of(image.width), rows = shares_of(image.height);
  std::array<double, kSide * kSide> sums{};
  const std::uint8_t* pixel = image.rgb.data();
  for (std::int64_t y = 0; y < image.height; ++y) {
    std::array<double, kSide> line{};
    for (std::int64_t x = 0; x < image.width; ++x, pixel += 3) {
      const double luma = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2];
      for (const Share& share : columns[static_cast<std::size_t>(x)])
        line.at(share.cell) += share.weight * luma;
    }
    for (const Share& share : rows[static_cast<std::size_t>(y)])
      for (std::size_t cell = 0; cell < line.size(); ++cell)
        sums.at(share.cell * line.size() + cell) += share.weight * line.at(cell);
  }
  return sums;  // each cell has the weight 1
}

/// The low frequencies of the cosine transform, but for the mean: rows and columns 0 to 7, and (8, 8) for the mean's bit.
std::array<double, kFrequencies * kFrequencies> frequencies_of(const std::array<float, kSide * kSide>& grey) {
  static const auto kCosines = [] {
    std::array<std::array<double, kSide>, kFrequencies + 1> table{};
    for (std::size_t k = 0; k < table.size(); ++k)
      for (std::size_t i = 0; i < kSide; ++i)
        table[k][i] =
            std::cos(std::numbers::pi * static_cast<double>(k) * (static_cast<double>(i) + 0.5) / kSide);
    return table;
  }();
  const auto transform = [&](std::size_t u, std::size_t v) {
    double sum = 0;
    for (std::size_t y = 0; y < kSide; ++y) {
      double line = 0;
      for (std::size_t x = 0; x < kSide; ++x)
        line += static_cast<double>(grey[y * kSide + x]) * kCosines[v][x];
      sum += line * kCosines[u][y];
    }
    return sum;
  };
  std::array<double, kFrequencies * kFrequencies> values{};
  for (std::size_t u = 0; u < kFrequencies; ++u)
    for (std::size_t v = 0; v < kFrequencies; ++v) values[u * kFrequencies + v] = transform(u, v);
  values[0] = transform(kFrequencies, kFrequencies);
  return values;
}

}  // namespace

Impression impression_of(const Image& image) {
  const auto cells = small_copy(image);
  double mean = 0;
  for (const double cell : cells) mean += cell / static_cast<double>(cells.size());
  double square = 0;
  for (const double cell : cells) square += (cell - mean) * (cell - mean);
  Impression impression;
  // Below a deviation of one of 255 grey levels, noise of coding decides.
  impression.flat = square < static_cast<double>(cells.size());
  if (impression.flat) return impression;
  for (std::size_t i = 0; i < cells.size(); ++i)
    impression.grey[i] = static_cast<float>((cells[i] - mean) / std::sqrt(square));
  const auto values = frequencies_of(impression.grey);
  auto sorted = values;
  std::sort(sorted.begin(), sorted.end());
  const double median = (sorted[sorted.size() / 2 - 1] + sorted[sorted.size() / 2]) / 2;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (values[i] > median) impression.hash |= std::uint64_t{1} << i;
  return impression;
}

int hash_distance(const Impression& a, const Impression& b) {
  return std::popcount(a.hash ^ b.hash);
}

double correlation_of(const Impression& a, const Impression& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.grey.size(); ++i)
    sum += static_cast<double>(a.grey[i]) * static_cast<double>(b.grey[i]);
  return sum;
}

}  // namespace biqa
