// SPDX-License-Identifier: Apache-2.0
// Examines manifests: faults, statistics, and images that two of them share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace biqa {

// ---- validate ----

struct ManifestFault {
  std::int64_t line = 0;
  std::string text;
};

/// A key that no program of biqa reads.
struct UnknownKey {
  std::string key;  ///< of the row, or text.KEY
  std::int64_t rows = 0;
  std::int64_t line = 0;  ///< of the first
};

struct Validation {
  std::int64_t rows = 0;              ///< lines that are not blank
  std::vector<ManifestFault> faults;  ///< by line; every fault of a row
  std::vector<UnknownKey> unknown;    ///< these are not faults; by first line
};

/// Checks every key of every row and decodes every image. These are faults:
/// - what read_manifest refuses;
/// - a `split` or a part of `text` that is no text, and a `std` that is no number from 0 on;
/// - an image that cannot be decoded, or whose size is not the row's width and height;
/// - an image file with two ids.
/// Throws Error if the file cannot be read or has no rows.
Validation validate_manifest(const std::filesystem::path& file);

// ---- stats ----

struct NumberSummary {
  std::int64_t count = 0;
  double least = 0, median = 0, mean = 0, most = 0, deviation = 0;  ///< deviation: n - 1; 0 for one number
};
/// All zero without numbers.
NumberSummary summary_of(std::vector<double> numbers);

struct GroupCount {
  std::string set, split;  ///< split: empty if unknown
  std::int64_t rows = 0;
};

/// 16 bins of a quarter from 1 to 5; 5 belongs to the last.
inline constexpr int kScoreBins = 16;

struct ManifestStats {
  std::vector<GroupCount> groups;  ///< by set, then split
  NumberSummary scores;
  std::vector<std::int64_t> histogram;  ///< kScoreBins
  struct Text {
    std::string part;     ///< description, good or bad
    NumberSummary words;  ///< of the rows that have it
  };
  std::vector<Text> texts;
  std::int64_t references = 0;  ///< different values of `reference`
};

/// Throws Error for a row that read_manifest refuses. Images may be missing.
ManifestStats manifest_stats(const std::filesystem::path& file);

// ---- overlap ----

/// Two rows that show the same image, or alike ones.
struct SharedImage {
  std::string first, second;    ///< ids
  bool by_name = false;         ///< equal ids or file names, without regard to case
  bool by_pixels = false;       ///< the decoded pixels are equal
  std::optional<int> distance;  ///< between the perceptual hashes of alike images, bits of 64
};

struct SharedImages {
  std::int64_t first_rows = 0, second_rows = 0;
  std::vector<SharedImage> pairs;  ///< the first ones, in the order of the first manifest, then of the second
  std::int64_t all_pairs = 0, by_name = 0, by_pixels = 0,
               alike = 0;               ///< counts of all pairs, also of those not in `pairs`
  std::vector<std::string> unreadable;  ///< images that could not be decoded, with the reason
};

inline constexpr std::size_t kSharedPairs = 1000;

/// Compares every row of one manifest with every row of the other. If both are the same manifest, it compares each pair
/// of rows once. Images are alike if the perceptual hashes differ in at most kAlikeBits bits and small grey copies
/// correlate by at least kAlikeCorrelation. This finds resized and recompressed copies, and also other distortions of
/// one photograph. Keeps the first `most_pairs` pairs and counts the others. The result does not depend on the number
/// of threads; 0: all processors that the program may use. Throws Error for bad rows.
SharedImages shared_images(const std::filesystem::path& first, const std::filesystem::path& second,
                           std::size_t most_pairs = kSharedPairs, std::int64_t threads = 0);

inline constexpr int kAlikeBits = 10;
inline constexpr double kAlikeCorrelation = 0.95;

}  // namespace biqa
