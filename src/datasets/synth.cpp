// SPDX-License-Identifier: Apache-2.0
#include "datasets/synth.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "core/error.h"
#include "core/processors.h"
#include "core/random.h"
#include "core/threads.h"
#include "datasets/distortions.h"
#include "datasets/pictures.h"
#include "io/files.h"
#include "io/image.h"
#include "io/json.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

/// Streams of random numbers.
enum Purpose : std::uint64_t { order_of_photos, plan_of_image, noise_of_image };

std::vector<fs::path> photos_in(const fs::path& folder) {
  std::vector<fs::path> photos;
  std::error_code problem;
  for (fs::directory_iterator entry(folder, problem), end; !problem && entry != end;
       entry.increment(problem)) {
    const std::string name = entry->path().filename().string();
    std::error_code ignored;
    if (!name.starts_with('.') && is_picture_name(name) && entry->is_regular_file(ignored))
      photos.push_back(entry->path());
  }
  if (problem) fail("cannot list folder {}: {}; correct --photos", folder.string(), problem.message());
  if (photos.empty()) fail("cannot use folder {}: it has no images; correct --photos", folder.string());
  std::sort(photos.begin(), photos.end());
  return photos;
}

/// The photograph of image `index`: each round takes all of them once.
std::size_t photo_of(std::int64_t index, std::size_t photos, std::uint64_t seed) {
  const auto place = static_cast<std::uint64_t>(index);
  return random_order(photos, RandomStream{seed, order_of_photos, place / photos})[place % photos];
}

std::uint64_t below(std::uint64_t bound, const RandomStream& random, std::uint64_t index) {
  return std::min(bound - 1, static_cast<std::uint64_t>(random.uniform(index) * static_cast<double>(bound)));
}

Image crop_of(const Image& photo, std::int64_t side, const RandomStream& random) {
  const std::int64_t width = side == 0 ? photo.width : std::min(side, photo.width);
  const std::int64_t height = side == 0 ? photo.height : std::min(side, photo.height);
  const auto left =
      static_cast<std::int64_t>(below(static_cast<std::uint64_t>(photo.width - width + 1), random, 0));
  const auto top =
      static_cast<std::int64_t>(below(static_cast<std::uint64_t>(photo.height - height + 1), random, 1));
  Image crop{width, height, {}};
  crop.rgb.reserve(static_cast<std::size_t>(3 * width * height));
  for (std::int64_t y = top; y < top + height; ++y) {
    const auto begin = photo.rgb.begin() + 3 * (y * photo.width + left);
    crop.rgb.insert(crop.rgb.end(), begin, begin + 3 * width);
  }
  return crop;
}

/// Writes one image of a photograph and returns its line of the manifest.
std::string make_image(const SynthOptions& options, const fs::path& photo, const Image& photo_image,
                       std::int64_t index, const fs::path& folder) {
  const RandomStream plan{options.seed, plan_of_image, static_cast<std::uint64_t>(index)};
  Image image = crop_of(photo_image, options.side, plan);
  const std::string name = fmt::format("{:06}.png", index);
  nlohmann::ordered_json row{{"id", name},
                             {"image", "images/" + name},
                             {"score", kCleanScore},
                             {"set", "synth"},
                             {"reference", photo.filename().string()},
                             {"type", "clean"},
                             {"level", 0}};
  const std::uint64_t kind = below(distortions().size() + 1, plan, 2);
  if (kind < distortions().size()) {
    const Distortion& distortion = distortions()[kind];
    const std::uint64_t level = below(kLevels, plan, 3);
    const RandomStream noise{options.seed, noise_of_image, static_cast<std::uint64_t>(index)};
    image = distortion.apply(image, distortion.strength.at(level), noise);
    row["score"] = distortion.score.at(level);
    row["type"] = distortion.name;
    row["level"] = level + 1;
  }
  row["width"] = image.width;
  row["height"] = image.height;
  write_png(folder / "images" / name, image);
  return json_text(row) + "\n";
}

}  // namespace

SynthResult make_synthetic_set(const SynthOptions& options) {
  const std::vector<fs::path> photos = photos_in(options.photos);
  AtomicFolder folder(options.out);
  std::error_code problem;
  if (!fs::create_directory(folder.path() / "images", problem))
    fail("cannot write {}: {}; check its permissions", options.out.string(), problem.message());
  std::vector<std::string> lines(static_cast<std::size_t>(options.count));
  std::map<fs::path, std::string> problems;
  std::mutex writing;
  std::atomic<std::int64_t> next{0};
  on_threads(std::min<std::int64_t>(usable_processors(), options.count), [&](std::int64_t) {
    for (std::int64_t i = next++; i < options.count; i = next++) {
      const fs::path& photo = photos[photo_of(i, photos.size(), options.seed)];
      Image image;
      try {
        image = read_image(photo);
      } catch (const Error& unreadable) {
        const std::lock_guard lock(writing);
        problems.emplace(photo, unreadable.what());
        continue;
      }
      lines[static_cast<std::size_t>(i)] = make_image(options, photo, image, i, folder.path());
    }
  });
  SynthResult result;
  std::string manifest;
  for (const std::string& line : lines) {
    manifest += line;
    result.images += line.empty() ? 0 : 1;
  }
  for (const auto& [photo, why] : problems) result.unreadable.push_back(why);
  if (result.images == 0)
    fail("cannot use folder {}: none of its photographs can be read; the first: {}", options.photos.string(),
         result.unreadable.front());
  write_file_atomically(folder.path() / "manifest.jsonl", manifest);
  folder.commit();
  return result;
}

}  // namespace biqa
