// SPDX-License-Identifier: Apache-2.0
// Gives the images of an evaluation to a rollout, a limited number at a time.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "actor/pictures.h"
#include "actor/rollout.h"
#include "core/stop_signals.h"
#include "data/manifest.h"

namespace biqa {

struct ImageSourceLinks {
  PictureEncoder& pictures;
  const StopSignals& signals;      ///< after a stop request no further image is started
  std::function<void()> progress;  ///< called before every token
  /// Called with row and message for an image that cannot be read; it is left out. Without this function the Error ends
  /// the rollout.
  std::function<void(std::size_t row, const std::string& message)> unreadable;
};

class ImageSource final : public SampleSource {
 public:
  /// `rows` of `samples`, in this order. `window`: images that run at a time.
  ImageSource(ImageSourceLinks links, const std::vector<Sample>& samples, std::vector<std::size_t> rows,
              std::size_t window);

  std::vector<RolloutSample> next(bool idle) override;
  void finished(const Group& group, std::int64_t tokens) override;

 private:
  std::vector<RolloutSample> load(const std::vector<std::size_t>& rows);

  const ImageSourceLinks links_;
  const std::vector<Sample>& samples_;
  const std::vector<std::size_t> rows_;
  const std::size_t window_;
  std::size_t under_way_ = 0, next_ = 0;
};

}  // namespace biqa
