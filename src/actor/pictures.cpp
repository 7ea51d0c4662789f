// SPDX-License-Identifier: Apache-2.0
#include "actor/pictures.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <future>

#include "core/error.h"
#include "core/processors.h"
#include "core/threads.h"

namespace biqa {
namespace {

/// Patches of an image file, from its header. 0 if the header cannot be read: reading the image will say why.
std::int64_t patches_by_header(const std::filesystem::path& picture, const PreprocessConfig& config) {
  try {
    const ImageSize stored = read_image_size(picture);
    const Size size =
        smart_resize(stored.height, stored.width, config.factor(), config.min_pixels, config.max_pixels);
    return size.height / config.patch * (size.width / config.patch);
  } catch (const Error&) {
    return 0;
  }
}

}  // namespace

std::vector<Patches> PictureEncoder::read_pass(std::span<const std::filesystem::path> pictures) const {
  // Patches that wait for the tower take memory, so their number is limited.
  std::size_t count = 0;
  for (std::int64_t rows = 0; count < pictures.size() && rows < kBatchPatches; ++count)
    rows += patches_by_header(pictures[count], config_);
  std::vector<Patches> read(count);
  std::vector<std::exception_ptr> failures(count);
  std::atomic<std::size_t> next{0};
  const std::int64_t threads =
      std::clamp<std::int64_t>(threads_for(usable_processors()), 1, static_cast<std::int64_t>(count));
  on_threads(threads, [&](std::int64_t) {
    for (std::size_t i = next++; i < count; i = next++) {
      try {
        read[i] = patches(pictures[i]);
      } catch (...) {
        failures[i] = std::current_exception();
      }
    }
  });
  // The first in order, whichever thread failed first.
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
  return read;
}

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
  std::vector<std::filesystem::path> files;  // of the missing ones
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    const auto found = cache_.find(pictures[i].string());
    if (found != cache_.end()) {
      result[i] = found->second;
    } else {
      missing.push_back(i);
      files.push_back(pictures[i]);
    }
  }
  const auto read_from = [&](std::size_t first) { return read_pass(std::span(files).subspan(first)); };
  // On the CPU the tower needs all processors itself.
  const bool ahead = model_.ops().memory().kind() == Memory::device;
  std::future<std::vector<Patches>> next;
  for (std::size_t first = 0; first < missing.size();) {
    const std::vector<Patches> read = next.valid() ? next.get() : read_from(first);
    // Without another thread, get() reads.
    if (const std::size_t after = first + read.size(); ahead && after < missing.size())
      next = std::async(std::launch::async | std::launch::deferred, read_from, after);
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
