// SPDX-License-Identifier: Apache-2.0
// biqa_report: one HTML page about one or several runs.
#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <vector>

#include "app/program.h"
#include "io/files.h"
#include "policy/version.h"
#include "report/run_report.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

const ProgramInfo kInfo{
    "biqa_report",
    "show one or several runs as one HTML page, with curves, figures and answers",
    "RUN… --out FILE.html",
    "biqa_report runs/quickstart --out report.html",
    {{"out", "FILE.html", "the page; it needs no other file and opens without a network", ""},
     {"predictions", "FILE…",
      "predictions of biqa_eval, for intervals and scatter charts; may be repeated. RUN/predictions.jsonl is "
      "always used",
      ""},
     {"samples", "N", "answers to show per configuration, N close to the human score and N far from it", "4"},
     {"draws", "N", "draws of the bootstrap, for the intervals", std::to_string(kBootstrapDraws)},
     {"bootstrap-seed", "N", "seed of these draws and of the chance levels", "0"}}};

ExitCode report(const CommandLine& line) {
  if (line.positional().empty())
    fail_usage("no run is given: name one or several run folders; see biqa_report --help");
  if (!line.has("out")) fail_usage("flag --out is missing: name the page, e.g. --out report.html");
  const std::vector<fs::path> runs(line.positional().begin(), line.positional().end());
  std::vector<fs::path> predictions;
  for (const std::string& file : line.texts("predictions")) predictions.emplace_back(file);
  refuse_overwriting(line, {"out"}, predictions);
  RunReportOptions options;
  options.samples = static_cast<std::size_t>(line.integer("samples", 0, 1000));
  options.evaluation.draws = static_cast<std::size_t>(line.integer("draws", 1, 1000000));
  options.evaluation.seed =
      static_cast<std::uint64_t>(line.integer("bootstrap-seed", 0, std::int64_t{1} << 62));
  const RunReportInputs inputs = read_report_inputs(runs, predictions, options);
  const RunReportPage page = run_report_page(inputs, version_text());
  write_file_atomically(line.text("out"), page.html);
  for (const RunRecord& run : inputs.runs) {
    for (const std::string& note : run.notes) say("note: {} {}\n", run.name, note);
  }
  for (const PredictionFile& file : inputs.predictions) {
    if (!file.warning.empty()) say("warning: {}\n", file.warning);
  }
  if (page.missing_pictures > 0)
    say("note: pictures that could not be read are placeholders on the page: {}\n", page.missing_pictures);
  say("wrote {} ({} bytes)\n", line.text("out"), page.html.size());
  return ExitCode::done;
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::report);
}
