// SPDX-License-Identifier: Apache-2.0
// The page of biqa_report about one or several runs (docs/report.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "evaluation/predictions.h"
#include "evaluation/report.h"
#include "report/runs.h"

namespace biqa {

/// A file of predictions with its figures.
struct PredictionFile {
  std::string name;
  std::string run;  ///< name of the run in whose folder it lies; empty: none
  std::vector<Prediction> predictions;
  Report report;
  std::string warning;  ///< of scores_outside_scale(); empty: none
};

struct RunReportOptions {
  std::size_t samples = 4;     ///< good and bad answers of each configuration, this many of each
  ReportOptions evaluation{};  ///< draws and seed of the intervals
};

struct RunReportInputs {
  std::vector<RunRecord> runs;
  std::vector<PredictionFile> predictions;
  RunReportOptions options;
};

/// Reads the runs and the files of predictions, and the file predictions.jsonl of each run that has one. Throws Error if
/// one cannot be read.
RunReportInputs read_report_inputs(std::span<const std::filesystem::path> folders,
                                   std::span<const std::filesystem::path> predictions,
                                   const RunReportOptions& options);

struct RunReportPage {
  std::string html;
  std::int64_t missing_pictures = 0;  ///< pictures of answers that are placeholders on the page
};
/// One self-contained page. `program` names what made it. The same inputs give the same bytes.
RunReportPage run_report_page(const RunReportInputs& inputs, const std::string& program);

}  // namespace biqa
