// SPDX-License-Identifier: Apache-2.0
#include "training/step_reader.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "core/error.h"
#include "learner/adapter_store.h"
#include "model/positions.h"
#include "training/step_dump.h"

namespace biqa {
namespace {

constexpr std::int64_t kMostSteps = std::int64_t{1} << 53;

/// The range of a number. Its ends are included unless they are `open`.
struct Range {
  double least = 0, most = std::numeric_limits<double>::max();
  bool above = false, below = false;
  /// Written so that NaN is outside.
  bool holds(double x) const { return (above ? x > least : x >= least) && (below ? x < most : x <= most); }
};

/// Reads a dump's attributes and datasets and checks each.
class StepReader {
 public:
  StepReader(const std::filesystem::path& path, const ModelConfig& config, const PreprocessConfig& preprocess)
      : file_(path), config_(config), preprocess_(preprocess) {}

  DumpedStep read() {
    DumpedStep step;
    step.lr = number("lr", {});
    step.updates = whole("optimizer_steps", 0, kMostSteps);
    step.adapter = read_part("adapter_before");
    step.m = read_factors(file_, "adam_m_before", *step.adapter.layout);
    step.v = read_factors(file_, "adam_v_before", *step.adapter.layout);
    if (std::any_of(step.v.begin(), step.v.end(), [](float value) { return value < 0; }))
      refuse("adam_v_before", "it holds a negative mean of squares");
    if (file_.exists("reference_adapter")) step.reference = read_part("reference_adapter");
    read_options(step.options);
    sft_ = row_of(step.options.objective.loss).imitates;
    stage2_ = file_.has_attribute("/", "stage2_trained") && file_.attribute_bool("/", "stage2_trained");
    std::map<std::int64_t, DumpedGroup> groups;
    for (const std::string& name : file_.children("trajectories")) {
      const std::string path = "trajectories/" + name;
      read_trajectory(name, path, groups[file_.attribute_i64(path, "group")]);
    }
    if (groups.empty()) refuse("trajectories", "it is empty");
    for (auto& [number, group] : groups) step.groups.push_back(std::move(group));
    return step;
  }

 private:
  [[noreturn]] void refuse(const std::string& object, const std::string& why) const {
    fail("cannot use step dump {}: {}: {}; write it again as docs/step-dump.md says", file_.path().string(),
         object, why);
  }

  double number(const std::string& name, const Range& range) const { return number("/", name, range); }
  double number(const std::string& object, const std::string& name, const Range& range) const {
    const double value = file_.attribute_f64(object, name);
    if (!range.holds(value)) {
      refuse(fmt::format("attribute {} of {}", name, object),
             fmt::format("{} is not {} {} and {} {}", value, range.above ? "above" : "at least", range.least,
                         range.below ? "below" : "at most", range.most));
    }
    return value;
  }
  std::int64_t whole(const std::string& name, std::int64_t least, std::int64_t most) const {
    const std::int64_t value = file_.attribute_i64("/", name);
    if (value < least || value > most)
      refuse("attribute " + name, fmt::format("{} is not in {} … {}", value, least, most));
    return value;
  }
  /// NaN and absence both mean none.
  std::optional<double> optional_number(const std::string& name, const Range& range) const {
    if (!file_.has_attribute("/", name) || std::isnan(file_.attribute_f64("/", name))) return std::nullopt;
    return number(name, range);
  }
  std::uint64_t key(const std::string& object, const std::string& name) const {
    return file_.has_attribute(object, name) ? static_cast<std::uint64_t>(file_.attribute_i64(object, name))
                                             : 0;
  }

  /// The row of a table of names.
  template <typename Table>
  const auto& named(const std::string& attribute, const Table& table) const {
    const std::string name = file_.attribute_text("/", attribute);
    for (const auto& row : table) {
      if (name == row.name) return row;
    }
    refuse("attribute " + attribute, fmt::format("'{}' is unknown to this version", name));
  }

  Lora read_part(const std::string& part) const {
    LoraSpec spec;
    spec.rank = whole("lora_rank", 1, kMaxLoraRank);
    spec.alpha = number("lora_alpha", {-std::numeric_limits<double>::max()});
    spec.rslora = file_.has_attribute("/", "lora_rslora") && file_.attribute_bool("/", "lora_rslora");
    Lora lora = read_adapter(file_, part, config_, std::move(spec));
    if (lora.layout->modules().empty()) refuse(part, "it holds no tensors of this model's adapter");
    return lora;
  }

  void read_options(LearnerOptions& options) const {
    ObjectiveConfig& objective = options.objective;
    const LossRow& loss = named("loss", losses());
    objective.loss = loss.value;
    objective.kl = named("kl", kKlNames).value;
    objective.beta = number("beta", {});
    objective.clip_low = number("clip_low", {0, 1});
    objective.clip_high = number("clip_high", {});
    objective.ratio_cap = optional_number("ratio_cap", {1});
    objective.off_policy_mask = optional_number("off_policy_mask", {.above = true});
    options.temperature = static_cast<float>(number("temperature", {1e-6, 1e6}));
    options.adamw.beta1 = number("beta1", {0, 1, false, true});
    options.adamw.beta2 = number("beta2", {0, 1, false, true});
    options.adamw.eps = number("eps", {.above = true});
    options.adamw.weight_decay = number("weight_decay", {});
    options.max_grad_norm = number("max_grad_norm", {});
    if (file_.has_attribute("/", "max_new_tokens")) {
      options.longest_allowed = static_cast<double>(whole("max_new_tokens", 1, kMostSteps));
    } else if (loss.needs_longest) {
      refuse("attribute max_new_tokens", fmt::format("it is missing, and loss {} divides by it", loss.name));
    }
    if (file_.has_attribute("/", "micro_batch_tokens"))
      options.micro_batch_tokens = whole("micro_batch_tokens", 1, kMostSteps);
    if (file_.has_attribute("/", "lora_dropout"))
      options.dropout = number("lora_dropout", {0, 1, false, true});
    if (options.dropout > 0) options.seed = static_cast<std::uint64_t>(file_.attribute_i64("/", "seed"));
  }

  void check_ids(const std::string& object, const std::vector<std::int64_t>& ids) const {
    if (ids.empty()) refuse(object, "it is empty");
    for (const std::int64_t id : ids) {
      if (id < 0 || id >= config_.text.vocab) {
        refuse(object,
               fmt::format("token id {} is outside the model's vocabulary of {}", id, config_.text.vocab));
      }
    }
  }

  DumpedAnswer read_answer(const std::string& path, const std::string& prefix,
                           std::size_t prompt_tokens) const {
    DumpedAnswer answer;
    const std::string start = fmt::format("{}/{}", path, prefix);
    const std::string ids = start + "completion_ids";
    answer.ids = file_.read_i64(ids);
    check_ids(ids, answer.ids);
    const auto length = static_cast<std::int64_t>(prompt_tokens + answer.ids.size());
    if (config_.text.max_position > 0 && length > config_.text.max_position) {
      refuse(ids, fmt::format("with its prompt it has {} tokens, but the model has {} positions", length,
                              config_.text.max_position));
    }
    answer.mask = file_.read_f32(start + "mask");
    const std::string behaviour = start + "behaviour_logp";
    if (!sft_) answer.behaviour = file_.read_f32(behaviour);
    if (answer.mask.size() != answer.ids.size() || (!sft_ && answer.behaviour.size() != answer.ids.size())) {
      refuse(ids, fmt::format(
                      "the numbers of tokens ({}), mask values ({}) and log-probabilities ({}) must be equal",
                      answer.ids.size(), answer.mask.size(), answer.behaviour.size()));
    }
    for (std::size_t i = 0; i < answer.mask.size(); ++i) {
      if (!(answer.mask[i] >= 0 && answer.mask[i] <= 1))
        refuse(start + "mask", fmt::format("value {} is {}, not in 0 … 1", i, answer.mask[i]));
      if (!sft_ && answer.mask[i] != 0 && !std::isfinite(answer.behaviour[i]))
        refuse(behaviour, fmt::format("value {} is {}", i, answer.behaviour[i]));
    }
    if (sft_) return answer;
    const std::string token_advantages = start + "token_advantage";
    if (file_.exists(token_advantages)) {
      answer.token_advantages = file_.read_f32(token_advantages);
      if (answer.token_advantages.size() != answer.ids.size()) {
        refuse(token_advantages, fmt::format("it has {} values for {} tokens", answer.token_advantages.size(),
                                             answer.ids.size()));
      }
      for (std::size_t i = 0; i < answer.ids.size(); ++i) {
        if (!std::isfinite(answer.token_advantages[i]))
          refuse(token_advantages, fmt::format("value {} is {}", i, answer.token_advantages[i]));
      }
    }
    return answer;
  }

  std::vector<Patches> read_pictures(const std::string& path) const {
    std::vector<Patches> pictures;
    const std::string pixels = path + "/pixel_values", grids = path + "/image_grid_thw";
    if (!file_.exists(pixels)) return pictures;
    std::vector<std::int64_t> shape;
    const std::vector<std::int64_t> flat = file_.read_i64(grids, &shape);
    if (shape.size() != 2 || shape[1] != 3)
      refuse(grids, fmt::format("its shape is [{}] instead of [images, 3]", fmt::join(shape, ", ")));
    const std::vector<float> values = file_.read_f32(pixels, &shape);
    const std::int64_t columns = preprocess_.columns();
    if (shape.size() != 2 || shape[1] != columns) {
      refuse(pixels, fmt::format("its shape is [{}] instead of [rows, {}]", fmt::join(shape, ", "), columns));
    }
    if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
      refuse(pixels, "it holds a value that is not finite");
    std::int64_t left = shape[0];
    for (std::size_t i = 0; i + 2 < flat.size(); i += 3) {
      const std::int64_t height = flat[i + 1], width = flat[i + 2], merge = preprocess_.merge;
      // By division: hostile sides may make the product overflow.
      if (flat[i] != 1 || height < 1 || width < 1 || height % merge != 0 || width % merge != 0 ||
          width > left / height) {
        refuse(grids, fmt::format("image {} has {} x {} x {} patches, but must be one frame with sides that "
                                  "are multiples of {}, and fit into the {} rows that are left in "
                                  "pixel_values",
                                  i / 3, flat[i], height, width, merge, left));
      }
      Patches patches;
      patches.grid = {1, height, width};
      const auto from = values.begin() + static_cast<std::ptrdiff_t>((shape[0] - left) * columns);
      patches.values.assign(from, from + static_cast<std::ptrdiff_t>(height * width * columns));
      left -= height * width;
      pictures.push_back(std::move(patches));
    }
    if (left != 0) refuse(pixels, fmt::format("{} of its {} rows belong to no image", left, shape[0]));
    return pictures;
  }

  void check_placeholders(const std::string& path, const DumpedGroup& group) const {
    std::vector<Grid> grids;
    for (const Patches& picture : group.pictures) grids.push_back(picture.grid);
    std::int32_t next = 0;
    try {
      mrope_positions(config_, group.prompt, grids, next);
    } catch (const Error& problem) {
      refuse(path + "/prompt_ids", problem.what());
    }
  }

  void read_trajectory(const std::string& name, const std::string& path, DumpedGroup& group) const {
    std::vector<std::int64_t> prompt = file_.read_i64(path + "/prompt_ids");
    check_ids(path + "/prompt_ids", prompt);
    const bool dropped = file_.has_attribute(path, "dropped") && file_.attribute_bool(path, "dropped");
    if (group.members.empty()) {
      group.prompt = std::move(prompt);
      group.pictures = read_pictures(path);
      group.dropout_key = key(path, "dropout_key");
      group.dropped = dropped;
      check_placeholders(path, group);
    } else if (prompt != group.prompt || dropped != group.dropped) {
      refuse(
          path,
          "its prompt_ids or its attribute 'dropped' differs from that of the first trajectory of its group");
    }
    DumpedTrajectory t;
    t.name = name;
    t.answer = read_answer(path, "", group.prompt.size());
    const Range any{std::numeric_limits<double>::lowest(), std::numeric_limits<double>::max()};
    if (!sft_) t.answer.advantage = number(path, "advantage", any);
    t.member = file_.has_attribute(path, "member")
                   ? static_cast<std::uint64_t>(file_.attribute_i64(path, "member"))
                   : group.members.size();
    if (stage2_ && !file_.read_i64(path + "/stage2_completion_ids").empty()) {
      t.stage2_prompt = file_.read_i64(path + "/stage2_prompt_ids");
      check_ids(path + "/stage2_prompt_ids", t.stage2_prompt);
      DumpedGroup alone;
      alone.prompt = t.stage2_prompt;
      check_placeholders(path, alone);
      t.stage2 = read_answer(path, "stage2_", t.stage2_prompt.size());
      t.stage2->advantage = file_.has_attribute(path, "stage2_advantage") && !sft_
                                ? number(path, "stage2_advantage", any)
                                : t.answer.advantage;
      t.stage2_dropout_key = key(path, "stage2_dropout_key");
    }
    group.members.push_back(std::move(t));
  }

  Hdf5File file_;
  const ModelConfig& config_;
  const PreprocessConfig& preprocess_;
  bool sft_ = false, stage2_ = false;
};

}  // namespace

std::shared_ptr<const FrozenParts> read_step_frozen(const std::filesystem::path& dump,
                                                    const std::filesystem::path& model) {
  constexpr const char* kGroup = "frozen_adapter";
  const Hdf5File file(dump);
  return file.exists(kGroup) ? read_frozen_parts(file, kGroup, ModelConfig::load(model)) : nullptr;
}

DumpedStep read_step(const std::filesystem::path& dump, const ModelConfig& config,
                     const PreprocessConfig& preprocess) {
  return StepReader(dump, config, preprocess).read();
}

}  // namespace biqa
