// SPDX-License-Identifier: Apache-2.0
// The learning curves of a run as one picture.
#pragma once

#include <string>

#include "run/records.h"

namespace biqa {

/// A self-contained SVG of small panels: total reward and each reward column per step (points and their
/// running mean), and PLCC with image, PLCC from the caption alone and ROUGE-1 recall at each evaluation
/// (greedy and sampled; the first set evaluated, or the mean over sets where there are more). Panels without
/// any figure are left out. Readable on a light and a dark page.
std::string learning_curves_svg(const MetricsFile& metrics, const std::string& title);

}  // namespace biqa
