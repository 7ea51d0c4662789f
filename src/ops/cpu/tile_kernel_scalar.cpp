// SPDX-License-Identifier: Apache-2.0
// Simulates the tile registers, so that packing, incomplete blocks and blocking can be tested on every machine.
#include <array>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "ops/cpu/tile_attention_impl.h"
#include "ops/cpu/tile_kernel_impl.h"
#include "ops/cpu/tile_lora_impl.h"
#include "ops/cpu/tile_set.h"

namespace biqa::cpu {
namespace {

/// The multiplication of tiles as in Intel's manual (TDPBF16PS). The even and the odd elements of 16 pairs are summed
/// separately, by fused multiply-adds from 0. The two sums are added, and the result is added to the target. Denormal
/// numbers are zero.
class ScalarTiles {
 public:
  static void configure(const TileShapes& shapes) { registers() = {{}, shapes}; }
  static void release() { registers() = {}; }
  template <int kTile>
  static void zero() {
    used(kTile) = {};
  }
  template <int kTile>
  static void load(const void* from, std::int64_t stride) {
    Tile& tile = used(kTile);
    tile = {};
    for (std::int64_t row = 0; row < rows(kTile); ++row)
      std::memcpy(&tile[at(row)], static_cast<const std::byte*>(from) + row * stride, at(bytes(kTile)));
  }
  template <int kTile>
  static void store(void* to, std::int64_t stride) {
    const Tile& tile = used(kTile);
    for (std::int64_t row = 0; row < rows(kTile); ++row)
      std::memcpy(static_cast<std::byte*>(to) + row * stride, &tile[at(row)], at(bytes(kTile)));
  }
  template <int kSum, int kLeft, int kRight>
  static void multiply() {
    Tile& sums = used(kSum);
    const Tile& left = used(kLeft);
    const Tile& right = used(kRight);
    CHECK_EQ(rows(kSum), rows(kLeft));
    CHECK_EQ(bytes(kSum), bytes(kRight));
    CHECK_EQ(bytes(kLeft), rows(kRight) * 4);
    for (std::int64_t row = 0; row < rows(kSum); ++row) {
      for (std::size_t column = 0; column < 16; ++column) {
        float even = 0, odd = 0;
        for (std::size_t pair = 0; pair < at(rows(kRight)); ++pair) {
          const std::uint32_t x = left[at(row)][pair], w = right[pair][column];
          even = flushed(std::fma(low(x), low(w), even));
          odd = flushed(std::fma(high(x), high(w), odd));
        }
        std::uint32_t& sum = sums[at(row)][column];
        sum = std::bit_cast<std::uint32_t>(flushed(flushed(std::bit_cast<float>(sum)) + flushed(even + odd)));
      }
    }
  }
  static void prefetch(const void* /*from*/, std::int64_t /*bytes*/) {}

 private:
  using Tile = std::array<std::array<std::uint32_t, 16>, 16>;
  struct Registers {
    std::array<Tile, 8> elements{};
    TileShapes shapes;
  };
  static Registers& registers() {
    thread_local Registers instance;
    return instance;
  }
  static std::int64_t rows(int tile) { return registers().shapes.rows[static_cast<std::size_t>(tile)]; }
  static std::int64_t bytes(int tile) { return registers().shapes.bytes[static_cast<std::size_t>(tile)]; }
  static std::size_t at(std::int64_t row) { return static_cast<std::size_t>(row); }
  /// The processor faults if a tile is used without a configuration.
  static Tile& used(int tile) {
    CHECK_GT(rows(tile), 0) << "tile " << tile << " is not configured";
    return registers().elements[static_cast<std::size_t>(tile)];
  }
  static float flushed(float value) {
    return std::abs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0F, value) : value;
  }
  static float low(std::uint32_t pair) { return flushed(std::bit_cast<float>(pair << 16)); }
  static float high(std::uint32_t pair) { return flushed(std::bit_cast<float>(pair & 0xffff0000U)); }
};

}  // namespace

const TileSet* scalar_tiles() {
  static const TileSet tiles{run_tile_part<ScalarTiles>,
                             {tile_attention<ScalarTiles>, tile_attention_backward<ScalarTiles>},
                             split_outer<ScalarTiles>};
  return &tiles;
}

}  // namespace biqa::cpu
