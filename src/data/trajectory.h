// SPDX-License-Identifier: Apache-2.0
// The plain data that actors send to reward ranks, and reward ranks to learners.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/annotation.h"
#include "data/token_parts.h"

namespace biqa {

/// One first-stage completion of the group's prompt, with its second-stage completion.
struct Trajectory {
  std::int64_t member = 0;                   ///< 0 … group size - 1
  std::vector<std::int64_t> completion_ids;  ///< up to and including the first end token
  std::vector<float> behaviour_logp;         ///< per token of completion_ids, at the sampling temperature
  bool finished = false;                     ///< ended by an end token, not by the length limit
  std::string text;                          ///< completion without its end token
  bool format_ok = false;
  std::optional<std::string> caption, reasoning;
  std::optional<double> rating;

  std::vector<std::int64_t> stage2_prompt_ids;  ///< empty: no second stage (disabled, or no caption)
  std::vector<std::int64_t> stage2_completion_ids;
  std::vector<float> stage2_behaviour_logp;
  bool stage2_finished = false;
  std::string stage2_text;
  std::optional<double> stage2_rating;

  std::int64_t policy_version = 0;   ///< of the adapter that sampled it
  std::uint64_t adapter_digest = 0;  ///< of that adapter's values

  std::vector<double> rewards;  ///< before weighting, in the order of the reward table; empty until scored
  double reward = 0;            ///< weighted sum of `rewards`
  double advantage = 0;         ///< set by the learner, from all rewards
  // Set by the learner and not sent to other ranks. token_advantages: of each token of completion_ids; empty: each has
  // `advantage`. stage2_advantage: of each token of stage2_completion_ids.
  std::vector<float> token_advantages;
  double stage2_advantage = 0;
  std::optional<std::array<double, kCompletionParts>> part_advantages;  ///< if the completion has parts
};

/// All trajectories of one image in one step.
struct Group {
  std::string sample_id;
  std::int64_t sample_index = 0;  ///< row of the training manifest
  std::int64_t step = 0;
  std::vector<std::int64_t> prompt_ids;                     ///< first stage; all members share it
  std::vector<std::array<std::int64_t, 3>> image_grid_thw;  ///< per image: time, height, width in patches
  Annotation annotation;
  std::vector<Trajectory> members;
};

}  // namespace biqa
