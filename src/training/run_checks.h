// SPDX-License-Identifier: Apache-2.0
// Checks for problems that would otherwise appear in the middle of a run. They run before the first step and in
// --dry-run.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/chat.h"
#include "data/manifest.h"
#include "data/preprocess.h"
#include "data/tokenizer.h"
#include "model/config.h"

namespace biqa {

/// Throws Error (usage) naming the first key that training needs but the configuration does not set. Throws Error
/// naming every file and folder of the configuration that does not exist.
void require_inputs(const Config& config);

/// As require_inputs(). Also opens the model's files, the sentence encoder and the lexicon, if the run uses them, and looks
/// for the adapter. Throws Error naming configuration file, key and path. Takes about as long as reading the encoder.
void check_inputs(const Config& config);

/// Throws Error (usage) if a step needs more images than exist. Throws Error if sft lacks a completion to learn from.
void check_training_data(const Config& config, std::span<const Sample> train);

/// Warnings about weights of rewards whose schedule goes on after the last of `steps` steps, one sentence each.
std::vector<std::string> schedule_doubts(const Config& config, std::int64_t steps);

/// A warning, or none: the reasoning reward has a weight, but no training image has a human text, so the reward teaches
/// nothing. There is no warning if data.annotation_fraction is 0, because the user then wants no human texts. `train`:
/// before data.annotation_fraction leaves texts out.
std::vector<std::string> text_doubts(const Config& config, std::span<const Sample> train);

/// Number of image tokens of an image of this size.
std::int64_t image_tokens(const ImageSize& size, const PreprocessConfig& preprocess);

/// The inputs that prompt lengths depend on.
struct PromptSource {
  const ModelConfig& model;
  const Tokenizer& tokenizer;
  const ChatIds& chat;
  const PreprocessConfig& preprocess;  ///< with the configuration's limits
};

/// Checks the prompts of both stages with their longest completions, and sft completions. Throws Error if one exceeds
/// the model's positions or does not fit into rollout.kv_memory. Each sample must have its image size.
void check_lengths(const Config& config, const PromptSource& source, std::span<const Sample> train,
                   std::span<const std::vector<Sample>> evaluation);

}  // namespace biqa
