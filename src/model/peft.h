// SPDX-License-Identifier: Apache-2.0
// LoRA adapter folders as PEFT reads and writes them: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/lora.h"

namespace biqa {

/// The parsed key of a tensor, such as `….layers.3.self_attn.q_proj.lora_A.weight`.
struct PeftKey {
  std::int64_t layer = 0;
  Projection projection = Projection::q;
  std::string
      frozen;  ///< name of a frozen module (model/frozen_parts.h); layer and projection are unused then
  char part = 'A';
  bool old_names = false;  ///< as before transformers 4.52; false if both names are the same
};
/// Parses the keys that peft_key() returns; an adapter's name may follow lora_A or lora_B. nullopt for any other key.
std::optional<PeftKey> parse_peft_key(const std::string& key);
/// Throws the Error for a key in the adapter `where` that parse_peft_key() does not accept.
[[noreturn]] void refuse_peft_key(const std::string& key, const std::string& where);

/// Derives a model's configuration from the tensors of an adapter (key to shape). It is sufficient to read and compare
/// adapters without the model. `text.layers` and `vision.depth` count up to the last adapted layer or block; the model
/// may have more. Unused widths are 0 or the usual values. Throws Error beginning with `where` for other keys and for
/// contradicting shapes.
ModelConfig config_of_adapter(const std::map<std::string, std::vector<std::int64_t>>& shapes,
                              const std::string& where);
/// Shapes of the tensors in PEFT's adapter_model.safetensors, without copies of the model's weights. `path` is the file
/// or its folder.
std::map<std::string, std::vector<std::int64_t>> read_peft_shapes(const std::filesystem::path& path);
/// base_model_name_or_path of an adapter's folder; empty if there is none.
std::string read_peft_base_model(const std::filesystem::path& path);

/// Reads an adapter from its folder or from the path of its adapter_model.safetensors (adapter_config.json is in the
/// same folder). The keys in the file decide which modules are adapted. Ranks and scales follow from r, lora_alpha,
/// rank_pattern, alpha_pattern and use_rslora. Accepts key paths from before and after transformers 4.52. Parts on
/// frozen modules become Lora::frozen. Throws Error naming the reason: a variant of LoRA (DoRA, biases, saved modules,
/// …), missing or unexpected keys, or shapes of another model.
Lora read_peft(const std::filesystem::path& path, const ModelConfig& config);

/// Writes a folder that PEFT can load, in float32. It appears whole or not at all. An existing adapter folder is
/// replaced (its README.md stays). Any other folder that is not empty is an Error. `base_model`:
/// base_model_name_or_path. `old_names`: use the key paths from before transformers 4.52. `beside`: contents of further
/// files by name.
void write_peft(const std::filesystem::path& directory, const Lora& lora, const std::string& base_model,
                bool old_names = false, const std::map<std::string, std::string>& beside = {});

}  // namespace biqa
