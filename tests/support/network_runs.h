// SPDX-License-Identifier: Apache-2.0
// Whole runs of the tiny model on a backend, for comparing backends: a picture's prompt, generation, updates of learners.
#pragma once

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

}  // namespace biqa::testing
