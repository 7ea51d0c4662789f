// SPDX-License-Identifier: Apache-2.0
// Makes a data set of known severity: photographs that are distorted on purpose.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace biqa {

struct SynthOptions {
  std::filesystem::path photos, out;
  std::int64_t count = 0;
  std::uint64_t seed = 0;
  /// Side of the square crop that is distorted, pixels; 0: the whole photograph. A side of a photograph that is shorter stays
  /// as it is.
  std::int64_t side = 512;
};

struct SynthResult {
  std::int64_t images = 0;              ///< written
  std::vector<std::string> unreadable;  ///< one message per photograph that cannot be read, by name
};

/// Writes the folder `out` with `manifest.jsonl` and PNG files. Photograph, crop, kind and level of an image depend only on seed,
/// its index and the names of the photographs, so a smaller set is the beginning of a larger one. One image in twelve stays
/// clean. `score` is the mean human score of kind and level in KADID-10k. The images of a photograph that cannot be read are left
/// out; this does not change the other images. Throws Error for a folder without images or without readable ones, and
/// an `out` that is not empty.
SynthResult make_synthetic_set(const SynthOptions& options);

}  // namespace biqa
