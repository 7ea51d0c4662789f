// SPDX-License-Identifier: Apache-2.0
#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "io/json.h"

namespace biqa {
namespace fs = std::filesystem;
namespace {

// Far larger than in any real model, and small enough that no product of sizes overflows 64 bits.
constexpr std::int64_t kMaxWidth = std::int64_t{1} << 18;
constexpr std::int64_t kMaxLayers = std::int64_t{1} << 12;
constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 24;
constexpr std::int64_t kMaxPositions = std::int64_t{1} << 32;
constexpr std::int64_t kMaxVisionWidth = std::int64_t{1} << 15;
constexpr std::int64_t kMaxPatch = 256;
constexpr std::int64_t kMaxMerge = 16;
constexpr std::int64_t kMaxWindow = std::int64_t{1} << 16;
constexpr std::int64_t kMaxToken = kMaxVocabulary - 1;

// Defaults of transformers for fields that a file may omit.
constexpr double kDefaultTextEpsilon = 1e-5;
constexpr std::int64_t kDefaultMaxPosition = 32768;
constexpr std::int64_t kDefaultImageToken = 151655;
constexpr std::int64_t kDefaultVideoToken = 151656;
constexpr std::int64_t kDefaultVisionStart = 151652;
constexpr std::int64_t kDefaultVisionEnd = 151653;
constexpr std::int64_t kDefaultVisionPad = 151654;

// The two levels of config.json. `inner` is text_config if it exists, otherwise the top level again.
struct Levels {
  const JsonFields& outer;
  const JsonFields& inner;

  // A text field is read from text_config if it is present there and not null, otherwise from the top level.
  const JsonFields& holding(const std::string& key) const {
    return inner.has(key) || !outer.has(key) ? inner : outer;
  }
  std::int64_t size(const std::string& key, std::int64_t most) const {
    const auto value = holding(key).integer(key, 1, most);
    if (!value) inner.missing(key);
    return *value;
  }
  // Token ids: the top level first, because a nested copy may be outdated.
  std::optional<std::int64_t> token(const std::string& key) const {
    return (outer.has(key) ? outer : inner).integer(key, 0, kMaxToken);
  }
};

void require_text(const JsonFields& fields, const std::string& key,
                  std::initializer_list<const char*> allowed) {
  const auto value = fields.text(key);
  if (!value || std::find(allowed.begin(), allowed.end(), *value) != allowed.end()) return;
  std::string names;
  for (const char* name : allowed) names += (names.empty() ? "\"" : " or \"") + std::string(name) + "\"";
  fields.refuse(key, names);
}

std::optional<JsonFields> rope_of(const JsonFields& fields) {
  auto rope = fields.object("rope_parameters");
  return rope ? rope : fields.object("rope_scaling");
}

// Reads plain RoPE with M-RoPE sections in each of its spellings. Refuses any scaling of frequencies.
void read_text_rope(const Levels& levels, TextConfig& text) {
  auto rope = rope_of(levels.inner);
  if (!rope) rope = rope_of(levels.outer);
  if (!rope) levels.inner.missing("rope_scaling");
  require_text(*rope, "type", {"mrope", "default"});
  require_text(*rope, "rope_type", {"mrope", "default"});
  const auto sections = rope->integers("mrope_section");
  if (!sections) rope->missing("mrope_section");
  if (sections->size() != text.mrope_section.size()) {
    rope->refuse("mrope_section", "a list of three sizes (time, height, width)");
  }
  std::copy(sections->begin(), sections->end(), text.mrope_section.begin());
  auto theta = rope->number("rope_theta");
  if (!theta) theta = levels.holding("rope_theta").number("rope_theta");
  text.rope_theta = theta.value_or(text.rope_theta);
}

TextConfig read_text(const Levels& levels) {
  require_text(levels.holding("hidden_act"), "hidden_act", {"silu"});
  if (levels.holding("use_sliding_window").boolean("use_sliding_window").value_or(false)) {
    levels.holding("use_sliding_window")
        .refuse("use_sliding_window", "false (sliding windows are not supported)");
  }
  const JsonFields& typed = levels.holding("layer_types");
  for (const std::string& type : typed.texts("layer_types").value_or(std::vector<std::string>{})) {
    if (type != "full_attention") typed.refuse("layer_types", "\"full_attention\" throughout");
  }

  TextConfig text;
  text.hidden = levels.size("hidden_size", kMaxWidth);
  text.layers = levels.size("num_hidden_layers", kMaxLayers);
  text.heads = levels.size("num_attention_heads", kMaxWidth);
  text.kv_heads = levels.size("num_key_value_heads", kMaxWidth);
  text.intermediate = levels.size("intermediate_size", kMaxWidth);
  text.vocab = levels.size("vocab_size", kMaxVocabulary);
  text.head_dim = text.hidden / text.heads;
  const JsonFields& head = levels.holding("head_dim");
  if (const auto given = head.integer("head_dim"); given && *given != text.head_dim) {
    head.refuse("head_dim", fmt::format("hidden_size / num_attention_heads = {}", text.head_dim));
  }
  text.rms_eps =
      static_cast<float>(levels.holding("rms_norm_eps").number("rms_norm_eps").value_or(kDefaultTextEpsilon));
  text.max_position = levels.holding("max_position_embeddings")
                          .integer("max_position_embeddings", 1, kMaxPositions)
                          .value_or(kDefaultMaxPosition);
  // The two levels may differ. The model is tied if either is true.
  text.tied = levels.outer.boolean("tie_word_embeddings").value_or(false) ||
              levels.inner.boolean("tie_word_embeddings").value_or(false);
  read_text_rope(levels, text);
  return text;
}

// Files may leave out most fields (the 32B's do). The defaults of VisionConfig are the values of every released model.
VisionConfig read_vision(const JsonFields& fields, std::int64_t text_hidden) {
  require_text(fields, "hidden_act", {"silu"});
  VisionConfig vision;
  const auto take = [&](const char* key, std::int64_t& target, std::int64_t most) {
    target = fields.integer(key, 1, most).value_or(target);
  };
  take("hidden_size", vision.hidden, kMaxVisionWidth);
  take("depth", vision.depth, kMaxLayers);
  take("num_heads", vision.heads, kMaxVisionWidth);
  take("intermediate_size", vision.intermediate, kMaxWidth);
  vision.out_hidden = text_hidden;
  take("out_hidden_size", vision.out_hidden, kMaxWidth);
  take("patch_size", vision.patch, kMaxPatch);
  take("spatial_merge_size", vision.merge, kMaxMerge);
  take("temporal_patch_size", vision.temporal, kMaxPatch);
  take("window_size", vision.window, kMaxWindow);
  take("in_chans", vision.channels, kMaxPatch);
  take("in_channels", vision.channels, kMaxPatch);
  if (const auto blocks = fields.integers("fullatt_block_indexes")) vision.full_attention_blocks = *blocks;
  if (const auto rope = rope_of(fields)) {
    require_text(*rope, "rope_type", {"axial", "default"});
    vision.rope_theta = rope->number("rope_theta").value_or(vision.rope_theta);
  }
  return vision;
}

// One id or a list of ids.
std::vector<std::int64_t> end_tokens_of(const JsonFields& fields) {
  const nlohmann::json* value = fields.find("eos_token_id");
  if (value == nullptr) return {};
  const auto ids = value->is_array() ? *fields.integers("eos_token_id")
                                     : std::vector<std::int64_t>{*fields.integer("eos_token_id")};
  std::vector<std::int64_t> distinct;
  for (const std::int64_t id : ids) {
    if (std::find(distinct.begin(), distinct.end(), id) == distinct.end()) distinct.push_back(id);
  }
  return distinct;
}

void read_tokens(const Levels& levels, const std::optional<JsonFields>& generation, ModelConfig& config) {
  config.image_token = levels.token("image_token_id").value_or(kDefaultImageToken);
  config.video_token = levels.token("video_token_id").value_or(kDefaultVideoToken);
  config.vision_start = levels.token("vision_start_token_id").value_or(kDefaultVisionStart);
  config.vision_end = levels.token("vision_end_token_id").value_or(kDefaultVisionEnd);
  // No class of transformers reads this field, and transformers 5 may leave it out.
  config.vision_pad = levels.token("vision_token_id")
                          .value_or(kDefaultVisionPad < config.text.vocab ? kDefaultVisionPad : -1);

  if (generation) config.end_tokens = end_tokens_of(*generation);
  if (config.end_tokens.empty()) config.end_tokens = end_tokens_of(levels.outer);
  if (config.end_tokens.empty()) config.end_tokens = end_tokens_of(levels.inner);
  if (config.end_tokens.empty()) levels.inner.missing("eos_token_id");

  std::optional<std::int64_t> pad;
  if (generation) pad = generation->integer("pad_token_id", 0, kMaxToken);
  if (!pad) pad = levels.token("pad_token_id");
  if (!pad) pad = levels.token("bos_token_id");
  config.pad_token = pad.value_or(-1);
}

}  // namespace

ModelConfig ModelConfig::load(const fs::path& directory) {
  const fs::path path = directory / "config.json";
  const nlohmann::json json = read_json(path);
  const JsonFields outer(json, path.string());
  require_text(outer, "model_type", {"qwen2_5_vl"});
  if (outer.has("quantization_config"))
    fail(
        "cannot read {}: it has the key quantization_config, so the weights are quantised; give the "
        "unquantised model",
        path.string());

  const auto nested = outer.object("text_config");
  if (nested) require_text(*nested, "model_type", {"qwen2_5_vl_text", "qwen2_5_vl"});
  const Levels levels{outer, nested ? *nested : outer};
  ModelConfig config;
  config.text = read_text(levels);
  const auto vision = outer.object("vision_config");
  if (!vision) outer.missing("vision_config");
  config.vision = read_vision(*vision, config.text.hidden);

  const fs::path generation_path = directory / "generation_config.json";
  std::error_code ignored;
  if (fs::exists(generation_path, ignored)) {
    const nlohmann::json generation = read_json(generation_path);
    read_tokens(levels, JsonFields(generation, generation_path.string()), config);
  } else {
    read_tokens(levels, std::nullopt, config);
  }
  config.validate(path.string());
  return config;
}

void ModelConfig::validate(const std::string& where) const {
  const auto require = [&](bool possible, const std::string& why) {
    if (!possible) fail("cannot use the model of {}: {}; correct the configuration", where, why);
  };
  const auto positive = [&](const char* key, std::int64_t value, std::int64_t most) {
    require(value >= 1 && value <= most, fmt::format("{} is {}, not in 1 … {}", key, value, most));
  };
  const auto multiple = [&](const char* key, std::int64_t value, const char* of, std::int64_t divisor) {
    require(value % divisor == 0, fmt::format("{} {} is not a multiple of {} {}", key, value, of, divisor));
  };
  positive("hidden_size", text.hidden, kMaxWidth);
  positive("num_hidden_layers", text.layers, kMaxLayers);
  positive("num_attention_heads", text.heads, kMaxWidth);
  positive("num_key_value_heads", text.kv_heads, kMaxWidth);
  positive("intermediate_size", text.intermediate, kMaxWidth);
  positive("vocab_size", text.vocab, kMaxVocabulary);
  positive("max_position_embeddings", text.max_position, kMaxPositions);
  multiple("hidden_size", text.hidden, "num_attention_heads", text.heads);
  multiple("num_attention_heads", text.heads, "num_key_value_heads", text.kv_heads);
  require(text.head_dim == text.hidden / text.heads,
          fmt::format("the head size {} is not hidden_size / num_attention_heads", text.head_dim));
  require(text.head_dim % 2 == 0, fmt::format("the head size {} is odd", text.head_dim));
  std::int64_t sections = 0;
  for (const std::int64_t section : text.mrope_section) {
    require(section >= 0 && section <= text.head_dim, fmt::format("mrope_section holds {}", section));
    sections += section;
  }
  require(2 * sections == text.head_dim,
          fmt::format("the parts of mrope_section add up to {}, not to half the head size {}", sections,
                      text.head_dim));
  require(std::isfinite(text.rms_eps) && text.rms_eps > 0, fmt::format("rms_norm_eps is {}", text.rms_eps));
  require(std::isfinite(text.rope_theta) && text.rope_theta > 0,
          fmt::format("rope_theta is {}", text.rope_theta));

  positive("vision hidden_size", vision.hidden, kMaxVisionWidth);
  positive("vision depth", vision.depth, kMaxLayers);
  positive("vision num_heads", vision.heads, kMaxVisionWidth);
  positive("vision intermediate_size", vision.intermediate, kMaxWidth);
  positive("patch_size", vision.patch, kMaxPatch);
  positive("spatial_merge_size", vision.merge, kMaxMerge);
  positive("temporal_patch_size", vision.temporal, kMaxPatch);
  positive("window_size", vision.window, kMaxWindow);
  multiple("vision hidden_size", vision.hidden, "num_heads", vision.heads);
  require(vision.hidden / vision.heads % 4 == 0,
          fmt::format("the vision head size {} is not a multiple of 4, as two rotary axes require",
                      vision.hidden / vision.heads));
  require(vision.channels == 3, fmt::format("in_channels is {}, but images have 3", vision.channels));
  require(vision.out_hidden == text.hidden,
          fmt::format("vision out_hidden_size {} is not the text's hidden_size {}", vision.out_hidden,
                      text.hidden));
  require(vision.window / vision.merge / vision.patch >= 1,
          fmt::format("window_size {} is less than a merged patch of {}", vision.window,
                      vision.merge * vision.patch));
  for (const std::int64_t block : vision.full_attention_blocks) {
    require(block >= 0 && block < vision.depth,
            fmt::format("fullatt_block_indexes holds {}, but depth is {}", block, vision.depth));
  }
  require(std::isfinite(vision.rope_theta) && vision.rope_theta > 0,
          fmt::format("vision rope_theta is {}", vision.rope_theta));

  const auto token = [&](const char* key, std::int64_t id, std::int64_t least) {
    require(id >= least && id < text.vocab,
            fmt::format("{} {} is not below vocab_size {}", key, id, text.vocab));
  };
  token("image_token_id", image_token, 0);
  token("video_token_id", video_token, 0);
  token("vision_start_token_id", vision_start, 0);
  token("vision_end_token_id", vision_end, 0);
  token("vision_token_id", vision_pad, -1);
  token("pad_token_id", pad_token, -1);
  require(!end_tokens.empty(), "there is no eos_token_id");
  for (const std::int64_t id : end_tokens) token("eos_token_id", id, 0);
}

std::int64_t ModelConfig::layer_parameters() const {
  const std::int64_t kv = text.kv_heads * text.head_dim;
  const std::int64_t attention = 2 * text.hidden * text.hidden + text.hidden + 2 * (kv * text.hidden + kv);
  return attention + 3 * text.hidden * text.intermediate + 2 * text.hidden;
}

std::int64_t ModelConfig::vision_parameters() const {
  const std::int64_t h = vision.hidden, merged = h * vision.merge * vision.merge;
  const std::int64_t embedding = h * vision.channels * vision.temporal * vision.patch * vision.patch;
  const std::int64_t attention = 4 * h * h + 4 * h;
  const std::int64_t mlp = 3 * h * vision.intermediate + 2 * vision.intermediate + h;
  const std::int64_t merger = h + merged * merged + merged + vision.out_hidden * merged + vision.out_hidden;
  return embedding + vision.depth * (attention + mlp + 2 * h) + merger;
}

std::int64_t ModelConfig::total_parameters() const {
  const std::int64_t embedding = text.vocab * text.hidden * (text.tied ? 1 : 2);
  return embedding + text.layers * layer_parameters() + text.hidden + vision_parameters();
}

}  // namespace biqa
