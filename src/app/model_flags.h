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

/// `before`, then the flags of the model, then `after`: the order of --help.
std::vector<FlagInfo> with_model_flags(std::vector<FlagInfo> before, const std::vector<FlagInfo>& after);

/// The configuration that goes with the flags: --config, or that of the run in which --adapter lies.
std::optional<Config> find_config(const CommandLine& line);

/// The options of the model, from the flags and otherwise from the configuration. `processors`: those that this process may use.
/// Throws Error (usage) if nothing names a model.
PolicyOptions policy_options(const CommandLine& line, const std::optional<Config>& config, int processors);

/// The adapter of --adapter, otherwise of the configuration. `options` receives its parts on frozen modules
/// (model/frozen_parts.h).
std::optional<Lora> read_adapter(const CommandLine& line, const std::optional<Config>& config,
                                 PolicyOptions& options);

/// The options of the answers, from the flags and otherwise from the configuration; one answer per image. Throws Error
/// (usage) if flags contradict each other.
RolloutOptions rollout_options(const CommandLine& line, const std::optional<Config>& config);
/// If there is no configuration and no flag limits the completions, limits them to half of the model's positions.
void fit_to_model(const CommandLine& line, const std::optional<Config>& config, const Policy& policy,
                  RolloutOptions& options);

}  // namespace biqa
