// SPDX-License-Identifier: Apache-2.0
// The learning curves of a run as one SVG image.
#pragma once

#include <string>

#include "run/records.h"

namespace biqa {

/// A self-contained SVG of small panels. Per step: total reward and each reward column, as points with their running
/// mean. Per evaluation, greedy and sampled: PLCC with image, PLCC from the caption alone and ROUGE-1 recall, as mean
/// over sets. Panels without values are left out. Readable on light and dark pages.
std::string learning_curves_svg(const MetricsFile& metrics, const std::string& title);

}  // namespace biqa
