// SPDX-License-Identifier: Apache-2.0
// A checkpoint folder with an adapter merged into its weights: W + scale · B A.
#pragma once

#include <cstdint>
#include <filesystem>

#include "model/lora.h"

namespace biqa {

struct MergeReport {
  std::int64_t merged = 0;  ///< tensors that the adapter changed
  std::int64_t copied = 0;  ///< tensors as they were, to the bit
  std::int64_t files = 0;   ///< safetensors files written
  std::uint64_t bytes = 0;  ///< in them
};

/// Writes `target`, a folder that appears whole or not at all (one with something in it is refused): the safetensors
/// files of `model` under their names, with their headers, dtypes and shards, and the files beside them that
/// configuration, tokenizer and processor need. Merged values are W + scale · Σ_r B[:, r] A[r, :], computed in f32 in the
/// order of r and rounded once to the file's dtype (nearest even). `lora` must have been read for this model. Files are
/// mapped; memory is that of the largest tensor. Throws Error naming file and tensor, also where a sum does not fit the
/// dtype.
MergeReport write_merged_model(const std::filesystem::path& model, const Lora& lora,
                               const std::filesystem::path& target);

}  // namespace biqa
