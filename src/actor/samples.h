// SPDX-License-Identifier: Apache-2.0
// Rows of a manifest made ready for a rollout.
#pragma once

#include <cstddef>
#include <vector>

#include "actor/pictures.h"
#include "actor/rollout.h"
#include "data/manifest.h"

namespace biqa {

/// The named rows of `samples`, with their pictures encoded. sample_index is the row.
std::vector<RolloutSample> load_samples(PictureEncoder& pictures, const std::vector<Sample>& samples,
                                        const std::vector<std::size_t>& rows);

}  // namespace biqa
