// SPDX-License-Identifier: Apache-2.0
// Computes image features from image files. The vision tower is frozen, so features are cached for later steps and
// epochs. They stay in host memory. A backend with memory of its own copies them when a batch needs them.
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
  std::shared_ptr<const Tensor> features;  ///< [tokens, hidden] f32 in host memory
  std::int64_t tokens() const { return features->rows(); }
};

class PictureEncoder {
 public:
  /// Patches per pass of the tower. The last image of a pass may exceed this number.
  static constexpr std::int64_t kBatchPatches = 8192;

  PictureEncoder(const QwenVl& model, PreprocessConfig config, std::int64_t cache_bytes)
      : model_(model), config_(config), cache_bytes_(cache_bytes) {}

  const PreprocessConfig& config() const { return config_; }
  /// All threads read images. If the tower is on a device, they read the next pass while it computes. Throws Error naming
  /// the first image that cannot be read.
  std::vector<EncodedPicture> encode(std::span<const std::filesystem::path> pictures);
  EncodedPicture encode(const std::filesystem::path& picture) {
    return encode(std::span(&picture, 1)).front();
  }
  /// Encodes given patches; the result is not cached.
  std::vector<EncodedPicture> encode(std::span<const Patches> pictures) const;
  /// The vision tower's input for an image file.
  Patches patches(const std::filesystem::path& picture) const {
    return preprocess(read_image(picture), config_);
  }

 private:
  /// Reads the images of the next pass: the first ones of `pictures`, until they have kBatchPatches rows.
  std::vector<Patches> read_pass(std::span<const std::filesystem::path> pictures) const;
  const QwenVl& model_;
  PreprocessConfig config_;
  std::int64_t cache_bytes_, held_bytes_ = 0;
  std::unordered_map<std::string, EncodedPicture> cache_;
  std::deque<std::string> order_;
};

}  // namespace biqa
