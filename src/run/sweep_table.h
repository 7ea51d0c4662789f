// SPDX-License-Identifier: Apache-2.0
// The table of a sweep: configurations that were each trained with several seeds (launch/sweep.sh).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "run/records.h"

namespace biqa {

/// The figures of a run on one evaluation set, under one condition and with one decoding.
struct SweepLine {
  std::string set, condition, decoding;
  std::int64_t step = 0;    ///< that was evaluated; 0 if the document does not say it
  std::int64_t images = 0;  ///< in the set
  std::map<std::string, double, std::less<>>
      figures;  ///< by SweepColumn::figure; a missing one was not measured
};

/// One run of a sweep: the run folder OUT/CONFIG/seed-N.
struct SweepRun {
  std::string config;  ///< name of the configuration's folder
  std::string seed;    ///< "1" of the folder seed-1
  bool finished = false;
  std::vector<SweepLine> lines;  ///< in the order of the file
};

/// Where the figures of a table come from.
enum class SweepSource {
  training,   ///< the evaluations of the last evaluated step in metrics.jsonl
  evaluation  ///< evaluation.json in the run folder, the document of `biqa_eval --format json`
};

/// The runs in a sweep's folder, by configuration, then by seed as a number. With SweepSource::evaluation a run without
/// evaluation.json counts as not finished. Throws Error if `out` holds no run folder, or if a file cannot be read.
std::vector<SweepRun> read_sweep(const std::filesystem::path& out,
                                 SweepSource source = SweepSource::training);

/// A column of the table: a figure under one condition.
struct SweepColumn {
  std::string_view name;       ///< "image_plcc"
  std::string_view title;      ///< "image PLCC"
  std::string_view condition;  ///< "image"
  std::string_view
      figure;  ///< column of EvalMetrics, or key in a row of evaluation.json, such as "texts.rouge1_r"
  int decimals = 3;
};
std::span<const SweepColumn> sweep_columns(SweepSource source);

/// A metric over the seeds. NaN values take no part in mean and deviation.
struct SweepFigure {
  std::vector<double> values;  ///< one per seed of the row, in its order; NaN: not measured or not defined
  std::int64_t n = 0;          ///< values that are not NaN
  double mean = kNotMeasured;
  double deviation = kNotMeasured;  ///< sample standard deviation (n - 1); NaN for fewer than two values
};

/// A configuration on one evaluation set with one decoding, over its finished runs.
struct SweepRow {
  std::string config;
  std::string set, decoding;            ///< empty: the configuration has no finished run with an evaluation
  std::int64_t step = 0;                ///< that was evaluated
  std::int64_t images = 0;              ///< in the set
  std::vector<std::string> seeds;       ///< of the finished runs
  std::vector<std::string> unfinished;  ///< seeds of the other runs
  std::vector<SweepFigure> figures;     ///< one per column of the table
};

struct SweepTable {
  std::span<const SweepColumn> columns;
  std::vector<SweepRow> rows;
  /// What a reader of the table must know: runs that are left out, and seeds that were not evaluated alike.
  std::vector<std::string> notes;
};
/// `columns`: of the source from which the runs were read.
SweepTable sweep_table(const std::vector<SweepRun>& runs,
                       std::span<const SweepColumn> columns = sweep_columns(SweepSource::training));

/// One block of lines per set and decoding, as "mean ± deviation".
std::string sweep_text(const SweepTable& table);
/// One line per row, with the columns NAME_mean, NAME_deviation and NAME_n of each figure. A figure without value is empty.
std::string sweep_csv(const SweepTable& table);
/// One document {"rows": […], "notes": […]}. A figure without value is null.
std::string sweep_json(const SweepTable& table);

}  // namespace biqa
