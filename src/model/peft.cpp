// SPDX-License-Identifier: Apache-2.0
#include "model/peft.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "io/files.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/frozen_parts.h"
#include "model/peft_config.h"

namespace biqa {
namespace fs = std::filesystem;
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";
constexpr const char* kModelCard = "README.md";
constexpr std::string_view kKeyPrefix = "base_model.model.";

// A projection of a layer, in the order of LoraLayout.
using Place = std::pair<std::int64_t, Projection>;

// "model.language_model.layers.3.self_attn.q_proj" from "base_model.model.….lora_A.weight".
std::string path_of_key(const std::string& key) {
  return key.substr(kKeyPrefix.size(), key.rfind(".lora_A") - kKeyPrefix.size());
}
ModulePath path_of(const Place& place) {
  LoraModule module;
  module.layer = place.first;
  module.projection = place.second;
  return {path_of_key(peft_key(module, 'A', false)), path_of_key(peft_key(module, 'A', true))};
}
ModulePath path_of(const FrozenModule& module) {
  return {path_of_key(peft_key(module, 'A', false)), path_of_key(peft_key(module, 'A', true))};
}
std::string module_path(const Place& place, bool old_names) {
  ModulePath path = path_of(place);
  return old_names ? std::move(path.before) : std::move(path.now);
}

// ---- reading adapter_model.safetensors ----

struct Pair {
  const StoredTensor* a = nullptr;
  const StoredTensor* b = nullptr;
};

// A file's tensors by module.
struct Contents {
  std::map<Place, Pair> trained;
  std::map<std::string, Pair> frozen;
  std::vector<BaseCopy> copies;
  bool old_names = false;
};

Contents collect(const Safetensors& file, const std::string& where, const ModelConfig& config) {
  Contents contents;
  for (const StoredTensor& tensor : file.tensors()) {
    if (auto weight = copied_weight(tensor.name); weight && tensor.is_float()) {
      contents.copies.push_back({std::move(*weight), tensor});
      continue;
    }
    const auto parsed = parse_peft_key(tensor.name);
    if (!parsed) refuse_peft_key(tensor.name, where);
    const auto refuse_block = [&](const char* what, std::int64_t block, std::int64_t blocks) {
      fail(
          "cannot use the adapter of {}: the key {} is for {} {}, but the model has {}; it belongs to "
          "another "
          "model",
          where, shown(tensor.name), what, block, blocks);
    };
    if (parsed->frozen.empty() && parsed->layer >= config.text.layers)
      refuse_block("layer", parsed->layer, config.text.layers);
    if (const auto block = block_of_module(parsed->frozen); block && *block >= config.vision.depth)
      refuse_block("vision block", *block, config.vision.depth);
    if (!tensor.is_float()) {
      fail("cannot use the adapter of {}: tensor {} has the dtype {}; convert it to F32, BF16 or F16", where,
           shown(tensor.name), name_of(tensor.type));
    }
    Pair& pair = parsed->frozen.empty() ? contents.trained[{parsed->layer, parsed->projection}]
                                        : contents.frozen[parsed->frozen];
    const StoredTensor*& slot = parsed->part == 'A' ? pair.a : pair.b;
    if (slot != nullptr) {
      fail("cannot use the adapter of {}: the keys {} and {} are the same; remove one of them", where,
           shown(slot->name), shown(tensor.name));
    }
    slot = &tensor;
    contents.old_names = contents.old_names || parsed->old_names;
  }
  if (contents.trained.empty() && contents.frozen.empty())
    fail("cannot use the adapter of {}: it has no tensors; fetch the folder again", where);
  return contents;
}

// Checks that both parts are present and that the configuration names the module.
void check_pair(const ModulePath& path, const Pair& pair, const PeftConfig& settings, bool old_names,
                const std::string& where) {
  for (const auto& [tensor, part] : {std::pair(pair.a, "lora_A"), std::pair(pair.b, "lora_B")}) {
    if (tensor == nullptr)
      fail("cannot use the adapter of {}: the key {}.{}.weight is missing; fetch the folder again", where,
           path.now, part);
  }
  if (settings.names_are_known() && !settings.names(path, old_names)) {
    fail(
        "cannot use the adapter of {}: the key {} is unexpected, since target_modules does not name it; "
        "fetch "
        "the folder again",
        where, shown(pair.a->name));
  }
}

// Checks that every module has both parts, and that the file has exactly the modules that the configuration names.
void check_complete(const Contents& contents, const PeftConfig& settings, const ModelConfig& config,
                    const std::string& where) {
  const bool old_names = contents.old_names;
  for (const auto& [place, pair] : contents.trained)
    check_pair(path_of(place), pair, settings, old_names, where);
  for (const auto& [name, pair] : contents.frozen)
    check_pair(path_of(FrozenModule{name, {}}), pair, settings, old_names, where);
  if (!settings.names_are_known()) return;
  const auto missing = [&](const ModulePath& path) {
    fail("cannot use the adapter of {}: the key {}.lora_A.weight is missing; fetch the folder again", where,
         path.now);
  };
  for (std::int64_t layer = 0; layer < config.text.layers; ++layer) {
    for (const Projection projection : kProjections) {
      const ModulePath path = path_of(Place{layer, projection});
      if (settings.names(path, old_names) && contents.trained.count({layer, projection}) == 0) missing(path);
    }
  }
  // A user of the language model alone may have removed the tensors of the vision tower, but then all of them.
  std::vector<ModulePath> absent;
  for (const FrozenModule& module : frozen_modules(config)) {
    const ModulePath path = path_of(module);
    const bool vision = module.name.starts_with("visual.");
    if (settings.all_linear() && (!vision || module.shape.size() > 2)) continue;
    if (vision && settings.names(path, old_names) && contents.frozen.count(module.name) == 0)
      absent.push_back(path);
  }
  if (absent.empty()) return;
  const bool some = std::any_of(contents.frozen.begin(), contents.frozen.end(),
                                [](const auto& entry) { return entry.first.starts_with("visual."); });
  if (some) missing(absent.front());
  LOG(WARNING) << one_line(where) << ": target_modules names " << absent.size()
               << " modules of the vision tower for which the file has no tensors; the tower stays unchanged";
}

void check_shape(const StoredTensor& tensor, const std::vector<std::int64_t>& shape,
                 const std::string& where) {
  if (tensor.shape == shape) return;
  fail(
      "cannot use the adapter of {}: tensor {} has the shape [{}], but the model and r require [{}]; it "
      "belongs to another model or configuration",
      where, shown(tensor.name), fmt::join(tensor.shape, ", "), fmt::join(shape, ", "));
}

void copy_part(const StoredTensor& tensor, const std::vector<std::int64_t>& shape, std::span<float> target,
               const std::string& where) {
  check_shape(tensor, shape, where);
  tensor.copy_to(target);
  if (!std::all_of(target.begin(), target.end(), [](float value) { return std::isfinite(value); })) {
    fail("cannot use the adapter of {}: tensor {} holds values that are not finite; fetch or train it again",
         where, shown(tensor.name));
  }
}

void check_rank(const StoredTensor& a, std::int64_t rank, const std::string& where) {
  if (a.shape.size() >= 2 && a.shape[0] == rank) return;
  fail(
      "cannot use the adapter of {}: tensor {} has the shape [{}], but r and rank_pattern give it the rank "
      "{}; "
      "it belongs to another configuration",
      where, shown(a.name), fmt::join(a.shape, ", "), rank);
}

std::shared_ptr<const FrozenParts> read_frozen(const Safetensors& file, const Contents& contents,
                                               const PeftConfig& settings, const ModelConfig& config,
                                               const std::string& where) {
  if (contents.frozen.empty() && contents.copies.empty()) return nullptr;
  const auto parts = std::make_shared<FrozenParts>();
  if (!contents.copies.empty()) {
    parts->copies = contents.copies;
    parts->copies_file = file;
  }
  for (FrozenModule& module : frozen_modules(config)) {
    const auto found = contents.frozen.find(module.name);
    if (found == contents.frozen.end()) continue;
    if (module.name == "lm_head" && settings.ties_weights()) {
      fail(
          "cannot use the adapter of {}: ensure_weight_tying is on, so its part on lm_head changes the "
          "embeddings too; merge it with PEFT first (merge_and_unload) and give the merged model",
          where);
    }
    FrozenPart part;
    const ModulePath path = path_of(module);
    part.rank = settings.rank_of(path);
    part.scale = settings.scale_of(path);
    part.module = std::move(module);
    const auto read = [&](const StoredTensor& tensor, char half, std::vector<float>& values) {
      if (half == 'A') check_rank(tensor, part.rank, where);
      values.resize(tensor.shape == part.shape(half) ? static_cast<std::size_t>(tensor.elements()) : 0);
      copy_part(tensor, part.shape(half), values, where);
    };
    read(*found->second.a, 'A', part.a);
    read(*found->second.b, 'B', part.b);
    parts->parts.push_back(std::move(part));
  }
  CHECK_EQ(parts->parts.size(), contents.frozen.size());
  return parts;
}

// ---- writing ----

// A number as in PEFT's own files: an integer if it is a whole number.
nlohmann::json number_of(double value) {
  const auto rounded = static_cast<std::int64_t>(std::llround(value));
  if (static_cast<double>(rounded) == value) return rounded;
  return value;
}

// The alpha from which PEFT computes the module's scale.
double alpha_of(std::int64_t rank, float scale, const LoraSpec& spec) {
  const double divisor = spec.rslora ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank);
  const double exact = static_cast<double>(scale) * divisor;
  for (const double candidate : {spec.alpha, std::round(exact)}) {
    if (static_cast<float>(candidate / divisor) == scale) return candidate;
  }
  return exact;
}

// Returns an expression if the same projections are adapted in every layer and nothing else is. A list of plain names
// would also match the MLP of the vision tower. Otherwise returns the paths of all modules.
nlohmann::json target_modules(const LoraLayout& layout, std::span<const FrozenPart> parts, bool old_names) {
  std::set<Projection> projections;
  nlohmann::json paths = nlohmann::json::array();
  for (const LoraModule& module : layout.modules()) {
    projections.insert(module.projection);
    paths.push_back(module_path({module.layer, module.projection}, old_names));
  }
  for (const FrozenPart& part : parts)
    paths.push_back(old_names ? path_of(part.module).before : path_of(part.module).now);
  if (!parts.empty() || paths.size() != projections.size() * static_cast<std::size_t>(layout.layers()))
    return paths;
  std::vector<std::string> names;
  for (const Projection projection : projections) {
    // Takes "self_attn\.q_proj" from the end of the path.
    const std::string path = module_path({0, projection}, old_names);
    const std::size_t start = path.find(".0.") + 3;
    const std::size_t dot = path.find('.', start);
    names.push_back(fmt::format("{}\\.{}", path.substr(start, dot - start), path.substr(dot + 1)));
  }
  return fmt::format("{}\\.layers\\.\\d+\\.({})", old_names ? "model" : ".*language_model",
                     fmt::join(names, "|"));
}

nlohmann::json config_of(const LoraLayout& layout, std::span<const FrozenPart> parts,
                         const std::string& base_model, bool old_names) {
  const LoraSpec& spec = layout.spec();
  nlohmann::json ranks = nlohmann::json::object(), alphas = nlohmann::json::object();
  const auto note = [&](const ModulePath& module, std::int64_t rank, float scale) {
    const std::string& path = old_names ? module.before : module.now;
    if (rank != spec.rank) ranks[path] = rank;
    if (const double alpha = alpha_of(rank, scale, spec); alpha != spec.alpha)
      alphas[path] = number_of(alpha);
  };
  for (const LoraModule& module : layout.modules())
    note(path_of(Place{module.layer, module.projection}), module.rank, module.scale);
  for (const FrozenPart& part : parts) note(path_of(part.module), part.rank, part.scale);
  return {{"peft_type", "LORA"},
          {"task_type", "CAUSAL_LM"},
          {"base_model_name_or_path", base_model},
          {"inference_mode", true},
          {"r", spec.rank},
          {"lora_alpha", number_of(spec.alpha)},
          {"lora_dropout", spec.dropout},
          {"bias", "none"},
          {"use_rslora", spec.rslora},
          {"use_dora", false},
          {"fan_in_fan_out", false},
          {"init_lora_weights", true},
          {"target_modules", target_modules(layout, parts, old_names)},
          {"exclude_modules", nullptr},
          {"modules_to_save", nullptr},
          {"rank_pattern", ranks},
          {"alpha_pattern", alphas}};
}

// A folder that holds nothing but an adapter may be replaced by a newer one.
bool holds_only_an_adapter(const fs::path& directory) {
  std::error_code error;
  bool adapter = false;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name != kConfigFile && name != kWeightsFile && name != kModelCard) return false;
    adapter = adapter || name == kConfigFile;
  }
  return adapter && !error;
}

// An adapter is named by its folder or by its weights.
fs::path weights_of(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return path;
  if (!fs::exists(path / kWeightsFile, ignored)) {
    fail("cannot use the adapter of {}: it has no {}; save the adapter in safetensors format", path.string(),
         kWeightsFile);
  }
  return path / kWeightsFile;
}

}  // namespace

std::map<std::string, std::vector<std::int64_t>> read_peft_shapes(const fs::path& path) {
  std::map<std::string, std::vector<std::int64_t>> shapes;
  const Safetensors file = Safetensors::open(weights_of(path));
  for (const StoredTensor& tensor : file.tensors()) {
    if (!copied_weight(tensor.name)) shapes.emplace(tensor.name, tensor.shape);
  }
  return shapes;
}

std::string read_peft_base_model(const fs::path& path) {
  const fs::path config_path = weights_of(path).parent_path() / kConfigFile;
  const nlohmann::json json = read_json(config_path);
  return JsonFields(json, config_path.string()).text("base_model_name_or_path").value_or("");
}

Lora read_peft(const fs::path& path, const ModelConfig& config) {
  const fs::path weights_path = weights_of(path);
  const std::string where = weights_path.string();
  const PeftConfig settings(weights_path.parent_path() / kConfigFile);
  const Safetensors file = Safetensors::open(weights_path);
  const Contents contents = collect(file, where, config);
  check_complete(contents, settings, config, where);

  std::vector<LoraModule> modules;
  LoraSpec spec = settings.spec();
  for (const auto& [place, pair] : contents.trained) {
    LoraModule module;
    module.layer = place.first;
    module.projection = place.second;
    module.rank = settings.rank_of(path_of(place));
    module.scale = settings.scale_of(path_of(place));
    check_rank(*pair.a, module.rank, where);
    modules.push_back(module);
    if (std::find(spec.targets.begin(), spec.targets.end(), place.second) == spec.targets.end())
      spec.targets.push_back(place.second);
  }
  std::sort(spec.targets.begin(), spec.targets.end());
  Lora lora;
  lora.frozen = read_frozen(file, contents, settings, config, where);
  lora.layout = std::make_shared<const LoraLayout>(config, spec, std::move(modules));
  // Checks shapes before the allocation, so the file's own bytes limit the memory.
  for (const LoraModule& module : lora.layout->modules()) {
    const Pair& pair = contents.trained.at({module.layer, module.projection});
    check_shape(*pair.a, {module.rank, module.in}, where);
    check_shape(*pair.b, {module.out, module.rank}, where);
  }
  lora.values.resize(lora.layout->size());
  for (const LoraModule& module : lora.layout->modules()) {
    const Pair& pair = contents.trained.at({module.layer, module.projection});
    const std::span<float> values(lora.values);
    copy_part(*pair.a, {module.rank, module.in},
              values.subspan(module.a_offset, static_cast<std::size_t>(module.rank * module.in)), where);
    copy_part(*pair.b, {module.out, module.rank},
              values.subspan(module.b_offset, static_cast<std::size_t>(module.out * module.rank)), where);
  }
  return lora;
}

void write_peft(const fs::path& directory, const Lora& lora, const std::string& base_model, bool old_names,
                const std::map<std::string, std::string>& beside) {
  std::vector<NamedTensor> tensors;
  for (const LoraModule& module : lora.layout->modules()) {
    const auto a = std::span(lora.a(module), static_cast<std::size_t>(module.rank * module.in));
    const auto b = std::span(lora.b(module), static_cast<std::size_t>(module.out * module.rank));
    tensors.push_back(
        {peft_key(module, 'A', old_names), StoredType::f32, {module.rank, module.in}, std::as_bytes(a)});
    tensors.push_back(
        {peft_key(module, 'B', old_names), StoredType::f32, {module.out, module.rank}, std::as_bytes(b)});
  }
  const std::span<const FrozenPart> parts =
      lora.frozen == nullptr ? std::span<const FrozenPart>() : std::span(lora.frozen->parts);
  for (const FrozenPart& part : parts) {
    for (const char half : {'A', 'B'})
      tensors.push_back({peft_key(part.module, half, old_names), StoredType::f32, part.shape(half),
                         std::as_bytes(std::span(part.values(half)))});
  }
  const bool replace = holds_only_an_adapter(directory);
  AtomicFolder folder(directory);
  write_file_atomically(folder.path() / kConfigFile,
                        json_text(config_of(*lora.layout, parts, base_model, old_names), 2));
  write_safetensors(folder.path() / kWeightsFile, tensors);
  if (const fs::path card = directory / kModelCard;
      replace && fs::exists(card))  // somebody may have written it
    fs::copy_file(card, folder.path() / kModelCard);
  for (const auto& [name, content] : beside) write_file_atomically(folder.path() / name, content);
  folder.commit(replace);
}

}  // namespace biqa
