// SPDX-License-Identifier: Apache-2.0
#include "datasets/pictures.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/processors.h"
#include "core/threads.h"
#include "data/unicode.h"
#include "datasets/labels.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

/// The same for names that differ in case, or in the form of accents: macOS may store é as e and a combining accent.
std::string key_of(const std::string& name) {
  return is_valid_utf8(name) ? to_nfc(lower_each(name)) : lower_case(name);
}

std::string stem_of(const std::string& name) {
  return key_of(fs::path(name).stem().string());
}

/// The parts of a name between slashes. Empty for a name that leaves its folder or names none.
std::vector<std::string> parts_of(std::string name) {
  std::replace(name.begin(), name.end(), '\\', '/');
  std::vector<std::string> parts;
  if (name.empty() || name.front() == '/' || name.find('\0') != std::string::npos) return parts;
  for (const fs::path& part : fs::path(name)) {
    if (part == "..") return {};
    if (!part.empty() && part != ".") parts.push_back(part.string());
  }
  return parts;
}

/// The entries of a listing that match a name.
std::vector<std::string> entries_of(const FolderListing& listing, const std::string& name, bool exact,
                                    bool any_extension) {
  if (exact)
    return listing.names.contains(name) ? std::vector<std::string>{name} : std::vector<std::string>{};
  const auto& index = any_extension ? listing.by_stem : listing.by_lower_case;
  // A dot may be part of a name that has no extension.
  const bool has_extension = any_extension && is_picture_name(name);
  const auto found = index.find(has_extension ? stem_of(name) : key_of(name));
  return found == index.end() ? std::vector<std::string>{} : found->second;
}

}  // namespace

bool is_picture_name(const std::string& name) {
  static const std::unordered_set<std::string> kEndings{".jpg", ".jpeg", ".png", ".bmp", ".webp",
                                                        ".tif", ".tiff", ".ppm", ".pgm"};
  return kEndings.contains(lower_case(fs::path(name).extension().string()));
}

PictureFinder::PictureFinder(fs::path root, std::vector<std::string> folders, bool nested)
    : root_(std::move(root)), nested_(nested) {
  std::error_code ignored;
  for (const std::string& folder : folders) {
    const fs::path base = (root_ / folder).lexically_normal();
    if (fs::is_directory(base, ignored)) bases_.push_back(base);
  }
  if (bases_.empty()) bases_.push_back((root_ / folders.front()).lexically_normal());
  chosen_ = bases_.front();
}

const FolderListing& PictureFinder::list(const fs::path& folder) {
  const auto known = listings_.find(folder);
  if (known != listings_.end()) return known->second;
  FolderListing listing;
  std::error_code problem;
  for (fs::directory_iterator entry(folder, problem), end; !problem && entry != end;
       entry.increment(problem)) {
    const std::string name = entry->path().filename().string();
    listing.names.insert(name);
    listing.by_lower_case[key_of(name)].push_back(name);
    if (is_picture_name(name)) listing.by_stem[stem_of(name)].push_back(name);
    std::error_code ignored;
    if (!name.starts_with('.') && entry->is_directory(ignored)) listing.folders.push_back(name);
  }
  std::sort(listing.folders.begin(), listing.folders.end());
  return listings_.emplace(folder, std::move(listing)).first->second;
}

std::vector<fs::path> PictureFinder::places(const fs::path& base) {
  std::vector<fs::path> places{base};
  if (!nested_) return places;
  for (const std::string& folder : list(base).folders) places.push_back(base / folder);
  return places;
}

std::vector<fs::path> PictureFinder::matches(const fs::path& base, const std::string& name, Match how) {
  const std::vector<std::string> parts = parts_of(name);
  if (parts.empty()) return {};
  std::vector<fs::path> found = places(base);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    std::vector<fs::path> next;
    const bool last = i + 1 == parts.size();
    for (const fs::path& folder : found)
      for (const std::string& entry :
           entries_of(list(folder), parts[i], how == Match::exact, last && how == Match::any_extension))
        next.push_back(folder / entry);
    found = std::move(next);
  }
  return found;
}

void PictureFinder::choose_folder(std::span<const std::string> names) {
  if (bases_.size() < 2) return;
  std::int64_t most = -1;
  for (const fs::path& base : bases_) {
    const auto count = std::count_if(names.begin(), names.end(), [&](const std::string& name) {
      return !matches(base, name, Match::any_case).empty() ||
             !matches(base, name, Match::any_extension).empty();
    });
    if (count > most) {
      most = count;
      chosen_ = base;
    }
  }
}

FoundPicture PictureFinder::find(const std::string& name) {
  FoundPicture picture;
  picture.file = chosen_ / name;
  if (parts_of(name).empty()) {
    picture.file = chosen_;
    picture.is_wrong = true;
    picture.problem = fmt::format("its name '{}' leads out of the folder; correct it", name);
    return picture;
  }
  for (const Match how : {Match::exact, Match::any_case, Match::any_extension}) {
    const std::vector<fs::path> found = matches(chosen_, name, how);
    if (found.empty()) continue;
    if (found.size() > 1) {
      picture.is_wrong = true;
      picture.problem = fmt::format("{} and {} could both be '{}'; rename or remove one", found[0].string(),
                                    found[1].string(), name);
      return picture;
    }
    picture.file = found.front();
    picture.other_case = how == Match::any_case;
    picture.other_extension = how == Match::any_extension;
    return picture;
  }
  picture.problem =
      fmt::format("there is no image '{}' in {}; correct --root or --images", name, chosen_.string());
  return picture;
}

std::vector<PictureCheck> check_pictures(std::span<const fs::path> files,
                                         const std::function<void(std::size_t, const Image&)>& seen) {
  std::vector<PictureCheck> checks(files.size());
  std::atomic<std::size_t> next{0}, done{0};
  std::mutex speaking;
  auto told = std::chrono::steady_clock::now();
  const auto work = [&](std::int64_t) {
    for (std::size_t i = next++; i < files.size(); i = next++) {
      try {
        const Image image = read_image(files[i]);
        checks[i].size = {image.width, image.height};
        if (seen) seen(i, image);
      } catch (const Error& problem) {
        checks[i].problem = problem.what();
      }
      ++done;
      const std::lock_guard lock(speaking);
      const auto now = std::chrono::steady_clock::now();
      if (now - told < std::chrono::seconds(10)) continue;
      told = now;
      say("read {} of {} images\n", with_commas(static_cast<std::int64_t>(done)),
          with_commas(static_cast<std::int64_t>(files.size())));
    }
  };
  const auto threads = std::min<std::int64_t>(usable_processors(), static_cast<std::int64_t>(files.size()));
  on_threads(threads, work);
  return checks;
}

}  // namespace biqa
