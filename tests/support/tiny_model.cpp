// SPDX-License-Identifier: Apache-2.0
#include "support/tiny_model.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

#include "io/safetensors.h"

namespace biqa::testing {
namespace {

constexpr std::int64_t kHidden = 64, kIntermediate = 96, kLayers = 3, kHeads = 4, kKvHeads = 2, kHeadDim = 16;
constexpr std::int64_t kVisionHidden = 32, kVisionIntermediate = 40, kVisionDepth = 3, kVisionHeads = 2;

/// Names and shapes are those of the format's documents, so that tests also check the loader against these.
class Weights {
 public:
  explicit Weights(std::uint64_t seed) : seed_(seed) {}
  /// Uniform around `middle`.
  void add(const std::string& name, std::vector<std::int64_t> shape, double middle, double size) {
    const auto count = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
    const RandomStream stream{seed_, hash_text(name)};
    auto& values = values_.emplace_back(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(middle + size * (2 * stream.uniform(i) - 1));
    }
    tensors_.push_back({name, StoredType::f32, std::move(shape), {}});
  }
  /// Scaled so that outputs have the magnitude of inputs.
  void add_linear(const std::string& name, std::int64_t out, std::int64_t in, bool bias) {
    add(name + ".weight", {out, in}, 0, std::sqrt(3.0 / static_cast<double>(in)));
    if (bias) add(name + ".bias", {out}, 0, 0.2);
  }
  void add_norm(const std::string& name, std::int64_t width) { add(name + ".weight", {width}, 1, 0.3); }
  void write(const std::filesystem::path& file) {
    for (std::size_t i = 0; i < tensors_.size(); ++i)
      tensors_[i].bytes = std::as_bytes(std::span(values_[i]));
    write_safetensors(file, tensors_);
  }

 private:
  std::uint64_t seed_;
  std::vector<std::vector<float>> values_;
  std::vector<NamedTensor> tensors_;
};

}  // namespace

const std::vector<std::int64_t>& TinyModel::placeholder_tokens() {
  static const std::vector<std::int64_t> tokens{90, 91, 92, 93, 94};
  return tokens;
}

TinyModel::TinyModel(bool tied, std::uint64_t seed) {
  const nlohmann::json config = {
      {"model_type", "qwen2_5_vl"},
      {"hidden_size", kHidden},
      {"intermediate_size", kIntermediate},
      {"num_hidden_layers", kLayers},
      {"num_attention_heads", kHeads},
      {"num_key_value_heads", kKvHeads},
      {"vocab_size", kVocabulary},
      {"rms_norm_eps", 1e-6},
      {"rope_theta", 10000.0},
      {"rope_scaling", {{"type", "mrope"}, {"mrope_section", {2, 3, 3}}}},
      {"max_position_embeddings", 512},
      {"tie_word_embeddings", tied},
      {"image_token_id", kImageToken},
      {"video_token_id", 91},
      {"vision_start_token_id", 92},
      {"vision_end_token_id", 93},
      {"vision_token_id", 94},
      {"eos_token_id", kEndToken},
      {"vision_config",
       {{"hidden_size", kVisionHidden},
        {"depth", kVisionDepth},
        {"num_heads", kVisionHeads},
        {"intermediate_size", kVisionIntermediate},
        {"out_hidden_size", kHidden},
        {"window_size", 56},
        {"fullatt_block_indexes", {1}}}},
  };
  folder_.write("config.json", config.dump(2));

  Weights weights(seed);
  weights.add("visual.patch_embed.proj.weight", {kVisionHidden, 3, 2, 14, 14}, 0,
              std::sqrt(3.0 / kPatchValues));
  for (std::int64_t i = 0; i < kVisionDepth; ++i) {
    const std::string block = fmt::format("visual.blocks.{}.", i);
    weights.add_norm(block + "norm1", kVisionHidden);
    weights.add_norm(block + "norm2", kVisionHidden);
    weights.add_linear(block + "attn.qkv", 3 * kVisionHidden, kVisionHidden, true);
    weights.add_linear(block + "attn.proj", kVisionHidden, kVisionHidden, true);
    weights.add_linear(block + "mlp.gate_proj", kVisionIntermediate, kVisionHidden, true);
    weights.add_linear(block + "mlp.up_proj", kVisionIntermediate, kVisionHidden, true);
    weights.add_linear(block + "mlp.down_proj", kVisionHidden, kVisionIntermediate, true);
  }
  weights.add_norm("visual.merger.ln_q", kVisionHidden);
  weights.add_linear("visual.merger.mlp.0", 4 * kVisionHidden, 4 * kVisionHidden, true);
  weights.add_linear("visual.merger.mlp.2", kHidden, 4 * kVisionHidden, true);

  weights.add("model.embed_tokens.weight", {kVocabulary, kHidden}, 0,
              1 / std::sqrt(static_cast<double>(kHidden) / 8));
  for (std::int64_t i = 0; i < kLayers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    weights.add_norm(layer + "input_layernorm", kHidden);
    weights.add_norm(layer + "post_attention_layernorm", kHidden);
    weights.add_linear(layer + "self_attn.q_proj", kHeads * kHeadDim, kHidden, true);
    weights.add_linear(layer + "self_attn.k_proj", kKvHeads * kHeadDim, kHidden, true);
    weights.add_linear(layer + "self_attn.v_proj", kKvHeads * kHeadDim, kHidden, true);
    weights.add_linear(layer + "self_attn.o_proj", kHidden, kHeads * kHeadDim, false);
    weights.add_linear(layer + "mlp.gate_proj", kIntermediate, kHidden, false);
    weights.add_linear(layer + "mlp.up_proj", kIntermediate, kHidden, false);
    weights.add_linear(layer + "mlp.down_proj", kHidden, kIntermediate, false);
  }
  weights.add_norm("model.norm", kHidden);
  if (!tied) weights.add_linear("lm_head", kVocabulary, kHidden, false);
  weights.write(path() / "model.safetensors");
}

}  // namespace biqa::testing
