// SPDX-License-Identifier: Apache-2.0
// Step dumps: all inputs and results of one update, enough to recompute it.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "io/hdf5.h"
#include "model/lora.h"
#include "policy/policy.h"

namespace biqa {

/// Computes a dumped step again with the learner's code (packing and shared prompts included) and writes
/// learner_logp, reference_logp, token_loss (those of stage 2 too where it was trained), gradient/…, adapter_after/…,
/// grad_norm and loss_value under the names of the dump. Throws Error as read_step.
void replay_step(const Policy& policy, const std::filesystem::path& dump, const std::filesystem::path& out);

}  // namespace biqa
