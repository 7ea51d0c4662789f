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

/// Positions of a prompt's tokens. Text tokens increase all three coordinates. The cells of a still image keep the
/// temporal coordinate s of its start and count height and width from s. The next text token is at s + max(rows,
/// columns) of merged cells. `next` becomes the position of the token after the prompt. Throws Error if the runs of
/// image tokens do not match the grids.
std::vector<Position> mrope_positions(const ModelConfig& config, std::span<const std::int64_t> ids,
                                      std::span<const Grid> grids, std::int32_t& next);

}  // namespace biqa
