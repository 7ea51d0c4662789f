// SPDX-License-Identifier: Apache-2.0
// What a run would otherwise only find out in its middle, asked before its first step and by its plan.
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

/// What lengths depend on.
struct PromptSource {
  const ModelConfig& model;
  const Tokenizer& tokenizer;
  const ChatIds& chat;
  const PreprocessConfig& preprocess;  ///< with the configuration's limits
};

/// Throws Error for a picture's prompt, a second stage or an answer to learn from that with all its new tokens is longer
/// than the model allows or than rollout.kv_memory holds. Samples have their sizes.
void check_lengths(const Config& config, const PromptSource& source, std::span<const Sample> train,
                   std::span<const std::vector<Sample>> evaluation);

}  // namespace biqa
