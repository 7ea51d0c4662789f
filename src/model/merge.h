// SPDX-License-Identifier: Apache-2.0
// Writes a model folder with an adapter merged into its weights: W + scale · B A.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "model/lora.h"

namespace biqa {

struct MergeReport {
  std::int64_t merged = 0;  ///< tensors that the adapter changed
  std::int64_t copied = 0;  ///< tensors copied bit by bit
  std::int64_t files = 0;   ///< safetensors files written
  std::uint64_t bytes = 0;  ///< bytes of these files
};

/// Writes the folder `target`, which appears whole or not at all. It has the safetensors files of `model` with the same
/// names, headers, dtypes and shards, and the files of configuration, tokenizer and processor. Merged values are W +
/// scale · Σ_r B[:, r] A[r, :], computed in f32 in the order of r and rounded once to the file's dtype (nearest even).
/// `lora` must have been read for this model. `beside`: contents of further files by name. If the model has a file of such
/// a name, its copy is named base_model_NAME. Files are mapped, so the largest tensor determines the memory. Throws
/// Error naming file and tensor, also if a value does not fit the dtype or `target` is not empty.
MergeReport write_merged_model(const std::filesystem::path& model, const Lora& lora,
                               const std::filesystem::path& target,
                               const std::map<std::string, std::string>& beside = {});

}  // namespace biqa
