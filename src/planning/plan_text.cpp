// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "core/bytes_text.h"
#include "planning/plan.h"
#include "run/progress.h"

namespace biqa {
namespace {

std::string flop_text(double flop) {
  return fmt::format("{:.3g} TFLOP", flop / 1e12);
}

std::string line(const std::string& name, const std::string& value) {
  return fmt::format("{:<22} {}\n", name, value);
}

/// The rates of the times, and where each comes from.
std::string rates_text(const RunPlan& plan) {
  if (plan.device != "cuda") {
    const StepParts& rates = plan.cpu_rates;
    return line(
        "rates of a rank",
        fmt::format("vision {:.1f}, prompts {:.1f}, tokens {:.1f}, their choice {:.1f}, learning {:.1f}, "
                    "its log-probabilities {:.1f} GFLOP/s (measured now, on a few layers of random weights)",
                    rates.vision / 1e9, rates.prefill / 1e9, rates.decode / 1e9, rates.sample / 1e9,
                    rates.learn / 1e9, rates.score / 1e9));
  }
  const GpuRates& gpu = plan.gpu;
  const auto sheet = [](bool given) { return given ? "given" : "assumed, data sheet"; };
  return line("GPU", fmt::format("{} ({})", gpu.card, gpu.origin)) +
         line("peak of a GPU",
              fmt::format("{:.1f} TFLOP/s in bf16 ({}), {:.0f} GB/s ({})", gpu.peak_flop / 1e12,
                          sheet(gpu.peak_given), gpu.bandwidth / 1e9, sheet(gpu.bandwidth_given))) +
         line("share of both", fmt::format("{:.0f} % ({}); none of these rates is measured", 100 * gpu.share,
                                           gpu.share_given ? "given" : "assumed"));
}

/// A line per part of the memory.
std::string memory_text(const RunPlan& plan) {
  const bool cuda = plan.device == "cuda";
  std::string text =
      line(cuda ? "peak memory of a GPU" : "peak memory",
           fmt::format("{} on the rank that needs most ({}), if every completion has the maximum length",
                       bytes_text(plan.memory.peak()), plan.fullest));
  if (cuda && plan.here)
    text +=
        line("memory of the GPU here", fmt::format("{}, {} of it free", bytes_text(plan.here->total_bytes),
                                                   bytes_text(plan.here->free_bytes)));
  for (const auto& [name, bytes] : plan.memory.shared)
    text += fmt::format("  {:<32} {:>12}{}\n", name, bytes_text(bytes),
                        plan.ranks > 1 ? "  once per node, for all its ranks" : "");
  for (const auto& [name, bytes] : plan.memory.held)
    text += fmt::format("  {:<32} {:>12}\n", name, bytes_text(bytes));
  text += "  and the largest of these:\n";
  for (const auto& [name, bytes] : plan.memory.passing)
    text += fmt::format("    {:<30} {:>12}\n", name, bytes_text(bytes));
  for (const auto& [name, bytes] : plan.memory.on_host)
    text += line("memory of the host", fmt::format("{} of a rank for {}", bytes_text(bytes), name));
  if (!cuda && plan.ranks > 1) {
    text +=
        line("peak memory of a node",
             fmt::format("at most {} with {} ranks, {} of that for the one copy of the weights",
                         bytes_text(plan.node_bytes), plan.node_ranks, bytes_text(plan.node_shared_bytes)));
  }
  return text;
}

}  // namespace

std::string describe_plan(const RunPlan& plan) {
  std::string text;
  for (const std::string& assumption : plan.assumptions) text += "assumed: " + assumption + "\n";
  for (const std::string& doubt : plan.doubts) text += "warning: " + doubt + "\n";
  text += plan.roles.describe() + "\n";
  const auto add = [&](const std::string& name, const std::string& value) { text += line(name, value); };
  add("threads per rank", fmt::format("{}", plan.threads));
  add("images", fmt::format("{} to train on, {} to evaluate", plan.training_images, plan.evaluation_images));
  add("steps",
      fmt::format("{} of {} images and {} trajectories", plan.steps, plan.images, plan.trajectories));
  if (plan.further_images > 0)
    add("refills",
        fmt::format("a step rolls out {} images, and up to {} further images in up to {} rounds; below, only "
                    "the times with refills include the further images",
                    plan.images, plan.further_images, plan.refill_rounds));
  if (!plan.reward_weights.empty()) add("reward weights", plan.reward_weights);
  add("prompt", fmt::format("{} tokens, {} of them image tokens; in the second stage at most {}",
                            plan.prompt_tokens, plan.image_tokens, plan.stage2_prompt_tokens));
  add("tokens of a step",
      fmt::format("at most {} generated, {} through the learner (if every completion has max_new_tokens)",
                  plan.rollout_tokens, plan.trained_rows));
  add("operations of a step",
      fmt::format("at most {}: vision {}, rollout {}, learning {}", flop_text(plan.operations.all()),
                  flop_text(plan.operations.vision), flop_text(plan.operations.rollout()),
                  flop_text(plan.operations.learning())));
  text += rates_text(plan);
  // With refills, the time of a step depends on the rewards.
  const auto up_to = [&](double steps) {
    return plan.further_images > 0
               ? fmt::format(", at most {} with refills", duration_text(plan.longest_step_seconds() * steps))
               : std::string();
  };
  const auto steps = static_cast<double>(plan.steps);
  add("time of a step",
      fmt::format("about {} at {}: rollout {:.2f} s, learning {:.2f} s{}", duration_text(plan.step_seconds()),
                  plan.device == "cuda" ? "that rate" : "these rates", plan.rollout_seconds,
                  plan.learn_seconds, up_to(1)));
  add("time of the run", fmt::format("about {} without evaluations{}",
                                     duration_text(plan.step_seconds() * steps), up_to(steps)));
  if (plan.waves > 1)
    add("waves", fmt::format("{} per step, because rollout.kv_memory cannot hold the keys and values of all "
                             "its groups at once",
                             plan.waves));
  text += memory_text(plan);
  return text;
}

}  // namespace biqa
