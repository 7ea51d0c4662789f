// SPDX-License-Identifier: Apache-2.0
#include "training/step_replay.h"

#include <fmt/format.h>

#include "core/error.h"
#include "learner/adapter_store.h"
#include "learner/learner.h"
#include "training/step_reader.h"

namespace biqa {
namespace {

LearnerSequence sequence_of(const DumpedAnswer& answer, std::uint64_t member) {
  return {answer.ids, answer.behaviour, answer.mask, answer.advantage, member, answer.token_advantages};
}

void write_record(Hdf5Writer& out, const std::string& prefix, const SequenceResult& record) {
  const auto count = static_cast<std::int64_t>(record.learner_logp.size());
  out.dataset(prefix + "learner_logp", std::span<const float>(record.learner_logp), {count});
  if (!record.reference_logp.empty())
    out.dataset(prefix + "reference_logp", std::span<const float>(record.reference_logp), {count});
  out.dataset(prefix + "token_loss", std::span<const float>(record.token_loss), {count});
}

}  // namespace

void replay_step(const Policy& policy, const std::filesystem::path& dump,
                 const std::filesystem::path& out_path) {
  replay_step(policy, read_step(dump, policy.model->config(), policy.pictures->config()), dump, out_path);
}

void replay_step(const Policy& policy, DumpedStep step, const std::filesystem::path& dump,
                 const std::filesystem::path& out_path) {
  const ModelConfig& config = policy.model->config();

  // The same order as on a learner: a group, then the second stages of its members.
  std::vector<LearnerGroup> inputs;
  std::vector<std::string> prefixes;  // of each sequence's results
  for (const DumpedGroup& group : step.groups) {
    const std::vector<EncodedPicture> pictures =
        policy.pictures->encode(std::span<const Patches>(group.pictures));
    LearnerGroup input{prompt_of_ids(config, group.prompt, pictures), {}, group.dropout_key, group.dropped};
    for (const DumpedTrajectory& t : group.members) {
      input.sequences.push_back(sequence_of(t.answer, t.member));
      prefixes.push_back("trajectories/" + t.name + "/");
    }
    inputs.push_back(std::move(input));
    for (const DumpedTrajectory& t : group.members) {
      if (!t.stage2) continue;
      inputs.push_back({prompt_of_ids(config, t.stage2_prompt, {}),
                        {sequence_of(*t.stage2, 0)},
                        t.stage2_dropout_key,
                        group.dropped});
      prefixes.push_back("trajectories/" + t.name + "/stage2_");
    }
  }
  const std::shared_ptr<const PackedAdapter> reference =
      step.reference ? pack_adapter(*policy.model, *step.reference) : nullptr;
  const auto local = make_local();
  const std::vector<float> before = step.adapter.values;
  Learner learner(*policy.model, std::move(step.adapter), reference, *local, step.options);
  learner.restore(before, step.m, step.v, step.updates);
  std::vector<SequenceResult> records;
  const UpdateResult result = learner.update(inputs, step.lr, &records);
  if (result.skipped) {
    fail(
        "cannot replay {}: the loss or its gradient is not finite; look for extreme values in its "
        "adapter_before",
        dump.string());
  }

  Hdf5Writer out(out_path);
  out.attribute("/", "grad_norm", result.grad_norm);
  out.attribute("/", "loss_value", result.loss);
  for (std::size_t i = 0; i < records.size(); ++i) write_record(out, prefixes[i], records[i]);
  write_factors(out, "gradient", *learner.adapter().layout, learner.collect_gradient());
  write_factors(out, "adapter_after", *learner.adapter().layout, learner.adapter().values);
  out.close();
}

}  // namespace biqa
