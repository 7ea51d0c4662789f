// SPDX-License-Identifier: Apache-2.0
#include "model/qwen_vl.h"

#include <fmt/format.h>

#include <utility>

#include "model/checkpoint.h"
#include "model/frozen_parts.h"
#include "model/product_choices.h"
#include "model/vision_tower.h"

namespace biqa {
namespace {

DecoderWeights::Layer load_layer(const WeightLoader& load, std::int64_t index, bool backward) {
  const std::string name = fmt::format("model.layers.{}.", index);
  // The embeddings have no gradient, so the first layer's q, k and v need no input gradient.
  return {load.vector(name + "input_layernorm.weight"),
          load.vector(name + "post_attention_layernorm.weight"),
          load.linear({name + "self_attn.q_proj", name + "self_attn.k_proj", name + "self_attn.v_proj"}, true,
                      backward && index > 0),
          load.linear({name + "self_attn.o_proj"}, false, backward),
          load.linear({name + "mlp.gate_proj", name + "mlp.up_proj"}, false, backward),
          load.linear({name + "mlp.down_proj"}, false, backward)};
}

}  // namespace

HeadShape head_shape(const TextConfig& text) {
  return {text.heads, text.kv_heads, text.head_dim};
}

DecoderShape decoder_shape(const TextConfig& text) {
  return {text.layers,      text.hidden,  text.intermediate, text.vocab,
          head_shape(text), text.rms_eps, text.rope_theta,   text.mrope_section};
}

QwenVl::QwenVl(const std::filesystem::path& directory, std::shared_ptr<Ops> ops, Options options)
    : config_(ModelConfig::load(directory)), ops_(std::move(ops)) {
  const Checkpoint checkpoint = Checkpoint::open(directory, config_);
  const WeightLoader load(checkpoint, *ops_, options.arena, options.frozen, options.device);
  if (options.vision) vision_ = std::make_unique<VisionTower>(load, config_);
  DecoderWeights weights;
  Tensor embedding = load.matrix("model.embed_tokens.weight");
  for (std::int64_t i = 0; i < config_.text.layers; ++i)
    weights.layers.push_back(load_layer(load, i, options.backward));
  weights.final_norm = load.vector("model.norm.weight");
  // A part on the head of a tied model changes only the head, as in PEFT.
  const bool shared =
      checkpoint.tied() && (options.frozen == nullptr || options.frozen->find("lm_head") == nullptr);
  weights.head = shared ? load.pack("lm_head", embedding.const_view(), {}, options.backward)
                        : load.linear({"lm_head"}, false, options.backward);
  weights.embedding = load.in_memory_of_backend(std::move(embedding));
  decoder_ = ops_->make_decoder(decoder_shape(config_.text), std::move(weights));
  load.check_rows();  // the parts of the network have told the backend how they use the weights
  shapes_ = load.shapes();
}

QwenVl::~QwenVl() = default;

std::unique_ptr<QwenVl> QwenVl::load(const std::filesystem::path& directory, std::shared_ptr<Ops> ops,
                                     Options options) {
  return std::unique_ptr<QwenVl>(new QwenVl(directory, std::move(ops), options));
}

void QwenVl::check_rows() const {
  check_products(*ops_, shapes_, kCheckWithoutReading);
}

KvCache QwenVl::make_cache(std::int64_t pages, std::int64_t stored_layers) const {
  return {*decoder_, ops_->kv_layout(head_shape(config_.text)), pages, stored_layers};
}

Tensor QwenVl::encode_images(std::span<const ImagePatches> images, const Observer* observer) const {
  CHECK(vision_ != nullptr) << "loaded without the vision tower";
  return vision_->encode(images, *ops_, observer);
}

std::shared_ptr<const PackedAdapter> pack_adapter(const QwenVl& model, const Lora& lora) {
  DeviceMemory& memory = model.ops().memory();
  const ConstView host(lora.values.data(), 1, static_cast<std::int64_t>(lora.values.size()));
  if (memory.kind() != Memory::device) return model.decoder().pack_adapter(lora.layout->modules(), host);
  const Tensor flat = copied_to(memory, host, "adapter");
  return model.decoder().pack_adapter(lora.layout->modules(), flat.view());
}

}  // namespace biqa
