// SPDX-License-Identifier: Apache-2.0
// The table of data sets. A range runs from the worst to the best score of the whole set, with all digits of its files.
#include <algorithm>
#include <array>
#include <string_view>

#include <fmt/ranges.h>

#include "core/error.h"
#include "datasets/data_set.h"

namespace biqa {
namespace {

struct CsiqType {
  std::string_view word, token;
};

/// CSIQ's workbook names the parts of a file name such as 1600.AWGN.2.png.
std::string csiq_file_name(const std::string& image, const std::string& type, const std::string& level) {
  constexpr std::array kTypes = {CsiqType{"noise", "AWGN"},        CsiqType{"blur", "BLUR"},
                                 CsiqType{"contrast", "contrast"}, CsiqType{"fnoise", "fnoise"},
                                 CsiqType{"jpeg", "JPEG"},         CsiqType{"jpeg 2000", "jpeg2000"},
                                 CsiqType{"jpeg2000", "jpeg2000"}};
  const std::string word = lower_case(type);
  const auto* const found =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const CsiqType& t) { return word == t.word; });
  if (found == kTypes.end()) {
    fail("dst_type is '{}'; it must be noise, blur, contrast, fnoise, jpeg or jpeg 2000", type);
  }
  return fmt::format("{}.{}.{}.png", image, found->token, level);
}

/// Columns of a table in which image, score and standard deviation are enough; the first name is the authors'.
std::vector<ColumnNames> columns_of(std::vector<std::string> image, std::vector<std::string> score,
                                    std::vector<std::string> std) {
  return {{Role::image, std::move(image)},
          {Role::score, std::move(score)},
          {Role::std, std::move(std)},
          {Role::split, {"official_split"}},
          {Role::reference, {"ref_img", "ref_name"}}};
}

DataSet koniq() {
  return {
      .name = "koniq10k",
      .title = "KonIQ-10k",
      .scales = {{"zscore", 3.91176470588, 88.3888888889}, {"raw", 1.09615384615385, 4.31}},
      .counts = {{"", 10073}, {"train", 7058}, {"val", 1000}, {"test", 2015}},
      // MOS is z-scored in the first file and the mean opinion in the second. Only the first has the split.
      .forms = {{.files = {"koniq10k_distributions_sets.csv"},
                 .columns = {{Role::image, {"image_name", "img_name"}},
                             {Role::score, {"MOS"}, "zscore"},
                             {Role::score, {kMeanOfGrades}, "raw"},
                             {Role::std, {"SD", "std"}},
                             {Role::split, {"set", "official_split", "split"}}},
                 .also = {"MOS", "c1", "c2", "c3", "c4", "c5"},
                 .without = {"MOS_zscore"},
                 .grades = true},
                {.files = {"koniq10k_scores_and_distributions.csv", "labels.csv"},
                 .columns = {{Role::image, {"image_name"}},
                             {Role::score, {"MOS_zscore"}, "zscore"},
                             {Role::score, {"MOS"}, "raw"},
                             {Role::std, {"SD"}},
                             {Role::split, {"set"}}},
                 .also = {"MOS"},
                 .grades = true}},
      .folders = {"1024x768", "images", "512x384", "."},
      .native = {1024, 768},
      .has_splits = true,
      .deqa_folder = "KONIQ"};
}

DataSet spaq() {
  return {.name = "spaq",
          .title = "SPAQ",
          .scales = {{"MOS", 2, 96}},
          .counts = {{"", 11125}},
          .forms = {{.files = {"Annotations/MOS and Image attribute scores.xlsx",
                               "Annotations/MOS and Image attribute scores.csv",
                               "MOS and Image attribute scores.xlsx", "MOS and Image attribute scores.csv",
                               "SPAQ/Annotations/MOS and Image attribute scores.xlsx"},
                     .columns = columns_of({"Image name", "img_name"}, {"MOS"}, {"std"})}},
          .folders = {"TestImage", "SPAQ/TestImage", "images", "."},
          .resized_side = 512,
          .deqa_folder = "SPAQ"};
}

DataSet livewild() {
  return {.name = "livewild",
          .title = "LIVE in the Wild",
          .scales = {{"MOS", 3.42, 92.4319526627219}},
          .counts = {{"", 1162}},
          .forms = {{.columns = columns_of({"img_name", "image_name", "name"}, {"MOS"}, {"std"})}},
          .folders = {"Images", "images", "."},
          .nested = true,
          .deqa_folder = "LIVE-WILD",
          .tutorial_images = 7,
          .read = read_livewild_labels};
}

DataSet kadid() {
  return {.name = "kadid10k",
          .title = "KADID-10k",
          .scales = {{"dmos", 1, 4.93}},  // called dmos, but higher is better
          .counts = {{"", 10125}},
          .forms = {{.files = {"dmos.csv", "kadid10k.csv", "kadid10k_label.txt"},
                     .columns = columns_of({"dist_img", "dist_name"}, {"dmos"}, {"var", "std"}),
                     .order = {Role::image, Role::score}}},
          .folders = {"images", "."},
          .pattern = {"(I\\d\\d)_(\\d\\d)_(\\d\\d)\\.[a-z]+", "$1.png", "$2", "$3"},
          .native = {512, 384},
          .deqa_folder = "KADID10K"};
}

DataSet pipal() {
  return {.name = "pipal",
          .title = "PIPAL",
          .scales = {{"Elo", 916.7136, 1835.9856}},
          .counts = {{"", 23200}, {"deqa", 4640}},
          .forms = {{.files = {"Train_Label/", "training/MOS_Scores_train/", "MOS_Scores_train/",
                               "PIPAL_train.txt"},
                     .columns = columns_of({"dist_name", "img_name"}, {"elo_score", "mos"}, {"std"}),
                     .order = {Role::image, Role::score}}},
          .folders = {".", "Dist_Imgs", "training/Distortion", "Distortion", "images"},
          .nested = true,
          .pattern = {"(A\\d{4})_(\\d\\d)_(\\d\\d)\\.[a-z]+", "$1.bmp", "$2", ""},
          .native = {288, 288},
          .own_splits = {"deqa"},
          .deqa_folder = "PIPAL"};
}

DataSet csiq() {
  return {
      .name = "csiq",
      .title = "CSIQ",
      .scales = {{"DMOS", 1, 0}},
      .counts = {{"", 866}},
      .forms = {{.files = {"csiq.DMOS.xlsx", "csiq.DMOS.csv"},
                 .columns = {{Role::image, {"image"}},
                             {Role::score, {"dmos"}},
                             {Role::std, {"dmos_std"}},
                             {Role::type, {"dst_type"}},
                             {Role::level, {"dst_lev"}}},
                 .also = {"dst_type", "dst_lev"},
                 .sheets = {"all_by_image"},
                 .file_name = csiq_file_name},
                {.files = {"csiq_label.txt"},
                 .columns = columns_of({"dist_name", "img_name", "image"}, {"dmos"}, {"std"}),
                 .order = {Role::image, Role::score}}},
      .folders = {"dst_imgs", ".", "dst_imgs_all", "images/dst_imgs"},
      .nested = true,
      .pattern = {"(.+)\\.(AWGN|BLUR|contrast|fnoise|JPEG|jpeg2000)\\.(\\d)\\.[a-z]+", "$1.png", "$2", "$3"},
      .native = {512, 512},
      .deqa_folder = "CSIQ"};
}

DataSet agiqa() {
  return {.name = "agiqa3k",
          .title = "AGIQA-3K",
          .scales = {{"mos_quality", 0, 4.488740784}},
          .counts = {{"", 2982}},
          .forms = {{.files = {"data.csv"},
                     .columns =
                         columns_of({"name", "img_name"}, {"mos_quality", "mos"}, {"std_quality", "std"})}},
          .folders = {"images", "Images", "."},
          .deqa_folder = "AGIQA3K"};
}

DataSet tid() {
  return {.name = "tid2013",
          .title = "TID2013",
          .scales = {{"MOS", 0.24242, 7.21429}},
          .counts = {{"", 3000}},
          .forms = {{.files = {"mos_with_names.txt"},
                     .columns = columns_of({"dist_name", "img_name"}, {"mos"}, {"std"}),
                     .order = {Role::score, Role::image},
                     .deviations = "mos_std.txt"}},
          .folders = {"distorted_images", "images/distorted_images", "."},
          .pattern = {"I(\\d\\d)_(\\d\\d)_(\\d)\\.[a-z]+", "I$1.BMP", "$2", "$3"},
          .native = {512, 384},
          .deqa_folder = "TID2013"};
}

DataSet flive() {
  return {.name = "flive",
          .title = "FLIVE (PaQ-2-PiQ)",
          .scales = {{"mos", 0, 100}},
          .counts = {{"", 39810}, {"test", 1827}},
          .forms = {{.files = {"database/labels_image.csv", "labels_image.csv"},
                     .columns = columns_of({"name", "img_name"}, {"mos"}, {"std"})}},
          .folders = {"database", "."},
          .split_lists = {{"labels640.csv", "name_image", "", "test"},
                          {"labels=640_padded.csv", "name_image", "is_valid", "val"}},
          .rest_split = "train",
          .has_splits = true};
}

DataSet csv(const std::string& name, const std::string& title) {
  return {.name = name,
          .title = title,
          .forms = {{.columns = {{Role::image,
                                  {"img_name", "dist_name", "dist_img", "image_name", "image name", "image",
                                   "file_name", "filename", "file", "picture", "name"}},
                                 {Role::score, {"mos", "dmos", "elo_score", "score", "rating"}},
                                 {Role::std, {"std", "SD", "mos_std"}},
                                 {Role::split, {"official_split", "split", "set"}},
                                 {Role::reference, {"ref_name", "ref_img", "reference"}},
                                 {Role::type, {}},
                                 {Role::level, {}},
                                 {Role::description, {"description"}},
                                 {Role::good, {"good"}},
                                 {Role::bad, {"bad"}}},
                     .ambiguous = true}},
          .folders = {"."},
          .has_splits = true};
}

std::vector<DataSet> make_table() {
  return {koniq(),
          spaq(),
          livewild(),
          kadid(),
          pipal(),
          csiq(),
          agiqa(),
          tid(),
          flive(),
          {.name = "deqa",
           .title = "DeQA's list",
           .folders = {"."},
           .has_splits = true,
           .read = read_deqa_labels},
          {.name = "q-reasoning",
           .title = "Q-Reasoning",
           .scales = {{"quality", 0, 4}},
           .counts = {{"train", 7058}, {"test", 1013}},
           .folders = {"images", "."},
           .has_splits = true,
           .read = read_q_reasoning_labels},
          csv("csv", "the table"),
          csv("pyiqa", "pyiqa's table")};
}

}  // namespace

std::span<const DataSet> data_sets() {
  static const std::vector<DataSet> table = make_table();
  return table;
}

const DataSet& find_data_set(const std::string& name) {
  std::vector<std::string> names;
  for (const DataSet& set : data_sets()) {
    if (set.name == name) return set;
    names.push_back(set.name);
  }
  fail_usage("unknown data set '{}'; it must be one of {}", name, fmt::join(names, ", "));
}

bool is_deqa_reference(const std::string& reference) {
  constexpr std::array kNumbers = {6,   24,  27,  29,  31,  40,  43,  56,  57,  66,  69,  72,  83,  86,
                                   88,  101, 103, 105, 119, 120, 130, 137, 148, 156, 163, 176, 177, 181,
                                   182, 190, 193, 197, 207, 214, 220, 227, 230, 243, 245, 248};
  static_assert(kNumbers.size() == 40);
  return std::any_of(kNumbers.begin(), kNumbers.end(), [&, name = lower_case(reference)](int number) {
    return name == fmt::format("a{:04}.bmp", number);
  });
}

std::string name_of(Role role) {
  constexpr std::array kNames = {"image", "score", "std",         "split", "reference",
                                 "type",  "level", "description", "good",  "bad"};
  return kNames.at(static_cast<std::size_t>(role));
}

}  // namespace biqa
