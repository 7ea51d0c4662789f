// SPDX-License-Identifier: Apache-2.0
#include "report/run_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <system_error>

#include "core/error.h"
#include "report/html.h"
#include "report/sections.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

std::string state_of(const RunRecord& run) {
  const std::int64_t last = run.last_step();
  if (run.finished) return fmt::format("finished, {}", counted(last, "step", "steps"));
  if (run.planned_steps) return fmt::format("not finished, {} of {} steps", last, *run.planned_steps);
  return fmt::format("not finished, {}", counted(last, "step", "steps"));
}

std::string runs_table(const RunReportInputs& inputs, Configurations configurations) {
  HtmlTable table("Runs",
                  {{"run", false}, {"configuration", false}, {"seed"}, {"state", false}, {"folder", false}});
  for (const RunRecord& run : inputs.runs) {
    const auto of = std::find_if(configurations.begin(), configurations.end(), [&](const Configuration& c) {
      return std::find(c.runs.begin(), c.runs.end(), &run) != c.runs.end();
    });
    const std::string seed = run.setting("train.seed");
    table.add({run.name, of->name, seed.empty() ? kNoValue : seed, state_of(run), run.folder.string()});
  }
  return table.html();
}

std::vector<std::string> run_notes(const RunReportInputs& inputs) {
  std::vector<std::string> notes;
  for (const RunRecord& run : inputs.runs) {
    for (const std::string& note : run.notes) notes.push_back(fmt::format("{} {}.", run.name, note));
  }
  return notes;
}

std::string differences(Configurations configurations) {
  if (configurations.size() < 2) return "";
  std::vector<HtmlTable::Column> columns{{"setting", false}};
  for (const Configuration& configuration : configurations) columns.push_back({configuration.name, false});
  HtmlTable table("Settings that differ", columns);
  for (const SettingDifference& difference : differences_of(configurations)) {
    std::vector<std::string> cells{difference.key};
    cells.insert(cells.end(), difference.values.begin(), difference.values.end());
    table.add(cells);
  }
  return table.empty() ? paragraph("No setting differs.")
                       : "<div class=\"settings\">" + table.html() + "</div>\n";
}

std::string lineage(const RunReportInputs& inputs) {
  std::vector<std::string> names;
  for (const RunRecord& run : inputs.runs) {
    for (const auto& [name, value] : run.lineage) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  }
  std::vector<HtmlTable::Column> columns{{"", false}};
  for (const RunRecord& run : inputs.runs) columns.push_back({run.name, false});
  HtmlTable table("Origin of each run", columns);
  for (const std::string& name : names) {
    std::vector<std::string> cells{name};
    for (const RunRecord& run : inputs.runs) {
      const auto fact = std::find_if(run.lineage.begin(), run.lineage.end(),
                                     [&](const auto& candidate) { return candidate.first == name; });
      cells.push_back(fact != run.lineage.end() ? fact->second : kNoValue);
    }
    table.add(cells);
  }
  return "<div class=\"settings\">" + table.html() + "</div>\n";
}

std::string file_name(const fs::path& file, const std::vector<PredictionFile>& others) {
  const std::string stem = file.stem().string();
  const bool taken = std::any_of(others.begin(), others.end(),
                                 [&](const PredictionFile& other) { return other.name == stem; });
  return taken ? file.string() : stem;
}

void add_predictions(RunReportInputs& inputs, const fs::path& file, const std::string& name,
                     const std::string& run) {
  PredictionFile read{name, run, read_predictions(file, kCommonSet), {}, ""};
  read.warning = scores_outside_scale(read.predictions, file.string());
  read.report = report_of(read.predictions, inputs.options.evaluation);
  if (read.report.rows.empty())
    fail(
        "cannot use predictions {}: no row has a score; give each row the human score of its image as "
        "`score`",
        file.string());
  inputs.predictions.push_back(std::move(read));
}

}  // namespace

RunReportInputs read_report_inputs(std::span<const fs::path> folders, std::span<const fs::path> predictions,
                                   const RunReportOptions& options) {
  RunReportInputs inputs{read_runs(folders), {}, options};
  for (const RunRecord& run : inputs.runs) {
    std::error_code problem;
    const fs::path file = run.folder / "predictions.jsonl";
    if (fs::exists(file, problem)) add_predictions(inputs, file, run.name, run.name);
  }
  for (const fs::path& file : predictions)
    add_predictions(inputs, file, file_name(file, inputs.predictions), "");
  return inputs;
}

std::string settings_section(const RunReportInputs& inputs, Configurations configurations) {
  std::string html = runs_table(inputs, configurations) + note_list(run_notes(inputs)) +
                     differences(configurations) + lineage(inputs);
  for (const Configuration& configuration : configurations) {
    const RunRecord& run = *configuration.runs.front();
    if (run.settings.empty()) continue;
    HtmlTable table("config.yaml of " + run.name, {{"setting", false}, {"value", false}});
    for (const auto& [key, value] : run.settings) table.add({key, value});
    html +=
        folded("All settings of " + configuration.name, "<div class=\"settings\">" + table.html() + "</div>");
  }
  return html;
}

RunReportPage run_report_page(const RunReportInputs& inputs, const std::string& program) {
  const std::vector<Configuration> configurations = configurations_of(inputs.runs);
  RunReportPage page;
  std::string title = inputs.runs.size() == 1
                          ? "Run " + inputs.runs.front().name
                          : fmt::format("{} runs of {}", inputs.runs.size(),
                                        counted(static_cast<std::int64_t>(configurations.size()),
                                                "configuration", "configurations"));
  std::string states;
  if (inputs.runs.size() <= 6) {
    for (const RunRecord& run : inputs.runs)
      states += fmt::format("{}{}: {}", states.empty() ? "" : ". ", run.name, state_of(run));
    states += ".";
  }
  std::vector<PageSection> sections{
      {"figures", "Headline figures", headline_section(inputs, configurations)},
      {"evaluations", "Evaluations over the steps", evaluation_section(inputs, configurations)},
      {"agreement", "Agreement with people", agreement_section(inputs)}};
  if (const std::string trade_off = trade_off_section(inputs, configurations); !trade_off.empty())
    sections.push_back({"trade-off", "Ratings and texts together", trade_off});
  sections.push_back({"training", "Training over the steps", training_section(inputs, configurations)});
  if (inputs.options.samples > 0)
    sections.push_back(
        {"answers", "Answers", answers_section(inputs, configurations, page.missing_pictures)});
  sections.push_back({"settings", "Configuration and lineage", settings_section(inputs, configurations)});
  sections.push_back({"time", "Time and traffic", time_section(inputs, configurations)});
  page.html = page_begin(title, states.empty() ? "" : paragraph(states)) + note_list(run_notes(inputs)) +
              page_sections(sections) + page_end("Made by " + program);
  return page;
}

}  // namespace biqa
