// SPDX-License-Identifier: Apache-2.0
// adapter_config.json: which modules an adapter of PEFT is for, with which ranks and scales.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "model/lora.h"

namespace biqa {

/// A module's path as PEFT sees it since transformers 4.52 and before: "model.visual.blocks.0.attn.qkv" and
/// "visual.blocks.0.attn.qkv".
struct ModulePath {
  std::string now, before;
};

class PeftConfig {
 public:
  /// Reads the file. Throws Error naming it and what stands in the way: a variant of LoRA that is not plain (DoRA, biases,
  /// saved modules, …), a missing or mistyped field. Warns of fields that are unknown.
  explicit PeftConfig(const std::filesystem::path& file);
  ~PeftConfig();
  PeftConfig(const PeftConfig&) = delete;
  PeftConfig& operator=(const PeftConfig&) = delete;

  /// r, lora_alpha, lora_dropout, use_rslora; no targets.
  const LoraSpec& spec() const { return spec_; }
  /// By rank_pattern and alpha_pattern. Throws Error where a rank is none.
  std::int64_t rank_of(const ModulePath& path) const;
  float scale_of(const ModulePath& path) const;

  /// False where an expression is beyond us: the keys of the file decide then which modules are adapted.
  bool names_are_known() const;
  /// By target_modules, exclude_modules, layers_to_transform and layers_pattern. Either spelling of the path may be
  /// included; `before` says by which one it is excluded.
  bool names(const ModulePath& path, bool before) const;
  /// target_modules is "all-linear": every linear layer but the head.
  bool all_linear() const;
  /// The head and the embedding share their adapter too (ensure_weight_tying).
  bool ties_weights() const { return ties_weights_; }

 private:
  struct Rules;
  LoraSpec spec_;
  bool ties_weights_ = false;
  std::unique_ptr<const Rules> rules_;
};

}  // namespace biqa
