// SPDX-License-Identifier: Apache-2.0
#include "run/sweep_differences.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/columns.h"
#include "core/csv.h"
#include "core/error.h"
#include "io/json.h"

namespace biqa {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kDifferenceColumns{
    SweepColumn{"image_plcc", "image PLCC", "image", "plcc"},
    SweepColumn{"caption_plcc", "caption PLCC", "caption", "plcc"},
    SweepColumn{"contradiction", "contradiction", "image", "contradiction_mean"},
    SweepColumn{"rouge1_r", "ROUGE-1 R", "image", "texts.rouge1_r"},
    SweepColumn{"rouge1_r_excess", "R excess", "image", "texts.rouge1_r_excess"},
    SweepColumn{"polarity", "polarity", "image", "texts.polarity"},
    SweepColumn{"polarity_excess", "polarity excess", "image", "texts.polarity_excess"},
    SweepColumn{"similarity", "similarity", "image", "texts.similarity"},
    SweepColumn{"similarity_excess", "similarity excess", "image", "texts.similarity_excess"}};

SweepDifference difference_of(const SweepRow& row, const SweepRow& other, std::size_t column) {
  std::vector<double> differences;
  for (std::size_t i = 0; i < row.seeds.size(); ++i) {
    const auto seed = std::find(other.seeds.begin(), other.seeds.end(), row.seeds[i]);
    if (seed == other.seeds.end()) continue;
    const auto at = static_cast<std::size_t>(seed - other.seeds.begin());
    const double difference = row.figures[column].values[i] - other.figures[column].values[at];
    if (std::isfinite(difference)) differences.push_back(difference);
  }
  return {static_cast<std::int64_t>(differences.size()), mean(differences), student_t_interval(differences)};
}

/// The row of the configuration `config` on the same set with the same decoding.
const SweepRow* row_like(const std::vector<SweepRow>& rows, const SweepRow& row, const std::string& config) {
  const auto found = std::find_if(rows.begin(), rows.end(), [&](const SweepRow& candidate) {
    return candidate.config == config && candidate.set == row.set && candidate.decoding == row.decoding;
  });
  return found != rows.end() ? &*found : nullptr;
}

std::int64_t most_pairs(const std::vector<SweepDifference>& figures) {
  std::int64_t most = 0;
  for (const SweepDifference& figure : figures) most = std::max(most, figure.pairs);
  return most;
}

/// A figure with fewer pairs than another one of its row says with how many.
std::string cell(const SweepDifference& figure, std::int64_t most) {
  if (figure.pairs == 0) return "-";
  std::string text = fmt::format("{:+.3f}", figure.mean);
  if (figure.pairs > 1) text += fmt::format(" [{:+.3f}, {:+.3f}]", figure.interval.low, figure.interval.high);
  if (figure.pairs != most) text += fmt::format(" ({})", figure.pairs);
  return text;
}

}  // namespace

SweepDifferences sweep_differences(const std::vector<SweepRun>& runs, const std::string& against) {
  std::vector<std::string> names;
  for (const SweepRun& run : runs) {
    if (names.empty() || names.back() != run.config) names.push_back(run.config);
  }
  if (std::find(names.begin(), names.end(), against) == names.end())
    fail_usage("flag --against is '{}'; it must be one of the configurations {}", against,
               fmt::join(names, ", "));
  const SweepTable table = sweep_table(runs, kDifferenceColumns);
  SweepDifferences differences{against, kDifferenceColumns, {}, table.notes};
  for (const SweepRow& row : table.rows) {
    const SweepRow* other = row_like(table.rows, row, against);
    if (row.config == against || row.set.empty()) continue;
    SweepDifferenceRow difference{row.config, row.set, row.decoding, {}};
    difference.figures.resize(table.columns.size());
    for (std::size_t i = 0; other != nullptr && i < table.columns.size(); ++i)
      difference.figures[i] = difference_of(row, *other, i);
    if (most_pairs(difference.figures) < 2)
      differences.notes.push_back(
          fmt::format("{} on {} ({}): fewer than two seeds in common with {}, so there is no interval",
                      row.config, row.set, row.decoding, against));
    if (other != nullptr && other->images != row.images)
      differences.notes.push_back(
          fmt::format("{} on {} ({}): evaluated on {} images, but {} was evaluated "
                      "on {}",
                      row.config, row.set, row.decoding, row.images, against, other->images));
    differences.rows.push_back(std::move(difference));
  }
  return differences;
}

std::string differences_text(const SweepDifferences& differences) {
  std::vector<std::pair<std::string, std::string>> kinds;
  for (const SweepDifferenceRow& row : differences.rows) {
    const std::pair kind(row.set, row.decoding);
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
  }
  std::vector<std::string> names{"configuration", "pairs"};
  for (const SweepColumn& column : differences.columns) names.emplace_back(column.title);
  std::string text;
  for (const auto& [set, decoding] : kinds) {
    Columns columns(names, 1);
    for (const SweepDifferenceRow& row : differences.rows) {
      if (row.set != set || row.decoding != decoding) continue;
      const std::int64_t pairs = most_pairs(row.figures);
      std::vector<std::string> cells{row.config, std::to_string(pairs)};
      for (const SweepDifference& figure : row.figures) cells.push_back(cell(figure, pairs));
      columns.add(std::move(cells));
    }
    text += fmt::format("{}{}, {}: differences to {}, paired by seed, with 95 % intervals of Student's t\n{}",
                        text.empty() ? "" : "\n", set, decoding, differences.against, columns.text());
  }
  return text;
}

std::string differences_csv(const SweepDifferences& differences) {
  std::vector<std::string> names{"config", "against", "set", "decoding"};
  for (const SweepColumn& column : differences.columns) {
    for (const char* part : {"mean", "low", "high", "pairs"})
      names.push_back(fmt::format("{}_{}", column.name, part));
  }
  std::string csv = fmt::format("{}\n", fmt::join(names, ","));
  for (const SweepDifferenceRow& row : differences.rows) {
    csv += fmt::format("{},{},{},{}", csv_quoted(row.config), csv_quoted(differences.against),
                       csv_quoted(row.set), row.decoding);
    for (const SweepDifference& figure : row.figures)
      csv += fmt::format(",{},{},{},{}", csv_number(figure.mean), csv_number(figure.interval.low),
                         csv_number(figure.interval.high), figure.pairs);
    csv += '\n';
  }
  return csv;
}

std::string differences_json(const SweepDifferences& differences) {
  Json rows = Json::array();
  for (const SweepDifferenceRow& row : differences.rows) {
    Json json{{"config", row.config}, {"set", row.set}, {"decoding", row.decoding}};
    for (std::size_t i = 0; i < differences.columns.size(); ++i) {
      const SweepDifference& figure = row.figures[i];
      json[std::string(differences.columns[i].name)] = {{"mean", number_or_null(figure.mean)},
                                                        {"low", number_or_null(figure.interval.low)},
                                                        {"high", number_or_null(figure.interval.high)},
                                                        {"pairs", figure.pairs}};
    }
    rows.push_back(std::move(json));
  }
  return json_text(
             Json{{"against", differences.against}, {"rows", std::move(rows)}, {"notes", differences.notes}},
             2) +
         "\n";
}

}  // namespace biqa
