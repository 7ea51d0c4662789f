// SPDX-License-Identifier: Apache-2.0
// Step dumps: everything that one update saw and made, so that anyone can compute it again.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "app/policy.h"
#include "io/hdf5.h"
#include "model/lora.h"

namespace biqa {

/// Writes flat values as `part/<PEFT key>` datasets, A [rank, in] and B [out, rank].
void write_factors(Hdf5Writer& out, const std::string& part, const LoraLayout& layout,
                   std::span<const float> values);

/// Reads such datasets. Throws Error naming a missing tensor or a wrong shape.
std::vector<float> read_factors(const Hdf5File& file, const std::string& part, const LoraLayout& layout);

/// Computes a dumped step again with the learner's code (packing and shared prompts included) and writes
/// learner_logp, reference_logp, token_loss, gradient/…, adapter_after/… and grad_norm under the names of the dump.
void replay_step(const Policy& policy, const std::filesystem::path& dump, const std::filesystem::path& out);

}  // namespace biqa
