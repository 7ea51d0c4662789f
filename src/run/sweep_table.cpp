// SPDX-License-Identifier: Apache-2.0
#include "run/sweep_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "core/columns.h"
#include "core/csv.h"
#include "core/error.h"
#include "core/statistics.h"
#include "io/files.h"
#include "io/json.h"
#include "run/run_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
constexpr std::string_view kSeedFolder = "seed-";

std::vector<fs::path> folders_in(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code problem;
  for (fs::directory_iterator at(folder, problem), end; !problem && at != end; at.increment(problem)) {
    std::error_code ignored;
    if (at->is_directory(ignored)) found.push_back(at->path());
  }
  if (problem)
    fail("cannot read the sweep {}: {}; name the folder that launch/sweep.sh got with --out", folder.string(),
         problem.message());
  // seed-2 stands before seed-10.
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) {
    const std::string x = a.filename().string(), y = b.filename().string();
    const bool by_length = x.starts_with(kSeedFolder) && y.starts_with(kSeedFolder) && x.size() != y.size();
    return by_length ? x.size() < y.size() : x < y;
  });
  return found;
}

constexpr std::array kTrainingColumns{
    SweepColumn{"image_plcc", "image PLCC", "image", "plcc"},
    SweepColumn{"image_srcc", "image SRCC", "image", "srcc"},
    SweepColumn{"image_parse_failures", "no rating", "image", "parse_failures", 1},
    SweepColumn{"caption_plcc", "caption PLCC", "caption", "plcc"},
    SweepColumn{"caption_srcc", "caption SRCC", "caption", "srcc"},
    SweepColumn{"caption_parse_failures", "no rating", "caption", "parse_failures", 1},
    SweepColumn{"rouge1_p", "ROUGE-1 P (without chance level)", "image", "rouge1_p"},
    SweepColumn{"rouge1_r", "ROUGE-1 R (without chance level)", "image", "rouge1_r"},
    SweepColumn{"rouge1_f", "ROUGE-1 F1 (without chance level)", "image", "rouge1_f"}};

// Figures of texts stand here above their chance level only.
constexpr std::array kEvaluationColumns{
    SweepColumn{"image_plcc", "image PLCC", "image", "plcc"},
    SweepColumn{"image_srcc", "image SRCC", "image", "srcc"},
    SweepColumn{"image_rmse", "image RMSE", "image", "rmse"},
    SweepColumn{"caption_plcc", "caption PLCC", "caption", "plcc"},
    SweepColumn{"caption_srcc", "caption SRCC", "caption", "srcc"},
    SweepColumn{"contradiction", "contradiction", "image", "contradiction_mean"},
    SweepColumn{"words", "caption words", "image", "caption_words", 1},
    SweepColumn{"reasoning_words", "reasoning words", "image", "reasoning_words", 1},
    SweepColumn{"rouge1_p_excess", "ROUGE-1 P excess", "image", "texts.rouge1_p_excess"},
    SweepColumn{"rouge1_r_excess", "R excess", "image", "texts.rouge1_r_excess"},
    SweepColumn{"rouge1_f_excess", "F1 excess", "image", "texts.rouge1_f_excess"},
    SweepColumn{"similarity_excess", "similarity excess", "image", "texts.similarity_excess"},
    SweepColumn{"polarity_excess", "polarity excess", "image", "texts.polarity_excess"}};

std::vector<SweepLine> last_evaluations(const fs::path& file) {
  if (!fs::exists(file)) return {};
  std::vector<EvalMetrics> all = read_metrics(file).evaluations;
  std::int64_t last = 0;
  for (const EvalMetrics& one : all) last = std::max(last, one.step);
  std::vector<SweepLine> lines;
  for (const EvalMetrics& one : all) {
    if (one.step != last) continue;
    SweepLine line{one.set, one.condition, one.decoding, one.step, one.n, {}};
    for (const SweepColumn& column : kTrainingColumns)
      line.figures.emplace(column.figure, column_of(one, column.figure));
    lines.push_back(std::move(line));
  }
  return lines;
}

/// The numbers of a row, those of its objects as "OBJECT.KEY".
void add_numbers(const nlohmann::json& object, const std::string& prefix, SweepLine& line) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_number()) line.figures.emplace(prefix + key, value.get<double>());
    if (value.is_object()) add_numbers(value, prefix + key + ".", line);
  }
}

/// The last step of a run; 0 without metrics.
std::int64_t last_step(const fs::path& file) {
  std::int64_t last = 0;
  if (!fs::exists(file)) return last;
  const MetricsFile metrics = read_metrics(file);
  for (const StepMetrics& one : metrics.steps) last = std::max(last, one.step);
  for (const EvalMetrics& one : metrics.evaluations) last = std::max(last, one.step);
  return last;
}

/// `step`: of the adapter that was evaluated.
std::vector<SweepLine> lines_of_document(const fs::path& file, std::int64_t step) {
  std::vector<SweepLine> lines;
  try {
    const nlohmann::json document = nlohmann::json::parse(read_file(file));
    for (const nlohmann::json& row : document.at("rows")) {
      SweepLine line;
      line.set = row.at("set").get<std::string>();
      line.condition = row.at("condition").get<std::string>();
      line.decoding = row.at("decoding").get<std::string>();
      line.step = step;
      line.images = row.at("n").get<std::int64_t>();
      add_numbers(row, "", line);
      lines.push_back(std::move(line));
    }
  } catch (const nlohmann::json::exception& e) {
    fail(
        "{} is not a document of biqa_eval --format json ({}); remove it and run launch/sweep.sh --evaluate "
        "again",
        file.string(), e.what());
  }
  return lines;
}

SweepFigure figure_of(std::vector<double> values) {
  SweepFigure figure;
  figure.values = std::move(values);
  std::vector<double> measured;
  std::copy_if(figure.values.begin(), figure.values.end(), std::back_inserter(measured),
               [](double value) { return std::isfinite(value); });
  figure.n = static_cast<std::int64_t>(measured.size());
  figure.mean = mean(measured);
  figure.deviation = standard_deviation(measured);
  return figure;
}

/// The row of one set and decoding over `runs`, which are finished.
SweepRow row_of_runs(const std::vector<const SweepRun*>& runs, const std::string& set,
                     const std::string& decoding, SweepTable& table) {
  SweepRow row;
  row.config = runs.front()->config;
  row.set = set;
  row.decoding = decoding;
  std::vector<std::vector<double>> values(table.columns.size());
  std::set<std::pair<std::int64_t, std::int64_t>> steps_and_images;
  for (const SweepRun* run : runs) {
    row.seeds.push_back(run->seed);
    for (std::size_t i = 0; i < table.columns.size(); ++i) {
      const SweepColumn& column = table.columns[i];
      const auto line = std::find_if(run->lines.begin(), run->lines.end(), [&](const SweepLine& one) {
        return one.set == set && one.decoding == decoding && one.condition == column.condition;
      });
      values[i].push_back(kNotMeasured);
      if (line == run->lines.end()) continue;
      if (const auto figure = line->figures.find(column.figure); figure != line->figures.end())
        values[i].back() = figure->second;
      steps_and_images.emplace(line->step, line->images);
      row.step = std::max(row.step, line->step);
      row.images = std::max(row.images, line->images);
    }
  }
  for (std::vector<double>& figures : values) row.figures.push_back(figure_of(std::move(figures)));
  if (steps_and_images.size() > 1) {
    table.notes.push_back(fmt::format(
        "{} on {} ({}): the seeds were evaluated after different steps or on different numbers of images; "
        "run them with the same settings",
        row.config, set, decoding));
  }
  return row;
}

std::string cell(const SweepFigure& figure, int decimals, std::size_t seeds) {
  if (figure.n == 0) return "-";
  std::string text = fmt::format("{:.{}f}", figure.mean, decimals);
  if (std::isfinite(figure.deviation)) text += fmt::format(" ± {:.{}f}", figure.deviation, decimals);
  // The mean is not over all seeds of the row.
  if (figure.n != static_cast<std::int64_t>(seeds)) text += fmt::format(" ({})", figure.n);
  return text;
}

}  // namespace

std::span<const SweepColumn> sweep_columns(SweepSource source) {
  if (source == SweepSource::training) return kTrainingColumns;
  return kEvaluationColumns;
}

std::vector<SweepRun> read_sweep(const fs::path& out, SweepSource source) {
  std::vector<SweepRun> runs;
  for (const fs::path& config : folders_in(out)) {
    for (const fs::path& folder : folders_in(config)) {
      const std::string name = folder.filename().string();
      if (!name.starts_with(kSeedFolder) || !fs::exists(folder / "config.yaml")) continue;
      SweepRun run{config.filename().string(), name.substr(kSeedFolder.size()), is_finished(folder), {}};
      const fs::path document = folder / "evaluation.json";
      if (source == SweepSource::training)
        run.lines = last_evaluations(folder / "metrics.jsonl");
      else if (fs::exists(document))
        run.lines = lines_of_document(document, last_step(folder / "metrics.jsonl"));
      else
        run.finished = false;
      runs.push_back(std::move(run));
    }
  }
  if (runs.empty())
    fail("cannot make a table of {}: it holds no run folder CONFIG/seed-N; name the --out of launch/sweep.sh",
         out.string());
  return runs;
}

SweepTable sweep_table(const std::vector<SweepRun>& runs, std::span<const SweepColumn> columns) {
  SweepTable table;
  table.columns = columns;
  for (auto begin = runs.begin(); begin != runs.end();) {
    const auto end =
        std::find_if(begin, runs.end(), [&](const SweepRun& run) { return run.config != begin->config; });
    std::vector<const SweepRun*> finished;
    std::vector<std::string> unfinished;
    std::vector<std::pair<std::string, std::string>> kinds;  // set and decoding
    for (auto run = begin; run != end; ++run) {
      if (!run->finished) {
        unfinished.push_back(run->seed);
        continue;
      }
      finished.push_back(&*run);
      for (const SweepLine& line : run->lines) {
        const std::pair kind(line.set, line.decoding);
        if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
      }
    }
    if (!unfinished.empty()) {
      table.notes.push_back(fmt::format("{}: not finished and left out: seed {}; run launch/sweep.sh again",
                                        begin->config, fmt::join(unfinished, ", ")));
    }
    std::vector<SweepRow> rows;
    rows.reserve(kinds.size());
    for (const auto& [set, decoding] : kinds) rows.push_back(row_of_runs(finished, set, decoding, table));
    if (rows.empty()) {
      rows.emplace_back();
      rows.back().figures.resize(columns.size());
      for (const SweepRun* run : finished) rows.back().seeds.push_back(run->seed);
      if (!finished.empty())
        table.notes.push_back(fmt::format("{}: its runs have no evaluation; set data.eval", begin->config));
    }
    for (SweepRow& row : rows) {
      row.config = begin->config;
      row.unfinished = unfinished;
      table.rows.push_back(std::move(row));
    }
    begin = end;
  }
  return table;
}

std::string sweep_text(const SweepTable& table) {
  std::vector<std::pair<std::string, std::string>> kinds;
  for (const SweepRow& row : table.rows) {
    const std::pair kind(row.set, row.decoding);
    if (!row.set.empty() && std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
  }
  std::vector<std::string> names{"configuration", "seeds", "step"};
  for (const SweepColumn& column : table.columns) names.emplace_back(column.title);
  std::string text;
  for (const auto& [set, decoding] : kinds) {
    Columns columns(names, 1);
    std::int64_t images = 0;
    for (const SweepRow& row : table.rows) {
      if (row.set != set || row.decoding != decoding) continue;
      images = std::max(images, row.images);
      std::vector<std::string> cells{row.config, std::to_string(row.seeds.size()), std::to_string(row.step)};
      for (std::size_t i = 0; i < table.columns.size(); ++i)
        cells.push_back(cell(row.figures[i], table.columns[i].decimals, row.seeds.size()));
      columns.add(std::move(cells));
    }
    text += fmt::format("{}{}, {}, {} images\n{}", text.empty() ? "" : "\n", set, decoding, images,
                        columns.text());
  }
  return text;
}

std::string sweep_csv(const SweepTable& table) {
  std::vector<std::string> names{"config", "set", "decoding", "step", "images", "seeds", "unfinished"};
  for (const SweepColumn& column : table.columns) {
    for (const char* part : {"mean", "deviation", "n"})
      names.push_back(fmt::format("{}_{}", column.name, part));
  }
  std::string csv = fmt::format("{}\n", fmt::join(names, ","));
  for (const SweepRow& row : table.rows) {
    csv += fmt::format("{},{},{},{},{},{},{}", csv_quoted(row.config), csv_quoted(row.set), row.decoding,
                       row.step, row.images, row.seeds.size(), row.unfinished.size());
    for (const SweepFigure& figure : row.figures)
      csv += fmt::format(",{},{},{}", csv_number(figure.mean), csv_number(figure.deviation), figure.n);
    csv += '\n';
  }
  return csv;
}

std::string sweep_json(const SweepTable& table) {
  Json rows = Json::array();
  for (const SweepRow& row : table.rows) {
    Json json{{"config", row.config}, {"set", row.set},     {"decoding", row.decoding},    {"step", row.step},
              {"images", row.images}, {"seeds", row.seeds}, {"unfinished", row.unfinished}};
    for (std::size_t i = 0; i < table.columns.size(); ++i) {
      const SweepFigure& figure = row.figures[i];
      Json values = Json::array();
      for (const double value : figure.values) values.push_back(number_or_null(value));
      json[std::string(table.columns[i].name)] = {{"mean", number_or_null(figure.mean)},
                                                  {"deviation", number_or_null(figure.deviation)},
                                                  {"n", figure.n},
                                                  {"values", std::move(values)}};
    }
    rows.push_back(std::move(json));
  }
  return json_text(Json{{"rows", std::move(rows)}, {"notes", table.notes}}, 2) + "\n";
}

}  // namespace biqa
