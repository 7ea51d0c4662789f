// SPDX-License-Identifier: Apache-2.0
#include "model/peft_config.h"

#include <fmt/format.h>
#include <glog/logging.h>
#include <regex.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "io/json.h"

namespace biqa {
namespace {

constexpr std::size_t kMaxPattern = 4096;
constexpr int kMaxGroups = 64;

// ---- patterns ----

// A Python regular expression that must match a whole text. The C library matches it with an automaton, whose time is
// bounded, unlike that of a backtracking matcher. It has no look-around, counts and back-references.
class Pattern {
 public:
  // nullopt if the pattern uses more than literals, classes, groups, alternatives and * + ?.
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
            "cannot use the adapter of {}: {} gives the key {} the value {}; use plain module names or "
            "simple expressions as keys, and numbers as values",
            fields.where(), key, shown(pattern), shown(value));
      }
      values_.emplace_back(std::move(*compiled), *number);
    }
  }
  double value_for(const ModulePath& path, double otherwise) const {
    for (const auto& [pattern, value] : values_) {
      if (pattern.matches(path.now) || pattern.matches(path.before)) return value;
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

// Refuses settings that plain LoRA does not have.
void refuse_variants(const JsonFields& fields) {
  const auto refuse = [&](const std::string& key, const char* why) {
    fail(
        "cannot use the adapter of {}: {} is {}, and {}; merge it with PEFT first (merge_and_unload) and "
        "give "
        "the merged model, or train plain LoRA",
        fields.where(), key, shown(*fields.find(key)), why);
  };
  if (!fields.has("peft_type")) fields.missing("peft_type");
  if (fields.text("peft_type") != "LORA") refuse("peft_type", "only LORA is supported");
  if (fields.text("bias").value_or("none") != "none") refuse("bias", "only bias \"none\" is supported");
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
        refuse("init_lora_weights", "this initialisation changes the base weights");
      }
    }
  }
}

// Fields of a later PEFT may change the meaning. They are ignored with a warning.
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
      LOG(WARNING) << one_line(fields.where()) << ": " << shown(key) << " is unknown and ignored";
    }
  }
}

// The number of the block that contains a path, as layers_to_transform counts. It is the first number between two dots
// after the name of a list. The name must be one of `lists`; any name counts if `lists` is empty.
std::optional<std::int64_t> block_of(const std::string& path, const std::vector<std::string>& lists) {
  std::size_t list_start = std::string::npos, start = 0;  // starts of the previous part and of this one
  for (std::size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', start)) {
    const std::string part = path.substr(start, dot - start);
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    if (number && list_start != std::string::npos) {
      const std::string list = path.substr(list_start, start - 1 - list_start);
      std::int64_t block = 0;
      const bool wanted =
          lists.empty() ? list_start > 0 : std::find(lists.begin(), lists.end(), list) != lists.end();
      if (wanted && std::from_chars(part.data(), part.data() + part.size(), block).ec == std::errc())
        return block;
    }
    list_start = start;
    start = dot + 1;
  }
  return std::nullopt;
}

// The modules that target_modules, exclude_modules, layers_to_transform and layers_pattern select.
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
      layers_ = layers->is_array() ? *fields.integers("layers_to_transform")
                                   : std::vector<std::int64_t>{*fields.integer("layers_to_transform")};
    }
    if (const nlohmann::json* lists = fields.find("layers_pattern"); lists != nullptr) {
      lists_ = lists->is_array() ? *fields.texts("layers_pattern")
                                 : std::vector<std::string>{*fields.text("layers_pattern")};
    }
    std::erase(lists_, "");
  }
  // False if Pattern does not support an expression. Then the keys of the file decide.
  bool known() const { return !included_.unknown && !excluded_.unknown; }
  bool everything() const { return included_.everything; }
  bool matches(const ModulePath& path, bool before) const {
    // A path is included in either spelling, whichever spelling the keys of the file have.
    return (includes(path.now) || includes(path.before)) &&
           !excluded_.matches(before ? path.before : path.now);
  }

 private:
  bool includes(const std::string& path) const {
    if (!included_.matches(path)) return false;
    if (layers_.empty() || included_.names_whole(path)) return true;
    const auto block = block_of(path, lists_);
    return block && std::find(layers_.begin(), layers_.end(), *block) != layers_.end();
  }

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
        LOG(WARNING) << one_line(fields.where()) << ": the expression of " << key
                     << " is not supported; the tensors in the file decide which modules are adapted";
      }
    }
    bool matches(const std::string& path) const {
      if (everything || (pattern && pattern->matches(path))) return true;
      return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
        return path == name || (path.size() > name.size() + 1 && path[path.size() - name.size() - 1] == '.' &&
                                path.compare(path.size() - name.size(), name.size(), name) == 0);
      });
    }
    bool names_whole(const std::string& path) const {
      return std::find(names.begin(), names.end(), path) != names.end();
    }
  };
  Selection included_, excluded_;
  std::vector<std::int64_t> layers_;
  std::vector<std::string> lists_;
};

}  // namespace

struct PeftConfig::Rules {
  explicit Rules(const JsonFields& fields)
      : where(fields.where()),
        ranks(fields, "rank_pattern"),
        alphas(fields, "alpha_pattern"),
        targets(fields) {}
  std::string where;
  ValuePatterns ranks, alphas;
  Targets targets;
};

PeftConfig::PeftConfig(const std::filesystem::path& file) {
  const nlohmann::json json = read_json(file);
  const JsonFields fields(json, file.string());
  refuse_variants(fields);
  warn_of_unknown(fields, json);
  const LoraSpec peft_default{.rank = 8, .alpha = 8, .dropout = 0, .rslora = false, .targets = {}};
  spec_.rank = fields.integer("r", 1, kMaxLoraRank).value_or(peft_default.rank);
  spec_.alpha = fields.number("lora_alpha").value_or(peft_default.alpha);
  spec_.dropout = fields.number("lora_dropout").value_or(peft_default.dropout);
  spec_.rslora = fields.boolean("use_rslora").value_or(peft_default.rslora);
  spec_.targets.clear();
  if (!(spec_.dropout >= 0 && spec_.dropout < 1))
    fields.refuse("lora_dropout", "a number of at least 0 and below 1");
  ties_weights_ = fields.boolean("ensure_weight_tying").value_or(false);
  rules_ = std::make_unique<const Rules>(fields);
}

PeftConfig::~PeftConfig() = default;

std::int64_t PeftConfig::rank_of(const ModulePath& path) const {
  const double rank = rules_->ranks.value_for(path, static_cast<double>(spec_.rank));
  if (!(rank >= 1 && rank <= static_cast<double>(kMaxLoraRank) && rank == std::floor(rank))) {
    fail("cannot use the adapter of {}: rank_pattern gives {} the rank {}; ranks are in 1 … {}",
         rules_->where, path.now, rank, kMaxLoraRank);
  }
  return static_cast<std::int64_t>(rank);
}

float PeftConfig::scale_of(const ModulePath& path) const {
  const auto rank = static_cast<double>(rank_of(path));
  const auto scale = static_cast<float>(rules_->alphas.value_for(path, spec_.alpha) /
                                        (spec_.rslora ? std::sqrt(rank) : rank));
  if (!std::isfinite(scale)) {
    fail(
        "cannot use the adapter of {}: lora_alpha or alpha_pattern gives {} the scale {}; give it a smaller "
        "alpha",
        rules_->where, path.now, scale);
  }
  return scale;
}

bool PeftConfig::names_are_known() const {
  return rules_->targets.known();
}
bool PeftConfig::names(const ModulePath& path, bool before) const {
  return rules_->targets.matches(path, before);
}
bool PeftConfig::all_linear() const {
  return rules_->targets.everything();
}

}  // namespace biqa
