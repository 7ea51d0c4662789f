// SPDX-License-Identifier: Apache-2.0
// From a picture to the vision tower's input, as transformers' Qwen2VLImageProcessorPil computes it.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "io/image.h"

namespace biqa {

/// Areas that are asked for in place of a folder's own, pixels; 0: the folder's. Those that nobody has given (defaults)
/// only narrow the folder's.
struct PixelLimits {
  std::int64_t min = 0, max = 0;
  bool min_given = true, max_given = true;
};

/// The antialiasing filters of Pillow, by their numbers there (`resample`).
enum class ResizeFilter : std::uint8_t { lanczos = 1, bilinear = 2, bicubic = 3, box = 4, hamming = 5 };

/// How a checkpoint wants its pictures. The defaults are those of the published Qwen2.5-VL checkpoints.
struct PreprocessConfig {
  std::int64_t patch = 14;               ///< side of a patch, pixels
  std::int64_t merge = 2;                ///< a token covers merge x merge patches
  std::int64_t temporal = 2;             ///< frames per patch; a still picture is repeated
  std::int64_t min_pixels = 3'136;       ///< smallest area after resizing
  std::int64_t max_pixels = 12'845'056;  ///< largest area after resizing
  ResizeFilter filter = ResizeFilter::bicubic;
  double scale = 1.0 / 255.0;  ///< of a sample, before mean and std
  std::array<float, 3> mean = {0.48145466F, 0.4578275F, 0.40821073F};
  std::array<float, 3> std = {0.26862954F, 0.26130258F, 0.27577711F};

  /// Sides of resized pictures are multiples of this.
  std::int64_t factor() const { return patch * merge; }
  /// Values of one patch: channels x temporal x patch x patch (1176).
  std::int64_t columns() const { return 3 * temporal * patch * patch; }

  /// Reads `processor_config.json` (its `image_processor`) or else `preprocessor_config.json` in a checkpoint
  /// folder; neither file: the defaults. Areas come from min_pixels and max_pixels or else from `size`
  /// {shortest_edge, longest_edge} (areas too, despite the names), as transformers 5.24 reads them. Throws Error naming
  /// file and key for malformed or impossible values and for a processing other than this one (do_resize false, …).
  static PreprocessConfig load(const std::filesystem::path& folder);
  /// Puts limits in place of the folder's.
  void limit(const PixelLimits& asked);
};

struct Size {
  std::int64_t height = 0;
  std::int64_t width = 0;
  friend bool operator==(const Size&, const Size&) = default;
};

/// The size a picture is resized to: sides rounded half to even to multiples of `factor`, area brought into
/// [min_pixels, max_pixels] keeping the aspect. Throws Error for sides below 1 and an aspect above 200.
/// Source: transformers 5.23, qwen2_vl image processing.
Size smart_resize(std::int64_t height, std::int64_t width, std::int64_t factor, std::int64_t min_pixels,
                  std::int64_t max_pixels);

/// Which pass of the separable resize comes first; the result between the passes is rounded, so it matters.
enum class ResizeOrder {
  pillow13,    ///< columns first where that shrinks the work, as Pillow 13
  rows_first,  ///< always along rows first, as Pillow 9.4 and torchvision
};

/// Resize with antialiasing, bit-equal to Pillow's Image.resize.
Image resize(const Image& image, Size size, ResizeFilter filter = ResizeFilter::bicubic,
             ResizeOrder order = ResizeOrder::pillow13);

/// The vision tower's input for one picture.
struct Patches {
  std::array<std::int64_t, 3> grid = {};  ///< temporal groups, height and width, in patches
  std::vector<float> values;              ///< [rows, 3 x temporal x patch x patch], float32

  std::int64_t rows() const { return grid[0] * grid[1] * grid[2]; }
  /// Tokens the language model sees.
  std::int64_t tokens(std::int64_t merge) const { return rows() / (merge * merge); }
};

/// Normalises and cuts a picture whose sides are multiples of config.factor(). Rows: the merge x merge
/// patches of a token follow each other; columns: channel, frame, y, x. float32, bit-equal to the PIL
/// processor: (float32(u8 · scale) - mean) / std.
Patches to_patches(const Image& resized, const PreprocessConfig& config);

/// smart_resize, resize and to_patches. Throws Error as smart_resize.
Patches preprocess(const Image& image, const PreprocessConfig& config);

}  // namespace biqa
