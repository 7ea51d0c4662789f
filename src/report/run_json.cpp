// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "io/json.h"
#include "io/yaml.h"
#include "model/frozen_parts.h"
#include "report/model_card.h"

namespace biqa {
namespace {

using Json = nlohmann::ordered_json;

Json json_of(const YamlNode& node) {
  switch (node.kind) {
    case YamlKind::null:
      return nullptr;
    case YamlKind::list: {
      Json list = Json::array();
      for (const YamlNode& child : node.children) list.push_back(json_of(child));
      return list;
    }
    case YamlKind::map: {
      Json map = Json::object();
      for (const YamlNode& child : node.children) map[child.key] = json_of(child);
      return map;
    }
    case YamlKind::scalar:
      break;
  }
  if (const std::optional<bool> value = yaml_boolean(node)) return *value;
  if (const std::optional<std::int64_t> value = yaml_integer(node)) return *value;
  if (const std::optional<double> value = yaml_number(node); value && std::isfinite(*value)) return *value;
  return node.text;
}

Json known(const std::string& text) {
  return text.empty() ? Json() : Json(text);
}
template <typename Number>
Json known(const std::optional<Number>& number) {
  return number ? Json(*number) : Json();
}

Json value_at(const Json& config, const char* section, const char* key) {
  const auto found = config.find(section);
  return found != config.end() && found->is_object() ? found->value(key, Json()) : Json();
}

Json json_of(const std::vector<EvalMetrics>& evaluations) {
  Json list = Json::array();
  for (const EvalMetrics& evaluation : evaluations) list.push_back(Json::parse(to_json_line(evaluation)));
  return list;
}

/// The folder of the base model: where the exporting program found it, otherwise where the training did. Empty: unknown.
std::string base_folder(const AdapterOrigin& origin, const Json& config) {
  std::error_code ignored;
  if (std::filesystem::is_directory(origin.base_model, ignored))
    return std::filesystem::absolute(origin.base_model).lexically_normal().string();
  const Json path = value_at(config, "model", "path");
  const std::string text = path.is_string() ? path.get<std::string>() : "";
  return std::filesystem::path(text).is_absolute() ? text : "";
}

}  // namespace

std::string rating_config(PackageKind kind, const AdapterOrigin& origin) {
  const Json config = json_of(parse_yaml(origin.config, "the recorded configuration"));
  if (!config.is_object()) return "";
  Json wanted;
  // A relative path starts at the exported folder.
  const std::string model = kind == PackageKind::merged_model ? "." : base_folder(origin, config);
  if (!model.empty()) wanted["model"]["path"] = model;
  // As recorded, also null.
  const auto take = [&](const char* section, const std::vector<std::string>& keys) {
    const auto values = config.find(section);
    if (values == config.end() || !values->is_object()) return;
    for (const std::string& key : keys)
      if (const auto value = values->find(key); value != values->end()) wanted[section][key] = *value;
  };
  take("model", {"dtype", "min_pixels", "max_pixels"});
  take("prompts", {"profile", "system", "user", "stage2_system", "stage2_user"});
  take("rollout", {"max_new_tokens", "stage2_max_new_tokens"});
  take("stage2", {"enabled", "input", "leak_guard"});
  std::string text = "# How the training asked the model. biqa_score and biqa_eval read this file.\n";
  for (const auto& [section, values] : wanted.items()) {
    text += section + ":\n";
    for (const auto& [key, value] : values.items())
      text += "  " + key + ": " + json_text(value) + "\n";  // JSON is YAML
  }
  return text;
}

std::string model_name(const std::string& base_model) {
  const std::filesystem::path path = std::filesystem::path(base_model).lexically_normal();
  std::error_code ignored;
  const bool is_path =
      path.is_absolute() || base_model.starts_with('.') || std::filesystem::exists(path, ignored);
  const auto parts = std::distance(path.begin(), path.end());
  if (!is_path && parts == 2 && path.has_filename()) return base_model;
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

std::vector<std::string> target_names(const Lora& lora) {
  std::vector<std::string> names;
  for (const Projection projection : lora.layout->spec().targets) names.emplace_back(name_of(projection));
  return names;
}

std::string run_json(PackageKind kind, const AdapterOrigin& origin, const Lora& lora,
                     const std::string& program) {
  const Json config = json_of(parse_yaml(origin.config, "the recorded configuration"));
  const LoraSpec& spec = lora.layout->spec();
  Json start = value_at(config, "model", "adapter");
  if (start.is_string() && start.get_ref<const std::string&>().empty()) start = nullptr;
  Json json{{"format", "biqa-run-1"},
            {"package", kind == PackageKind::adapter ? "adapter" : "merged model"},
            {"written_by", program}};
  json["run"] = known(origin.run);
  json["source"] = origin.source;
  json["step"] = known(origin.step);
  json["seed"] = value_at(config, "train", "seed");
  json["trained_by"] = known(origin.build);
  json["base_model"] = {{"name", known(model_name(origin.base_model))},
                        {"path", known(origin.base_model)},
                        {"weights_fingerprint", known(origin.base_weights)}};
  json["start_adapter"] = start;
  json["adapter"] = {{"version", known(origin.version)},
                     {"digest", digest_of(lora)},
                     {"file_xxh3", known(origin.file_digest)},
                     {"rank", spec.rank},
                     {"alpha", spec.alpha},
                     {"rslora", spec.rslora},
                     {"targets", target_names(lora)},
                     {"frozen_modules", lora.frozen == nullptr ? std::size_t{0} : lora.frozen->parts.size()}};
  json["data"] = {{"train", value_at(config, "data", "train")},
                  {"eval", value_at(config, "data", "eval")},
                  {"training_fingerprint", known(origin.training_data)}};
  json["evaluation"] = json_of(origin.last);
  json["best_evaluation"] = json_of(origin.best);
  json["config"] = config;
  return json_text(json, 2) + "\n";
}

}  // namespace biqa
