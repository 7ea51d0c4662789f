// SPDX-License-Identifier: Apache-2.0
// adapter_config.json: the modules that a PEFT adapter adapts, with their ranks and scales.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "model/lora.h"

namespace biqa {

/// A module's path in PEFT since transformers 4.52 ("model.visual.blocks.0.attn.qkv") and before
/// ("visual.blocks.0.attn.qkv").
struct ModulePath {
  std::string now, before;
};

class PeftConfig {
 public:
  /// Reads the file. Throws Error naming it and the reason: a variant of LoRA (DoRA, biases, saved modules, …), or a
  /// missing or mistyped field. Warns of unknown fields.
  explicit PeftConfig(const std::filesystem::path& file);
  ~PeftConfig();
  PeftConfig(const PeftConfig&) = delete;
  PeftConfig& operator=(const PeftConfig&) = delete;

  /// r, lora_alpha, lora_dropout, use_rslora; no targets.
  const LoraSpec& spec() const { return spec_; }
  /// Rank and scale of a module, from rank_pattern and alpha_pattern. Throws Error if a rank is impossible.
  std::int64_t rank_of(const ModulePath& path) const;
  float scale_of(const ModulePath& path) const;

  /// False if a regular expression is not supported. Then the keys of the tensors decide which modules are adapted.
  bool names_are_known() const;
  /// Whether a module is adapted, from target_modules, exclude_modules, layers_to_transform and layers_pattern.
  /// Included names may match either path. For excluded names, `before` selects the path that is compared.
  bool names(const ModulePath& path, bool before) const;
  /// Whether target_modules is "all-linear": every linear layer except the head.
  bool all_linear() const;
  /// Whether head and embedding also share their adapter (ensure_weight_tying).
  bool ties_weights() const { return ties_weights_; }

 private:
  struct Rules;
  LoraSpec spec_;
  bool ties_weights_ = false;
  std::unique_ptr<const Rules> rules_;
};

}  // namespace biqa
