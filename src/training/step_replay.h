// SPDX-License-Identifier: Apache-2.0
// Recomputes a dumped step (training/step_dump.h).
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "io/hdf5.h"
#include "model/lora.h"
#include "policy/policy.h"
#include "training/step_reader.h"

namespace biqa {

/// Recomputes a dumped step with the learner's code, including packing and shared prompts. Writes learner_logp,
/// reference_logp, token_loss, gradient/…, adapter_after/…, grad_norm and loss_value under the names of the dump. If
/// the second stage was trained, also writes its values. Throws Error as read_step does.
void replay_step(const Policy& policy, const std::filesystem::path& dump, const std::filesystem::path& out);
/// The same for a step that was read before the policy opened a GPU. `dump` names it in messages.
void replay_step(const Policy& policy, DumpedStep step, const std::filesystem::path& dump,
                 const std::filesystem::path& out);

}  // namespace biqa
