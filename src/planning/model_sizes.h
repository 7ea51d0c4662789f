// SPDX-License-Identifier: Apache-2.0
// Number of weights of each part of the network.
#pragma once

#include <cstdint>

#include "model/config.h"

namespace biqa {

/// Widths of the decoder; all other sizes follow from them.
struct Widths {
  explicit Widths(const TextConfig& text)
      : hidden(text.hidden),
        q(text.heads * text.head_dim),
        kv(text.kv_heads * text.head_dim),
        mlp(text.intermediate) {}
  std::int64_t hidden, q, kv, mlp;
  /// Elements of one layer's matrices.
  std::int64_t qkv_weights() const { return hidden * (q + 2 * kv); }
  std::int64_t layer_weights() const { return qkv_weights() + q * hidden + 3 * hidden * mlp; }
};

/// Elements of the vision tower's matrices.
inline std::int64_t vision_weights(const VisionConfig& v) {
  const std::int64_t cell = v.hidden * v.merge * v.merge;
  return v.channels * v.temporal * v.patch * v.patch * v.hidden +
         v.depth * (4 * v.hidden * v.hidden + 3 * v.hidden * v.intermediate) + cell * cell +
         cell * v.out_hidden;
}

}  // namespace biqa
