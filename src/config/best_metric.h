// SPDX-License-Identifier: Apache-2.0
// The metrics of an evaluation that can choose a run's best checkpoint.
#pragma once

#include <array>
#include <string_view>

namespace biqa {

/// One choice of checkpoint.best, and where metrics.jsonl has its value.
struct BestMetric {
  constexpr BestMetric(const char* name_, std::string_view condition_, std::string_view column_)
      : name(name_), value(name_), condition(condition_), column(column_) {}
  const char* name;
  std::string_view value;      ///< equal to `name`, because the configuration stores the choice as a text
  std::string_view condition;  ///< condition of the evaluation line
  std::string_view column;     ///< column of this line
};

inline constexpr std::array kBestMetrics{
    BestMetric{"caption_plcc", "caption", "plcc"}, BestMetric{"caption_srcc", "caption", "srcc"},
    BestMetric{"image_plcc", "image", "plcc"},     BestMetric{"image_srcc", "image", "srcc"},
    BestMetric{"rouge1_p", "image", "rouge1_p"},   BestMetric{"rouge1_r", "image", "rouge1_r"},
    BestMetric{"rouge1_f", "image", "rouge1_f"},   BestMetric{"none", "", ""}};

}  // namespace biqa
