// SPDX-License-Identifier: Apache-2.0
// Computes the vision tower's input from an image, as transformers' Qwen2VLImageProcessorPil does.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "io/image.h"

namespace biqa {

/// Limits of the area in pixels, which replace those of the model folder; 0: keep the folder's limit. A limit that is
/// only a default (not given by the user) can only narrow the folder's limit.
struct PixelLimits {
  std::int64_t min = 0, max = 0;
  bool min_given = true, max_given = true;
};

/// The antialiasing filters of Pillow, with Pillow's numbers (`resample`).
enum class ResizeFilter : std::uint8_t { lanczos = 1, bilinear = 2, bicubic = 3, box = 4, hamming = 5 };

/// Preprocessing settings of a model folder. The defaults are those of the published Qwen2.5-VL models.
struct PreprocessConfig {
  std::int64_t patch = 14;               ///< side of a patch, pixels
  std::int64_t merge = 2;                ///< an image token covers merge x merge patches
  std::int64_t temporal = 2;             ///< frames per patch; a still image is repeated
  std::int64_t min_pixels = 3'136;       ///< smallest area after resizing
  std::int64_t max_pixels = 12'845'056;  ///< largest area after resizing
  ResizeFilter filter = ResizeFilter::bicubic;
  double scale = 1.0 / 255.0;  ///< factor of a colour value, before mean and std
  std::array<float, 3> mean = {0.48145466F, 0.4578275F, 0.40821073F};
  std::array<float, 3> std = {0.26862954F, 0.26130258F, 0.27577711F};

  /// Sides of resized images are multiples of this.
  std::int64_t factor() const { return patch * merge; }
  /// Values of one patch: channels x temporal x patch x patch (1176).
  std::int64_t columns() const { return 3 * temporal * patch * patch; }

  /// Reads `image_processor` of `processor_config.json`, otherwise `preprocessor_config.json`, in a model folder.
  /// Without both files, the defaults apply. Areas come from min_pixels and max_pixels, otherwise from `size`
  /// {shortest_edge, longest_edge} (also areas, despite their names), as in transformers 5.24. Throws Error naming file
  /// and key for malformed or impossible values and for other kinds of processing (do_resize false, …).
  static PreprocessConfig load(const std::filesystem::path& folder);
  /// Applies limits to the folder's limits.
  void limit(const PixelLimits& asked);
};

struct Size {
  std::int64_t height = 0;
  std::int64_t width = 0;
  friend bool operator==(const Size&, const Size&) = default;
};

/// The size to which an image is resized: sides are rounded (half to even) to multiples of `factor`, and the area is
/// brought into [min_pixels, max_pixels] with the same aspect ratio. Throws Error for sides below 1 and aspect ratios
/// above 200. Source: transformers 5.23, qwen2_vl image processing.
Size smart_resize(std::int64_t height, std::int64_t width, std::int64_t factor, std::int64_t min_pixels,
                  std::int64_t max_pixels);

/// The order of the two passes of the separable resize. It matters because the intermediate result is rounded.
enum class ResizeOrder {
  pillow13,    ///< columns first if that is less work, as in Pillow 13
  rows_first,  ///< always rows first, as in Pillow 9.4 and torchvision
};

/// Resize with antialiasing, bit-equal to Pillow's Image.resize.
Image resize(const Image& image, Size size, ResizeFilter filter = ResizeFilter::bicubic,
             ResizeOrder order = ResizeOrder::pillow13);

/// The vision tower's input for one image.
struct Patches {
  std::array<std::int64_t, 3> grid = {};  ///< temporal groups, height and width, in patches
  std::vector<float> values;              ///< [rows, 3 x temporal x patch x patch], float32

  std::int64_t rows() const { return grid[0] * grid[1] * grid[2]; }
  /// Number of image tokens in the prompt.
  std::int64_t tokens(std::int64_t merge) const { return rows() / (merge * merge); }
};

/// Normalises an image and cuts it into patches. Its sides must be multiples of config.factor(). Rows: the merge x
/// merge patches of a token are adjacent. Columns: channel, frame, y, x. float32, bit-equal to the PIL processor:
/// (float32(u8 · scale) - mean) / std.
Patches to_patches(const Image& resized, const PreprocessConfig& config);

/// smart_resize, resize and to_patches. Throws Error as smart_resize does.
Patches preprocess(const Image& image, const PreprocessConfig& config);

}  // namespace biqa
