// SPDX-License-Identifier: Apache-2.0
// biqa_eval: how well ratings agree with human scores, for predictions of a model or of a file.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "app/program.h"
#include "evaluation/report.h"
#include "evaluation/report_text.h"

namespace biqa {
namespace {

const ProgramInfo kInfo{
    "biqa_eval",
    "evaluate ratings and texts against human scores and human texts",
    "--from-predictions FILE.jsonl [--conditions image,caption] [--by FIELD]… [--format FORMAT]",
    "biqa_eval --from-predictions predictions.jsonl --by type --format json",
    {{"from-predictions", "FILE", "evaluate this file of predictions (docs/evaluation.md)", ""},
     {"conditions", "LIST", "image, caption or both: ratings from the image, ratings from the caption alone",
      "image,caption"},
     {"by", "FIELD…", "also print the correlations of each type, level or reference", ""},
     {"draws", "N", "draws of the bootstrap, for the intervals", std::to_string(kBootstrapDraws)},
     {"bootstrap-seed", "N", "seed of these draws and of the chance levels", "0"},
     {"format", "FORMAT", "table, csv or json (one document)", "table"}}};

/// The parts of "a,b", each one of `allowed` and given once.
std::vector<std::string> list_of(const CommandLine& line, const std::string& flag,
                                 const std::vector<std::string>& allowed) {
  const std::string value = line.text(flag);
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= value.size();) {
    const std::size_t end = std::min(value.find(',', begin), value.size());
    const std::string part = value.substr(begin, end - begin);
    begin = end + 1;
    if (std::find(allowed.begin(), allowed.end(), part) == allowed.end() ||
        std::find(parts.begin(), parts.end(), part) != parts.end()) {
      fail_usage("flag --{} is '{}'; it must be a list of {}, each at most once, e.g. {}", flag, value,
                 fmt::join(allowed, " and "), fmt::join(allowed, ","));
    }
    parts.push_back(part);
  }
  return parts;
}

ReportOptions report_options(const CommandLine& line) {
  ReportOptions options;
  const std::vector<std::string> asked = list_of(line, "conditions", options.conditions);
  std::erase_if(options.conditions, [&](const std::string& condition) {
    return std::find(asked.begin(), asked.end(), condition) == asked.end();
  });
  options.by = line.texts("by");
  for (const std::string& field : options.by) {
    if (field != "type" && field != "level" && field != "reference")
      fail_usage("flag --by is '{}'; it must be one of type, level, reference", field);
  }
  options.draws = static_cast<std::size_t>(line.integer("draws", 1, 1000000));
  options.seed = static_cast<std::uint64_t>(line.integer("bootstrap-seed", 0, std::int64_t{1} << 62));
  return options;
}

void print_report(const Report& report, const std::string& format) {
  if (report.without_score > 0)
    say("warning: {} predictions have no score and are left out\n", report.without_score);
  fmt::print("{}", format == "json"  ? report_json(report)
                   : format == "csv" ? report_csv(report)
                                     : report_table(report));
  flush_output();
}

ExitCode evaluate(const CommandLine& line) {
  const std::string format = line.choice("format", {"table", "csv", "json"});
  const ReportOptions options = report_options(line);
  if (!line.positional().empty())
    fail_usage("argument '{}' belongs to no flag; see biqa_eval --help", line.positional().front());
  if (!line.has("from-predictions"))
    fail_usage("flag --from-predictions is missing: name a file of predictions; see biqa_eval --help");
  print_report(report_of(read_predictions(line.text("from-predictions")), options), format);
  return ExitCode::done;
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::evaluate);
}
