// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/cpu_plan.h"

#include <utility>

namespace biqa::cpu {

CpuPlan::CpuPlan(const RowBatch& description, RotaryTable& rotary, std::int64_t head_dim)
    : BatchPlan(description.rows(), description.outputs(),
                static_cast<std::int64_t>(description.picks.size())),
      batch(description),
      cosines(DType::f32, rows, head_dim / 2, "activations"),
      sines(DType::f32, rows, head_dim / 2, "activations") {
  rotary.fill(batch.positions, cosines.view(), sines.view());
  for (const SampledRow& r : batch.sampled_rows) {
    const SampledToken& token = batch.sampled->wait()[static_cast<std::size_t>(r.pick)];
    batch.ids[static_cast<std::size_t>(r.row)] = token.id;
  }
  // Rows of image features use no embedding, so their ids become 0.
  for (const FeatureRows& f : batch.features) {
    for (std::int64_t i = 0; i < f.features.rows(); ++i)
      batch.ids[static_cast<std::size_t>(f.first_row + i)] = 0;
  }
  for (const SequenceRows& s : batch.sequences) {
    all_sequences.push_back({s.first_row, s.rows, s.preceding, s.pages.data()});
    output_sequences.push_back({static_cast<std::int64_t>(output_rows.size()), s.outputs,
                                s.preceding + s.rows - s.outputs, s.pages.data()});
    for (std::int64_t i = s.rows - s.outputs; i < s.rows; ++i) output_rows.push_back(s.first_row + i);
  }
  if (!batch.token_keys.empty()) {
    for (const std::int64_t row : output_rows)
      output_keys.push_back(batch.token_keys[static_cast<std::size_t>(row)]);
  }
  for (const GroupRows& g : batch.groups) {
    const SequenceRows& prompt = batch.sequences[g.prompt];
    SharedPromptRows every{prompt.first_row, prompt.rows, prompt.first_row, prompt.rows, {}};
    SharedPromptRows last{
        prompt.first_row, prompt.rows, output_sequences[g.prompt].first_row, prompt.outputs, {}};
    for (const std::size_t m : g.members) {
      const SequenceRows& member = batch.sequences[m];
      CHECK_EQ(member.outputs, member.rows);
      every.members.push_back({member.first_row, member.rows, member.first_row});
      last.members.push_back({member.first_row, member.rows, output_sequences[m].first_row});
    }
    all_groups.push_back(std::move(every));
    output_groups.push_back(std::move(last));
  }
}

}  // namespace biqa::cpu
