// SPDX-License-Identifier: Apache-2.0
#include "config/config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <sstream>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/names.h"
#include "io/yaml.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

constexpr std::array kDTypes{Named<DType>{"bf16", DType::bf16}, Named<DType>{"f32", DType::f32}};
constexpr std::array kProjectionNames{
    Named<Projection>{"q_proj", Projection::q},       Named<Projection>{"k_proj", Projection::k},
    Named<Projection>{"v_proj", Projection::v},       Named<Projection>{"o_proj", Projection::o},
    Named<Projection>{"gate_proj", Projection::gate}, Named<Projection>{"up_proj", Projection::up},
    Named<Projection>{"down_proj", Projection::down}};
constexpr std::array kStage2Inputs{Named<Stage2Input>{"caption", Stage2Input::caption},
                                   Named<Stage2Input>{"caption+reasoning", Stage2Input::caption_reasoning}};
constexpr std::array kLeakGuards{Named<LeakGuard>{"off", LeakGuard::off},
                                 Named<LeakGuard>{"strip", LeakGuard::strip},
                                 Named<LeakGuard>{"penalise", LeakGuard::penalise}};
constexpr std::array kRougeKinds{Named<RougeKind>{"precision", RougeKind::precision},
                                 Named<RougeKind>{"recall", RougeKind::recall},
                                 Named<RougeKind>{"f1", RougeKind::f1}};
constexpr std::array kRougeSpans{Named<RougeSpan>{"whole", RougeSpan::whole},
                                 Named<RougeSpan>{"caption", RougeSpan::caption},
                                 Named<RougeSpan>{"before_rating", RougeSpan::before_rating}};
constexpr std::array kPredictionShapes{Named<PredictionShape>{"cosine", PredictionShape::cosine},
                                       Named<PredictionShape>{"binary", PredictionShape::binary}};
constexpr std::array kSchedules{Named<Schedule>{"linear", Schedule::linear},
                                Named<Schedule>{"cosine", Schedule::cosine},
                                Named<Schedule>{"constant", Schedule::constant}};
using Word = Named<std::string_view>;
constexpr std::array kDevices{Word{"cpu", "cpu"}, Word{"cuda", "cuda"}};
constexpr std::array kDecodings{Word{"greedy", "greedy"}, Word{"sampled", "sampled"}};
constexpr std::array kBestMetrics{Word{"caption_plcc", "caption_plcc"}, Word{"caption_srcc", "caption_srcc"},
                                  Word{"image_plcc", "image_plcc"},     Word{"image_srcc", "image_srcc"},
                                  Word{"rouge1_p", "rouge1_p"},         Word{"rouge1_r", "rouge1_r"},
                                  Word{"rouge1_f", "rouge1_f"},         Word{"none", "none"}};
constexpr std::array kSaveSignals{Word{"SIGUSR1", "SIGUSR1"}, Word{"SIGUSR2", "SIGUSR2"},
                                  Word{"SIGHUP", "SIGHUP"}, Word{"none", "none"}};
constexpr std::array kPlacements{Named<bool>{"split", false}, Named<bool>{"colocated", true}};

constexpr std::int64_t kMany = 1000000000;
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

/// What a number may be: finite in any case; `above` leaves the lower bound itself out, `or_zero` adds 0. Much of the
/// arithmetic is f32, where 1e-38 has no reciprocal and 1e-46 is 0: so both ends are within what it can bear.
struct Bounds {
  double least = 0, most = 0;
  bool above = false, or_zero = false;

  bool hold(double x) const { return (or_zero && x == 0) || ((above ? x > least : x >= least) && x <= most); }
  std::string text() const {
    return fmt::format("{}a number {} {} and at most {}", or_zero ? "0 or " : "",
                       above ? "above" : "of at least", least, most);
  }
};

std::string joined(const std::vector<std::string>& words, std::string_view between = ", ") {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : std::string(between)) + word;
  return text;
}

YamlNode unquoted(YamlNode node) {
  node.quoted = false;
  return node;
}

std::string shown(const YamlNode& node) {
  switch (node.kind) {
    case YamlKind::null:
      return "nothing";
    case YamlKind::list:
      return "a list";
    case YamlKind::map:
      return "a map";
    case YamlKind::scalar:
      break;
  }
  constexpr std::size_t kLongest = 60;
  const std::string text = node.text.size() > kLongest ? node.text.substr(0, kLongest) + "…" : node.text;
  // Text in quotes looks right to whoever wrote it.
  const bool stands_for_more = node.quoted && (yaml_boolean(unquoted(node)) || yaml_number(unquoted(node)));
  return "'" + text + "'" + (stands_for_more ? " in quotes" : "");
}

[[noreturn]] void refuse(const YamlNode& node, const std::string& key, const std::string& expected) {
  fail_usage("cannot use {} at {}: {} is not {}; correct the value", key, node.where, shown(node), expected);
}

std::int64_t read_integer(const YamlNode& node, const std::string& key, std::int64_t least,
                          std::int64_t most) {
  const std::optional<std::int64_t> value = yaml_integer(node);
  if (!value || *value < least || *value > most) {
    refuse(node, key, fmt::format("a whole number from {} to {}", least, most));
  }
  return *value;
}

double read_number(const YamlNode& node, const std::string& key, const Bounds& bounds) {
  const std::optional<double> value = yaml_number(node);
  if (!value || !bounds.hold(*value)) refuse(node, key, bounds.text());
  return *value;
}

std::string read_text(const YamlNode& node, const std::string& key) {
  if (node.kind != YamlKind::scalar)
    refuse(node, key, "text (quote it where it holds ': ' or starts with a sign)");
  return node.text;
}

template <typename Rows>
auto read_choice(const YamlNode& node, const std::string& key, const Rows& choices) {
  std::vector<std::string> names;
  for (const auto& choice : choices) {
    if (node.kind == YamlKind::scalar && node.text == choice.name) return choice.value;
    names.emplace_back(choice.name);
  }
  refuse(node, key, "one of " + joined(names));
}

// A single value stands for a list of one.
std::span<const YamlNode> items_of(const YamlNode& node, const std::string& key, const char* of_what) {
  if (node.kind == YamlKind::scalar) return {&node, 1};
  if (node.kind != YamlKind::list) refuse(node, key, std::string("a list of ") + of_what);
  return node.children;
}

fs::path absolute_from(const fs::path& base, const std::string& text) {
  if (text.empty()) return {};
  fs::path path = (base / text).lexically_normal();
  return path.has_filename() || !path.has_relative_path() ? path : path.parent_path();
}

// One key of the configuration: how it is read into its member and written from it.
struct Field {
  std::string section, key;
  std::function<void(const YamlNode&, const std::string& full)> read;
  std::function<std::string()> write;

  std::string full() const { return section.empty() ? key : section + "." + key; }
};

// The table of keys over the members of one Config; its helpers decide type and range.
class Fields {
 public:
  explicit Fields(fs::path base) : base_(std::move(base)) {}
  std::vector<Field> take() { return std::move(fields_); }

  void section(const char* name) { section_ = name; }

  template <typename Int>
  void integer(const char* key, Int& value, std::int64_t least, std::int64_t most) {
    add(
        key,
        [&value, least, most](const YamlNode& node, const std::string& full) {
          value = static_cast<Int>(read_integer(node, full, least, most));
        },
        [&value] { return fmt::format("{}", value); });
  }
  void number(const std::string& key, double& value, Bounds bounds) {
    add(
        key,
        [&value, bounds](const YamlNode& node, const std::string& full) {
          value = read_number(node, full, bounds);
        },
        [&value] { return fmt::format("{}", value); });
  }
  void optional_number(const char* key, std::optional<double>& value, Bounds bounds) {
    add(
        key,
        [&value, bounds](const YamlNode& node, const std::string& full) {
          value.reset();
          if (node.kind != YamlKind::null) value = read_number(node, full, bounds);
        },
        [&value] { return value ? fmt::format("{}", *value) : "null"; });
  }
  void boolean(const char* key, bool& value) {
    add(
        key,
        [&value](const YamlNode& node, const std::string& full) {
          const std::optional<bool> given = yaml_boolean(node);
          if (!given) refuse(node, full, "true or false");
          value = *given;
        },
        [&value] { return value ? "true" : "false"; });
  }
  /// `table`: rows with a name and a value, which outlive this.
  template <typename T, typename Table>
  void choice(const char* key, T& value, const Table& table) {
    const std::span rows(table);
    add(
        key,
        [&value, rows](const YamlNode& node, const std::string& full) {
          value = read_choice(node, full, rows);
        },
        [&value, rows] { return row_of(rows, value).name; });
  }
  template <typename T, typename Table>
  void choices(const char* key, std::vector<T>& values, const Table& table) {
    const std::span rows(table);
    add(
        key,
        [&values, rows](const YamlNode& node, const std::string& full) {
          values.clear();
          for (const YamlNode& item : items_of(node, full, "names")) {
            values.emplace_back(read_choice(item, full, rows));
            if (std::count(values.begin(), values.end(), values.back()) > 1) {
              refuse(item, full, "new in the list (it stands there twice)");
            }
          }
          if (values.empty()) refuse(node, full, "a list of at least one name");
        },
        [&values, rows] {
          std::vector<std::string> names;
          names.reserve(values.size());
          for (const T& value : values) names.emplace_back(row_of(rows, value).name);
          return "[" + joined(names) + "]";
        });
  }
  void text(const char* key, std::string& value) {
    add(
        key, [&value](const YamlNode& node, const std::string& full) { value = read_text(node, full); },
        [&value] { return yaml_quoted(value); });
  }
  void optional_text(const char* key, std::optional<std::string>& value) {
    add(
        key,
        [&value](const YamlNode& node, const std::string& full) {
          value.reset();
          if (node.kind != YamlKind::null) value = read_text(node, full);
        },
        [&value] { return value ? yaml_quoted(*value) : "null"; });
  }
  void path(const char* key, fs::path& value) { path(key, value, base_); }
  void path(const char* key, fs::path& value, const fs::path& base) {
    add(
        key,
        [&value, base](const YamlNode& node, const std::string& full) {
          value = node.kind == YamlKind::null ? fs::path() : absolute_from(base, read_text(node, full));
        },
        [&value] { return yaml_quoted(value.string()); });
  }
  void paths(const char* key, std::vector<fs::path>& values) {
    add(
        key,
        [&values, base = base_](const YamlNode& node, const std::string& full) {
          values.clear();
          for (const YamlNode& item : items_of(node, full, "paths")) {
            values.push_back(absolute_from(base, read_text(item, full)));
            if (values.back().empty()) refuse(item, full, "a path");
          }
        },
        [&values] {
          std::vector<std::string> texts;
          texts.reserve(values.size());
          for (const fs::path& value : values) texts.push_back(yaml_quoted(value.string()));
          return "[" + joined(texts) + "]";
        });
  }
  void integers(const char* key, std::vector<std::int64_t>& values, std::int64_t least, std::int64_t most) {
    add(
        key,
        [&values, least, most](const YamlNode& node, const std::string& full) {
          values.clear();
          for (const YamlNode& item : items_of(node, full, "whole numbers")) {
            values.push_back(read_integer(item, full, least, most));
          }
        },
        [&values] { return fmt::format("[{}]", fmt::join(values, ", ")); });
  }
  void size(const char* key, std::uint64_t& value, std::uint64_t least) {
    add(
        key,
        [&value, least](const YamlNode& node, const std::string& full) {
          std::optional<std::uint64_t> bytes;
          if (node.kind == YamlKind::scalar) bytes = parse_size(node.text);
          if (const auto plain = yaml_integer(node); !bytes && plain && *plain >= 0)
            bytes = static_cast<std::uint64_t>(*plain);
          if (!bytes || *bytes < least) {
            refuse(node, full,
                   fmt::format("a size of at least {}, such as 512MiB or 4GiB", size_text(least)));
          }
          value = *bytes;
        },
        [&value] { return size_text(value); });
  }
  void add(const std::string& key, std::function<void(const YamlNode&, const std::string&)> read,
           std::function<std::string()> write) {
    fields_.push_back({section_, key, std::move(read), std::move(write)});
  }
  const fs::path& base() const { return base_; }

 private:
  fs::path base_;
  std::string section_;
  std::vector<Field> fields_;
};

void read_roles(const YamlNode& node, const std::string& full, RoleConfig& roles) {
  const bool colocated = roles.colocated;
  roles = RoleConfig{};
  roles.colocated = colocated;
  if (node.kind == YamlKind::scalar && node.text == "auto") return;
  if (node.kind != YamlKind::map) refuse(node, full, "auto or {actors: A, rewards: R, learners: L}");
  roles.automatic = false;
  constexpr std::int64_t kMostRanks = 1000000;
  for (const YamlNode& child : node.children) {
    const std::string key = full + "." + child.key;
    if (child.key == "actors") {
      roles.actors = static_cast<int>(read_integer(child, key, 1, kMostRanks));
    } else if (child.key == "rewards") {
      roles.rewards = static_cast<int>(read_integer(child, key, 0, kMostRanks));
    } else if (child.key == "learners") {
      roles.learners = static_cast<int>(read_integer(child, key, 1, kMostRanks));
    } else {
      fail_usage(
          "unknown key {} at {}: roles is auto or {{actors: A, rewards: R, learners: L}}; remove or rename "
          "it",
          key, child.where);
    }
  }
  for (const char* name : {"actors", "learners"}) {
    if (node.find(name) == nullptr) refuse(node, full, fmt::format("complete: '{}' is missing", name));
  }
}

// The one list of sections and keys, in the order of docs/configuration.md.
std::vector<Field> fields_of(Config& c, const fs::path& base) {
  Fields f(base);
  constexpr double kLarge = 1e6, kHuge = 1e9;
  const Bounds share{0, 1}, weight{0, kLarge}, decay{0, 0.999999};

  f.section("model");
  f.path("path", c.model.path);
  f.path("adapter", c.model.adapter);
  f.choice("dtype", c.model.dtype, kDTypes);
  f.choice("device", c.model.device, kDevices);
  f.integer("max_pixels", c.model.max_pixels, 1, kMany);
  f.integer("min_pixels", c.model.min_pixels, 1, kMany);
  f.integer("threads", c.model.threads, 0, 4096);

  f.section("lora");
  f.integer("rank", c.lora.rank, 1, 4096);
  f.number("alpha", c.lora.alpha, {1e-6, kLarge});
  f.number("dropout", c.lora.dropout, {0, 0.99});
  f.boolean("rslora", c.lora.rslora);
  f.choices("targets", c.lora.targets, kProjectionNames);

  f.section("data");
  f.path("train", c.data.train);
  f.paths("eval", c.data.eval);
  f.number("annotation_fraction", c.data.annotation_fraction, share);
  f.boolean("skip_bad", c.data.skip_bad);

  f.section("prompts");
  f.add(
      "profile",
      [&prompts = c.prompts](const YamlNode& node, const std::string& full) {
        if (node.kind != YamlKind::scalar || (node.text != "paper" && node.text != "released")) {
          refuse(node, full, "one of paper, released");
        }
        prompts.profile = node.text;
        prompts.texts = default_prompts(named_profile(node.text));
      },
      [&prompts = c.prompts] { return prompts.profile; });
  f.optional_text("system", c.prompts.texts.system);
  f.text("user", c.prompts.texts.user);
  f.optional_text("stage2_system", c.prompts.texts.stage2_system);
  f.text("stage2_user", c.prompts.texts.stage2_user);

  f.section("rollout");
  f.integer("group_size", c.rollout.group_size, 1, 4096);
  f.integer("images_per_step", c.rollout.images_per_step, 1, 1000000);
  f.number("temperature", c.rollout.temperature, {0.01, 100});
  f.integer("top_k", c.rollout.top_k, 0, kMany);
  f.number("top_p", c.rollout.top_p, {0, 1, true});
  f.integer("max_new_tokens", c.rollout.max_new_tokens, 1, 131072);
  f.integer("stage2_max_new_tokens", c.rollout.stage2_max_new_tokens, 1, 131072);
  f.size("kv_memory", c.rollout.kv_memory, kMiB);
  f.integer("policy_lag", c.rollout.policy_lag, 0, 1000);

  f.section("stage2");
  f.boolean("enabled", c.stage2.enabled);
  f.choice("input", c.stage2.input, kStage2Inputs);
  f.boolean("train", c.stage2.train);
  f.choice("leak_guard", c.stage2.leak_guard, kLeakGuards);

  f.section("rewards");
  for (std::size_t i = 0; i < rewards().size(); ++i)
    f.number(std::string(rewards()[i].name), c.rewards.weights[i], weight);
  f.number("tolerance", c.rewards.tolerance, {1e-6, kLarge});
  f.choice("rouge", c.rewards.rouge, kRougeKinds);
  f.choice("rouge_span", c.rewards.rouge_span, kRougeSpans);
  f.choice("prediction_shape", c.rewards.prediction_shape, kPredictionShapes);
  f.number("floor", c.rewards.floor, share);

  f.section("objective");
  f.choice("loss", c.objective.loss.loss, losses());
  f.choice("advantage", c.objective.advantage.kind, kAdvantageNames);
  f.choice("advantage_scale", c.objective.advantage.scale, kAdvantageScaleNames);
  f.number("clip_low", c.objective.loss.clip_low, share);
  f.number("clip_high", c.objective.loss.clip_high, {0, kHuge});
  f.choice("kl", c.objective.loss.kl, kKlNames);
  f.number("beta", c.objective.loss.beta, weight);
  f.optional_number("ratio_cap", c.objective.loss.ratio_cap, {1, kHuge});
  f.optional_number("off_policy_mask", c.objective.loss.off_policy_mask, {0, kHuge, true});
  f.boolean("drop_zero_variance", c.objective.drop_zero_variance);
  f.boolean("mask_truncated", c.objective.mask_truncated);
  f.integer("updates_per_rollout", c.objective.updates_per_rollout, 1, 1000);
  f.integer("micro_batch_tokens", c.objective.micro_batch_tokens, 1, kMany);
  f.boolean("recompute_layers", c.objective.recompute_layers);

  f.section("optimizer");
  f.number("lr", c.optimizer.lr, {1e-15, 1, false, true});
  f.choice("schedule", c.optimizer.schedule, kSchedules);
  f.integer("warmup_steps", c.optimizer.warmup_steps, 0, kMany);
  f.number("beta1", c.optimizer.adamw.beta1, decay);
  f.number("beta2", c.optimizer.adamw.beta2, decay);
  f.number("eps", c.optimizer.adamw.eps, {1e-20, 1});
  f.number("weight_decay", c.optimizer.adamw.weight_decay, {0, 100});
  f.number("max_grad_norm", c.optimizer.max_grad_norm, {1e-9, kHuge, false, true});

  f.section("train");
  f.integer("epochs", c.train.epochs, 1, 1000000);
  f.integer("steps", c.train.steps, 0, kMany);
  f.integer("seed", c.train.seed, 0, std::numeric_limits<std::int64_t>::max());
  f.path("out", c.train.out, fs::current_path());
  f.integers("dump_steps", c.train.dump_steps, 1, kMany);
  f.integer("eval_every", c.train.eval_every, 0, kMany);
  f.choices("eval_decodings", c.train.eval_decodings, kDecodings);
  f.integer("eval_images", c.train.eval_images, 0, kMany);
  f.integer("samples_per_step", c.train.samples_per_step, 0, kMany);
  f.boolean("progress", c.train.progress);

  f.section("checkpoint");
  f.integer("every", c.checkpoint.every, 0, kMany);
  f.integer("keep", c.checkpoint.keep, 0, kMany);
  f.choice("best", c.checkpoint.best, kBestMetrics);
  f.add(
      "resume",
      [&resume = c.checkpoint.resume, base](const YamlNode& node, const std::string& full) {
        resume = read_text(node, full);
        if (resume.empty()) refuse(node, full, "auto, never or the path of a checkpoint");
        if (resume != "auto" && resume != "never") resume = absolute_from(base, resume).string();
      },
      [&resume = c.checkpoint.resume] { return yaml_quoted(resume); });
  f.choice("save_signal", c.checkpoint.save_signal, kSaveSignals);

  f.section("");
  f.add(
      "roles",
      [&roles = c.roles](const YamlNode& node, const std::string& full) { read_roles(node, full, roles); },
      [&roles = c.roles] {
        if (roles.automatic) return std::string("auto");
        return fmt::format("{{actors: {}, rewards: {}, learners: {}}}", roles.actors, roles.rewards,
                           roles.learners);
      });
  f.choice("placement", c.roles.colocated, kPlacements);
  return f.take();
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t change = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, change});
    }
  }
  return row[b.size()];
}

std::string_view last_part(std::string_view key) {
  return key.substr(key.find_last_of('.') + 1);
}

[[noreturn]] void refuse_unknown(const YamlNode& node, const std::string& full,
                                 const std::vector<Field>& fields) {
  std::vector<std::string> candidates, siblings;
  const std::string section = full.substr(0, full.find('.'));
  for (const Field& field : fields) {
    if (candidates.empty() || candidates.back().rfind(field.section + ".", 0) != 0) {
      if (!field.section.empty()) candidates.push_back(field.section);
    }
    candidates.push_back(field.full());
    if (field.section == section) siblings.push_back(field.key);
  }
  // A right name in a wrong section is one step away.
  const auto distance = [&](const std::string& candidate) {
    return std::min(edit_distance(full, candidate), edit_distance(last_part(full), last_part(candidate)) + 1);
  };
  const std::string& nearest =
      *std::min_element(candidates.begin(), candidates.end(),
                        [&](const auto& a, const auto& b) { return distance(a) < distance(b); });
  if (siblings.empty()) {
    for (const Field& field : fields) {
      const std::string& name = field.section.empty() ? field.key : field.section;
      if (siblings.empty() || siblings.back() != name) siblings.push_back(name);
    }
    fail_usage("unknown key {} at {}: the nearest is {}; rename or remove it (keys: {})", full, node.where,
               nearest, joined(siblings));
  }
  fail_usage("unknown key {} at {}: the nearest is {}; rename or remove it (keys of {}: {})", full,
             node.where, nearest, section, joined(siblings));
}

void set_where(YamlNode& node, const std::string& where) {
  node.where = where;
  for (YamlNode& child : node.children) set_where(child, where);
}

YamlNode& child_of(YamlNode& map, const std::string& key, const std::string& where) {
  if (map.kind != YamlKind::map) {
    map.kind = YamlKind::map;
    map.children.clear();
  }
  if (YamlNode* child = map.find(key)) return *child;
  YamlNode child;
  child.key = key;
  child.where = where;
  map.children.push_back(std::move(child));
  return map.children.back();
}

// Keys that have another name now. The old one still works.
struct OldName {
  std::string_view section, old, now;
};
constexpr std::array kOldNames{OldName{"rollout", "max_policy_lag", "policy_lag"}};

void rename_old_keys(YamlNode& root) {
  for (const OldName& name : kOldNames) {
    YamlNode* section = root.find(name.section);
    YamlNode* node = section == nullptr ? nullptr : section->find(name.old);
    if (node == nullptr) continue;
    if (section->find(name.now) != nullptr) {
      fail_usage("cannot use {}.{} at {}: it is the old name of {}, which is given too; remove it",
                 name.section, name.old, node->where, name.now);
    }
    node->key = name.now;
  }
}

// "section.old" as "section.now"; any other text as it is.
std::string with_new_name(const std::string& key) {
  for (const OldName& name : kOldNames) {
    if (key == fmt::format("{}.{}", name.section, name.old))
      return fmt::format("{}.{}", name.section, name.now);
  }
  return key;
}

void apply_override(YamlNode& root, const std::string& text) {
  const std::size_t equals = text.find('=');
  const std::string key = with_new_name(text.substr(0, equals));
  if (equals == std::string::npos || key.empty() || key.front() == '.' || key.back() == '.') {
    fail_usage("cannot use --set {}: it is not KEY=VALUE; write for example --set optimizer.lr=1e-5", text);
  }
  const std::string where = "--set " + key;
  YamlNode value = parse_yaml(text.substr(equals + 1), where);
  YamlNode* node = &root;
  for (std::size_t begin = 0; begin <= key.size();) {
    const std::size_t end = std::min(key.find('.', begin), key.size());
    node = &child_of(*node, key.substr(begin, end - begin), where);
    begin = end + 1;
  }
  value.key = node->key;
  set_where(value, where);
  *node = std::move(value);
}

// Reads every key that the tree holds; everything else in it is unknown.
void read_tree(const YamlNode& root, const std::vector<Field>& fields) {
  if (root.kind == YamlKind::null) return;
  if (root.kind != YamlKind::map) {
    fail_usage(
        "cannot use configuration {}: it is {} where sections such as `model:` should be; see "
        "docs/configuration.md",
        root.where, shown(root));
  }
  const auto known = [&](std::string_view section, std::string_view key) {
    return std::any_of(fields.begin(), fields.end(),
                       [&](const Field& f) { return f.section == section && (key.empty() || f.key == key); });
  };
  for (const YamlNode& node : root.children) {
    if (known("", node.key) && !node.key.empty()) continue;
    if (node.key.empty() || !known(node.key, "")) refuse_unknown(node, node.key, fields);
    if (node.kind == YamlKind::null) continue;
    if (node.kind != YamlKind::map) refuse(node, node.key, "a section of `key: value` lines");
    for (const YamlNode& child : node.children) {
      if (child.key.empty() || !known(node.key, child.key))
        refuse_unknown(child, node.key + "." + child.key, fields);
    }
  }
  for (const Field& field : fields) {
    const YamlNode* section = field.section.empty() ? &root : root.find(field.section);
    const YamlNode* node = section == nullptr ? nullptr : section->find(field.key);
    if (node != nullptr) field.read(*node, field.full());
  }
}

// What the papers of single losses chose; a value that the configuration gives stays.
void set_defaults_of_loss(ObjectiveSettings& objective, const YamlNode& root) {
  const YamlNode* section = root.find("objective");
  const auto given = [&](std::string_view key) {
    return section != nullptr && section->find(key) != nullptr;
  };
  const LossRow& loss = row_of(objective.loss.loss);
  if (!given("clip_high")) objective.loss.clip_high = loss.clip_high;
  if (!given("drop_zero_variance")) objective.drop_zero_variance = loss.drop_zero_variance;
  if (!given("mask_truncated")) objective.mask_truncated = loss.mask_truncated;
}

// Settings that are each possible but not together.
void check_together(const Config& c, const YamlNode& root) {
  const auto where = [&](std::string_view section, std::string_view key) {
    const YamlNode* parent = root.find(section);
    const YamlNode* node = parent == nullptr ? nullptr : parent->find(key);
    return node != nullptr ? node->where : "default value";
  };
  if (c.model.min_pixels > c.model.max_pixels) {
    fail_usage(
        "cannot use model.min_pixels at {}: {} is more than model.max_pixels, {} at {}; lower the one or "
        "raise "
        "the other",
        where("model", "min_pixels"), c.model.min_pixels, c.model.max_pixels, where("model", "max_pixels"));
  }
  if (!row_of(c.objective.loss.loss).imitates && c.rollout.group_size < 2) {
    fail_usage(
        "cannot use rollout.group_size at {}: a group of one has nothing to be compared with; give at least "
        "2, "
        "or objective.loss: sft",
        where("rollout", "group_size"));
  }
  if (c.stage2.enabled && c.prompts.texts.stage2_user.find(kCaptionField) == std::string::npos) {
    fail_usage(
        "cannot use prompts.stage2_user at {}: it does not hold {}; write {} where the caption belongs",
        where("prompts", "stage2_user"), kCaptionField, kCaptionField);
  }
  if (c.roles.colocated && !c.roles.automatic) {
    const YamlNode* roles = root.find("roles");
    fail_usage(
        "cannot use roles at {}: with placement: colocated every rank plays every role; set roles: auto or "
        "placement: split",
        roles != nullptr ? roles->where : "default value");
  }
}

}  // namespace

Config load_config(const fs::path& file, std::span<const std::string> overrides) {
  YamlNode root = read_yaml(file);
  rename_old_keys(root);
  for (const std::string& text : overrides) apply_override(root, text);
  // `objective: sft` is short for `objective: {loss: sft}`.
  YamlNode* objective = root.find("objective");
  if (objective != nullptr && objective->kind == YamlKind::scalar) {
    YamlNode loss = *objective;
    loss.key = "loss";
    objective->kind = YamlKind::map;
    objective->children = {std::move(loss)};
  }

  Config config;
  config.file = fs::absolute(file).lexically_normal();
  config.train.out = fs::absolute(fs::path("runs") / config.file.stem());
  read_tree(root, fields_of(config, config.file.parent_path()));
  set_defaults_of_loss(config.objective, root);
  if (const YamlNode* model = root.find("model")) {
    config.model.max_pixels_given = model->find("max_pixels") != nullptr;
    config.model.min_pixels_given = model->find("min_pixels") != nullptr;
  }
  if (config.train.out.empty()) config.train.out = fs::absolute(fs::path("runs") / config.file.stem());
  config.rewards.penalise_leak = config.stage2.leak_guard == LeakGuard::penalise;
  check_together(config, root);
  return config;
}

void require_training_keys(const Config& config) {
  const std::array<std::pair<const char*, const fs::path*>, 2> needed{
      {{"model.path", &config.model.path}, {"data.train", &config.data.train}}};
  for (const auto& [key, path] : needed) {
    if (path->empty()) {
      fail_usage("cannot train with {}: {} is not set; set it in the file or with --set {}=PATH",
                 config.file.string(), key, key);
    }
  }
}

std::string to_yaml(const Config& config) {
  // The table needs members that can be written; a copy serves.
  Config copy = config;
  std::string text =
      "# Every key of biqa's configuration as this run used it; docs/configuration.md describes them.\n";
  std::string section;
  for (const Field& field : fields_of(copy, fs::path())) {
    if (field.section != section) {
      section = field.section;
      if (!section.empty()) text += section + ":\n";
    }
    text += fmt::format("{}{}: {}\n", section.empty() ? "" : "  ", field.key, field.write());
  }
  return text;
}

std::vector<std::string> changed_settings(const std::string& then, const Config& now) {
  const auto renamed = [](const std::string& setting) {
    const std::size_t colon = setting.find(':');
    return with_new_name(setting.substr(0, colon)) + setting.substr(std::min(colon, setting.size()));
  };
  const auto settings = [&](const std::string& text) {
    std::vector<std::string> all;
    std::string section;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) {
      if (line.empty() || line[0] == '#') continue;
      if (line[0] == ' ')
        all.push_back(renamed(section + "." + line.substr(line.find_first_not_of(' '))));
      else if (line.back() == ':')
        section = line.substr(0, line.size() - 1);
      else
        all.push_back(line);
    }
    return all;
  };
  const std::vector<std::string> before = settings(then);
  std::vector<std::string> changed;
  for (std::string& setting : settings(to_yaml(now))) {
    if (std::find(before.begin(), before.end(), setting) == before.end())
      changed.push_back(std::move(setting));
  }
  return changed;
}

std::vector<std::string> config_keys() {
  Config config;
  std::vector<std::string> keys;
  for (const Field& field : fields_of(config, fs::path())) keys.push_back(field.full());
  return keys;
}

std::optional<std::uint64_t> parse_size(const std::string& text) {
  double value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || !std::isfinite(value) || value < 0) return std::nullopt;
  std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  constexpr std::array<std::pair<std::string_view, double>, 10> kUnits{{{"", 1},
                                                                        {"B", 1},
                                                                        {"kB", 1e3},
                                                                        {"MB", 1e6},
                                                                        {"GB", 1e9},
                                                                        {"TB", 1e12},
                                                                        {"KiB", 0x1p10},
                                                                        {"MiB", 0x1p20},
                                                                        {"GiB", 0x1p30},
                                                                        {"TiB", 0x1p40}}};
  for (const auto& [name, factor] : kUnits) {
    const double bytes = value * factor;
    // Up to 2^53 every whole number of bytes is exact in a double.
    if (unit == name && bytes <= 0x1p53 && bytes == std::floor(bytes))
      return static_cast<std::uint64_t>(bytes);
  }
  return std::nullopt;
}

std::string size_text(std::uint64_t bytes) {
  constexpr std::array<std::pair<const char*, int>, 4> kUnits{
      {{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}}};
  for (const auto& [name, shift] : kUnits) {
    const std::uint64_t unit = std::uint64_t{1} << shift;
    if (bytes != 0 && bytes % unit == 0) return fmt::format("{}{}", bytes / unit, name);
  }
  return fmt::format("{}", bytes);
}

}  // namespace biqa
