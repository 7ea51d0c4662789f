// SPDX-License-Identifier: Apache-2.0
// Decodes the images of a run before its first step, because reading only headers does not find all damage.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "data/manifest.h"

namespace biqa {

/// An image that cannot be decoded.
struct DamagedPicture {
  std::size_t set = 0, row = 0;  ///< its position in the checked sets
  std::string reason;            ///< one line
};

struct PictureCheck {
  std::vector<DamagedPicture> damaged;  ///< in the order of the sets
  std::size_t pictures = 0, checked = 0;
};

/// Every rank decodes its share of the images with `threads` threads and receives the results of all ranks. The
/// remaining images are divided again from time to time, so that no rank waits long for another. After `patience`, or
/// when `stopped` returns true on a rank, no further image is started. The first rank logs its progress. Collective.
/// Throws Error only if communication fails.
PictureCheck check_pictures(Communicator& world, std::span<const std::vector<Sample>* const> sets,
                            int threads, Seconds patience, const std::function<bool()>& stopped);

}  // namespace biqa
