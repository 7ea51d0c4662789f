// SPDX-License-Identifier: Apache-2.0
// Flags of the programs that rate images: which model, adapter and prompts, and how to sample.
#pragma once

#include <optional>
#include <vector>

#include "actor/options.h"
#include "app/program.h"
#include "config/config.h"
#include "model/lora.h"
#include "policy/policy.h"

namespace biqa {

/// These flags between others, as --help shows them.
std::vector<FlagInfo> with_model_flags(std::vector<FlagInfo> before, const std::vector<FlagInfo>& after);

/// The configuration that goes with the flags: --config, or that of the run in which --adapter lies.
std::optional<Config> find_config(const CommandLine& line);

/// What flags and configuration say of the model; flags come first. `processors`: those that this process may use.
/// Throws Error (usage) if nothing names a model.
PolicyOptions policy_options(const CommandLine& line, const std::optional<Config>& config, int processors);

/// The adapter of --adapter, otherwise of the configuration. Its parts on frozen modules go into `options`.
std::optional<Lora> read_adapter(const CommandLine& line, const std::optional<Config>& config,
                                 PolicyOptions& options);

/// What they say of the answers, one per image. Throws Error (usage) if flags contradict each other.
RolloutOptions rollout_options(const CommandLine& line, const std::optional<Config>& config);
/// If nothing limits the completions, half of the model's positions does.
void fit_to_model(const CommandLine& line, const std::optional<Config>& config, const Policy& policy,
                  RolloutOptions& options);

}  // namespace biqa
