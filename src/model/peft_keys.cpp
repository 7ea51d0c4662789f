// SPDX-License-Identifier: Apache-2.0
// Names of an adapter's tensors, and the model's configuration that follows from their shapes.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/error.h"
#include "io/json.h"
#include "model/checkpoint.h"
#include "model/frozen_parts.h"
#include "model/peft.h"

namespace biqa {
namespace {

constexpr std::int64_t kMaxLayers = 1 << 20, kMaxBlocks = 1 << 12;
constexpr std::string_view kPrefix = "base_model.model.";

// Removes the adapter's name from a key: "….lora_A.default.weight" becomes "….lora_A.weight".
std::string without_adapter_name(const std::string& key) {
  constexpr std::string_view kWeight = ".weight";
  for (const std::string_view part : {".lora_A.", ".lora_B."}) {
    const std::size_t at = key.rfind(part);
    if (at == std::string::npos || !key.ends_with(kWeight)) continue;
    const std::size_t name = at + part.size();
    const std::size_t end = key.size() - kWeight.size();
    if (end <= name || key.find('.', name) != end) continue;
    return key.substr(0, name - 1) + std::string(kWeight);
  }
  return key;
}

// A width of the model, derived from one tensor after the other.
class Widths {
 public:
  explicit Widths(const std::string& where) : where_(where) {}
  void set(std::int64_t& width, std::int64_t given, const std::string& key,
           const std::vector<std::int64_t>& shape) const {
    if (width != 0 && width != given) {
      fail(
          "cannot use the adapter of {}: tensor {} has the shape [{}], but other tensors require the width "
          "{}; fetch it again",
          where_, shown(key), fmt::join(shape, ", "), width);
    }
    width = given;
  }

 private:
  const std::string& where_;
};

std::int64_t& width_of(TextConfig& text, Projection projection, bool a) {
  switch (projection) {
    case Projection::q:
      return a ? text.hidden : text.heads;
    case Projection::k:
    case Projection::v:
      return a ? text.hidden : text.kv_heads;
    case Projection::o:
      return a ? text.heads : text.hidden;
    case Projection::gate:
    case Projection::up:
      return a ? text.hidden : text.intermediate;
    case Projection::down:
      break;
  }
  return a ? text.intermediate : text.hidden;
}

// Accepts sizes that do not divide evenly. The later check of the shape against the configuration finds them.
void take_vision_widths(ModelConfig& config, const PeftKey& key, const std::string& name,
                        const std::vector<std::int64_t>& shape, const Widths& widths) {
  VisionConfig& vision = config.vision;
  const bool a = key.part == 'A';
  const std::int64_t given = a ? shape[1] : shape[0];
  const auto set = [&](std::int64_t& width, std::int64_t value) { widths.set(width, value, name, shape); };
  const auto ends = [&](std::string_view end) { return key.frozen.ends_with(end); };
  if (const auto block = block_of_module(key.frozen)) vision.depth = std::max(vision.depth, *block + 1);
  if (key.frozen == "lm_head") {
    set(a ? config.text.hidden : config.text.vocab, given);
  } else if (ends("patch_embed.proj")) {
    if (!a) {
      set(vision.hidden, given);
    } else if (shape.size() == 5) {
      vision.channels = shape[1];
      vision.temporal = shape[2];
      vision.patch = shape[3];
    }
  } else if (ends("attn.qkv")) {
    set(vision.hidden, a ? given : given / 3);
  } else if (ends("mlp.gate_proj") || ends("mlp.up_proj")) {
    set(a ? vision.hidden : vision.intermediate, given);
  } else if (ends("mlp.down_proj")) {
    set(a ? vision.intermediate : vision.hidden, given);
  } else if (ends("merger.mlp.2") && !a) {
    set(vision.out_hidden, given);
  } else if (key.frozen.starts_with("visual.merger.")) {
    set(vision.hidden, given / (vision.merge * vision.merge));
  } else {
    set(vision.hidden, given);
  }
}

}  // namespace

std::optional<PeftKey> parse_peft_key(const std::string& spelled) {
  const std::string key = without_adapter_name(spelled);
  if (!key.starts_with(kPrefix)) return std::nullopt;
  PeftKey parsed;
  constexpr std::string_view kLayers = ".layers.";
  if (const std::size_t layers = key.find(kLayers); layers != std::string::npos) {
    const auto number =
        std::from_chars(key.data() + layers + kLayers.size(), key.data() + key.size(), parsed.layer);
    if (number.ec != std::errc() || parsed.layer < 0) return std::nullopt;
    LoraModule module;
    module.layer = parsed.layer;
    for (const Projection projection : kProjections) {
      module.projection = parsed.projection = projection;
      for (const char part : {'A', 'B'}) {
        parsed.part = part;
        // Compares with the only two spellings. So zeros, signs and endings of the number need no rules of their own.
        for (const bool old_names : {false, true}) {
          parsed.old_names = old_names;
          if (key == peft_key(module, part, old_names)) return parsed;
        }
      }
    }
    return std::nullopt;
  }
  FrozenModule module;
  const std::size_t end = key.rfind(".lora_");
  if (end == std::string::npos || end < kPrefix.size()) return std::nullopt;
  module.name = canonical_name(key.substr(kPrefix.size(), end - kPrefix.size()));
  if (!is_frozen_module(module.name)) return std::nullopt;
  parsed.frozen = module.name;
  for (const char part : {'A', 'B'}) {
    parsed.part = part;
    for (const bool old_names : {false, true}) {
      parsed.old_names = old_names;
      if (key == peft_key(module, part, old_names)) return parsed;
    }
  }
  return std::nullopt;
}

ModelConfig config_of_adapter(const std::map<std::string, std::vector<std::int64_t>>& shapes,
                              const std::string& where) {
  ModelConfig config;
  // Only the product of the number of heads and their width matters to an adapter.
  config.text.head_dim = 1;
  config.vision.hidden = config.vision.intermediate = config.vision.depth = 0;
  const Widths widths(where);
  for (const auto& [key, shape] : shapes) {
    const auto parsed = parse_peft_key(key);
    if (!parsed || parsed->layer >= kMaxLayers || block_of_module(parsed->frozen).value_or(0) >= kMaxBlocks)
      refuse_peft_key(key, where);
    const bool convolution = parsed->frozen == "visual.patch_embed.proj";
    if (shape.size() != (convolution ? 5 : 2) ||
        !std::all_of(shape.begin(), shape.end(), [](std::int64_t size) { return size >= 1; })) {
      fail("cannot use the adapter of {}: tensor {} has the shape [{}], but must be a {}; fetch it again",
           where, shown(key), fmt::join(shape, ", "), convolution ? "convolution" : "matrix");
    }
    if (!parsed->frozen.empty()) {
      take_vision_widths(config, *parsed, key, shape, widths);
      continue;
    }
    const bool a = parsed->part == 'A';
    widths.set(width_of(config.text, parsed->projection, a), a ? shape[1] : shape[0], key, shape);
    config.text.layers = std::max(config.text.layers, parsed->layer + 1);
  }
  if (shapes.empty()) fail("cannot use the adapter of {}: it has no tensors; fetch it again", where);
  return config;
}

void refuse_peft_key(const std::string& key, const std::string& where) {
  fail(
      "cannot use the adapter of {}: the key {} is unexpected, since it is not a LoRA matrix of a linear "
      "layer of Qwen2.5-VL; merge the adapter with PEFT first (merge_and_unload) and give the merged model",
      where, shown(key));
}

}  // namespace biqa
