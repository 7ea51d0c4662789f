// SPDX-License-Identifier: Apache-2.0
// Checks for problems that would otherwise appear in the middle of a run. They run before the first step and in
// --dry-run.
#pragma once

#include <span>
#include <vector>

#include "config/config.h"
#include "data/chat.h"
#include "data/manifest.h"
#include "data/preprocess.h"
#include "data/tokenizer.h"
#include "model/config.h"

namespace biqa {

/// Throws Error (usage) naming the first key that training needs and the configuration leaves empty, or
/// (world) naming every file and folder of the configuration that is not there.
void require_inputs(const Config& config);

/// Throws Error (usage) where a step wants more images than there are, (world) where sft lacks an answer to learn from.
void check_training_data(const Config& config, std::span<const Sample> train);

/// Image tokens of a picture of this size.
std::int64_t image_tokens(const ImageSize& size, const PreprocessConfig& preprocess);

/// The inputs that prompt lengths depend on.
struct PromptSource {
  const ModelConfig& model;
  const Tokenizer& tokenizer;
  const ChatIds& chat;
  const PreprocessConfig& preprocess;  ///< with the configuration's limits
};

/// Throws Error if any prompt (stage 1 or 2) plus its longest answer, or any sft answer, exceeds the model's
/// positions or does not fit in rollout.kv_memory. Each sample's image size must already be known.
void check_lengths(const Config& config, const PromptSource& source, std::span<const Sample> train,
                   std::span<const std::vector<Sample>> evaluation);

}  // namespace biqa
