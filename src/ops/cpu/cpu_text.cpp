// SPDX-License-Identifier: Apache-2.0
// BERT's encoder: embeddings, then layers of attention and a feed-forward network, each followed by a layer norm.
#include <glog/logging.h>

#include <array>
#include <cmath>
#include <utility>

#include "ops/cpu/cpu_ops.h"
#include "ops/text_encoder.h"
#include "tensor/arena.h"

namespace biqa::cpu {
namespace {

using Norm = TextEncoderWeights::Norm;
using Linear = TextEncoderWeights::Linear;

/// x = (x − mean) / √(variance + epsilon) · weight + bias, per row and in place. Sums are f64.
void layer_norm(View x, const Norm& norm, float epsilon) {
  const auto columns = x.columns();
  const float* weight = norm.weight.row<float>(0);
  const float* bias = norm.bias.row<float>(0);
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    float* row = x.row<float>(r);
    double sum = 0, squares = 0;
    for (std::int64_t c = 0; c < columns; ++c) sum += static_cast<double>(row[c]);
    const double mean = sum / static_cast<double>(columns);
    for (std::int64_t c = 0; c < columns; ++c) {
      const double difference = static_cast<double>(row[c]) - mean;
      squares += difference * difference;
    }
    const double scale = 1 / std::sqrt(squares / static_cast<double>(columns) + static_cast<double>(epsilon));
    for (std::int64_t c = 0; c < columns; ++c) {
      row[c] = static_cast<float>((static_cast<double>(row[c]) - mean) * scale) * weight[c] + bias[c];
    }
  }
}

class CpuTextEncoder final : public TextEncoder {
 public:
  CpuTextEncoder(const TextEncoderShape& shape, TextEncoderWeights weights, int threads)
      : ops_(DType::f32, threads), shape_(shape), weights_(std::move(weights)) {
    CHECK(shape.heads > 0 && shape.hidden % shape.heads == 0);
    for (TextEncoderWeights::Layer& layer : weights_.layers) {
      packed_.push_back({pack(layer.qkv), pack(layer.output), pack(layer.up), pack(layer.down)});
    }
    if (packed_.empty()) return;
    constexpr std::array<std::int64_t, 3> kCounts{1, 7, 31};
    const Layer& layer = packed_.front();
    for (const auto& product : {&layer.qkv, &layer.output, &layer.up, &layer.down})
      ops_.check_rows(**product, kCounts);
  }

  void encode(std::span<const std::int64_t> ids, std::span<const std::int64_t> boundaries,
              View states) override {
    const auto rows = static_cast<std::int64_t>(ids.size());
    CHECK(!boundaries.empty() && boundaries.front() == 0 && boundaries.back() == rows);
    CHECK(states.rows() == rows && states.columns() == shape_.hidden && states.dense());
    if (rows == 0) return;
    embed(ids, boundaries, states);
    Arena arena("activations");
    for (std::size_t i = 0; i < packed_.size(); ++i) {
      const Arena::Scope scope(arena);
      run(packed_[i], weights_.layers[i], boundaries, states, arena);
    }
  }

 private:
  struct Layer {
    std::unique_ptr<FrozenLinear> qkv, output, up, down;
  };

  /// Frees the weights, which the packed matrix replaces.
  std::unique_ptr<FrozenLinear> pack(Linear& linear) {
    auto packed = ops_.pack(linear.weight.view(), linear.bias.span<float>(), false);
    linear = {};
    return packed;
  }

  void embed(std::span<const std::int64_t> ids, std::span<const std::int64_t> boundaries, View x) {
    const float* type = weights_.type.row<float>(0);
    for (std::size_t text = 0; text + 1 < boundaries.size(); ++text) {
      CHECK_LE(boundaries[text + 1] - boundaries[text], weights_.positions.rows());
      for (std::int64_t r = boundaries[text]; r < boundaries[text + 1]; ++r) {
        const std::int64_t id = ids[static_cast<std::size_t>(r)];
        CHECK(id >= 0 && id < weights_.words.rows()) << id;
        const float* word = weights_.words.row<float>(id);
        const float* position = weights_.positions.row<float>(r - boundaries[text]);
        float* row = x.row<float>(r);
        for (std::int64_t c = 0; c < shape_.hidden; ++c) row[c] = word[c] + type[c] + position[c];
      }
    }
    layer_norm(x, weights_.embedding_norm, shape_.epsilon);
  }

  void run(const Layer& layer, const TextEncoderWeights::Layer& weights,
           std::span<const std::int64_t> boundaries, View x, Arena& arena) {
    const std::int64_t rows = x.rows(), hidden = shape_.hidden;
    const View qkv = arena.take(DType::f32, rows, 3 * hidden);
    ops_.linear(x, *layer.qkv, qkv);
    const View attended = arena.take(DType::f32, rows, hidden);
    ops_.segment_attention(qkv.column_range(0, hidden), qkv.column_range(hidden, hidden),
                           qkv.column_range(2 * hidden, hidden),
                           {shape_.heads, shape_.heads, hidden / shape_.heads}, boundaries, attended);
    ops_.linear(attended, *layer.output, x, true);
    layer_norm(x, weights.attention_norm, shape_.epsilon);
    const View wide = arena.take(DType::f32, rows, shape_.intermediate);
    ops_.linear(x, *layer.up, wide);
    const View activated = arena.take(DType::f32, rows, shape_.intermediate);
    ops_.gelu(wide, activated);
    ops_.linear(activated, *layer.down, x, true);
    layer_norm(x, weights.output_norm, shape_.epsilon);
  }

  CpuOps ops_;
  TextEncoderShape shape_;
  TextEncoderWeights weights_;
  std::vector<Layer> packed_;
};

}  // namespace
}  // namespace biqa::cpu

namespace biqa {

std::unique_ptr<TextEncoder> make_text_encoder(const TextEncoderShape& shape, TextEncoderWeights weights,
                                               int threads) {
  return std::make_unique<cpu::CpuTextEncoder>(shape, std::move(weights), threads);
}

}  // namespace biqa
