// SPDX-License-Identifier: Apache-2.0
#include "model/model_sizes.h"

#include <algorithm>

namespace biqa {
namespace {

double number(std::int64_t value) {
  return static_cast<double>(value);
}

}  // namespace

std::int64_t vision_weights(const VisionConfig& v) {
  const std::int64_t cell = v.hidden * v.merge * v.merge;
  return v.channels * v.temporal * v.patch * v.patch * v.hidden +
         v.depth * (4 * v.hidden * v.hidden + 3 * v.hidden * v.intermediate) + cell * cell +
         cell * v.out_hidden;
}

std::int64_t backend_weight_bytes(const ModelConfig& config, DType compute) {
  const Widths w(config.text);
  const VisionConfig& v = config.vision;
  const std::int64_t layers = config.text.layers;
  const std::int64_t matrices =
      layers * w.layer_weights() + 2 * config.text.vocab * w.hidden + vision_weights(v);
  const std::int64_t cell = v.hidden * v.merge * v.merge;
  const std::int64_t block = 2 * v.hidden                      // norms
                             + 3 * v.hidden + v.hidden         // q, k, v and projection
                             + 2 * v.intermediate + v.hidden;  // gate, up and down
  const std::int64_t vectors =
      layers * (2 * w.hidden + w.q + 2 * w.kv) + w.hidden + v.depth * block + v.hidden + cell + v.out_hidden;
  return matrices * static_cast<std::int64_t>(size_of(compute)) +
         vectors * static_cast<std::int64_t>(sizeof(float));
}

ModelFlop::ModelFlop(const ModelConfig& config) : vision_(config.vision) {
  const Widths w(config.text);
  const double layers = number(config.text.layers);
  row_ = 2 * layers * number(w.layer_weights());
  key_ = 4 * layers * number(w.q);
  head_ = 2 * number(config.text.hidden * config.text.vocab);
}

double ModelFlop::vision(double images, double patches) const {
  const VisionConfig& v = vision_;
  const double cell = number(v.hidden * v.merge * v.merge);
  const double merger_weights = cell * (cell + number(v.out_hidden));
  const double rows = images * patches;
  const double window = number(v.window / v.patch) * number(v.window / v.patch);
  const double full_blocks = number(static_cast<std::int64_t>(v.full_attention_blocks.size()));
  return 2 * rows * (number(vision_weights(v)) - merger_weights) +
         2 * rows / number(v.merge * v.merge) * merger_weights +
         4 * number(v.hidden) * rows *
             (full_blocks * patches + (number(v.depth) - full_blocks) * std::min(window, patches));
}

}  // namespace biqa
