// SPDX-License-Identifier: Apache-2.0
#include "reward/weight_schedule.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace biqa {

WeightSchedule::WeightSchedule(std::vector<Point> points) : points_(std::move(points)) {
  CHECK(!points_.empty());
  for (std::size_t i = 1; i < points_.size(); ++i) CHECK_LT(points_[i - 1].step, points_[i].step);
  if (constant()) points_.front().step = 0;  // equal weights compare equal
}

double WeightSchedule::at(std::int64_t step) const {
  const auto next =
      std::find_if(points_.begin(), points_.end(), [&](const Point& p) { return p.step >= step; });
  if (next == points_.end()) return points_.back().weight;
  if (next->step == step || next == points_.begin()) return next->weight;
  const Point& last = *std::prev(next);
  const double share = static_cast<double>(step - last.step) / static_cast<double>(next->step - last.step);
  return last.weight + share * (next->weight - last.weight);
}

std::string WeightSchedule::text() const {
  if (constant()) return fmt::format("{}", points_.front().weight);
  std::string text;
  for (const Point& point : points_)
    text += fmt::format("{}{}: {}", text.empty() ? "{" : ", ", point.step, point.weight);
  return text + "}";
}

std::vector<double> weights_at(const std::vector<WeightSchedule>& schedules, std::int64_t step) {
  std::vector<double> weights;
  weights.reserve(schedules.size());
  for (const WeightSchedule& schedule : schedules) weights.push_back(schedule.at(step));
  return weights;
}

}  // namespace biqa
