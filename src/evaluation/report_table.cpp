// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include "core/columns.h"
#include "evaluation/report_text.h"

namespace biqa {
namespace {

std::string number(double value, int decimals = 3) {
  if (!std::isfinite(value)) return "-";
  // A wild rating would otherwise fill the line.
  return std::abs(value) < 1e6 ? fmt::format("{:.{}f}", value, decimals) : fmt::format("{:.3g}", value);
}

std::string interval(const Interval& value) {
  if (!std::isfinite(value.low) || !std::isfinite(value.high)) return "-";
  return fmt::format("{:.3f} … {:.3f}", value.low, value.high);
}

std::string agreement_table(const Report& report) {
  Columns columns({"set", "condition", "decoding", "n", "no rating", "off scale", "PLCC", "95 %", "SRCC",
                   "95 %", "KRCC", "RMSE", "MAE"},
                  3);
  for (const ReportRow& row : report.rows) {
    const Agreement& a = row.agreement;
    columns.add({row.set, row.condition, row.decoding, std::to_string(a.n), std::to_string(a.parse_failures),
                 std::to_string(a.out_of_scale), number(a.plcc), interval(row.plcc_ci), number(a.srcc),
                 interval(row.srcc_ci), number(a.krcc), number(a.rmse), number(a.mae)});
  }
  for (const ReportMean& mean : report.means) {
    if (mean.sets < 2) continue;
    columns.add({fmt::format("mean of {} sets", mean.sets), mean.condition, mean.decoding, "", "", "",
                 number(mean.plcc), "", number(mean.srcc), "", number(mean.krcc), number(mean.rmse),
                 number(mean.mae)});
  }
  return columns.text();
}

/// Only for rows where such ratings or answers exist.
std::string failure_table(const Report& report) {
  Columns columns(
      {"set", "condition", "decoding", "PLCC in scale", "SRCC in scale", "RMSE in scale", "SRCC all"}, 3);
  for (const ReportRow& row : report.rows) {
    const Agreement& a = row.agreement;
    if (a.out_of_scale + a.parse_failures == 0) continue;
    columns.add({row.set, row.condition, row.decoding, number(a.plcc_in_scale), number(a.srcc_in_scale),
                 number(a.rmse_in_scale), number(a.srcc_all)});
  }
  if (columns.empty()) return "";
  return "\nin scale: without ratings that are out of scale; SRCC all: answers without a rating rank last\n" +
         columns.text();
}

std::string fit_table(const Report& report) {
  Columns columns(
      {"set", "condition", "decoding", "PLCC fit4", "RMSE fit4", "PLCC fit5", "RMSE fit5", "fit4", "fit5"},
      3);
  const auto parameters = [](const FitFigures& fit) {
    std::vector<std::string> texts;
    for (const double b : fit.parameters) texts.push_back(fmt::format("{:.4g}", b));
    return texts.empty() ? "-" : fmt::format("({})", fmt::join(texts, ", "));
  };
  for (const ReportRow& row : report.rows) {
    columns.add({row.set, row.condition, row.decoding, number(row.fit4.plcc), number(row.fit4.rmse),
                 number(row.fit5.plcc), number(row.fit5.rmse), parameters(row.fit4), parameters(row.fit5)});
  }
  return fmt::format("\nafter a logistic fit from rating x to score y\n  fit4: {}\n  fit5: {}\n{}",
                     kFit4Formula, kFit5Formula, columns.text());
}

std::string answer_table(const Report& report) {
  Columns columns({"set", "condition", "decoding", "distinct ratings", "leak rate", "caption words",
                   "reasoning words", "contradiction", "above 0.5", "instability", "PLCC of repeats"},
                  3);
  for (const ReportRow& row : report.rows) {
    columns.add({row.set, row.condition, row.decoding, std::to_string(row.agreement.distinct_ratings),
                 number(row.leak_rate), number(row.caption_words, 1), number(row.reasoning_words, 1),
                 number(row.contradiction_mean), number(row.contradiction_share), number(row.instability),
                 interval(row.plcc_repeats)});
  }
  return "\nanswers\n" + columns.text();
}

std::string text_table(const Report& report) {
  Columns columns({"set", "decoding", "figure", "n", "value", "chance", "excess"}, 3);
  std::string ratios;
  for (const ReportRow& row : report.rows) {
    if (!row.texts) continue;
    const TextFigures& t = *row.texts;
    ratios += fmt::format("{} {}: answers have {} times as many words as the human texts\n", row.set,
                          row.decoding, number(t.length_ratio, 2));
    if (!std::isfinite(t.rouge1_p.chance)) continue;
    for (const auto& [name, figure] :
         {std::pair("ROUGE-1 precision", t.rouge1_p), std::pair("ROUGE-1 recall", t.rouge1_r),
          std::pair("ROUGE-1 F1", t.rouge1_f), std::pair("ROUGE-L precision", t.rougel_p),
          std::pair("ROUGE-L recall", t.rougel_r), std::pair("ROUGE-L F1", t.rougel_f),
          std::pair("similarity", t.similarity), std::pair("polarity", t.polarity),
          std::pair("aspects named", t.aspects), std::pair("repetition", t.repetition)}) {
      if (!std::isfinite(figure.value) && !std::isfinite(figure.chance)) continue;
      columns.add({row.set, row.decoding, name, std::to_string(t.n), number(figure.value),
                   number(figure.chance), number(figure.excess())});
    }
  }
  if (ratios.empty()) return "";
  return "\ncompared with human texts; chance: with the human text of another image (for repetition: human "
         "texts with each other)\n" +
         (columns.empty() ? "" : columns.text()) + ratios;
}

std::string gap_table(const Report& report) {
  Columns columns({"set", "decoding", "PLCC gap", "95 %", "SRCC gap", "95 %"}, 2);
  for (const ReportGap& gap : report.gaps)
    columns.add({gap.set, gap.decoding, number(gap.plcc_gap), interval(gap.plcc_gap_ci), number(gap.srcc_gap),
                 interval(gap.srcc_gap_ci)});
  return columns.empty() ? "" : "\nimage minus caption\n" + columns.text();
}

std::string group_table(const Report& report) {
  Columns columns({"set", "condition", "decoding", "by", "value", "n", "PLCC", "SRCC"}, 5);
  for (const ReportGroup& group : report.groups)
    columns.add({group.set, group.condition, group.decoding, group.by, group.value, std::to_string(group.n),
                 number(group.plcc), number(group.srcc)});
  for (const ReportGroupMean& mean : report.group_means)
    columns.add({mean.set, mean.condition, mean.decoding, mean.by, fmt::format("mean of {}", mean.groups), "",
                 number(mean.plcc), number(mean.srcc)});
  return columns.empty() ? "" : "\ngroups\n" + columns.text();
}

}  // namespace

std::string report_table(const Report& report) {
  return agreement_table(report) + failure_table(report) + gap_table(report) + fit_table(report) +
         answer_table(report) + text_table(report) + group_table(report);
}

std::string comparison_table(const std::vector<ComparisonRow>& rows, const std::string& a,
                             const std::string& b) {
  Columns columns({"set", "condition", "decoding", "figure", "n", "A", "B", "A - B", "95 %"}, 4);
  std::string signs;
  for (const ComparisonRow& row : rows) {
    for (const auto& [name, figure] : {std::pair("PLCC", row.plcc), std::pair("SRCC", row.srcc),
                                       std::pair("RMSE", row.rmse), std::pair("MAE", row.mae)}) {
      columns.add({row.set, row.condition, row.decoding, name, std::to_string(row.n), number(figure.a),
                   number(figure.b), number(figure.difference), interval(figure.difference_ci)});
    }
    signs += fmt::format(
        "{} {} {}: A is closer to the score {} times, B {} times, equal {} times; sign test p = {}\n",
        row.set, row.condition, row.decoding, row.closer_a, row.closer_b, row.equal,
        fmt::format("{:.3g}", row.sign_test_p));
    if (row.left_out > 0)
      signs += fmt::format("{} {} {}: {} rows are left out: one of the files lacks the row or its rating\n",
                           row.set, row.condition, row.decoding, row.left_out);
  }
  return fmt::format("A: {}\nB: {}\n{}\n{}", a, b, columns.text(), signs);
}

}  // namespace biqa
