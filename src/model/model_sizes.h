// SPDX-License-Identifier: Apache-2.0
// Number of weights of each part of the network, and the operations of its passes. Plans and metrics count with these.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "tensor/dtype.h"

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
std::int64_t vision_weights(const VisionConfig& vision);

/// Bytes of the weights that QwenVl gives a backend, if the backend keeps one copy of each. Matrices have the compute
/// type; biases and norms are f32. The head counts besides the embedding, also in a tied model.
std::int64_t backend_weight_bytes(const ModelConfig& config, DType compute);

/// Operations of forward passes: two per weight and row, and the two products of attention. A backward pass takes as
/// many, because it computes gradients of the inputs only: the weights are frozen. The adapter's own operations are
/// left out: less than 1 % at rank 8.
class ModelFlop {
 public:
  explicit ModelFlop(const ModelConfig& config);

  /// All layers for `rows` rows, which attend to `keys` keys on average.
  double layers(double rows, double keys) const { return rows * (row_ + key_ * keys); }
  /// Logits of rows.
  double head(double rows) const { return rows * head_; }
  /// A prompt, whose tokens see those before them.
  double prompt(double tokens) const { return layers(tokens, tokens / 2); }
  /// `tokens` further rows of a sequence, after `preceding` rows.
  double continuation(double tokens, double preceding) const {
    return layers(tokens, preceding + tokens / 2);
  }
  /// Images of `patches` each, through the vision tower.
  double vision(double images, double patches) const;

 private:
  VisionConfig vision_;
  double row_, key_, head_;
};

}  // namespace biqa
