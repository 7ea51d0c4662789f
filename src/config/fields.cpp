// SPDX-License-Identifier: Apache-2.0
#include "config/fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <span>
#include <utility>

#include "config/best_metric.h"
#include "core/error.h"
#include "core/names.h"
#include "data/profile_names.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

constexpr std::array kDTypes{Named<DType>{"bf16", DType::bf16}, Named<DType>{"f32", DType::f32}};
constexpr std::array kStage2Inputs{Named<Stage2Input>{"caption", Stage2Input::caption},
                                   Named<Stage2Input>{"caption+reasoning", Stage2Input::caption_reasoning}};
constexpr std::array kLeakGuards{Named<LeakGuard>{"off", LeakGuard::off},
                                 Named<LeakGuard>{"strip", LeakGuard::strip},
                                 Named<LeakGuard>{"penalise", LeakGuard::penalise}};
constexpr std::array kReasoningKinds{Named<ReasoningKind>{"rouge", ReasoningKind::rouge},
                                     Named<ReasoningKind>{"semantic", ReasoningKind::semantic},
                                     Named<ReasoningKind>{"polarity", ReasoningKind::polarity},
                                     Named<ReasoningKind>{"mix", ReasoningKind::mix}};
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
constexpr std::array kVisionAttentions{Named<VisionAttentionBy>{"own", VisionAttentionBy::own},
                                       Named<VisionAttentionBy>{"cudnn", VisionAttentionBy::cudnn}};
constexpr std::array kDecodings{Word{"greedy", "greedy"}, Word{"sampled", "sampled"}};
constexpr std::array kSaveSignals{Word{"SIGUSR1", "SIGUSR1"}, Word{"SIGUSR2", "SIGUSR2"},
                                  Word{"SIGHUP", "SIGHUP"}, Word{"none", "none"}};
constexpr std::array kPlacements{Named<bool>{"split", false}, Named<bool>{"colocated", true}};

constexpr std::int64_t kMany = 1000000000;
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

/// The range of a number, which must be finite. `above` excludes the lower bound, `or_zero` also allows 0. Much of the
/// arithmetic is f32, where 1e-38 has no reciprocal and 1e-46 is 0, so the default bounds stay within the range of f32.
struct Bounds {
  double least = 0, most = 0;
  bool above = false, or_zero = false;

  bool hold(double x) const { return (or_zero && x == 0) || ((above ? x > least : x >= least) && x <= most); }
  std::string text() const {
    return fmt::format("{}a number {} {} and at most {}", or_zero ? "0 or " : "",
                       above ? "above" : "of at least", least, most);
  }
};

constexpr double kLarge = 1e6, kHuge = 1e9;
constexpr Bounds kShare{0, 1}, kWeight{0, kLarge}, kDecay{0, 0.999999};

YamlNode unquoted(YamlNode node) {
  node.quoted = false;
  return node;
}

std::int64_t read_integer(const YamlNode& node, const std::string& key, std::int64_t least,
                          std::int64_t most) {
  const std::optional<std::int64_t> value = yaml_integer(node);
  if (!value || *value < least || *value > most) {
    refuse_value(node, key, fmt::format("a whole number from {} to {}", least, most));
  }
  return *value;
}

double read_number(const YamlNode& node, const std::string& key, const Bounds& bounds) {
  const std::optional<double> value = yaml_number(node);
  if (!value || !bounds.hold(*value)) refuse_value(node, key, bounds.text());
  return *value;
}

WeightSchedule read_weight(const YamlNode& node, const std::string& key) {
  if (node.kind != YamlKind::map) {
    if (node.kind == YamlKind::scalar && !yaml_number(node))
      refuse_value(node, key, "a weight, or steps with weights such as {0: 0, 100: 1}");
    return WeightSchedule(read_number(node, key, kWeight));
  }
  std::vector<WeightSchedule::Point> points;
  for (const YamlNode& child : node.children) {
    YamlNode step;
    step.kind = YamlKind::scalar;
    step.text = child.key;
    step.where = child.where;
    points.push_back({read_integer(step, key, 0, kMany), read_number(child, key + "." + child.key, kWeight)});
  }
  if (points.empty()) refuse_value(node, key, "a map of at least one step and its weight");
  std::sort(points.begin(), points.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  // "1" and "0x1" are different keys of YAML, but the same step.
  for (std::size_t i = 1; i < points.size(); ++i) {
    if (points[i - 1].step == points[i].step)
      refuse_value(node, key,
                   fmt::format("a map with each step once (step {} is there twice)", points[i].step));
  }
  return WeightSchedule(std::move(points));
}

std::string read_text(const YamlNode& node, const std::string& key) {
  if (node.kind != YamlKind::scalar)
    refuse_value(node, key, "text (quote it if it contains ': ' or starts with a sign)");
  return node.text;
}

template <typename Rows>
auto read_choice(const YamlNode& node, const std::string& key, const Rows& choices) {
  std::vector<std::string> names;
  for (const auto& choice : choices) {
    if (node.kind == YamlKind::scalar && node.text == choice.name) return choice.value;
    names.emplace_back(choice.name);
  }
  refuse_value(node, key, "one of " + joined(names));
}

// A single value stands for a list of one.
std::span<const YamlNode> items_of(const YamlNode& node, const std::string& key, const char* of_what) {
  if (node.kind == YamlKind::scalar) return {&node, 1};
  if (node.kind != YamlKind::list) refuse_value(node, key, std::string("a list of ") + of_what);
  return node.children;
}

fs::path absolute_from(const fs::path& folder, const std::string& text) {
  if (text.empty()) return {};
  fs::path path = (folder / text).lexically_normal();
  return path.has_filename() || !path.has_relative_path() ? path : path.parent_path();
}

// The table of keys over the members of one Config; its helpers decide type and range.
class Fields {
 public:
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
  /// A constant weight, or a map of steps and weights.
  void weight(const std::string& key, WeightSchedule& value) {
    add(
        key, [&value](const YamlNode& node, const std::string& full) { value = read_weight(node, full); },
        [&value] { return value.text(); });
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
          if (!given) refuse_value(node, full, "true or false");
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
              refuse_value(item, full, "unique in the list (it is there twice)");
            }
          }
          if (values.empty()) refuse_value(node, full, "a list of at least one name");
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
  /// `folder`: where a relative path starts; nothing: at the folder of the file that it stands in
  void path(const char* key, fs::path& value, const std::optional<fs::path>& folder = std::nullopt) {
    add(
        key,
        [&value, folder](const YamlNode& node, const std::string& full) {
          value = node.kind == YamlKind::null
                      ? fs::path()
                      : absolute_from(folder.value_or(node.folder), read_text(node, full));
        },
        [&value] { return yaml_quoted(value.string()); });
  }
  void paths(const char* key, std::vector<fs::path>& values) {
    add(
        key,
        [&values](const YamlNode& node, const std::string& full) {
          values.clear();
          for (const YamlNode& item : items_of(node, full, "paths")) {
            values.push_back(absolute_from(item.folder, read_text(item, full)));
            if (values.back().empty()) refuse_value(item, full, "a path");
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
            refuse_value(node, full,
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

 private:
  std::string section_;
  std::vector<Field> fields_;
};

void read_roles(const YamlNode& node, const std::string& full, RoleConfig& roles) {
  const bool colocated = roles.colocated;
  roles = RoleConfig{};
  roles.colocated = colocated;
  if (node.kind == YamlKind::scalar && node.text == "auto") return;
  if (node.kind != YamlKind::map) refuse_value(node, full, "auto or {actors: A, rewards: R, learners: L}");
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
    if (node.find(name) == nullptr) refuse_value(node, full, fmt::format("complete: '{}' is missing", name));
  }
}

void model_fields(Fields& f, ModelSettings& model) {
  f.section("model");
  f.path("path", model.path);
  f.path("adapter", model.adapter);
  f.choice("dtype", model.dtype, kDTypes);
  f.choice("device", model.device, kDevices);
  f.choice("vision_attention", model.vision_attention, kVisionAttentions);
  f.integer("max_pixels", model.max_pixels, 1, kMany);
  f.integer("min_pixels", model.min_pixels, 1, kMany);
  f.integer("threads", model.threads, 0, 4096);
  f.number("gpu_tflops", model.gpu_tflops, {1e-3, 1e6, false, true});
}

void lora_fields(Fields& f, LoraSpec& lora) {
  f.section("lora");
  f.integer("rank", lora.rank, 1, 4096);
  f.number("alpha", lora.alpha, {1e-6, kLarge});
  f.number("dropout", lora.dropout, {0, 0.99});
  f.boolean("rslora", lora.rslora);
  f.choices("targets", lora.targets, kProjectionNames);
}

void data_fields(Fields& f, DataSettings& data) {
  f.section("data");
  f.path("train", data.train);
  f.paths("eval", data.eval);
  f.number("annotation_fraction", data.annotation_fraction, kShare);
  f.boolean("skip_bad", data.skip_bad);
}

void prompts_fields(Fields& f, PromptSettings& prompts) {
  f.section("prompts");
  f.add(
      "profile",
      [&prompts](const YamlNode& node, const std::string& full) {
        if (node.kind != YamlKind::scalar ||
            std::find(kProfileNames.begin(), kProfileNames.end(), node.text) == kProfileNames.end()) {
          refuse_value(node, full, fmt::format("one of {}", fmt::join(kProfileNames, ", ")));
        }
        prompts.profile = node.text;
        prompts.texts = default_prompts(named_profile(node.text));
      },
      [&prompts] { return prompts.profile; });
  f.optional_text("system", prompts.texts.system);
  f.text("user", prompts.texts.user);
  f.optional_text("stage2_system", prompts.texts.stage2_system);
  f.text("stage2_user", prompts.texts.stage2_user);
}

void rollout_fields(Fields& f, RolloutSettings& rollout) {
  f.section("rollout");
  f.integer("group_size", rollout.group_size, 1, 4096);
  f.integer("images_per_step", rollout.images_per_step, 1, 1000000);
  f.number("temperature", rollout.temperature, {0.01, 100});
  f.integer("top_k", rollout.top_k, 0, kMany);
  f.number("top_p", rollout.top_p, {0, 1, true});
  f.integer("max_new_tokens", rollout.max_new_tokens, 1, 131072);
  f.integer("stage2_max_new_tokens", rollout.stage2_max_new_tokens, 1, 131072);
  f.size("kv_memory", rollout.kv_memory, kMiB);
  f.integer("policy_lag", rollout.policy_lag, 0, 1000);
  f.integer("refill_rounds", rollout.refill_rounds, 0, 1000);
}

void stage2_fields(Fields& f, Stage2Settings& stage2) {
  f.section("stage2");
  f.boolean("enabled", stage2.enabled);
  f.choice("input", stage2.input, kStage2Inputs);
  f.boolean("train", stage2.train);
  f.choice("leak_guard", stage2.leak_guard, kLeakGuards);
}

void rewards_fields(Fields& f, RewardConfig& settings) {
  f.section("rewards");
  for (std::size_t i = 0; i < rewards().size(); ++i)
    f.weight(std::string(rewards()[i].name), settings.weights[i]);
  f.number("tolerance", settings.tolerance, {1e-6, kLarge});
  f.choice("rouge", settings.rouge, kRougeKinds);
  f.choice("rouge_span", settings.rouge_span, kRougeSpans);
  f.choice("prediction_shape", settings.prediction_shape, kPredictionShapes);
  f.number("floor", settings.floor, kShare);
  f.choice("reasoning_kind", settings.reasoning_kind, kReasoningKinds);
  f.path("similarity_model", settings.similarity_model);
  f.path("lexicon", settings.lexicon);
  f.integer("stall_steps", settings.stall_steps, 0, kMany);
}

void objective_fields(Fields& f, ObjectiveSettings& objective) {
  f.section("objective");
  f.choice("loss", objective.loss.loss, losses());
  f.choice("advantage", objective.advantage.kind, kAdvantageNames);
  f.choice("advantage_scale", objective.advantage.scale, kAdvantageScaleNames);
  f.choice("credit", objective.credit, kCreditAssignmentNames);
  f.number("clip_low", objective.loss.clip_low, kShare);
  f.number("clip_high", objective.loss.clip_high, {0, kHuge});
  f.choice("kl", objective.loss.kl, kKlNames);
  f.number("beta", objective.loss.beta, kWeight);
  f.optional_number("ratio_cap", objective.loss.ratio_cap, {1, kHuge});
  f.optional_number("off_policy_mask", objective.loss.off_policy_mask, {0, kHuge, true});
  f.boolean("drop_zero_variance", objective.drop_zero_variance);
  f.boolean("mask_truncated", objective.mask_truncated);
  f.integer("updates_per_rollout", objective.updates_per_rollout, 1, 1000);
  f.integer("micro_batch_tokens", objective.micro_batch_tokens, 1, kMany);
  f.boolean("recompute_layers", objective.recompute_layers);
}

void optimizer_fields(Fields& f, OptimizerSettings& optimizer) {
  f.section("optimizer");
  f.number("lr", optimizer.lr, {1e-15, 1, false, true});
  f.choice("schedule", optimizer.schedule, kSchedules);
  f.integer("warmup_steps", optimizer.warmup_steps, 0, kMany);
  f.number("beta1", optimizer.adamw.beta1, kDecay);
  f.number("beta2", optimizer.adamw.beta2, kDecay);
  f.number("eps", optimizer.adamw.eps, {1e-20, 1});
  f.number("weight_decay", optimizer.adamw.weight_decay, {0, 100});
  f.number("max_grad_norm", optimizer.max_grad_norm, {1e-9, kHuge, false, true});
}

void train_fields(Fields& f, TrainSettings& train) {
  f.section("train");
  f.integer("epochs", train.epochs, 1, 1000000);
  f.integer("steps", train.steps, 0, kMany);
  f.integer("seed", train.seed, 0, std::numeric_limits<std::int64_t>::max());
  f.path("out", train.out, fs::current_path());
  f.integers("dump_steps", train.dump_steps, 1, kMany);
  f.integer("eval_every", train.eval_every, 0, kMany);
  f.choices("eval_decodings", train.eval_decodings, kDecodings);
  f.integer("eval_images", train.eval_images, 0, kMany);
  f.integer("samples_per_step", train.samples_per_step, 0, kMany);
  f.boolean("progress", train.progress);
}

void checkpoint_fields(Fields& f, CheckpointSettings& checkpoint) {
  f.section("checkpoint");
  f.integer("every", checkpoint.every, 0, kMany);
  f.integer("keep", checkpoint.keep, 0, kMany);
  f.choice("best", checkpoint.best, kBestMetrics);
  f.add(
      "resume",
      [&resume = checkpoint.resume](const YamlNode& node, const std::string& full) {
        resume = read_text(node, full);
        if (resume.empty()) refuse_value(node, full, "auto, never or the path of a checkpoint");
        if (resume != "auto" && resume != "never") resume = absolute_from(node.folder, resume).string();
      },
      [&resume = checkpoint.resume] { return yaml_quoted(resume); });
  f.choice("save_signal", checkpoint.save_signal, kSaveSignals);
}

void roles_fields(Fields& f, RoleConfig& roles) {
  f.section("");
  f.add(
      "roles", [&roles](const YamlNode& node, const std::string& full) { read_roles(node, full, roles); },
      [&roles] {
        if (roles.automatic) return std::string("auto");
        return fmt::format("{{actors: {}, rewards: {}, learners: {}}}", roles.actors, roles.rewards,
                           roles.learners);
      });
  f.choice("placement", roles.colocated, kPlacements);
}

}  // namespace

// The one list of sections, in the order of docs/configuration.md.
std::vector<Field> fields_of(Config& c) {
  Fields f;
  model_fields(f, c.model);
  lora_fields(f, c.lora);
  data_fields(f, c.data);
  prompts_fields(f, c.prompts);
  rollout_fields(f, c.rollout);
  stage2_fields(f, c.stage2);
  rewards_fields(f, c.rewards);
  objective_fields(f, c.objective);
  optimizer_fields(f, c.optimizer);
  train_fields(f, c.train);
  checkpoint_fields(f, c.checkpoint);
  roles_fields(f, c.roles);
  return f.take();
}

std::string joined(const std::vector<std::string>& words, std::string_view between) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : std::string(between)) + word;
  return text;
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
  // Mentions the quotes, because the author may overlook that they turn a number or boolean into text.
  const bool stands_for_more = node.quoted && (yaml_boolean(unquoted(node)) || yaml_number(unquoted(node)));
  return "'" + text + "'" + (stands_for_more ? " in quotes" : "");
}

void refuse_value(const YamlNode& node, const std::string& key, const std::string& expected) {
  fail_usage("cannot use {} at {}: {} is not {}; correct the value", key, node.where, shown(node), expected);
}

}  // namespace biqa
