// SPDX-License-Identifier: Apache-2.0
// LoRA adapter folders as PEFT reads and writes them: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <filesystem>
#include <string>

#include "model/config.h"
#include "model/lora.h"

namespace biqa {

/// Reads an adapter from its folder or from the path of its adapter_model.safetensors (the configuration lies
/// beside it). The keys in the file decide which projections are adapted; ranks and scales follow r,
/// lora_alpha, rank_pattern, alpha_pattern and use_rslora. Key paths before and after transformers 4.52 are
/// taken. Throws Error naming what stands in the way: a variant of LoRA that is not plain (DoRA, biases,
/// saved modules, …), adapters outside the language model's projections, missing or unexpected keys, shapes
/// of another model.
Lora read_peft(const std::filesystem::path& path, const ModelConfig& config);

/// Writes a folder that PEFT loads, in float32; it appears whole or not at all. An adapter folder that is
/// already there is replaced, any other folder with something in it refused. `base_model` goes to
/// base_model_name_or_path; `old_names` writes the key paths that PEFT used before transformers 4.52.
void write_peft(const std::filesystem::path& directory, const Lora& lora, const std::string& base_model,
                bool old_names = false);

}  // namespace biqa
