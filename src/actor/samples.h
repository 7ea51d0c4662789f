// SPDX-License-Identifier: Apache-2.0
// Prepares rows of a manifest for a rollout.
#pragma once

#include <cstddef>
#include <vector>

#include "actor/pictures.h"
#include "actor/rollout.h"
#include "data/manifest.h"

namespace biqa {

/// The given `rows` of `samples` with encoded images. RolloutSample::index is the row.
std::vector<RolloutSample> load_samples(PictureEncoder& pictures, const std::vector<Sample>& samples,
                                        const std::vector<std::size_t>& rows);

}  // namespace biqa
