// SPDX-License-Identifier: Apache-2.0
// The projections of a decoder layer that an adapter can change, and the place of their values in one flat vector.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace biqa {

enum class Projection : std::uint8_t { q, k, v, o, gate, up, down };
inline constexpr std::array<Projection, 7> kProjections{Projection::q,   Projection::k,    Projection::v,
                                                        Projection::o,   Projection::gate, Projection::up,
                                                        Projection::down};

/// One adapted projection. A is [rank, in] at a_offset, B is [out, rank] at b_offset of the flat vector.
struct LoraModule {
  std::int64_t layer = 0;
  Projection projection = Projection::q;
  std::int64_t rank = 0, in = 0, out = 0;
  float scale = 0;  ///< alpha / rank, or alpha / sqrt(rank) with rslora
  std::size_t a_offset = 0, b_offset = 0;
};

}  // namespace biqa
