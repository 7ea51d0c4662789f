// SPDX-License-Identifier: Apache-2.0
// The weight of a reward as a function of the step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace biqa {

/// A weight that is constant, or linear between points. Before the first point and after the last one it is constant.
/// It depends only on the step, so a resumed run needs no state.
class WeightSchedule {
 public:
  struct Point {
    std::int64_t step = 0;
    double weight = 0;
    bool operator==(const Point&) const = default;
  };

  /// A constant weight. Implicit, because a number is a valid weight.
  WeightSchedule(double weight = 0) : points_{{0, weight}} {}  // NOLINT(google-explicit-constructor)
  /// At least one point, steps in ascending order (CHECK).
  explicit WeightSchedule(std::vector<Point> points);

  /// The weight in `step`; the first step of a run is 1.
  double at(std::int64_t step) const;
  bool constant() const { return points_.size() == 1; }
  const std::vector<Point>& points() const { return points_; }
  /// As in the configuration: "1", or "{0: 0, 100: 1}".
  std::string text() const;

  bool operator==(const WeightSchedule&) const = default;

 private:
  std::vector<Point> points_;
};

/// The weights in `step`, in the order of the schedules.
std::vector<double> weights_at(const std::vector<WeightSchedule>& schedules, std::int64_t step);

}  // namespace biqa
