// SPDX-License-Identifier: Apache-2.0
// What biqa knows of each data set: names of its files and columns, scales, splits, counts. The table is in table.cpp: a
// row there is all that a new data set needs.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "datasets/labels.h"
#include "io/image.h"

namespace biqa {

/// A scale of raw scores, mapped to 1..5. `worst` above `best`: lower is better.
struct ScoreScale {
  std::string name;
  double worst = 0, best = 0;
  bool lower_is_better() const { return worst > best; }
};

/// The published number of rows. An empty split stands for the whole set.
struct PublishedCount {
  std::string split;
  std::int64_t rows = 0;
};

/// What a column of a label table holds.
enum class Role : std::uint8_t { image, score, std, split, reference, type, level, description, good, bad };

/// The name of a role on the command line.
std::string name_of(Role role);

/// The names that a column may have, the preferred one first. Case is ignored.
struct ColumnNames {
  Role role = Role::image;
  std::vector<std::string> names = {};
  std::string scale = {};  ///< role score: only with this scale; empty: with every scale
};

/// The score "column" that is the mean of the grades 1 to 5, weighted by the columns c1 to c5 (shares or counts).
inline constexpr const char* kMeanOfGrades = "mean of c1..c5";

/// A form in which the labels of a set are published as a table.
struct LabelForm {
  std::vector<std::string> files = {};    ///< below the root; a name that ends in / is a folder of .txt files
  std::vector<ColumnNames> columns = {};  ///< image and score are needed
  std::vector<std::string> also = {};     ///< further columns that this form must have
  std::vector<std::string> without = {};  ///< columns that it must not have
  std::vector<Role> order = {};  ///< of the columns in a file without header; empty: a header is needed
  std::vector<std::string> sheets = {};  ///< sheets of a workbook that come before the others
  /// Makes the file name of a row, if the image column does not hold the file name. Null: the column holds it.
  std::string (*file_name)(const std::string& image, const std::string& type,
                           const std::string& level) = nullptr;
  std::string deviations =
      {};                  ///< file beside the labels with one standard deviation per row; may be missing
  bool grades = false;     ///< check that c1 to c5, if present, are shares or sum to c_total
  bool ambiguous = false;  ///< two columns that could be the image, or the score, are an error
};

/// A list of file names that form a split. The rows in no list are in DataSet::rest_split.
struct SplitList {
  std::string file = {};       ///< beside the labels
  std::string column = {};     ///< with the file names
  std::string condition = {};  ///< column that must be true; empty: every row counts
  std::string split = {};
};

/// How to get reference, type and level from a file name: a regular expression (case ignored), and formats of its match
/// such as "$1.png".
struct NamePattern {
  std::string expression = {}, reference = {}, type = {}, level = {};
};

struct DataSet {
  std::string name = {};                ///< on the command line and in manifests
  std::string title = {};               ///< as its authors write it
  std::vector<ScoreScale> scales = {};  ///< the first is the default; empty: given by the user or by the rows
  std::vector<PublishedCount> counts = {};
  std::vector<LabelForm> forms = {};
  std::vector<std::string> folders = {};  ///< of the images, below the root; the one with most images counts
  bool nested = false;                    ///< images also lie in the folders below these
  NamePattern pattern = {};
  ImageSize native = {};          ///< size of every original image; 0: they differ
  std::int64_t resized_side = 0;  ///< shorter side of common resized copies; 0: none are known
  std::vector<SplitList> split_lists = {};
  std::string rest_split = {};
  std::vector<std::string> own_splits = {};  ///< names besides train, val and test
  bool has_splits = false;                   ///< whether train, val and test can be asked for
  std::string deqa_folder = {};              ///< first folder of its images in DeQA's lists
  std::int64_t tutorial_images = 0;          ///< not counted above; --with-tutorial keeps them
  Labels (*read)(const LabelRequest&) = read_table_labels;

  /// Whether the labels are a table of the user's own, whose columns and scale the user names.
  bool is_own_table() const { return scales.empty() && read == read_table_labels; }
};

/// The table of all sets.
std::span<const DataSet> data_sets();

/// The set of that name. Throws Error (usage) that lists the names.
const DataSet& find_data_set(const std::string& name);

/// The 40 references of PIPAL in DeQA's test list, in upper or lower case.
bool is_deqa_reference(const std::string& reference);

}  // namespace biqa
