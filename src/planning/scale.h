// SPDX-License-Identifier: Apache-2.0
// Simulates a training step on N ranks from the times and sizes of its parts. Computes the time of the step and the
// part that limits it. docs/scaling.md has results and compares them with real runs.
//
// G images with M members each; A actors, R reward ranks, L learners, H ranks that hold the adapter, N ranks; P bytes
// of adapter, b bytes of a group; B bytes/s of a rank's link, λ its latency, μ the time to send or receive a message;
// S = sum_bytes_per_second, the speed at which a rank adds or copies values:
//
//   rollout   An actor with n running members takes iteration + n·token per token. A new group costs group_start, a
//             member's second stage stage2_start. An actor first takes half of an even share of the groups. Each group
//             that ends is replaced by the next (WorkShare). Lengths are drawn: measured ones, or log-normal.
//   rewards   Each reward rank has a queue. A group takes reward_group, and L·(b/B + μ) to send it to every learner. A
//             learner needs G·(b/B + μ) to receive all groups.
//   learning  Groups go, longest first, to the least loaded learner. A learner takes
//             learn_start + groups·learn_group + rows·learn_token, rows = prompt + completions. The slowest counts.
//   reduce    Reduce-scatter and all-gather run directly between all pairs: 2·(L-1)·μ per round, rounds·λ,
//             P·(L-1)/L/B, and P/S for sums or copies. rounds = shard / clamp(16 Mi / L, 4096, 1 Mi) elements. Four
//             small sums through one rank: 2·(L-1)·μ + 2λ.
//   publish   N reports to one rank: N·μ. The first learner's decisions after a step (Boundary in training/messages.h):
//             binomial tree over N. Adapter up to 4 MiB: binomial tree over H, ⌈log2 H⌉·(P/B + λ). Above, 4 MiB blocks
//             along a chain, (H-1 + blocks-1)·(block/B + λ), or a binary tree, 2·(⌊log2 H⌋ + blocks-1)·(block/B + λ),
//             whichever ends earlier (broadcast_shape.h). Then `apply`, and four small maxima over H.
//   waits     A rank that has waited w sleeps up to min(w/16, 5 ms) between two checks (comm/wait_times.h). Each hop of
//             a tree or chain costs half of this sleep. A wait for the last of n ranks costs n/(n+1) of this sleep.
//   cores     Ranks may share C cores. n busy ones run at min(1, C'/n) of their speed. C' is C minus the cores that
//             waiting ranks use to check for messages.
//   lag K     An actor begins step s when it has ended step s-1 and version s-1-K is published. A learner begins it when
//             its groups are scored and version s-1 is published. With K = 0 the step is the sum of its parts.
//   saving    Runs in the background. Its time is the larger of two: all bytes through the file system, or the first
//             learner's bytes through its own link. It delays only the next checkpoint. The step waits only for the
//             copy (3·P/L/S).
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/roles.h"

namespace biqa {

/// The work in one step and the time a machine needs for each part of it. A value of 0 means that the part takes no
/// time.
struct ScaleInputs {
  // Work.
  std::int64_t images = 1, group_size = 1;
  double prompt_tokens = 0, length_mean_tokens = 1;
  double length_deviation = 0;                ///< standard deviation of the logarithm of the length
  double max_new_tokens = 1e9;                ///< longer draws are cut
  double stage2_tokens = 0;                   ///< of every member
  std::vector<double> relative_lengths;       ///< measured lengths to draw from, mean 1; empty: log-normal
  double adapter_bytes = 0, group_bytes = 0;  ///< an adapter as f32 values; a group as sent
  std::int64_t checkpoint_every = 0;          ///< steps
  std::int64_t policy_lag = 0;                ///< only if no actor is also a learner
  // Seconds on one rank.
  double group_start_seconds = 0, stage2_start_seconds = 0, iteration_seconds = 0, token_seconds = 0;
  double reward_group_seconds = 0;
  double learn_start_seconds = 0, learn_group_seconds = 0, learn_token_seconds = 0;
  double apply_seconds = 0;  ///< until a rank can use a new adapter
  // Between ranks.
  double link_bytes_per_second = 0, latency_seconds = 0, message_seconds = 0;
  double sum_bytes_per_second = 0;
  bool sleeps = true;  ///< model the sleep-and-poll waits of the MPI transport
  // Storage: bandwidth of all ranks together, bandwidth of one rank, and the fixed cost per file.
  double disk_bytes_per_second = 0, disk_rank_bytes_per_second = 0, file_seconds = 0;
  // Shared cores; 0: every rank has its own.
  double cores = 0, idle_core_share = 0;
  // The simulation.
  std::int64_t steps = 8;
  std::uint64_t seed = 0;
};

/// Sets one value by its name above. Throws Error (usage) beginning with `where` for an unknown name or a bad value.
void set_scale_input(ScaleInputs& inputs, const std::string& name, const std::string& value,
                     const std::string& where);
/// Sets every value in the file, a flat YAML map.
void read_scale_inputs(ScaleInputs& inputs, const std::filesystem::path& file);
/// All values as lines `name: value`, without relative_lengths. read_scale_inputs reads them back.
std::string to_yaml(const ScaleInputs& inputs);

/// Means over the simulated steps. Seconds are wall time.
struct ScaleStep {
  std::int64_t ranks = 0, actors = 0, rewards = 0, learners = 0;
  bool colocated = false;
  std::int64_t images = 0;
  double step_seconds = 0;
  double rollout_seconds = 0;    ///< until the last group has ended
  double straggler_seconds = 0;  ///< part of rollout_seconds: the excess over perfectly even work
  /// from the end of the rollout until the last scored group has reached the learners
  double reward_seconds = 0;
  double learn_seconds = 0;
  double imbalance_seconds = 0;  ///< part of learn_seconds: the excess over perfectly even work
  double reduce_seconds = 0, publish_seconds = 0;
  /// part of publish_seconds: until the adapter has reached the last rank that needs it
  double broadcast_seconds = 0;
  double checkpoint_seconds = 0;  ///< to write one checkpoint
  /// steps between two checkpoints: checkpoint_every, or more if the disk is slower
  std::int64_t checkpoint_steps = 0;
  double copy_seconds = 0;                       ///< time for copying checkpoint data, averaged per step
  std::array<double, kOperations> sent_bytes{};  ///< by kind of traffic, over all ranks
  double traffic_bytes() const;
  double trajectories_per_second = 0;
  std::string limit;  ///< the part that takes most of the step
};

ScaleStep simulate_step(const ScaleInputs& inputs, const RolePlan& roles, int ranks);

/// The fastest roles for `ranks` ranks: colocated ones, or the best of a grid of splits into actors, reward ranks and
/// learners.
RolePlan find_best_roles(const ScaleInputs& inputs, int ranks);

/// Times of a run on one rank with all roles: medians over its steps without the first.
struct MeasuredRun {
  std::int64_t images = 0;
  double rollout_seconds = 0, reward_seconds = 0, learn_seconds = 0, sync_seconds = 0;
  double length_mean_tokens = 0, stage2_tokens = 0;  ///< of a member
};
/// Sets the seconds of one rank. One run gives the costs per token. Two runs with different numbers of images also give
/// the cost of an iteration and of a learner's start; a negative estimate becomes 0. The work fields of `inputs` must
/// already be set.
void calibrate(ScaleInputs& inputs, std::span<const MeasuredRun> runs);

/// Reads inputs from folders of runs on one rank. Work, sizes and `roles` come from the first. Throws Error if a folder
/// has no steps or its model is missing.
ScaleInputs read_scale_runs(std::span<const std::filesystem::path> folders, ScaleInputs machine,
                            RoleConfig& roles);

}  // namespace biqa
