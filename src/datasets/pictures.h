// SPDX-License-Identifier: Apache-2.0
// Looks up images by the names in label files, and checks them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "io/image.h"

namespace biqa {

/// The entries of one folder.
struct FolderListing {
  std::unordered_set<std::string> names;
  std::unordered_map<std::string, std::vector<std::string>> by_lower_case, by_stem;  ///< keys in lower case
  std::vector<std::string> folders;                                                  ///< sorted
};

/// The image that belongs to a name.
struct FoundPicture {
  std::filesystem::path file;    ///< in the disk's spelling; if there is no file, where it should be
  bool other_case = false;       ///< found without regard to case and to the form of accents
  bool other_extension = false;  ///< found with another extension
  std::string problem;           ///< why there is none; empty if found
  bool is_wrong = false;         ///< the name leads out of the folder, or several files match it
};

/// Finds images below a root. Names are looked up exactly, then without regard to case and to the form of accents, then
/// with another extension of an image. Several such files are an error. Folders are listed once.
class PictureFinder {
 public:
  /// `folders`: below the root. `nested`: images also lie in the folders below these.
  PictureFinder(std::filesystem::path root, std::vector<std::string> folders, bool nested);

  /// Keeps the folder in which most of the names are found; the first of equals.
  void choose_folder(std::span<const std::string> names);
  /// The chosen folder.
  const std::filesystem::path& folder() const { return chosen_; }
  /// `name` may hold folders. One that leaves the root is a problem.
  FoundPicture find(const std::string& name);

 private:
  enum class Match { exact, any_case, any_extension };

  const FolderListing& list(const std::filesystem::path& folder);
  std::vector<std::filesystem::path> places(const std::filesystem::path& base);
  std::vector<std::filesystem::path> matches(const std::filesystem::path& base, const std::string& name,
                                             Match how);

  std::filesystem::path root_;
  std::vector<std::filesystem::path> bases_;
  bool nested_;
  std::filesystem::path chosen_;
  std::map<std::filesystem::path, FolderListing> listings_;
};

/// Whether the name ends as those of images do.
bool is_picture_name(const std::string& name);

/// What decoding an image gave.
struct PictureCheck {
  ImageSize size;       ///< upright
  std::string problem;  ///< why it cannot be used; empty if it can
};

/// Decodes every image on several threads. `seen` is called with the index and the pixels of each image that could be
/// decoded, on any thread. Reports progress on standard error every ten seconds.
std::vector<PictureCheck> check_pictures(std::span<const std::filesystem::path> files,
                                         const std::function<void(std::size_t, const Image&)>& seen = {});

}  // namespace biqa
