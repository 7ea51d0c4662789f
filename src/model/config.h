// SPDX-License-Identifier: Apache-2.0
// Shapes and token ids of a Qwen2.5-VL checkpoint, read from config.json and generation_config.json.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace biqa {

struct TextConfig {
  std::int64_t hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, intermediate = 0, vocab = 0;
  float rms_eps = 1e-6F;
  double rope_theta = 1e6;
  std::array<std::int64_t, 3> mrope_section{};  ///< temporal, height, width; their sum is head_dim / 2
  std::int64_t max_position = 0;
  bool tied = false;  ///< as in config.json; if a head is stored nevertheless, Checkpoint::tied() decides
};

struct VisionConfig {
  std::int64_t hidden = 1280, depth = 32, heads = 16, intermediate = 3420, out_hidden = 0;
  std::int64_t patch = 14, merge = 2, temporal = 2, window = 112, channels = 3;
  std::vector<std::int64_t> full_attention_blocks{7, 15, 23, 31};
  double rope_theta = 10000.0;
  float rms_eps = 1e-6F;  ///< constant in transformers; the file's value is ignored
};

struct ModelConfig {
  TextConfig text;
  VisionConfig vision;
  std::int64_t image_token = -1, video_token = -1, vision_start = -1, vision_end = -1, vision_pad = -1;
  std::int64_t pad_token = -1;
  std::vector<std::int64_t> end_tokens;  ///< generation stops after any of these

  /// Reads DIR/config.json (flat, nested or both; vision_config may be partial) and, if present,
  /// DIR/generation_config.json. Throws Error for a missing or mistyped field and for impossible shapes, naming file,
  /// key, value and what is allowed.
  static ModelConfig load(const std::filesystem::path& directory);
  /// Throws Error naming the first impossible shape.
  void validate(const std::string& where) const;
  /// Number of parameters of one layer of the language model, of the vision tower with its merger, and of the whole
  /// model (a tied head counts once). Computed from the shapes.
  std::int64_t layer_parameters() const;
  std::int64_t vision_parameters() const;
  std::int64_t total_parameters() const;
};

}  // namespace biqa
