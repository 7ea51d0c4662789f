// SPDX-License-Identifier: Apache-2.0
#include "evaluation/image_source.h"

#include <algorithm>
#include <utility>

#include "actor/samples.h"
#include "core/error.h"

namespace biqa {

ImageSource::ImageSource(ImageSourceLinks links, const std::vector<Sample>& samples,
                         std::vector<std::size_t> rows, std::size_t window)
    : links_(std::move(links)), samples_(samples), rows_(std::move(rows)), window_(window) {}

std::vector<RolloutSample> ImageSource::next(bool idle) {
  links_.progress();
  std::vector<RolloutSample> loaded;
  // An idle rollout ends with an empty answer, which must not mean that all images of this turn were unreadable.
  do {
    if (links_.signals.stop) return {};
    // Requests several images at a time, because a pass of the vision tower for one would be slow.
    const std::size_t room = window_ - under_way_;
    if (room == 0 || (room < window_ / 4 && under_way_ > 0)) return {};
    const std::size_t count = std::min(room, rows_.size() - next_);
    const auto begin = rows_.begin() + static_cast<std::ptrdiff_t>(next_);
    const std::vector<std::size_t> rows(begin, begin + static_cast<std::ptrdiff_t>(count));
    next_ += count;
    if (!rows.empty()) loaded = load(rows);
  } while (idle && loaded.empty() && next_ < rows_.size());
  under_way_ += loaded.size();
  return loaded;
}

std::vector<RolloutSample> ImageSource::load(const std::vector<std::size_t>& rows) {
  if (!links_.unreadable) return load_samples(links_.pictures, samples_, rows);
  try {
    return load_samples(links_.pictures, samples_, rows);
  } catch (const Error&) {
    // One of them: all are tried alone below.
  }
  std::vector<RolloutSample> loaded;
  for (const std::size_t row : rows) {
    try {
      loaded.push_back(load_samples(links_.pictures, samples_, {row}).front());
    } catch (const Error& error) {
      links_.unreadable(row, error.what());
    }
  }
  return loaded;
}

void ImageSource::finished(const Group& /*group*/, std::int64_t /*tokens*/) {
  --under_way_;
}

}  // namespace biqa
