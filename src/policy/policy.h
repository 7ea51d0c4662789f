// SPDX-License-Identifier: Apache-2.0
// An opened model folder: network, tokenizer, control tokens and preprocessing.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "actor/pictures.h"
#include "actor/rollout.h"
#include "comm/node.h"
#include "data/chat.h"
#include "data/tokenizer.h"
#include "model/qwen_vl.h"
#include "ops/backends.h"
#include "policy/shared_weights.h"

namespace biqa {

struct PolicyOptions {
  std::filesystem::path path;
  DType dtype = DType::f32;
  std::string device = DeviceChoice{}.device;
  int threads = DeviceChoice{}.threads;  ///< 0: all that this process may use
  bool backward = false;
  PixelLimits pixels = {};  ///< replace the limits of the model folder
  std::int64_t feature_cache_bytes = std::int64_t{1} << 30;
  /// Parts of the adapter on frozen modules (Lora::frozen), to be merged into the weights.
  std::shared_ptr<const FrozenParts> frozen = nullptr;
  VisionAttentionBy vision_attention = DeviceChoice{}.vision_attention;
};

/// Reads an adapter (read_any_adapter) for the model in a folder. Call it before Policy::open, because Lora::frozen
/// goes into the options.
Lora read_adapter_for(const std::filesystem::path& model, const std::filesystem::path& adapter);

struct Policy {
  std::shared_ptr<Ops> ops;
  std::unique_ptr<QwenVl> model;
  std::unique_ptr<Tokenizer> tokenizer;
  ChatIds chat{};
  std::unique_ptr<PictureEncoder> pictures;

  /// Throws Error naming what the folder lacks or the device that is absent.
  static Policy open(const PolicyOptions& options);
  /// As open(), collective over `ranks`: each node holds the weights once (load_shared). Throws Error on the lowest
  /// rank that fails; the other ranks wait until that rank ends the job.
  static Policy open(const PolicyOptions& options, Communicator& ranks,
                     const std::string& node = this_node());
  /// A prompt with the images in order, then the text. The result keeps the features alive.
  std::shared_ptr<const PromptInput> prompt(const std::optional<std::string>& system,
                                            std::span<const EncodedPicture> pictures,
                                            std::string_view user) const;

 private:
  /// Opens all parts except the network.
  void open_parts(const PolicyOptions& options);
  /// Opens the parts that need the network.
  void complete(const PolicyOptions& options, bool tell = true);
};

}  // namespace biqa
