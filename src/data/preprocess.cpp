// SPDX-License-Identifier: Apache-2.0
#include "data/preprocess.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>
#include <string>

#include "core/error.h"
#include "io/json.h"

namespace biqa {
namespace {

/// Largest area that a configuration may set: its patches take 6 GiB.
constexpr std::int64_t kMaxArea = std::int64_t{1} << 28;

/// Three numbers, or one for all three.
std::array<float, 3> read_colour(const JsonFields& fields, const std::string& key,
                                 const std::array<float, 3>& otherwise, bool divides) {
  const nlohmann::json* value = fields.find(key);
  if (value == nullptr) {
    return otherwise;
  }
  const std::string expected = divides ? "three numbers above 0" : "three numbers";
  if (!value->is_number() && (!value->is_array() || value->size() != 3)) {
    fields.refuse(key, expected);
  }
  std::array<float, 3> colour{};
  for (std::size_t c = 0; c < 3; ++c) {
    const nlohmann::json& number = value->is_array() ? (*value)[c] : *value;
    if (!number.is_number()) {
      fields.refuse(key, expected);
    }
    colour[c] = number.get<float>();
    if (!std::isfinite(colour[c]) || (divides && colour[c] <= 0)) {
      fields.refuse(key, expected);
    }
  }
  return colour;
}

/// A boolean; some files write it as a number.
bool read_switch(const JsonFields& fields, const std::string& key) {
  const nlohmann::json* value = fields.find(key);
  return value != nullptr && value->is_number() ? value->get<double>() != 0
                                                : fields.boolean(key).value_or(true);
}

/// An area; it may be written with a decimal point.
std::optional<std::int64_t> read_area(const JsonFields& fields, const std::string& key) {
  const std::optional<double> area = fields.number(key);
  if (!area) return std::nullopt;
  if (*area < 0 || *area != std::floor(*area)) fields.refuse(key, "a number of pixels");
  // No image is larger than kMaxArea, and a minimum of 0 is no limit.
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::min(*area, static_cast<double>(kMaxArea))));
}

void read_processing(const JsonFields& fields, PreprocessConfig& config) {
  if (!read_switch(fields, "do_resize")) {
    fields.refuse("do_resize", "true (processing without resizing is not supported)");
  }
  if (const auto filter = fields.integer("resample")) {
    if (*filter < 1 || *filter > 5)
      fields.refuse(
          "resample",
          "a filter that is implemented: 1 (lanczos), 2 (bilinear), 3 (bicubic), 4 (box), 5 (hamming)");
    config.filter = static_cast<ResizeFilter>(*filter);
  }
  config.scale = fields.number("rescale_factor").value_or(config.scale);
  if (config.scale <= 0) fields.refuse("rescale_factor", "a positive number");
  if (!read_switch(fields, "do_rescale")) config.scale = 1;
  config.mean = read_colour(fields, "image_mean", config.mean, false);
  config.std = read_colour(fields, "image_std", config.std, true);
  if (!read_switch(fields, "do_normalize")) {
    config.mean = {0, 0, 0};
    config.std = {1, 1, 1};
  }
}

PreprocessConfig parse_config(const JsonFields& fields) {
  PreprocessConfig config;
  read_processing(fields, config);
  config.patch = fields.integer("patch_size", 1, 1024).value_or(config.patch);
  config.merge = fields.integer("merge_size", 1, 16).value_or(config.merge);
  config.temporal = fields.integer("temporal_patch_size", 1, 16).value_or(config.temporal);

  // If the file has no limits, the defaults of the reference's class apply, not those of the published checkpoints.
  constexpr std::int64_t kClassMaxPixels = 28 * 28 * 1280;
  std::optional<std::int64_t> min = read_area(fields, "min_pixels");
  std::optional<std::int64_t> max = read_area(fields, "max_pixels");
  // If both limits are present, `size` is redundant. Older files give it other keys: {min_pixels, max_pixels}, {height,
  // width}.
  if ((!min || !max) && fields.has("size")) {
    const JsonFields size = *fields.object("size");
    const auto fill = [&](std::optional<std::int64_t>& limit, const char* key) {
      if (!limit) limit = read_area(size, key);
      if (!limit) size.missing(key);
    };
    fill(min, "shortest_edge");
    fill(max, "longest_edge");
  }
  config.min_pixels = min.value_or(config.min_pixels);
  config.max_pixels = max.value_or(kClassMaxPixels);
  return config;
}

// Pillow's fixed point: weights and sums carry 22 fractional bits.
constexpr int kWeightBits = 22;

/// The inputs of one output along one axis, and their weights.
struct Taps {
  std::int64_t first = 0;
  std::vector<std::int32_t> weights;
};

/// Keys' cubic convolution kernel with a = -1/2, in Pillow's order of operations.
double keys_cubic(double x) {
  constexpr double kA = -0.5;
  x = std::abs(x);
  if (x < 1.0) {
    return ((kA + 2.0) * x - (kA + 3.0)) * x * x + 1;
  }
  if (x < 2.0) {
    return (((x - 5) * x + 8) * x - 4) * kA;
  }
  return 0.0;
}

/// sin(pi x) / (pi x)
double sinc(double x) {
  return x == 0.0 ? 1.0 : std::sin(x * std::numbers::pi) / (x * std::numbers::pi);
}

/// Half the width of a filter.
double support_of(ResizeFilter filter) {
  switch (filter) {
    case ResizeFilter::box:
      return 0.5;
    case ResizeFilter::bilinear:
    case ResizeFilter::hamming:
      return 1.0;
    case ResizeFilter::bicubic:
      return 2.0;
    case ResizeFilter::lanczos:
      return 3.0;
  }
  return 0;
}

double weight_of(ResizeFilter filter, double x) {
  switch (filter) {
    case ResizeFilter::box:
      return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
    case ResizeFilter::bilinear:
      return std::max(1.0 - std::abs(x), 0.0);
    case ResizeFilter::hamming:
      return std::abs(x) < 1.0 ? sinc(x) * (0.54 + 0.46 * std::cos(x * std::numbers::pi)) : 0.0;
    case ResizeFilter::bicubic:
      return keys_cubic(x);
    case ResizeFilter::lanczos:
      return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
  }
  return 0;
}

/// The taps of every output when `from` samples become `to`.
std::vector<Taps> make_taps(std::int64_t from, std::int64_t to, ResizeFilter filter) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double filter_scale = std::max(scale, 1.0);
  const double support = support_of(filter) * filter_scale;
  const double inverse = 1.0 / filter_scale;
  std::vector<Taps> axis(static_cast<std::size_t>(to));
  std::vector<double> exact;
  for (std::size_t i = 0; i < axis.size(); ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto low = std::max<std::int64_t>(0, static_cast<std::int64_t>(std::trunc(center - support + 0.5)));
    const auto high =
        std::min<std::int64_t>(from, static_cast<std::int64_t>(std::trunc(center + support + 0.5)));
    exact.clear();
    double sum = 0.0;
    for (std::int64_t j = 0; j < high - low; ++j) {
      exact.push_back(weight_of(filter, (static_cast<double>(j + low) - center + 0.5) * inverse));
      sum += exact.back();
    }
    axis[i].first = low;
    for (const double weight : exact) {
      const double scaled = (sum != 0.0 ? weight / sum : weight) * (1 << kWeightBits);
      axis[i].weights.push_back(static_cast<std::int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
    }
  }
  return axis;
}

constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);

std::uint8_t to_sample(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

Image resize_width(const Image& image, std::int64_t width, ResizeFilter filter) {
  if (width == image.width) {
    return image;
  }
  const std::vector<Taps> axis = make_taps(image.width, width, filter);
  Image resized{width, image.height,
                std::vector<std::uint8_t>(static_cast<std::size_t>(width * image.height * 3))};
  std::uint8_t* to = resized.rgb.data();
  for (std::int64_t y = 0; y < image.height; ++y) {
    const std::uint8_t* row = image.rgb.data() + y * image.width * 3;
    for (const Taps& taps : axis) {
      const std::uint8_t* from = row + taps.first * 3;
      std::int32_t red = kHalf;
      std::int32_t green = kHalf;
      std::int32_t blue = kHalf;
      for (const std::int32_t weight : taps.weights) {
        red += from[0] * weight;
        green += from[1] * weight;
        blue += from[2] * weight;
        from += 3;
      }
      to[0] = to_sample(red);
      to[1] = to_sample(green);
      to[2] = to_sample(blue);
      to += 3;
    }
  }
  return resized;
}

Image resize_height(const Image& image, std::int64_t height, ResizeFilter filter) {
  if (height == image.height) {
    return image;
  }
  const auto stride = static_cast<std::size_t>(image.width) * 3;
  Image resized{image.width, height, std::vector<std::uint8_t>(stride * static_cast<std::size_t>(height))};
  std::uint8_t* to = resized.rgb.data();
  std::vector<std::int32_t> sums(stride);
  for (const Taps& taps : make_taps(image.height, height, filter)) {
    std::fill(sums.begin(), sums.end(), kHalf);
    const std::uint8_t* from = image.rgb.data() + static_cast<std::size_t>(taps.first) * stride;
    for (const std::int32_t weight : taps.weights) {
      for (std::size_t i = 0; i < stride; ++i) {
        sums[i] += from[i] * weight;
      }
      from += stride;
    }
    to = std::transform(sums.begin(), sums.end(), to, to_sample);
  }
  return resized;
}

}  // namespace

PreprocessConfig PreprocessConfig::load(const std::filesystem::path& folder) {
  const std::filesystem::path combined = folder / "processor_config.json";
  if (std::filesystem::exists(combined)) {
    const nlohmann::json document = read_json(combined);
    if (const auto fields = JsonFields(document, combined.string()).object("image_processor")) {
      return parse_config(*fields);
    }
  }
  const std::filesystem::path own = folder / "preprocessor_config.json";
  if (std::filesystem::exists(own)) {
    const nlohmann::json document = read_json(own);
    return parse_config(JsonFields(document, own.string()));
  }
  return {};
}

void PreprocessConfig::limit(const PixelLimits& asked) {
  if (asked.max > 0) max_pixels = asked.max_given ? asked.max : std::min(max_pixels, asked.max);
  if (asked.min > 0) min_pixels = asked.min_given ? asked.min : std::max(min_pixels, asked.min);
}

Size smart_resize(std::int64_t height, std::int64_t width, std::int64_t factor, std::int64_t min_pixels,
                  std::int64_t max_pixels) {
  CHECK(factor >= 1 && min_pixels >= 1 && max_pixels >= 1);
  constexpr double kMaxAspect = 200;
  if (height < 1 || width < 1) {
    fail("cannot resize an image of height {} and width {}: it has no pixels; replace it", height, width);
  }
  const auto h = static_cast<double>(height);
  const auto w = static_cast<double>(width);
  const auto f = static_cast<double>(factor);
  if (std::max(h, w) / std::min(h, w) > kMaxAspect) {
    fail("cannot resize an image of height {} and width {}: its aspect ratio is above {}; crop it", height,
         width, kMaxAspect);
  }
  // nearbyint rounds half to even, as Python's round.
  double rounded_h = std::nearbyint(h / f) * f;
  double rounded_w = std::nearbyint(w / f) * f;
  if (rounded_h * rounded_w > static_cast<double>(max_pixels)) {
    const double beta = std::sqrt(h * w / static_cast<double>(max_pixels));
    rounded_h = std::max(f, std::floor(h / beta / f) * f);
    rounded_w = std::max(f, std::floor(w / beta / f) * f);
  } else if (rounded_h * rounded_w < static_cast<double>(min_pixels)) {
    const double beta = std::sqrt(static_cast<double>(min_pixels) / (h * w));
    rounded_h = std::ceil(h * beta / f) * f;
    rounded_w = std::ceil(w * beta / f) * f;
  }
  return {static_cast<std::int64_t>(rounded_h), static_cast<std::int64_t>(rounded_w)};
}

Image resize(const Image& image, Size size, ResizeFilter filter, ResizeOrder order) {
  CHECK(image.width >= 1 && image.height >= 1 && size.width >= 1 && size.height >= 1);
  const std::int64_t removed_rows = image.height - size.height;
  const std::int64_t removed_columns = image.width - size.width;
  const bool columns_first =
      order == ResizeOrder::pillow13 && removed_rows > 0 && removed_rows > 2 * removed_columns;
  return columns_first ? resize_width(resize_height(image, size.height, filter), size.width, filter)
                       : resize_height(resize_width(image, size.width, filter), size.height, filter);
}

Patches to_patches(const Image& resized, const PreprocessConfig& config) {
  const std::int64_t factor = config.factor();
  CHECK(resized.height > 0 && resized.width > 0 && resized.height % factor == 0 &&
        resized.width % factor == 0)
      << resized.height << " x " << resized.width;
  std::array<std::array<float, 256>, 3> normalised{};
  for (std::size_t c = 0; c < 3; ++c) {
    for (std::size_t value = 0; value < 256; ++value) {
      const auto unit = static_cast<float>(static_cast<double>(value) * config.scale);
      normalised[c][value] = (unit - config.mean[c]) / config.std[c];
    }
  }

  const std::int64_t patch = config.patch;
  const std::int64_t merge = config.merge;
  const std::int64_t plane = patch * patch;
  Patches patches;
  patches.grid = {1, resized.height / patch, resized.width / patch};
  patches.values.resize(static_cast<std::size_t>(patches.rows() * config.columns()));
  for (std::int64_t gy = 0; gy < patches.grid[1]; ++gy) {
    for (std::int64_t gx = 0; gx < patches.grid[2]; ++gx) {
      const std::int64_t token = gy / merge * (patches.grid[2] / merge) + gx / merge;
      const std::int64_t row = (token * merge + gy % merge) * merge + gx % merge;
      float* to = patches.values.data() + row * config.columns();
      for (std::size_t c = 0; c < 3; ++c) {
        const float* frame = to;
        for (std::int64_t y = 0; y < patch; ++y) {
          const std::uint8_t* from =
              resized.rgb.data() + ((gy * patch + y) * resized.width + gx * patch) * 3 + c;
          for (std::int64_t x = 0; x < patch; ++x) {
            *to++ = normalised[c][from[3 * x]];
          }
        }
        for (std::int64_t repeat = 1; repeat < config.temporal; ++repeat) {
          to = std::copy_n(frame, plane, to);
        }
      }
    }
  }
  return patches;
}

Patches preprocess(const Image& image, const PreprocessConfig& config) {
  const Size size =
      smart_resize(image.height, image.width, config.factor(), config.min_pixels, config.max_pixels);
  return to_patches(resize(image, size, config.filter), config);
}

}  // namespace biqa
