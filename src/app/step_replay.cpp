// SPDX-License-Identifier: Apache-2.0
#include "app/step_replay.h"

#include <fmt/format.h>

#include <map>
#include <optional>

#include "core/error.h"
#include "learner/learner.h"

namespace biqa {
namespace {

/// The adapter a dump starts from: its modules are those the dump has tensors for.
Lora read_adapter(const Hdf5File& file, const ModelConfig& config) {
  LoraSpec spec;
  spec.rank = file.attribute_i64("/", "lora_rank");
  spec.alpha = file.attribute_f64("/", "lora_alpha");
  std::vector<LoraModule> modules;
  for (std::int64_t layer = 0; layer < config.text.layers; ++layer) {
    for (const Projection projection : kProjections) {
      LoraModule module;
      module.layer = layer;
      module.projection = projection;
      module.in = input_width(config.text, projection);
      module.out = output_width(config.text, projection);
      const std::string key = "adapter_before/" + peft_key(module, 'A');
      if (!file.exists(key)) continue;
      module.rank = file.shape(key).front();
      module.scale = static_cast<float>(spec.alpha / static_cast<double>(spec.rank));
      modules.push_back(module);
    }
  }
  if (modules.empty())
    fail("cannot replay {}: it holds no adapter_before tensors of this model; name a step dump",
         file.path().string());
  Lora lora{std::make_shared<LoraLayout>(config, spec, std::move(modules)), {}};
  lora.values = read_factors(file, "adapter_before", *lora.layout);
  return lora;
}

struct DumpTrajectory {
  std::vector<std::int64_t> prompt, completion;
  std::vector<float> mask, behaviour;
  double advantage = 0;
};

Loss loss_named(const std::string& name, const std::string& where) {
  static const std::map<std::string, Loss> names{
      {"grpo", Loss::grpo}, {"dr_grpo", Loss::dr_grpo}, {"dapo", Loss::dapo}, {"bnpo", Loss::bnpo},
      {"gspo", Loss::gspo}, {"cispo", Loss::cispo},     {"sapo", Loss::sapo}, {"sft", Loss::sft}};
  const auto found = names.find(name);
  if (found == names.end())
    fail("cannot replay {}: unknown loss '{}'; use a dump of this version", where, name);
  return found->second;
}
Kl kl_named(const std::string& name, const std::string& where) {
  static const std::map<std::string, Kl> names{
      {"k1", Kl::k1}, {"k2", Kl::k2}, {"k3", Kl::k3}, {"k3_times_ratio", Kl::k3_times_ratio}};
  const auto found = names.find(name);
  if (found == names.end())
    fail("cannot replay {}: unknown kl '{}'; use a dump of this version", where, name);
  return found->second;
}

}  // namespace

void write_factors(Hdf5Writer& out, const std::string& part, const LoraLayout& layout,
                   std::span<const float> values) {
  CHECK_EQ(values.size(), layout.size());
  for (const LoraModule& m : layout.modules()) {
    out.dataset(part + "/" + peft_key(m, 'A'),
                values.subspan(m.a_offset, static_cast<std::size_t>(m.rank * m.in)), {m.rank, m.in});
    out.dataset(part + "/" + peft_key(m, 'B'),
                values.subspan(m.b_offset, static_cast<std::size_t>(m.out * m.rank)), {m.out, m.rank});
  }
}

std::vector<float> read_factors(const Hdf5File& file, const std::string& part, const LoraLayout& layout) {
  std::vector<float> values(layout.size());
  for (const LoraModule& m : layout.modules()) {
    for (const char which : {'A', 'B'}) {
      const std::string path = part + "/" + peft_key(m, which);
      const std::vector<std::int64_t> wanted =
          which == 'A' ? std::vector{m.rank, m.in} : std::vector{m.out, m.rank};
      if (!file.exists(path))
        fail("{}: tensor {} is missing; the file is of another model or adapter", file.path().string(), path);
      std::vector<std::int64_t> shape;
      const std::vector<float> read = file.read_f32(path, &shape);
      if (shape != wanted) {
        fail("{}: tensor {} has shape [{}] instead of [{}]; the file is of another model or adapter",
             file.path().string(), path, fmt::join(shape, ", "), fmt::join(wanted, ", "));
      }
      std::copy(read.begin(), read.end(),
                values.begin() + static_cast<std::ptrdiff_t>(which == 'A' ? m.a_offset : m.b_offset));
    }
  }
  return values;
}

void replay_step(const Policy& policy, const std::filesystem::path& dump,
                 const std::filesystem::path& out_path) {
  const Hdf5File file(dump);
  const ModelConfig& config = policy.model->config();
  Lora lora = read_adapter(file, config);
  const std::vector<float> m = read_factors(file, "adam_m_before", *lora.layout);
  const std::vector<float> v = read_factors(file, "adam_v_before", *lora.layout);
  const auto number = [&](const char* name) { return file.attribute_f64("/", name); };

  std::vector<DumpTrajectory> trajectories;
  std::map<std::int64_t, LearnerGroup> groups;
  std::vector<std::pair<std::int64_t, std::size_t>> places;  // (group, place in it) of each trajectory
  const std::vector<std::string> names = file.children("trajectories");
  trajectories.reserve(names.size());
  for (const std::string& name : names) {
    const std::string path = "trajectories/" + name;
    DumpTrajectory t{file.read_i64(path + "/prompt_ids"), file.read_i64(path + "/completion_ids"),
                     file.read_f32(path + "/mask"), file.read_f32(path + "/behaviour_logp"),
                     file.attribute_f64(path, "advantage")};
    if (t.completion.empty() || t.mask.size() != t.completion.size() ||
        t.behaviour.size() != t.completion.size()) {
      fail(
          "{}: trajectory {} has {} tokens, {} mask values and {} log-probabilities; they must be equal and "
          "not zero",
          dump.string(), name, t.completion.size(), t.mask.size(), t.behaviour.size());
    }
    for (const auto& ids : {t.prompt, t.completion}) {
      for (const std::int64_t id : ids) {
        if (id < 0 || id >= config.text.vocab)
          fail("{}: trajectory {} holds token id {}, outside the model's vocabulary of {}", dump.string(),
               name, id, config.text.vocab);
      }
    }
    const std::int64_t group = file.attribute_i64(path, "group");
    trajectories.push_back(std::move(t));
    LearnerGroup& target = groups[group];
    if (target.prompt == nullptr) {
      std::vector<EncodedPicture> pictures;
      std::vector<Grid> grids;
      if (file.exists(path + "/pixel_values")) {
        const std::vector<float> values = file.read_f32(path + "/pixel_values");
        const std::vector<std::int64_t> flat = file.read_i64(path + "/image_grid_thw");
        const std::int64_t columns = policy.pictures->config().columns();
        std::vector<Patches> patches;
        std::size_t at = 0;
        for (std::size_t i = 0; i + 2 < flat.size(); i += 3) {
          Patches p;
          p.grid = {flat[i], flat[i + 1], flat[i + 2]};
          const auto count = static_cast<std::size_t>(p.rows() * columns);
          if (p.rows() <= 0 || at + count > values.size())
            fail("{}: pixel_values of trajectory {} do not fit its image_grid_thw", dump.string(), name);
          p.values.assign(values.begin() + static_cast<std::ptrdiff_t>(at),
                          values.begin() + static_cast<std::ptrdiff_t>(at + count));
          at += count;
          grids.push_back(p.grid);
          patches.push_back(std::move(p));
        }
        pictures = policy.pictures->encode(std::span<const Patches>(patches));
      }
      target.prompt = prompt_of_ids(config, trajectories.back().prompt, pictures);
    }
    places.emplace_back(group, target.sequences.size());
    const DumpTrajectory& kept = trajectories.back();
    target.sequences.push_back({kept.completion, kept.behaviour, kept.mask, kept.advantage});
  }

  LearnerOptions options;
  options.objective.loss = loss_named(file.attribute_text("/", "loss"), dump.string());
  options.objective.kl = kl_named(file.attribute_text("/", "kl"), dump.string());
  options.objective.beta = number("beta");
  options.objective.clip_low = number("clip_low");
  options.objective.clip_high = number("clip_high");
  options.temperature = static_cast<float>(number("temperature"));
  options.adamw = {number("beta1"), number("beta2"), number("eps"), number("weight_decay")};
  options.max_grad_norm = number("max_grad_norm");
  const auto local = make_local();
  const std::vector<float> before = lora.values;
  Learner learner(*policy.model, std::move(lora), nullptr, *local, options);
  learner.restore(before, m, v, file.attribute_i64("/", "optimizer_steps"));
  std::vector<LearnerGroup> ordered;
  std::map<std::int64_t, std::size_t> first;  // group → index of its first record
  std::size_t records_before = 0;
  for (auto& [key, group] : groups) {
    first[key] = records_before;
    records_before += group.sequences.size();
    ordered.push_back(group);
  }
  std::vector<SequenceResult> records;
  const UpdateResult result = learner.update(ordered, number("lr"), &records);
  if (result.skipped) fail("cannot replay {}: the gradient is not finite", dump.string());

  Hdf5Writer out(out_path);
  out.attribute("/", "grad_norm", result.grad_norm);
  out.attribute("/", "loss_value", result.loss);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const SequenceResult& record = records[first[places[i].first] + places[i].second];
    const std::string path = "trajectories/" + names[i];
    const auto count = static_cast<std::int64_t>(record.learner_logp.size());
    out.dataset(path + "/learner_logp", std::span<const float>(record.learner_logp), {count});
    if (!record.reference_logp.empty())
      out.dataset(path + "/reference_logp", std::span<const float>(record.reference_logp), {count});
    out.dataset(path + "/token_loss", std::span<const float>(record.token_loss), {count});
  }
  write_factors(out, "gradient", *learner.adapter().layout, learner.collect_gradient());
  write_factors(out, "adapter_after", *learner.adapter().layout, learner.adapter().values);
  out.close();
}

}  // namespace biqa
