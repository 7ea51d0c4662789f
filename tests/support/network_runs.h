// SPDX-License-Identifier: Apache-2.0
// Whole runs of the tiny model on a backend, for comparing backends: a picture's prompt, generation, updates of learners.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "actor/engine.h"
#include "comm/communicator.h"
#include "learner/learner.h"
#include "support/tiny_model.h"

namespace biqa::testing {

/// A prompt over a picture that went through the model's own vision tower.
struct Prompt {
  explicit Prompt(const QwenVl& model) {
    const std::vector<float> pixels = random_values(4 * 6 * TinyModel::kPatchValues, 2, 3);
    const ImagePatches image{{1, 4, 6}, pixels};
    features = model.encode_images(std::span(&image, 1));
    Tensor unused;
    input = std::make_shared<PromptInput>(image_prompt(model, 2, 3, 19, 1, unused));
    input->features.front().features = features.const_view();
  }
  Tensor features;
  std::shared_ptr<PromptInput> input;
};

using Results = std::map<std::pair<std::uint64_t, std::size_t>, Generated>;
/// Nine completions: greedy, truncated and plain draws, with and without a picture.
inline Results generate(const QwenVl& model) {
  const Prompt picture(model);
  Engine engine(model, {});
  engine.set_adapter(pack_adapter(model, random_adapter(model.config(), 3)));
  for (std::uint64_t tag = 0; tag < 5; ++tag) {
    GenerateRequest request;
    request.prompt = tag % 2 == 0 ? picture.input
                                  : std::make_shared<PromptInput>(text_prompt(
                                        model.config(), 7 + static_cast<std::int64_t>(5 * tag), tag));
    request.tag = tag;
    for (std::uint64_t m = 0; m < 1 + tag % 3; ++m) request.streams.push_back(RandomStream{7, tag, m});
    request.sampling.top_k = tag == 1 ? 20 : 0;
    request.sampling.top_p = tag == 2 ? 0.9F : 1.0F;
    request.sampling.greedy = tag == 3;
    request.sampling.max_new_tokens = 20;
    engine.submit(request);
  }
  Results results;
  engine.run([&](Generated&& g) { results.emplace(std::pair(g.tag, g.member), std::move(g)); });
  return results;
}

struct Outcome {
  std::vector<float> values, gradient, m, v;
  std::vector<SequenceResult> records;
  double grad_norm = 0;
};

/// Two updates of two learners, groups dealt out in turn; what each of them holds.
inline std::vector<Outcome> train(const std::function<std::unique_ptr<QwenVl>()>& load,
                                  const LearnerOptions& options) {
  const auto world = make_thread_world(2, Seconds(60));
  std::vector<Outcome> outcomes(2);
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      const auto model = load();
      const Prompt picture(*model);
      std::vector<std::vector<std::int64_t>> ids;
      for (std::uint64_t i = 0; i < 3; ++i)
        ids.push_back(random_ids(3 + 4 * static_cast<std::int64_t>(i), 10 * rank + i));
      const std::vector<float> behaviour(16, -4.0F);
      LearnerGroup group{picture.input, {}, 500 + rank, false, "sample"};
      for (std::size_t i = 0; i < ids.size(); ++i) {
        group.sequences.push_back(
            {ids[i], std::span(behaviour).first(ids[i].size()), {}, i == 1 ? -0.7 : 1.0, i});
      }
      const Lora start = random_adapter(model->config(), 4);
      Learner learner(*model, start, pack_adapter(*model, random_adapter(model->config(), 5)), *world[rank],
                      options);
      Outcome& outcome = outcomes[rank];
      for (int update = 0; update < 2; ++update) {
        outcome.records.clear();
        outcome.grad_norm = learner.update(std::span(&group, 1), 1e-2, &outcome.records).grad_norm;
      }
      outcome.values = learner.adapter().values;
      outcome.gradient = learner.collect_gradient();
      learner.collect_moments(outcome.m, outcome.v);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

/// How a run of one process samples and learns.
struct RunSetting {
  std::size_t lag = 0;  ///< step s samples with the adapter that step s − 1 − lag has produced
  int updates = 1;      ///< per rollout
  double lr = 1e-2;
};
struct RunStep {
  std::vector<std::vector<std::int64_t>> texts;
  UpdateResult update;                ///< the first one
  double ratio_max_deviation_at_end;  ///< of the last one
};
struct RunOutcome {
  std::vector<RunStep> steps;
  std::vector<float> gradient;  ///< of the last update
};

/// Two completions of each of two prompts, one with a picture.
inline std::vector<Generated> rollout(Engine& engine, std::span<const std::shared_ptr<PromptInput>> prompts,
                                      std::uint64_t step) {
  constexpr std::uint64_t kMembers = 2;
  for (std::uint64_t tag = 0; tag < prompts.size(); ++tag) {
    GenerateRequest request;
    request.prompt = prompts[tag];
    request.tag = tag;
    for (std::uint64_t m = 0; m < kMembers; ++m) request.streams.push_back(RandomStream{step, tag, m});
    request.sampling.max_new_tokens = 8;
    engine.submit(request);
  }
  std::vector<Generated> results(prompts.size() * kMembers);
  engine.run([&](Generated&& g) { results[g.tag * kMembers + g.member] = std::move(g); });
  return results;
}

/// Three steps of rollout and updates from a start adapter, which also stays the reference of the KL term.
inline RunOutcome run_steps(const QwenVl& model, const RunSetting& setting) {
  const Prompt picture(model);
  const std::vector<std::shared_ptr<PromptInput>> prompts{
      picture.input, std::make_shared<PromptInput>(text_prompt(model.config(), 11, 2))};
  LearnerOptions options;
  options.objective.beta = 0.05;
  options.objective.clip_low = 1;  // nothing is clipped, for rounding would decide at a bound
  options.objective.clip_high = 1e6;
  options.longest_allowed = 8;
  const Lora start = random_adapter(model.config(), 4);
  const auto alone = make_local();
  Learner learner(model, start, pack_adapter(model, start), *alone, options);
  Engine engine(model, {});
  std::vector<Lora> versions{start};
  RunOutcome outcome;
  for (std::uint64_t step = 1; step <= 3; ++step) {
    const std::size_t newest = versions.size() - 1;
    engine.set_adapter(pack_adapter(model, versions[newest - std::min(newest, setting.lag)]));
    const std::vector<Generated> sampled = rollout(engine, prompts, step);
    std::vector<LearnerGroup> groups;
    RunStep& done = outcome.steps.emplace_back();
    for (const Generated& text : sampled) {
      if (text.member == 0) groups.push_back({prompts[text.tag], {}, 500 + text.tag, false, "sample"});
      const double advantage = text.member == step % 2 ? 1.0 : -0.5;
      groups.back().sequences.push_back({text.ids, text.logp, {}, advantage, text.member});
      done.texts.push_back(text.ids);
    }
    for (int update = 0; update < setting.updates; ++update) {
      const UpdateResult result = learner.update(groups, setting.lr);
      if (update == 0) done.update = result;
      done.ratio_max_deviation_at_end = result.ratio_max_deviation;
    }
    versions.push_back(learner.adapter());
  }
  outcome.gradient = learner.collect_gradient();
  return outcome;
}

}  // namespace biqa::testing
