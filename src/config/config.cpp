// SPDX-License-Identifier: Apache-2.0
#include "config/config.h"

#include <algorithm>
#include <array>
#include <sstream>
#include <string_view>
#include <utility>

#include "config/fields.h"
#include "config/tree.h"
#include "core/error.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

// Sets the loss's own defaults (LossRow). Values in the configuration are kept.
void set_defaults_of_loss(ObjectiveSettings& objective, RolloutSettings& rollout, const YamlNode& root) {
  const auto given = [&](std::string_view key, std::string_view in = "objective") {
    const YamlNode* section = root.find(in);
    return section != nullptr && section->find(key) != nullptr;
  };
  const LossRow& loss = row_of(objective.loss.loss);
  if (!given("clip_high")) objective.loss.clip_high = loss.clip_high;
  if (!given("drop_zero_variance")) objective.drop_zero_variance = loss.drop_zero_variance;
  if (!given("mask_truncated")) objective.mask_truncated = loss.mask_truncated;
  const bool can_refill = objective.drop_zero_variance && rollout.policy_lag == 0;
  if (!given("refill_rounds", "rollout")) rollout.refill_rounds = can_refill ? loss.refill_rounds : 0;
}

// Checks settings that are valid alone, but not together.
void check_together(const Config& c, const YamlNode& root) {
  const auto where = [&](std::string_view section, std::string_view key) {
    const YamlNode* parent = root.find(section);
    const YamlNode* node = parent == nullptr ? nullptr : parent->find(key);
    return node != nullptr ? node->where : "default value";
  };
  if (c.model.min_pixels > c.model.max_pixels) {
    fail_usage(
        "cannot use model.min_pixels at {}: {} is more than model.max_pixels, {} at {}; lower min_pixels or "
        "raise max_pixels",
        where("model", "min_pixels"), c.model.min_pixels, c.model.max_pixels, where("model", "max_pixels"));
  }
  if (c.model.vision_attention == VisionAttentionBy::cudnn &&
      (c.model.device != "cuda" || c.model.dtype != DType::bf16)) {
    fail_usage(
        "cannot use model.vision_attention at {}: cuDNN needs model.device: cuda and model.dtype: bf16, not "
        "{} and "
        "{}; set vision_attention: own",
        where("model", "vision_attention"), c.model.device, name_of(c.model.dtype));
  }
  if (!row_of(c.objective.loss.loss).imitates && c.rollout.group_size < 2) {
    fail_usage(
        "cannot use rollout.group_size at {}: a group of one cannot be compared; give at least 2, or "
        "objective.loss: sft",
        where("rollout", "group_size"));
  }
  if (c.objective.credit == CreditAssignment::parts && row_of(c.objective.loss.loss).one_ratio_per_sequence) {
    fail_usage(
        "cannot use objective.credit at {}: {} has one ratio per completion, which spreads the advantage of "
        "each part over all tokens; set credit: whole, or a loss with a ratio per token, such as grpo",
        where("objective", "credit"), row_of(c.objective.loss.loss).name);
  }
  if (c.rollout.refill_rounds > 0 && !c.objective.drop_zero_variance) {
    fail_usage(
        "cannot use rollout.refill_rounds at {}: refills replace the groups that are left out, but this "
        "configuration leaves none out; set objective.drop_zero_variance: true",
        where("rollout", "refill_rounds"));
  }
  if (c.rollout.refill_rounds > 0 && c.rollout.policy_lag > 0) {
    fail_usage(
        "cannot use rollout.refill_rounds at {}: refills need the rewards of the step, but with "
        "rollout.policy_lag {} the actors do not wait for them; set one of the two to 0",
        where("rollout", "refill_rounds"), c.rollout.policy_lag);
  }
  if (c.stage2.enabled && c.prompts.texts.profile.caption_tag.empty()) {
    fail_usage(
        "cannot use prompts.profile at {}: the completions of {} have no caption for the second stage; set "
        "stage2.enabled: false",
        where("prompts", "profile"), c.prompts.profile);
  }
  if (c.stage2.enabled && c.prompts.texts.stage2_user.find(kCaptionField) == std::string::npos) {
    fail_usage(
        "cannot use prompts.stage2_user at {}: it does not contain {}; write {} where the caption belongs",
        where("prompts", "stage2_user"), kCaptionField, kCaptionField);
  }
  const ReasoningKind kind = c.rewards.reasoning_kind;
  if ((kind == ReasoningKind::semantic || kind == ReasoningKind::mix) && c.rewards.similarity_model.empty()) {
    fail_usage(
        "cannot use rewards.reasoning_kind at {}: {} needs a sentence encoder; set rewards.similarity_model "
        "to "
        "its folder",
        where("rewards", "reasoning_kind"), kind == ReasoningKind::mix ? "mix" : "semantic");
  }
  if (c.roles.colocated && !c.roles.automatic) {
    const YamlNode* roles = root.find("roles");
    fail_usage(
        "cannot use roles at {}: every rank has every role if placement is colocated; set roles: auto or "
        "placement: split",
        roles != nullptr ? roles->where : "default value");
  }
}

}  // namespace

Config load_config(const fs::path& file, std::span<const std::string> overrides) {
  const YamlNode root = read_tree(file, overrides);
  Config config;
  config.file = fs::absolute(file).lexically_normal();
  config.train.out = fs::absolute(fs::path("runs") / config.file.stem());
  read_values(root, fields_of(config));
  set_defaults_of_loss(config.objective, config.rollout, root);
  if (const YamlNode* model = root.find("model")) {
    config.model.max_pixels_given = model->find("max_pixels") != nullptr;
    config.model.min_pixels_given = model->find("min_pixels") != nullptr;
  }
  if (config.train.out.empty()) config.train.out = fs::absolute(fs::path("runs") / config.file.stem());
  config.rewards.penalise_leak = config.stage2.leak_guard == LeakGuard::penalise;
  config.rewards.second_stage_reads_reasoning = config.stage2.input == Stage2Input::caption_reasoning;
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
  // fields_of() needs members that it may change, so it gets a copy.
  Config copy = config;
  std::string text =
      "# Every key of biqa's configuration as this run used it; docs/configuration.md describes them.\n";
  std::string section;
  for (const Field& field : fields_of(copy)) {
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
  for (const Field& field : fields_of(config)) keys.push_back(field.full());
  return keys;
}

}  // namespace biqa
