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

/// What a tensor's key says: `….layers.3.self_attn.q_proj.lora_A.weight`.
struct PeftKey {
  std::int64_t layer = 0;
  Projection projection = Projection::q;
  std::string
      frozen;  ///< the frozen module of a part on one (model/frozen_parts.h); the above mean nothing then
  char part = 'A';
  bool old_names = false;  ///< as before transformers 4.52; false where both are the same
};
/// nullopt for anything but the spellings that peft_key() gives, with an adapter's name behind lora_A or lora_B or without.
std::optional<PeftKey> parse_peft_key(const std::string& key);
/// Throws Error: a key of the adapter of `where` is none that parse_peft_key() knows.
[[noreturn]] void refuse_peft_key(const std::string& key, const std::string& where);

/// As much of a model's configuration as the tensors of an adapter (key to shape) give away: enough to read and to
/// compare adapters without the model. `text.layers` and `vision.depth` end with the last adapted one, though the model may
/// have more; widths that nothing uses are 0 or the usual ones. Throws Error, opening with `where`, for other keys and shapes that contradict each
/// other.
ModelConfig config_of_adapter(const std::map<std::string, std::vector<std::int64_t>>& shapes,
                              const std::string& where);
/// The shapes of PEFT's adapter_model.safetensors, in a folder or given itself, copies of the model's weights left out.
std::map<std::string, std::vector<std::int64_t>> read_peft_shapes(const std::filesystem::path& path);
/// base_model_name_or_path of an adapter's folder; empty where it has none.
std::string read_peft_base_model(const std::filesystem::path& path);

/// Reads an adapter from its folder or from the path of its adapter_model.safetensors (the configuration lies
/// beside it). The keys in the file decide which modules are adapted; ranks and scales follow r,
/// lora_alpha, rank_pattern, alpha_pattern and use_rslora. Key paths before and after transformers 4.52 are
/// taken. Parts on frozen modules become Lora::frozen. Throws Error naming what stands in the way: a variant of LoRA that
/// is not plain (DoRA, biases, saved modules, …), missing or unexpected keys, shapes of another model.
Lora read_peft(const std::filesystem::path& path, const ModelConfig& config);

/// Writes a folder that PEFT loads, in float32; it appears whole or not at all. An adapter folder that is
/// already there is replaced (its README.md stays), any other folder with something in it refused. `base_model` goes to
/// base_model_name_or_path; `old_names` writes the key paths that PEFT used before transformers 4.52.
void write_peft(const std::filesystem::path& directory, const Lora& lora, const std::string& base_model,
                bool old_names = false);

}  // namespace biqa
