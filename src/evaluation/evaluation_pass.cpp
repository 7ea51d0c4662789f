// SPDX-License-Identifier: Apache-2.0
#include "evaluation/evaluation_pass.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "data/wire.h"
#include "evaluation/evaluation.h"
#include "evaluation/image_source.h"

namespace biqa {
std::optional<std::vector<EvalMetrics>> EvaluationPass::run(std::span<const std::vector<Sample>> sets,
                                                            std::int64_t step,
                                                            const RolloutOptions& options) const {
  const bool collects = world.rank() == roles.learners.front();
  std::vector<EvalMetrics> figures;
  bool whole = true;
  int tag = first_tag;
  for (const std::vector<Sample>& set : sets) {
    for (const std::string& decoding : config.train.eval_decodings) {
      if (rollout != nullptr) {
        RolloutOptions decoded = options;
        decoded.sampling.greedy = decoding == "greedy";
        run_share(set, std::move(decoded), tag);
      }
      if (collects) {
        const std::vector<Group> groups = collect(set.size(), tag);
        whole = whole && groups.size() == set.size();
        if (whole) {
          const auto of_set =
              evaluate_groups(groups, config.prompts.texts.profile, step, set.front().set, decoding, true);
          figures.insert(figures.end(), of_set.begin(), of_set.end());
        }
      }
      ++tag;  // a quick actor may be at the next set while the first learner still waits for a slow one
    }
  }
  if (world.all_reduce_min(whole ? 1 : 0) != 1) return std::nullopt;
  return figures;
}

void EvaluationPass::run_share(const std::vector<Sample>& samples, RolloutOptions options, int tag) const {
  std::vector<std::size_t> rows;
  for (auto i = static_cast<std::size_t>(roles.actor_index(world.rank())); i < samples.size();
       i += roles.actors.size())
    rows.push_back(i);
  options.group_size = 1;
  options.stage2 = true;
  // At most as many images run at a time as a step has trajectories.
  const auto window = static_cast<std::size_t>(config.rollout.images_per_step * config.rollout.group_size);
  ImageSource source({pictures, signals, [this] { world.progress(); }, {}}, samples, std::move(rows), window);
  const int to = roles.learners.front();
  rollout->run(source, options, [&](Group&& group) { world.send(to, tag, serialise(group)); });
  world.send(to, tag, {});
}

/// Receives the groups of a set and returns them in its order. Returns none if an actor stopped early.
std::vector<Group> EvaluationPass::collect(std::size_t images, int tag) const {
  std::vector<Group> groups(images);
  std::size_t received = 0;
  for (std::size_t ended = 0; ended < roles.actors.size();) {
    const Message message = world.receive(kAnyRank, tag, "an evaluated image");
    if (message.bytes.empty()) {
      ++ended;
      continue;
    }
    Group group = parse_group(message.bytes);
    const auto index = static_cast<std::size_t>(group.sample_index);
    groups.at(index) = std::move(group);
    ++received;
  }
  if (received < images) groups.clear();
  return groups;
}

bool evaluation_due(const Config& config, std::int64_t step, std::int64_t last_step) {
  const std::int64_t every = config.train.eval_every;
  return step > 0 && every > 0 && step % every == 0 && step < last_step;
}

std::size_t figures_of_evaluation(const Config& config, std::size_t sets) {
  constexpr std::size_t kConditions = 2;  // from the image, from the caption
  return sets * config.train.eval_decodings.size() * kConditions;
}

void print_evaluation(std::span<const EvalMetrics> figures) {
  for (const EvalMetrics& m : figures) {
    std::string off;
    if (m.out_of_scale > 0) {
      off = fmt::format(", {} out of scale (without them PLCC {:.3f}, SRCC {:.3f}, RMSE {:.3f})",
                        m.out_of_scale, m.plcc_in_scale, m.srcc_in_scale, m.rmse_in_scale);
    }
    say("step {:>4}  {:<10} {:<7} {:<7}  PLCC {:6.3f}  SRCC {:6.3f}  RMSE {:5.3f}{}  {} of {} "
        "without rating{}\n",
        m.step, m.set, m.condition, m.decoding, m.plcc, m.srcc, m.rmse,
        std::isnan(m.rouge1_r) ? std::string() : fmt::format("  ROUGE-1 recall {:.3f}", m.rouge1_r),
        m.parse_failures, m.n, off);
  }
}

}  // namespace biqa
