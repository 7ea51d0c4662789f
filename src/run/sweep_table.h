// SPDX-License-Identifier: Apache-2.0
// The table of a sweep: configurations that were each trained with several seeds (launch/sweep.sh).
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "run/records.h"

namespace biqa {

/// One run of a sweep: the run folder OUT/CONFIG/seed-N.
struct SweepRun {
  std::string config;  ///< name of the configuration's folder
  std::string seed;    ///< "1" of the folder seed-1
  bool finished = false;
  std::vector<EvalMetrics> last;  ///< evaluations of the last evaluated step, in the order of metrics.jsonl
};

/// The runs in a sweep's folder, by configuration, then by seed as a number. Throws Error if `out` holds no run folder, or
/// if a metrics.jsonl cannot be read.
std::vector<SweepRun> read_sweep(const std::filesystem::path& out);

/// A column of the table: an evaluation metric under one condition.
struct SweepColumn {
  std::string_view name;       ///< "image_plcc"
  std::string_view title;      ///< "image PLCC"
  std::string_view condition;  ///< "image"
  std::string_view metric;     ///< column of EvalMetrics
  int decimals = 3;
};
inline constexpr std::array kSweepColumns{
    SweepColumn{"image_plcc", "image PLCC", "image", "plcc"},
    SweepColumn{"image_srcc", "image SRCC", "image", "srcc"},
    SweepColumn{"image_parse_failures", "no rating", "image", "parse_failures", 1},
    SweepColumn{"caption_plcc", "caption PLCC", "caption", "plcc"},
    SweepColumn{"caption_srcc", "caption SRCC", "caption", "srcc"},
    SweepColumn{"caption_parse_failures", "no rating", "caption", "parse_failures", 1},
    SweepColumn{"rouge1_p", "ROUGE-1 P", "image", "rouge1_p"},
    SweepColumn{"rouge1_r", "ROUGE-1 R", "image", "rouge1_r"},
    SweepColumn{"rouge1_f", "ROUGE-1 F1", "image", "rouge1_f"}};

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
  std::array<SweepFigure, kSweepColumns.size()> figures;
};

struct SweepTable {
  std::vector<SweepRow> rows;
  /// What a reader of the table must know: runs that are left out, and seeds that were not evaluated alike.
  std::vector<std::string> notes;
};
SweepTable sweep_table(const std::vector<SweepRun>& runs);

/// One block of lines per set and decoding, as "mean ± deviation".
std::string sweep_text(const SweepTable& table);
/// One line per row, with the columns NAME_mean, NAME_deviation and NAME_n of each figure. A figure without value is empty.
std::string sweep_csv(const SweepTable& table);
/// One document {"rows": […], "notes": […]}. A figure without value is null.
std::string sweep_json(const SweepTable& table);

}  // namespace biqa
