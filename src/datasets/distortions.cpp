// SPDX-License-Identifier: Apache-2.0
#include "datasets/distortions.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/error.h"

namespace biqa {
namespace {

std::uint8_t to_byte(double value) {
  return static_cast<std::uint8_t>(std::lround(std::clamp(value, 0.0, 255.0)));
}

/// The value of a channel at a place; places outside take the nearest pixel.
double at(const Image& image, std::int64_t x, std::int64_t y, std::int64_t channel) {
  x = std::clamp<std::int64_t>(x, 0, image.width - 1);
  y = std::clamp<std::int64_t>(y, 0, image.height - 1);
  return image.rgb[static_cast<std::size_t>(3 * (y * image.width + x) + channel)];
}

/// Calls value(x, y, channel, index of the pixel) for each channel of each pixel.
template <typename Value>
Image map_channels(const Image& image, const Value& value) {
  Image result{image.width, image.height, std::vector<std::uint8_t>(image.rgb.size())};
  std::size_t place = 0;
  for (std::int64_t y = 0; y < image.height; ++y)
    for (std::int64_t x = 0; x < image.width; ++x)
      for (std::int64_t channel = 0; channel < 3; ++channel, ++place)
        result.rgb[place] = to_byte(value(x, y, channel, place / 3));
  return result;
}

/// A standard normal number (Box and Muller, 1958).
double normal(const RandomStream& random, std::uint64_t index) {
  const double radius = std::sqrt(-2 * std::log(random.uniform(2 * index)));
  return radius * std::cos(2 * std::numbers::pi * random.uniform(2 * index + 1));
}

/// The mean along a line of places with weights, around each pixel.
Image blurred_along(const Image& image, const std::vector<double>& weights, std::int64_t dx,
                    std::int64_t dy) {
  const auto half = static_cast<std::int64_t>(weights.size() / 2);
  return map_channels(image, [&](std::int64_t x, std::int64_t y, std::int64_t channel, std::size_t) {
    double sum = 0;
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(weights.size()); ++i)
      sum +=
          weights[static_cast<std::size_t>(i)] * at(image, x + (i - half) * dx, y + (i - half) * dy, channel);
    return sum;
  });
}

Image gaussian_blur(const Image& image, double sigma, const RandomStream&) {
  const auto half = static_cast<std::int64_t>(std::lround(4 * sigma));
  std::vector<double> weights;
  double sum = 0;
  for (std::int64_t i = -half; i <= half; ++i) {
    const auto distance = static_cast<double>(i);
    weights.push_back(std::exp(-distance * distance / (2 * sigma * sigma)));
    sum += weights.back();
  }
  for (double& weight : weights) weight /= sum;
  return blurred_along(blurred_along(image, weights, 1, 0), weights, 0, 1);
}

Image motion_blur(const Image& image, double length, const RandomStream& random) {
  const auto count = static_cast<std::size_t>(length);
  const std::vector<double> weights(count, 1 / length);
  constexpr std::array<std::array<std::int64_t, 2>, 4> kDirections{{{1, 0}, {0, 1}, {1, 1}, {-1, 1}}};
  const auto& direction = kDirections.at(random.word(0) % kDirections.size());
  return blurred_along(image, weights, direction[0], direction[1]);
}

Image over_saturate(const Image& image, double factor, const RandomStream&) {
  return map_channels(image, [&](std::int64_t x, std::int64_t y, std::int64_t channel, std::size_t) {
    const double grey = 0.299 * at(image, x, y, 0) + 0.587 * at(image, x, y, 1) + 0.114 * at(image, x, y, 2);
    return grey + factor * (at(image, x, y, channel) - grey);
  });
}

Image compress(const Image& image, double quality, const RandomStream&) {
  const std::string jpeg = encode_jpeg(image, static_cast<int>(quality));
  return decode_image(std::as_bytes(std::span(jpeg.data(), jpeg.size())), "the compressed image");
}

/// Grain: the same noise in the three channels.
Image white_noise(const Image& image, double sigma, const RandomStream& random) {
  return map_channels(image, [&](std::int64_t x, std::int64_t y, std::int64_t channel, std::size_t pixel) {
    return at(image, x, y, channel) + 255 * sigma * normal(random, pixel);
  });
}

Image impulse_noise(const Image& image, double share, const RandomStream& random) {
  return map_channels(image, [&](std::int64_t x, std::int64_t y, std::int64_t channel, std::size_t pixel) {
    if (random.uniform(2 * pixel) >= share) return at(image, x, y, channel);
    return random.uniform(2 * pixel + 1) < 0.5 ? 255.0 : 0.0;
  });
}

Image multiplicative_noise(const Image& image, double sigma, const RandomStream& random) {
  return map_channels(image, [&](std::int64_t x, std::int64_t y, std::int64_t channel, std::size_t pixel) {
    return at(image, x, y, channel) * (1 + sigma * normal(random, pixel));
  });
}

Image gain(const Image& image, double factor, const RandomStream&) {
  return map_channels(image, [&](std::int64_t x, std::int64_t y, std::int64_t channel, std::size_t) {
    return factor * at(image, x, y, channel);
  });
}

/// Takes each pixel from a place a few pixels away.
Image jitter(const Image& image, double sigma, const RandomStream& random) {
  return map_channels(image, [&](std::int64_t x, std::int64_t y, std::int64_t channel, std::size_t pixel) {
    const std::int64_t dx = std::lround(sigma * normal(random, 2 * pixel));
    const std::int64_t dy = std::lround(sigma * normal(random, 2 * pixel + 1));
    return at(image, x + dx, y + dy, channel);
  });
}

/// Blocks of `side` pixels with the colour of their mean; a block may have a broken side.
Image pixelate(const Image& image, double side, const RandomStream&) {
  const auto blocks_of = [&](std::int64_t length) {
    return std::max<std::int64_t>(1, std::lround(static_cast<double>(length) / side));
  };
  const std::int64_t columns = blocks_of(image.width), rows = blocks_of(image.height);
  std::vector<double> sums(static_cast<std::size_t>(3 * columns * rows));
  std::vector<double> counts(static_cast<std::size_t>(columns * rows));
  const auto block_at = [&](std::int64_t x, std::int64_t y) {
    return static_cast<std::size_t>((y * rows / image.height) * columns + x * columns / image.width);
  };
  for (std::int64_t y = 0; y < image.height; ++y) {
    for (std::int64_t x = 0; x < image.width; ++x) {
      const std::size_t block = block_at(x, y);
      counts[block] += 1;
      for (std::int64_t channel = 0; channel < 3; ++channel)
        sums[3 * block + static_cast<std::size_t>(channel)] += at(image, x, y, channel);
    }
  }
  return map_channels(image, [&](std::int64_t x, std::int64_t y, std::int64_t channel, std::size_t) {
    const std::size_t block = block_at(x, y);
    return sums[3 * block + static_cast<std::size_t>(channel)] / counts[block];
  });
}

constexpr std::array kDistortions = {
    Distortion{"gaussian blur", 1, {0.6, 0.9, 1.4, 2.1, 3.2}, {4.61, 4.38, 2.91, 1.87, 1.30}, gaussian_blur},
    Distortion{"motion blur", 3, {3, 5, 7, 11, 17}, {4.60, 4.10, 2.85, 2.18, 1.67}, motion_blur},
    Distortion{
        "colour saturation", 8, {1.3, 1.8, 2.6, 4.0, 7.0}, {4.58, 3.33, 2.65, 1.82, 1.52}, over_saturate},
    Distortion{"jpeg compression", 10, {45, 28, 16, 8, 3}, {4.34, 4.25, 3.87, 1.95, 1.35}, compress},
    Distortion{
        "white noise", 11, {0.02, 0.04, 0.065, 0.10, 0.16}, {3.89, 3.39, 3.05, 2.71, 2.30}, white_noise},
    Distortion{
        "impulse noise", 13, {0.004, 0.012, 0.03, 0.06, 0.11}, {3.58, 2.93, 2.61, 2.31, 2.13}, impulse_noise},
    Distortion{"multiplicative noise",
               14,
               {0.06, 0.12, 0.19, 0.28, 0.42},
               {4.40, 3.58, 3.08, 2.64, 2.12},
               multiplicative_noise},
    Distortion{"brighten", 16, {1.2, 1.45, 1.8, 2.4, 3.4}, {4.51, 4.29, 3.63, 2.70, 1.81}, gain},
    Distortion{"darken", 17, {0.8, 0.62, 0.45, 0.3, 0.17}, {4.60, 4.53, 4.23, 3.53, 2.22}, gain},
    Distortion{"jitter", 19, {0.5, 0.9, 1.4, 2.2, 3.4}, {4.42, 4.09, 3.24, 1.85, 1.34}, jitter},
    Distortion{"pixelate", 21, {1.5, 2, 3, 4.5, 8}, {3.89, 3.10, 2.90, 2.79, 1.50}, pixelate}};

}  // namespace

std::span<const Distortion> distortions() {
  return kDistortions;
}

}  // namespace biqa
