// SPDX-License-Identifier: Apache-2.0
#include "actor/pictures.h"

namespace biqa {

std::vector<EncodedPicture> PictureEncoder::encode(std::span<const Patches> pictures) const {
  const std::int64_t cell = config_.merge * config_.merge;
  std::vector<EncodedPicture> encoded;
  for (std::size_t first = 0; first < pictures.size();) {
    std::vector<ImagePatches> batch;
    std::int64_t rows = 0;
    while (first + batch.size() < pictures.size()) {
      const Patches& next = pictures[first + batch.size()];
      if (!batch.empty() && rows + next.rows() > PictureEncoder::kBatchPatches) break;
      rows += next.rows();
      batch.push_back({next.grid, next.values});
    }
    const Tensor features = model_.encode_images(batch);
    DeviceMemory& memory = model_.ops().memory();
    std::int64_t row = 0;
    for (const ImagePatches& image : batch) {
      const std::int64_t tokens = image.grid[0] * image.grid[1] * image.grid[2] / cell;
      auto own = std::make_shared<Tensor>(features.type(), tokens, features.columns(), "image_features");
      memory.copy(features.view().row_range(row, tokens), own->view());
      row += tokens;
      encoded.push_back({image.grid, std::move(own)});
    }
    memory.wait();
    first += batch.size();
  }
  return encoded;
}

std::vector<EncodedPicture> PictureEncoder::encode(std::span<const std::filesystem::path> pictures) {
  std::vector<EncodedPicture> result(pictures.size());
  std::vector<std::size_t> missing;
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    const auto found = cache_.find(pictures[i].string());
    if (found != cache_.end())
      result[i] = found->second;
    else
      missing.push_back(i);
  }
  // Reads a limited number of images at a time, to limit the memory of patches that wait for the vision tower.
  for (std::size_t first = 0; first < missing.size();) {
    std::vector<Patches> read;
    std::int64_t rows = 0;
    while (first + read.size() < missing.size() && rows < kBatchPatches) {
      read.push_back(patches(pictures[missing[first + read.size()]]));
      rows += read.back().rows();
    }
    std::vector<EncodedPicture> encoded = encode(std::span<const Patches>(read));
    for (std::size_t i = 0; i < encoded.size(); ++i) {
      const std::size_t index = missing[first + i];
      result[index] = encoded[i];
      const std::string key = pictures[index].string();
      if (!cache_.emplace(key, std::move(encoded[i])).second) continue;
      order_.push_back(key);
      held_bytes_ += static_cast<std::int64_t>(result[index].features->bytes());
    }
    first += encoded.size();
  }
  while (held_bytes_ > cache_bytes_ && !order_.empty()) {
    const auto oldest = cache_.find(order_.front());
    held_bytes_ -= static_cast<std::int64_t>(oldest->second.features->bytes());
    cache_.erase(oldest);
    order_.pop_front();
  }
  return result;
}

}  // namespace biqa
