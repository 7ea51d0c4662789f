// SPDX-License-Identifier: Apache-2.0
// From picture files to image features. The tower is frozen, so features are kept for later steps and epochs.
#pragma once

#include <deque>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/preprocess.h"
#include "model/qwen_vl.h"

namespace biqa {

struct EncodedPicture {
  Grid grid{};
  std::shared_ptr<const Tensor> features;  ///< [tokens, hidden] f32 in the backend's memory
  std::int64_t tokens() const { return features->rows(); }
};

class PictureEncoder {
 public:
  /// Patches that go through the tower together; the last picture may exceed them.
  static constexpr std::int64_t kBatchPatches = 8192;

  PictureEncoder(const QwenVl& model, PreprocessConfig config, std::int64_t cache_bytes)
      : model_(model), config_(config), cache_bytes_(cache_bytes) {}

  const PreprocessConfig& config() const { return config_; }
  /// Throws Error naming the picture that cannot be read.
  std::vector<EncodedPicture> encode(std::span<const std::filesystem::path> pictures);
  EncodedPicture encode(const std::filesystem::path& picture) {
    return encode(std::span(&picture, 1)).front();
  }
  /// Of patches at hand; not kept.
  std::vector<EncodedPicture> encode(std::span<const Patches> pictures) const;
  /// The vision tower's input for a picture file.
  Patches patches(const std::filesystem::path& picture) const {
    return preprocess(read_image(picture), config_);
  }
  /// Seconds spent in the vision tower so far.
  double vision_seconds() const { return vision_seconds_; }

 private:
  const QwenVl& model_;
  PreprocessConfig config_;
  std::int64_t cache_bytes_, held_bytes_ = 0;
  std::unordered_map<std::string, EncodedPicture> cache_;
  std::deque<std::string> order_;
  mutable double vision_seconds_ = 0;
};

}  // namespace biqa
