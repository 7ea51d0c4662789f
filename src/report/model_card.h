// SPDX-License-Identifier: Apache-2.0
// The texts that go beside exported weights: README.md, the model card of Hugging Face; run.json, the same facts for
// programs; config.yaml, from which biqa_score and biqa_eval take prompts and limits. They say only what the origin knows,
// and equal inputs give equal bytes.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/lora.h"
#include "report/adapter_origin.h"

namespace biqa {

enum class PackageKind : std::uint8_t {
  adapter,      ///< a PEFT folder
  merged_model  ///< the base model's files with the adapter merged in
};

/// Contents by file name: README.md, run.json and, if the configuration is known, config.yaml. `program`: version text of the exporting program. Throws Error if the
/// origin's configuration is no YAML.
std::map<std::string, std::string> package_texts(PackageKind kind, const AdapterOrigin& origin,
                                                 const Lora& lora, const std::string& program);

/// The parts of package_texts().
std::string model_card(PackageKind kind, const AdapterOrigin& origin, const Lora& lora,
                       const std::string& program);
/// docs/checkpoint-format.md describes the keys. Unknown values are null. `config` is JSON that load_config() reads.
std::string run_json(PackageKind kind, const AdapterOrigin& origin, const Lora& lora,
                     const std::string& program);
/// The text of config.yaml, for rating with the exported folder. load_config() reads relative paths from that folder.
/// Prompts, limits and number type are those of the training. The base model of a merged model is the folder itself.
/// Empty if the training's configuration is unknown.
std::string rating_config(PackageKind kind, const AdapterOrigin& origin);

/// The name of a base model. "owner/name" of the Hub stays as it is. A path becomes the name of its folder.
std::string model_name(const std::string& base_model);
/// The adapted modules, such as "q_proj".
std::vector<std::string> target_names(const Lora& lora);

}  // namespace biqa
