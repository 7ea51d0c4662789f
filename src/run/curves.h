// SPDX-License-Identifier: Apache-2.0
// The learning curves of a run as one SVG image.
#pragma once

#include <string>

#include "run/records.h"

namespace biqa {

/// A self-contained SVG of small panels. For each step it shows the total reward and each reward, as points with their
/// running mean. For each evaluation it shows PLCC with the image, PLCC from the caption alone and ROUGE-1 recall.
/// These are means over the sets, for greedy and sampled decoding. Panels without values are left out. The colours suit
/// light and dark pages.
std::string learning_curves_svg(const MetricsFile& metrics, const std::string& title);

}  // namespace biqa
