// SPDX-License-Identifier: Apache-2.0
// A checkpoint folder opened for use: network, tokenizer, control tokens and preprocessing that belong together.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "actor/pictures.h"
#include "actor/rollout.h"
#include "data/chat.h"
#include "data/tokenizer.h"
#include "model/qwen_vl.h"

namespace biqa {

struct PolicyOptions {
  std::filesystem::path path;
  DType dtype = DType::f32;
  std::string device = "cpu";
  int threads = 0;  ///< 0: what the machine offers
  bool backward = false;
  std::int64_t min_pixels = 0, max_pixels = 0;  ///< 0: what the checkpoint says
  std::int64_t feature_cache_bytes = std::int64_t{1} << 30;
};

/// Threads of one rank: as configured, else the cores of the machine (or OMP_NUM_THREADS) divided by its ranks.
int threads_per_rank(int configured, int ranks);

struct Policy {
  std::shared_ptr<Ops> ops;
  std::unique_ptr<QwenVl> model;
  std::unique_ptr<Tokenizer> tokenizer;
  ChatIds chat{};
  std::unique_ptr<PictureEncoder> pictures;

  /// Throws Error naming what the folder lacks or which device is absent.
  static Policy open(const PolicyOptions& options);
  /// A prompt over pictures in order, then the text. The result keeps the features alive.
  std::shared_ptr<const PromptInput> prompt(const std::optional<std::string>& system,
                                            std::span<const EncodedPicture> pictures,
                                            std::string_view user) const;
};

}  // namespace biqa
