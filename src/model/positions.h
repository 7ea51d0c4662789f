// SPDX-License-Identifier: Apache-2.0
// M-RoPE positions: each token has a temporal, a height and a width coordinate.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "model/config.h"
#include "ops/batch.h"

namespace biqa {

using Grid = std::array<std::int64_t, 3>;  ///< patches of an image: frames, rows, columns

/// Positions of a prompt's tokens. Text counts up in all three; a still image's cells keep the temporal
/// coordinate of its start s and count height and width from s; text goes on at s + max(rows, columns) of
/// merged cells. `next` becomes the position of the token after the prompt. Throws Error when the runs of
/// image tokens do not match the grids.
std::vector<Position> mrope_positions(const ModelConfig& config, std::span<const std::int64_t> ids,
                                      std::span<const Grid> grids, std::int32_t& next);

}  // namespace biqa
