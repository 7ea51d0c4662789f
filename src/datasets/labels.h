// SPDX-License-Identifier: Apache-2.0
// The rows of label files, before their images are looked up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace biqa {

struct DataSet;
struct ScoreScale;

/// What to read from the labels of a set.
struct LabelRequest {
  const DataSet& set;
  std::filesystem::path root;
  std::optional<std::filesystem::path>
      labels;                         ///< without it the set's own names are looked for below the root
  const ScoreScale* scale = nullptr;  ///< null: the rows carry mapped scores
  std::map<std::string, std::string>
      columns;                      ///< names of columns by role (image, score, …), given by the user
  std::vector<std::string> splits;  ///< wanted: train, val, test or the set's own; empty: all
  bool with_tutorial = false;       ///< LIVE in the Wild: keep its seven tutorial images
  std::string sheet;                ///< of a workbook, given by the user; empty: the one with the columns
};

struct LabelRow {
  std::string place;                   ///< file with line or row, for messages
  std::string id;                      ///< the name in the label file
  std::string image;                   ///< name of the image to look for
  std::string set;                     ///< name of the data set
  double raw = 0;                      ///< the score of the file
  std::optional<double> score;         ///< on 1..5, where the file gives it
  std::optional<double> std;           ///< standard deviation of `raw`, in its unit
  std::string split, reference, type;  ///< empty if unknown
  std::optional<std::int64_t> level;
  std::string description, good, bad;  ///< empty if absent
  std::string problem;                 ///< why the row cannot be used; empty if it can
};

struct Labels {
  std::string file;                ///< where the rows come from
  std::string sheet;               ///< that was read; empty if the labels are no workbook
  std::string score_name;          ///< column or key of the raw score
  std::vector<LabelRow> rows;      ///< in the order of the file, of all splits
  bool has_splits = false;         ///< every row has its split
  std::vector<std::string> notes;  ///< what a person should know, one line each
};

/// Tables: CSV, text and xlsx. Throws Error if there is no label file, none of the set's forms fits, or one fits several
/// sheets of a workbook.
Labels read_table_labels(const LabelRequest& request);
/// LIVE in the Wild's three MATLAB files, or a table.
Labels read_livewild_labels(const LabelRequest& request);
/// JSON lists as those of DeQA.
Labels read_deqa_labels(const LabelRequest& request);
/// JSON lists of Q-Reasoning.
Labels read_q_reasoning_labels(const LabelRequest& request);

/// The label file that the user named: from the working directory, or else below the root. Throws Error if it is missing.
std::filesystem::path named_label_file(const LabelRequest& request);
/// Throws Error: none of `names` is below the root.
[[noreturn]] void no_label_file(const LabelRequest& request, const std::vector<std::string>& names);

/// Maps the words that label files use for splits (training, valid, 2, …) to train, val or test. Returns any other word
/// as it is.
std::string canonical_split(const std::string& word);

/// Bytes of the longest name that a label file may give an image. Regular expressions recurse with the length.
inline constexpr std::size_t kLongestName = 4096;

/// A finite decimal number, or nothing.
std::optional<double> number_in(const std::string& text);
/// A whole number from 0 to 1,000,000, or nothing.
std::optional<std::int64_t> level_in(const std::string& text);
/// ASCII letters in lower case.
std::string lower_case(std::string text);
/// 10073 as 10,073.
std::string with_commas(std::int64_t number);

}  // namespace biqa
