// SPDX-License-Identifier: Apache-2.0
#include "training/step_dump.h"

#include <fmt/format.h>

#include <cstring>
#include <limits>

#include "learner/adapter_store.h"
#include "training/learn_inputs.h"

namespace biqa {

namespace {

void write_vector(Hdf5Writer& out, const std::string& path, const std::vector<float>& values) {
  out.dataset(path, std::span<const float>(values), {static_cast<std::int64_t>(values.size())});
}
void write_ids(Hdf5Writer& out, const std::string& path, const std::vector<std::int64_t>& values) {
  out.dataset(path, std::span<const std::int64_t>(values), {static_cast<std::int64_t>(values.size())});
}
void write_result(Hdf5Writer& out, const std::string& prefix, const SequenceResult& result) {
  write_vector(out, prefix + "learner_logp", result.learner_logp);
  if (!result.reference_logp.empty()) write_vector(out, prefix + "reference_logp", result.reference_logp);
  write_vector(out, prefix + "token_loss", result.token_loss);
}

void write_rewards(Hdf5Writer& out, const std::string& path, const Trajectory& t, const Config& config) {
  for (std::size_t i = 0; i < rewards().size(); ++i)
    out.attribute(path, fmt::format("reward_{}", rewards()[i].name), reward_of(t, i));
  out.attribute(path, "reward", t.reward);
  out.attribute(path, "advantage", t.advantage);
  if (learns_stage2(t, config)) out.attribute(path, "stage2_advantage", t.stage2_advantage);
}

void write_settings(Hdf5Writer& out, const StepDump& dump, const Config& config) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const ObjectiveSettings& objective = config.objective;
  out.attribute("/", "step", dump.step);
  out.attribute("/", "lr", dump.lr);
  out.attribute("/", "temperature", config.rollout.temperature);
  out.attribute("/", "beta", objective.loss.beta);
  out.attribute("/", "clip_low", objective.loss.clip_low);
  out.attribute("/", "clip_high", objective.loss.clip_high);
  out.attribute("/", "ratio_cap", objective.loss.ratio_cap.value_or(nan));
  out.attribute("/", "off_policy_mask", objective.loss.off_policy_mask.value_or(nan));
  out.attribute("/", "loss", row_of(objective.loss.loss).name);
  out.attribute("/", "kl", row_of(kKlNames, objective.loss.kl).name);
  out.attribute("/", "advantage", row_of(kAdvantageNames, objective.advantage.kind).name);
  out.attribute("/", "advantage_scale", row_of(kAdvantageScaleNames, objective.advantage.scale).name);
  out.attribute("/", "credit", row_of(kCreditAssignmentNames, objective.credit).name);
  for (std::size_t i = 0; i < rewards().size(); ++i)
    out.attribute("/", fmt::format("weight_{}", rewards()[i].name), config.rewards.weights[i].at(dump.step));
  out.attribute("/", "drop_zero_variance", objective.drop_zero_variance);
  out.attribute("/", "mask_truncated", objective.mask_truncated);
  out.attribute("/", "stage2_trained", config.stage2.train);
  out.attribute("/", "group_size", config.rollout.group_size);
  out.attribute("/", "max_new_tokens", config.rollout.max_new_tokens);
  out.attribute("/", "micro_batch_tokens", objective.micro_batch_tokens);
  out.attribute("/", "dtype", name_of(config.model.dtype));
  out.attribute("/", "max_grad_norm", config.optimizer.max_grad_norm);
  out.attribute("/", "grad_norm", dump.result.grad_norm);
  out.attribute("/", "loss_value", dump.result.loss);
  out.attribute("/", "optimizer_steps", dump.updates_before);
  out.attribute("/", "beta1", config.optimizer.adamw.beta1);
  out.attribute("/", "beta2", config.optimizer.adamw.beta2);
  out.attribute("/", "eps", config.optimizer.adamw.eps);
  out.attribute("/", "weight_decay", config.optimizer.adamw.weight_decay);
  const LoraSpec& lora = dump.adapter_before.layout->spec();
  out.attribute("/", "lora_rank", lora.rank);
  out.attribute("/", "lora_alpha", lora.alpha);
  out.attribute("/", "lora_rslora", lora.rslora);
  out.attribute("/", "lora_dropout", config.lora.dropout);
  out.attribute("/", "seed", config.train.seed);
}

}  // namespace

void write_step_dump(const std::filesystem::path& file, const StepDump& dump, std::span<const Group> groups,
                     std::span<const std::filesystem::path> images, const Policy& policy,
                     const Config& config) {
  Hdf5Writer out(file);
  write_settings(out, dump, config);
  const LoraLayout& layout = *dump.adapter_before.layout;
  const std::vector<bool> dropped = dropped_groups(groups, config);
  const auto mask = [&](std::size_t group, bool finished, std::size_t tokens) {
    return std::vector<float>(tokens, !dropped[group] && counts(finished, config) ? 1.0F : 0.0F);
  };

  std::size_t number = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const Group& group = groups[g];
    const Patches patches = policy.pictures->patches(images[g]);
    std::vector<Grid> grids{patches.grid};
    std::int32_t next_position = 0;
    const std::vector<Position> positions =
        mrope_positions(policy.model->config(), group.prompt_ids, grids, next_position);
    const std::string first = fmt::format("trajectories/{:05}", number);
    for (std::size_t m = 0; m < group.members.size(); ++m, ++number) {
      const Trajectory& t = group.members[m];
      const std::string path = fmt::format("trajectories/{:05}", number);
      write_ids(out, path + "/prompt_ids", group.prompt_ids);
      write_ids(out, path + "/completion_ids", t.completion_ids);
      write_ids(out, path + "/stage2_prompt_ids", t.stage2_prompt_ids);
      write_ids(out, path + "/stage2_completion_ids", t.stage2_completion_ids);
      out.dataset(path + "/image_grid_thw", std::span<const std::int64_t>(patches.grid), {1, 3});
      if (m == 0) {
        const std::int64_t columns = policy.pictures->config().columns();
        out.dataset(path + "/pixel_values", std::span<const float>(patches.values),
                    {patches.rows(), columns});
      } else {
        out.soft_link("/" + first + "/pixel_values", path + "/pixel_values");
      }
      std::vector<std::int64_t> flat;
      for (std::size_t axis = 0; axis < 3; ++axis) {
        for (const Position& p : positions) flat.push_back(p[axis]);
        for (std::size_t i = 0; i < t.completion_ids.size(); ++i)
          flat.push_back(next_position + static_cast<std::int64_t>(i));
      }
      out.dataset(path + "/position_ids", std::span<const std::int64_t>(flat),
                  {3, static_cast<std::int64_t>(flat.size() / 3)});
      write_vector(out, path + "/mask", mask(g, t.finished, t.completion_ids.size()));
      if (!t.token_advantages.empty()) write_vector(out, path + "/token_advantage", t.token_advantages);
      if (!t.behaviour_logp.empty()) write_vector(out, path + "/behaviour_logp", t.behaviour_logp);
      write_result(out, path + "/", dump.sequences.at({g, m}));
      if (learns_stage2(t, config)) {
        write_vector(out, path + "/stage2_mask", mask(g, t.stage2_finished, t.stage2_completion_ids.size()));
        write_vector(out, path + "/stage2_behaviour_logp", t.stage2_behaviour_logp);
        write_result(out, path + "/stage2_", dump.stage2.at({g, m}));
      }
      const auto nan = std::numeric_limits<double>::quiet_NaN();
      out.attribute(path, "id", group.sample_id);
      out.attribute(path, "group", static_cast<std::int64_t>(g));
      out.attribute(path, "member", t.member);
      out.attribute(path, "dropped", bool{dropped[g]});
      out.attribute(path, "truncated", !t.finished);
      out.attribute(path, "dropout_key", dropout_key(group));
      out.attribute(path, "stage2_dropout_key", stage2_dropout_key(group, t.member));
      for_each_field(group.annotation,
                     [&](const char* name, const auto& field) { out.attribute(path, name, field); });
      out.attribute(path, "text", t.text);
      out.attribute(path, "stage2_text", t.stage2_text);
      out.attribute(path, "rating", t.rating.value_or(nan));
      out.attribute(path, "stage2_rating", t.stage2_rating.value_or(nan));
      write_rewards(out, path, t, config);
    }
  }
  write_adapter(out, "adapter_before", dump.adapter_before);
  write_frozen_parts(out, "frozen_adapter", dump.adapter_before);
  if (dump.reference) write_adapter(out, "reference_adapter", *dump.reference);
  write_factors(out, "adapter_after", layout, dump.adapter_after.values);
  write_factors(out, "gradient", layout, dump.gradient);
  write_factors(out, "adam_m_before", layout, dump.m_before);
  write_factors(out, "adam_v_before", layout, dump.v_before);
  out.close();
}

std::vector<std::byte> serialise_records(std::span<const SequenceResult> records) {
  std::vector<float> flat;
  for (const SequenceResult& record : records) {
    for (const auto* part : {&record.learner_logp, &record.reference_logp, &record.token_loss}) {
      flat.push_back(static_cast<float>(part->size()));
      flat.insert(flat.end(), part->begin(), part->end());
    }
  }
  const auto bytes = std::as_bytes(std::span<const float>(flat));
  return {bytes.begin(), bytes.end()};
}

std::vector<SequenceResult> parse_records(std::span<const std::byte> bytes) {
  std::vector<float> flat(bytes.size() / sizeof(float));
  if (!flat.empty()) std::memcpy(flat.data(), bytes.data(), flat.size() * sizeof(float));
  std::vector<SequenceResult> records;
  for (std::size_t at = 0; at < flat.size();) {
    SequenceResult& record = records.emplace_back();
    for (auto* part : {&record.learner_logp, &record.reference_logp, &record.token_loss}) {
      const auto count = static_cast<std::size_t>(flat.at(at));
      CHECK_LE(at + 1 + count, flat.size());
      part->assign(flat.begin() + static_cast<std::ptrdiff_t>(at) + 1,
                   flat.begin() + static_cast<std::ptrdiff_t>(at + 1 + count));
      at += 1 + count;
    }
  }
  return records;
}

}  // namespace biqa
