// SPDX-License-Identifier: Apache-2.0
#include "model/peft.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <glog/logging.h>
#include <regex.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
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

namespace biqa {
namespace fs = std::filesystem;
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";
constexpr const char* kModelCard = "README.md";
constexpr std::string_view kKeyPrefix = "base_model.model.";
constexpr std::size_t kMaxPattern = 4096;
constexpr int kMaxGroups = 64;

// A projection by its place; the order is that of LoraLayout.
using Place = std::pair<std::int64_t, Projection>;

// "model.language_model.layers.3.self_attn.q_proj": the module path as PEFT sees it, now and before transformers 4.52.
std::string module_path(const Place& place, bool old_names) {
  LoraModule module;
  module.layer = place.first;
  module.projection = place.second;
  const std::string key = peft_key(module, 'A', old_names);
  return key.substr(kKeyPrefix.size(), key.rfind(".lora_A") - kKeyPrefix.size());
}

// ---- patterns ----

// A regular expression of Python that must match a whole text. Matched by the C library's automaton, which
// cannot run away as a backtracking matcher can, but has none of Python's look-around, counts and back-references.
class Pattern {
 public:
  // nullopt where the pattern uses more than literals, classes, groups, alternatives and * + ?.
  static std::optional<Pattern> compile(const std::string& python) {
    const auto translated = translate(python);
    if (!translated) return std::nullopt;
    auto compiled = std::make_unique<regex_t>();
    if (::regcomp(compiled.get(), ("^(" + *translated + ")$").c_str(), REG_EXTENDED | REG_NOSUB) != 0) {
      return std::nullopt;
    }
    Pattern pattern;
    pattern.compiled_.reset(compiled.release());
    return pattern;
  }
  bool matches(const std::string& text) const {
    return ::regexec(compiled_.get(), text.c_str(), 0, nullptr, 0) == 0;
  }

 private:
  struct Release {
    void operator()(regex_t* compiled) const {
      ::regfree(compiled);
      delete compiled;
    }
  };

  static std::optional<std::string> translate(const std::string& python) {
    if (python.empty() || python.size() > kMaxPattern) return std::nullopt;
    const auto is_one_of = [](char c, std::string_view set) { return c != '\0' && set.find(c) != set.npos; };
    std::string result;
    int groups = 0;
    for (std::size_t i = 0; i < python.size(); ++i) {
      const char c = python[i];
      const char next = i + 1 < python.size() ? python[i + 1] : '\0';
      if (c == '\\' && next == 'd') {
        result += "[0-9]";
        ++i;
      } else if (c == '\\' && next == '.') {
        result += "\\.";
        ++i;
      } else if (c == '(' && next == '?') {
        if (python.compare(i, 3, "(?:") != 0 || ++groups > kMaxGroups) return std::nullopt;
        result += '(';
        i += 2;
      } else if (std::isalnum(static_cast<unsigned char>(c)) != 0 || is_one_of(c, "_-.|()*+?^$[]")) {
        if (c == '(' && ++groups > kMaxGroups) return std::nullopt;
        if (is_one_of(c, "*+?") && is_one_of(next, "*+?")) return std::nullopt;  // lazy and possessive forms
        result += c;
      } else {
        return std::nullopt;
      }
    }
    return result;
  }

  std::unique_ptr<regex_t, Release> compiled_;
};

// ---- reading adapter_config.json ----

// rank_pattern or alpha_pattern: the first key that matches `(.*\.)?(key)` decides. PEFT writes the keys sorted.
class ValuePatterns {
 public:
  ValuePatterns(const JsonFields& fields, const std::string& key) {
    const auto patterns = fields.object(key);
    if (!patterns) return;
    for (const auto& [pattern, value] : fields.find(key)->items()) {
      const auto number = patterns->number(pattern);
      auto compiled = Pattern::compile("(.*\\.)?(" + pattern + ")");
      if (!number || !compiled) {
        fail(
            "cannot use the adapter of {}: {} has the key {} with {}; use plain module names or simple "
            "expressions, "
            "each with a number",
            fields.where(), key, shown(pattern), shown(value));
      }
      values_.emplace_back(std::move(*compiled), *number);
    }
  }
  double value_for(const Place& place, double otherwise) const {
    for (const auto& [pattern, value] : values_) {
      if (pattern.matches(module_path(place, false)) || pattern.matches(module_path(place, true)))
        return value;
    }
    return otherwise;
  }

 private:
  std::vector<std::pair<Pattern, double>> values_;
};

bool is_off(const nlohmann::json* value) {
  return value == nullptr || (value->is_boolean() && !value->get<bool>()) ||
         (value->is_structured() && value->empty());
}

// What plain LoRA does not have.
void refuse_variants(const JsonFields& fields) {
  const auto refuse = [&](const std::string& key, const char* why) {
    fail("cannot use the adapter of {}: {} is {}, and {}; train or convert it as plain LoRA", fields.where(),
         key, shown(*fields.find(key)), why);
  };
  if (!fields.has("peft_type")) fields.missing("peft_type");
  if (fields.text("peft_type") != "LORA") refuse("peft_type", "only LORA is supported");
  if (fields.text("bias").value_or("none") != "none") refuse("bias", "biases are not adapted here");
  static constexpr std::array<const char*, 18> kVariants{"use_dora",
                                                         "use_qalora",
                                                         "use_bdlora",
                                                         "lora_bias",
                                                         "modules_to_save",
                                                         "layer_replication",
                                                         "loftq_config",
                                                         "eva_config",
                                                         "corda_config",
                                                         "lora_ga_config",
                                                         "velora_config",
                                                         "arrow_config",
                                                         "kasa_config",
                                                         "monteclora_config",
                                                         "megatron_config",
                                                         "target_parameters",
                                                         "alora_invocation_tokens",
                                                         "trainable_token_indices"};
  for (const char* key : kVariants) {
    if (!is_off(fields.find(key))) refuse(key, "this variant is not supported");
  }
  const nlohmann::json* start = fields.find("init_lora_weights");
  if (start != nullptr && start->is_string()) {
    static constexpr std::array<std::string_view, 5> kBaseChanging{"pissa", "olora", "corda", "loftq",
                                                                   "lora_ga"};
    for (const std::string_view scheme : kBaseChanging) {
      if (start->get_ref<const std::string&>().compare(0, scheme.size(), scheme) == 0) {
        refuse("init_lora_weights", "this start changes the base weights");
      }
    }
  }
}

// New fields of a later PEFT may or may not change the meaning: they are ignored, but not silently.
void warn_of_unknown(const JsonFields& fields, const nlohmann::json& json) {
  static const std::set<std::string> kKnown{"peft_type",
                                            "task_type",
                                            "auto_mapping",
                                            "peft_version",
                                            "base_model_name_or_path",
                                            "revision",
                                            "inference_mode",
                                            "r",
                                            "target_modules",
                                            "exclude_modules",
                                            "lora_alpha",
                                            "lora_dropout",
                                            "fan_in_fan_out",
                                            "bias",
                                            "use_rslora",
                                            "modules_to_save",
                                            "init_lora_weights",
                                            "layers_to_transform",
                                            "layers_pattern",
                                            "rank_pattern",
                                            "alpha_pattern",
                                            "megatron_core",
                                            "qalora_group_size",
                                            "ensure_weight_tying"};
  for (const auto& [key, value] : json.items()) {
    if (kKnown.count(key) == 0 && !is_off(fields.find(key))) {
      LOG(WARNING) << fields.where() << ": " << shown(key) << " is unknown and ignored";
    }
  }
}

// Which modules the configuration names: target_modules, exclude_modules, layers_to_transform.
class Targets {
 public:
  explicit Targets(const JsonFields& fields) {
    if (!fields.has("target_modules")) fields.missing("target_modules");
    if (fields.find("target_modules")->is_string() && fields.text("target_modules") == "all-linear") {
      included_.everything = true;
    } else {
      included_ = Selection(fields, "target_modules");
    }
    if (fields.has("exclude_modules")) excluded_ = Selection(fields, "exclude_modules");
    if (const nlohmann::json* layers = fields.find("layers_to_transform"); layers != nullptr) {
      layers_ = layers->is_array() ? fields.integers("layers_to_transform")
                                   : std::vector<std::int64_t>{*fields.integer("layers_to_transform")};
    }
  }
  // False where an expression is beyond Pattern: the keys of the file decide then.
  bool known() const { return !included_.unknown && !excluded_.unknown; }
  bool matches(const Place& place) const {
    if (layers_ && std::find(layers_->begin(), layers_->end(), place.first) == layers_->end()) return false;
    // Either spelling of the path counts, whichever the keys of the file have.
    const std::string now = module_path(place, false), before = module_path(place, true);
    return (included_.matches(now) || included_.matches(before)) && !excluded_.matches(now) &&
           !excluded_.matches(before);
  }

 private:
  // A list of names, each matching a path's end, or an expression matching the whole path.
  struct Selection {
    bool everything = false, unknown = false;
    std::vector<std::string> names;
    std::optional<Pattern> pattern;

    Selection() = default;
    Selection(const JsonFields& fields, const std::string& key) {
      if (!fields.find(key)->is_string()) {
        names = *fields.texts(key);
        return;
      }
      pattern = Pattern::compile(*fields.text(key));
      unknown = !pattern;
      if (unknown) {
        LOG(WARNING) << fields.where() << ": the expression of " << key
                     << " cannot be checked against the keys; the keys decide";
      }
    }
    bool matches(const std::string& path) const {
      if (everything || (pattern && pattern->matches(path))) return true;
      return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
        return path == name || (path.size() > name.size() + 1 && path[path.size() - name.size() - 1] == '.' &&
                                path.compare(path.size() - name.size(), name.size(), name) == 0);
      });
    }
  };
  Selection included_, excluded_;
  std::optional<std::vector<std::int64_t>> layers_;
};

// ---- reading adapter_model.safetensors ----

struct Pair {
  const StoredTensor* a = nullptr;
  const StoredTensor* b = nullptr;
};

std::map<Place, Pair> collect_pairs(const Safetensors& file, const std::string& where, std::int64_t layers) {
  std::map<Place, Pair> pairs;
  for (const StoredTensor& tensor : file.tensors()) {
    const auto parsed = parse_peft_key(tensor.name);
    if (!parsed) {
      const bool vision = tensor.name.find("visual.") != std::string::npos;
      fail("cannot use the adapter of {}: the key {} {}; train it on the language model's projections only",
           where, shown(tensor.name),
           vision ? "adapts the vision tower, which is frozen here" : "is unexpected");
    }
    const Place place{parsed->layer, parsed->projection};
    if (place.first >= layers) {
      fail(
          "cannot use the adapter of {}: the key {} is for layer {}, but the model has {}; it belongs to "
          "another model",
          where, shown(tensor.name), place.first, layers);
    }
    if (!tensor.is_float()) {
      fail("cannot use the adapter of {}: tensor {} has the dtype {}; convert it to F32, BF16 or F16", where,
           shown(tensor.name), name_of(tensor.type));
    }
    const StoredTensor*& slot = parsed->part == 'A' ? pairs[place].a : pairs[place].b;
    if (slot != nullptr) {
      fail("cannot use the adapter of {}: the keys {} and {} are the same; remove one of them", where,
           shown(slot->name), shown(tensor.name));
    }
    slot = &tensor;
  }
  return pairs;
}

// Every module has both parts, and the file holds exactly the modules which the configuration names.
void check_complete(const std::map<Place, Pair>& pairs, const Targets& targets, const ModelConfig& config,
                    const std::string& where) {
  const auto missing = [&](const Place& place, const char* part) {
    fail("cannot use the adapter of {}: the key {}.{}.weight is missing; fetch the folder again", where,
         module_path(place, false), part);
  };
  for (const auto& [place, pair] : pairs) {
    if (pair.a == nullptr) missing(place, "lora_A");
    if (pair.b == nullptr) missing(place, "lora_B");
    if (targets.known() && !targets.matches(place)) {
      fail(
          "cannot use the adapter of {}: the key {} is unexpected, since target_modules does not name it; "
          "fetch the "
          "folder again",
          where, shown(pair.a->name));
    }
  }
  for (std::int64_t layer = 0; targets.known() && layer < config.text.layers; ++layer) {
    for (const Projection projection : kProjections) {
      const Place place{layer, projection};
      if (targets.matches(place) && pairs.count(place) == 0) missing(place, "lora_A");
    }
  }
  if (pairs.empty()) fail("cannot use the adapter of {}: it has no tensors; fetch the folder again", where);
}

void copy_part(const StoredTensor& tensor, std::int64_t rows, std::int64_t columns, std::span<float> target,
               const std::string& where) {
  if (tensor.shape != std::vector<std::int64_t>{rows, columns}) {
    fail(
        "cannot use the adapter of {}: tensor {} has the shape [{}], but the model and r ask for [{}, {}]; "
        "it belongs "
        "to another model or configuration",
        where, shown(tensor.name), fmt::join(tensor.shape, ", "), rows, columns);
  }
  tensor.copy_to(target);
  if (!std::all_of(target.begin(), target.end(), [](float value) { return std::isfinite(value); })) {
    fail("cannot use the adapter of {}: tensor {} holds values that are not finite; fetch or train it again",
         where, shown(tensor.name));
  }
}

// ---- writing ----

// As JSON has it in PEFT's own files: an integer where the number is one.
nlohmann::json number_of(double value) {
  const auto rounded = static_cast<std::int64_t>(std::llround(value));
  if (static_cast<double>(rounded) == value) return rounded;
  return value;
}

// The alpha that gives a module's scale again.
double alpha_of(const LoraModule& module, const LoraSpec& spec) {
  const double divisor =
      spec.rslora ? std::sqrt(static_cast<double>(module.rank)) : static_cast<double>(module.rank);
  const double exact = static_cast<double>(module.scale) * divisor;
  for (const double candidate : {spec.alpha, std::round(exact)}) {
    if (static_cast<float>(candidate / divisor) == module.scale) return candidate;
  }
  return exact;
}

// An expression where the same projections are adapted in every layer (a list of plain names would hit the
// vision tower's MLP too), else the modules' own paths.
nlohmann::json target_modules(const LoraLayout& layout, bool old_names) {
  std::set<Projection> projections;
  nlohmann::json paths = nlohmann::json::array();
  for (const LoraModule& module : layout.modules()) {
    projections.insert(module.projection);
    paths.push_back(module_path({module.layer, module.projection}, old_names));
  }
  if (paths.size() != projections.size() * static_cast<std::size_t>(layout.layers())) return paths;
  std::vector<std::string> names;
  for (const Projection projection : projections) {
    // "self_attn\.q_proj" out of the path's end.
    const std::string path = module_path({0, projection}, old_names);
    const std::size_t start = path.find(".0.") + 3;
    const std::size_t dot = path.find('.', start);
    names.push_back(fmt::format("{}\\.{}", path.substr(start, dot - start), path.substr(dot + 1)));
  }
  return fmt::format("{}\\.layers\\.\\d+\\.({})", old_names ? "model" : ".*language_model",
                     fmt::join(names, "|"));
}

nlohmann::json config_of(const LoraLayout& layout, const std::string& base_model, bool old_names) {
  const LoraSpec& spec = layout.spec();
  nlohmann::json ranks = nlohmann::json::object(), alphas = nlohmann::json::object();
  for (const LoraModule& module : layout.modules()) {
    const std::string path = module_path({module.layer, module.projection}, old_names);
    if (module.rank != spec.rank) ranks[path] = module.rank;
    if (const double alpha = alpha_of(module, spec); alpha != spec.alpha) alphas[path] = number_of(alpha);
  }
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
          {"target_modules", target_modules(layout, old_names)},
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

std::optional<PeftKey> parse_peft_key(const std::string& key) {
  constexpr std::string_view kLayers = ".layers.";
  const std::size_t layers = key.find(kLayers);
  if (layers == std::string::npos) return std::nullopt;
  PeftKey parsed;
  const auto number =
      std::from_chars(key.data() + layers + kLayers.size(), key.data() + key.size(), parsed.layer);
  if (number.ec != std::errc()) return std::nullopt;
  LoraModule module;
  module.layer = parsed.layer;
  for (const Projection projection : kProjections) {
    module.projection = parsed.projection = projection;
    for (const char part : {'A', 'B'}) {
      parsed.part = part;
      // Comparing with the only two spellings there are needs no rule of its own for zeros, signs and tails.
      if (key == peft_key(module, part, false) || key == peft_key(module, part, true)) return parsed;
    }
  }
  return std::nullopt;
}

ModelConfig config_of_adapter(const std::map<std::string, std::vector<std::int64_t>>& shapes,
                              const std::string& where) {
  constexpr std::int64_t kMaxLayers = 1 << 20;
  ModelConfig config;
  TextConfig& text = config.text;
  // Heads and their width matter to an adapter by their product only.
  text.head_dim = 1;
  for (const auto& [key, shape] : shapes) {
    const auto parsed = parse_peft_key(key);
    if (!parsed || parsed->layer >= kMaxLayers) {
      fail(
          "cannot use the adapter of {}: the key {} is unexpected; train it on the language model's "
          "projections only",
          where, shown(key));
    }
    if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1) {
      fail("cannot use the adapter of {}: tensor {} has the shape [{}] where a matrix is due; fetch it again",
           where, shown(key), fmt::join(shape, ", "));
    }
    const bool a = parsed->part == 'A';
    std::int64_t* width = &text.hidden;
    switch (parsed->projection) {
      case Projection::q:
        if (!a) width = &text.heads;
        break;
      case Projection::k:
      case Projection::v:
        if (!a) width = &text.kv_heads;
        break;
      case Projection::o:
        if (a) width = &text.heads;
        break;
      case Projection::gate:
      case Projection::up:
        if (!a) width = &text.intermediate;
        break;
      case Projection::down:
        if (a) width = &text.intermediate;
        break;
    }
    const std::int64_t given = a ? shape[1] : shape[0];
    if (*width != 0 && *width != given) {
      fail(
          "cannot use the adapter of {}: tensor {} has the shape [{}], which contradicts the others' width "
          "of {}; fetch "
          "it again",
          where, shown(key), fmt::join(shape, ", "), *width);
    }
    *width = given;
    text.layers = std::max(text.layers, parsed->layer + 1);
  }
  if (shapes.empty()) fail("cannot use the adapter of {}: it has no tensors; fetch it again", where);
  return config;
}

std::map<std::string, std::vector<std::int64_t>> read_peft_shapes(const fs::path& path) {
  std::map<std::string, std::vector<std::int64_t>> shapes;
  const Safetensors file = Safetensors::open(weights_of(path));
  for (const StoredTensor& tensor : file.tensors()) shapes.emplace(tensor.name, tensor.shape);
  return shapes;
}

std::string read_peft_base_model(const fs::path& path) {
  const fs::path config_path = weights_of(path).parent_path() / kConfigFile;
  const nlohmann::json json = read_json(config_path);
  return JsonFields(json, config_path.string()).text("base_model_name_or_path").value_or("");
}

Lora read_peft(const fs::path& path, const ModelConfig& config) {
  const fs::path weights_path = weights_of(path);
  const fs::path config_path = weights_path.parent_path() / kConfigFile;
  const std::string where = config_path.string();

  const nlohmann::json json = read_json(config_path);
  const JsonFields fields(json, where);
  refuse_variants(fields);
  warn_of_unknown(fields, json);
  LoraSpec spec;
  const LoraSpec peft_default{.rank = 8, .alpha = 8, .dropout = 0, .rslora = false, .targets = {}};
  spec.rank = fields.integer("r", 1, kMaxLoraRank).value_or(peft_default.rank);
  spec.alpha = fields.number("lora_alpha").value_or(peft_default.alpha);
  spec.dropout = fields.number("lora_dropout").value_or(peft_default.dropout);
  spec.rslora = fields.boolean("use_rslora").value_or(peft_default.rslora);
  if (!(spec.dropout >= 0 && spec.dropout < 1)) fields.refuse("lora_dropout", "a number in 0 … 1, below 1");
  const ValuePatterns ranks(fields, "rank_pattern"), alphas(fields, "alpha_pattern");
  const Targets targets(fields);

  const Safetensors file = Safetensors::open(weights_path);
  const std::map<Place, Pair> pairs = collect_pairs(file, weights_path.string(), config.text.layers);
  check_complete(pairs, targets, config, weights_path.string());

  std::vector<LoraModule> modules;
  spec.targets.clear();
  for (const auto& [place, pair] : pairs) {
    const double rank = ranks.value_for(place, static_cast<double>(spec.rank));
    if (!(rank >= 1 && rank <= static_cast<double>(kMaxLoraRank) && rank == std::floor(rank))) {
      fields.refuse("rank_pattern", fmt::format("ranks in 1 … {}", kMaxLoraRank));
    }
    LoraModule module;
    module.layer = place.first;
    module.projection = place.second;
    module.rank = static_cast<std::int64_t>(rank);
    const double scale = alphas.value_for(place, spec.alpha) / (spec.rslora ? std::sqrt(rank) : rank);
    module.scale = static_cast<float>(scale);
    modules.push_back(module);
    if (std::find(spec.targets.begin(), spec.targets.end(), place.second) == spec.targets.end()) {
      spec.targets.push_back(place.second);
    }
  }
  std::sort(spec.targets.begin(), spec.targets.end());
  Lora lora;
  // The shapes in the file bound what may be allocated.
  for (const LoraModule& module : modules) {
    const StoredTensor& a = *pairs.at({module.layer, module.projection}).a;
    if (a.shape.size() != 2 || a.shape[0] != module.rank) {
      fail(
          "cannot use the adapter of {}: tensor {} has the shape [{}], but r and rank_pattern give it the "
          "rank {}; it "
          "belongs to another configuration",
          weights_path.string(), shown(a.name), fmt::join(a.shape, ", "), module.rank);
    }
  }
  lora.layout = std::make_shared<const LoraLayout>(config, spec, std::move(modules));
  lora.values.resize(lora.layout->size());
  for (const LoraModule& module : lora.layout->modules()) {
    const Pair& pair = pairs.at({module.layer, module.projection});
    const std::span<float> values(lora.values);
    copy_part(*pair.a, module.rank, module.in,
              values.subspan(module.a_offset, static_cast<std::size_t>(module.rank * module.in)),
              weights_path.string());
    copy_part(*pair.b, module.out, module.rank,
              values.subspan(module.b_offset, static_cast<std::size_t>(module.out * module.rank)),
              weights_path.string());
  }
  return lora;
}

void write_peft(const fs::path& directory, const Lora& lora, const std::string& base_model, bool old_names) {
  std::vector<NamedTensor> tensors;
  for (const LoraModule& module : lora.layout->modules()) {
    const auto a = std::span(lora.a(module), static_cast<std::size_t>(module.rank * module.in));
    const auto b = std::span(lora.b(module), static_cast<std::size_t>(module.out * module.rank));
    tensors.push_back(
        {peft_key(module, 'A', old_names), StoredType::f32, {module.rank, module.in}, std::as_bytes(a)});
    tensors.push_back(
        {peft_key(module, 'B', old_names), StoredType::f32, {module.out, module.rank}, std::as_bytes(b)});
  }
  const bool replace = holds_only_an_adapter(directory);
  AtomicFolder folder(directory);
  write_file_atomically(folder.path() / kConfigFile, config_of(*lora.layout, base_model, old_names).dump(2));
  write_safetensors(folder.path() / kWeightsFile, tensors);
  if (const fs::path card = directory / kModelCard;
      replace && fs::exists(card))  // somebody may have written it
    fs::copy_file(card, folder.path() / kModelCard);
  folder.commit(replace);
}

}  // namespace biqa
