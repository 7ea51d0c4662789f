// SPDX-License-Identifier: Apache-2.0
#include "datasets/import.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "data/unicode.h"
#include "datasets/pictures.h"
#include "io/files.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

/// Label files round the ends of a range differently. A score may leave 1..5 by this much and is then moved back.
constexpr double kRounding = 1e-6;

double on_five(double raw, const ScoreScale& scale) {
  return 1 + 4 * (raw - scale.worst) / (scale.best - scale.worst);
}

bool fits(double score) {
  return score >= 1 - kRounding && score <= 5 + kRounding;
}

// ---- What the user asks for ----

/// train, val, test and the set's own names. Empty: every row. Throws Error (usage).
std::vector<std::string> wanted_splits(const ImportOptions& options, const DataSet& set) {
  std::vector<std::string> wanted;
  std::vector<std::string> known = set.own_splits;
  if (set.has_splits) known.insert(known.begin(), {"train", "val", "test"});
  for (const std::string& word : options.splits) {
    if (word == "all") return {};
    const std::string split = canonical_split(word);
    if (!set.is_own_table() && std::find(known.begin(), known.end(), split) == known.end()) {
      if (known.empty()) {
        fail_usage("flag --split is '{}', but {} has no official split; leave the flag out", word, set.title);
      }
      fail_usage("flag --split is '{}'; {} has the splits {} and all", word, set.title,
                 fmt::join(known, ", "));
    }
    if (std::find(wanted.begin(), wanted.end(), split) == wanted.end()) wanted.push_back(split);
  }
  return wanted;
}

/// MIN..MAX, or nothing.
std::optional<ScoreScale> range_in(const std::string& text) {
  const std::size_t dots = text.find("..");
  if (dots == std::string::npos) return std::nullopt;
  const std::optional<double> low = number_in(text.substr(0, dots)), high = number_in(text.substr(dots + 2));
  if (!low || !high || *low == *high) return std::nullopt;
  return ScoreScale{"given", *low, *high};
}

/// Nothing if the rows carry mapped scores. Throws Error (usage).
std::optional<ScoreScale> wanted_scale(const ImportOptions& options, const DataSet& set) {
  const bool by_rows = set.scales.empty() && set.read != read_table_labels;
  if (options.scale.empty()) {
    if (by_rows) return std::nullopt;
    if (set.scales.empty()) {
      fail_usage(
          "flag --scale is missing: give the range of the scores as WORST..BEST, such as 0..100, or 1..0 if "
          "lower is better");
    }
    return set.scales.front();
  }
  std::vector<std::string> names;
  for (const ScoreScale& scale : set.scales) {
    if (scale.name == options.scale) return scale;
    names.push_back(scale.name);
  }
  const std::optional<ScoreScale> range = range_in(options.scale);
  if (range && set.scales.size() < 2 && !by_rows) {
    ScoreScale given = *range;
    if (!set.scales.empty()) given.name = set.scales.front().name;
    return given;
  }
  if (by_rows)
    fail_usage("flag --scale is '{}', but the scores of {} are already on 1..5; leave the flag out",
               options.scale, set.title);
  fail_usage("flag --scale is '{}'; it must be {}", options.scale,
             names.size() > 1 ? fmt::format("one of {}", fmt::join(names, ", "))
                              : "WORST..BEST, two different numbers, such as 0..100");
}

// ---- The rows ----

/// A scale whose range holds every score, where the wanted one does not. Throws Error then.
void refuse_other_scale(const Labels& labels, const DataSet& set, const ScoreScale& wanted) {
  const auto holds_all = [&](const ScoreScale& scale) {
    return std::all_of(labels.rows.begin(), labels.rows.end(), [&](const LabelRow& row) {
      return !row.problem.empty() || fits(on_five(row.raw, scale));
    });
  };
  if (set.scales.size() < 2 || holds_all(wanted)) return;
  for (const ScoreScale& scale : set.scales) {
    if (scale.name == wanted.name || !holds_all(scale)) continue;
    fail(
        "cannot use labels {}: every {} lies in {}..{}, the range of the scale '{}', but the scale '{}' has "
        "the range {}..{}; correct the file",
        labels.file, labels.score_name, scale.worst, scale.best, scale.name, wanted.name, wanted.worst,
        wanted.best);
  }
}

void map_score(LabelRow& row, const std::optional<ScoreScale>& scale, const std::string& score_name) {
  const double score = row.score || !scale ? row.score.value_or(0) : on_five(row.raw, *scale);
  if (fits(score)) {
    row.score = std::clamp(score, 1.0, 5.0);
    return;
  }
  if (row.score || !scale) {
    row.problem =
        fmt::format("cannot use {}: its score {} is outside 1..5; correct the row", row.place, score);
  } else {
    row.problem = fmt::format(
        "cannot use {}: {} {} is outside the range {}..{}; correct the row, or give another --scale",
        row.place, score_name, row.raw, scale->worst, scale->best);
  }
}

/// Adds what the file name says.
class NameReader {
 public:
  explicit NameReader(const NamePattern& pattern)
      : pattern_(pattern), expression_(pattern.expression, std::regex::icase) {}

  void read(LabelRow& row) const {
    if (pattern_.expression.empty()) return;
    std::smatch match;
    const std::string name = row.id.substr(row.id.rfind('/') + 1);
    if (!std::regex_match(name, match, expression_)) return;
    if (row.reference.empty()) row.reference = match.format(pattern_.reference);
    if (!pattern_.type.empty()) row.type = match.format(pattern_.type);
    if (pattern_.level.empty() || row.level) return;
    row.level = level_in(match.format(pattern_.level));
  }

 private:
  const NamePattern& pattern_;
  std::regex expression_;
};

void mark_repeated(std::vector<LabelRow>& rows) {
  std::unordered_map<std::string, const LabelRow*> first;
  for (LabelRow& row : rows) {
    if (!row.problem.empty()) continue;
    const auto [earlier, added] = first.emplace(row.id, &row);
    if (added) continue;
    row.problem = fmt::format("cannot use {}: '{}' is already in {}; remove one of the rows", row.place,
                              row.id, earlier->second->place);
  }
}

/// Keeps the rows of the wanted splits.
void keep_splits(Labels& labels, const DataSet& set, const std::vector<std::string>& wanted) {
  if (wanted.empty()) return;
  const bool own = std::all_of(wanted.begin(), wanted.end(), [&](const std::string& split) {
    return std::find(set.own_splits.begin(), set.own_splits.end(), split) != set.own_splits.end();
  });
  if (!own && !labels.has_splits) {
    fail("cannot select split {}: {} has no split; leave --split out, or name another file with --labels",
         fmt::join(wanted, ", "), labels.file);
  }
  std::set<std::string> present;
  for (const LabelRow& row : labels.rows) present.insert(row.split);
  std::int64_t bad_elsewhere = 0;
  // A bad row whose split is unknown may belong to the wanted one, so it stays.
  std::erase_if(labels.rows, [&](const LabelRow& row) {
    const std::string& known = own ? row.reference : row.split;
    if (known.empty() && !row.problem.empty()) return false;
    if (own ? is_deqa_reference(known) : std::find(wanted.begin(), wanted.end(), known) != wanted.end())
      return false;
    bad_elsewhere += row.problem.empty() ? 0 : 1;
    return true;
  });
  if (bad_elsewhere > 0)
    labels.notes.push_back(
        fmt::format("{} bad rows are in other splits and do not count", with_commas(bad_elsewhere)));
  for (const std::string& split : wanted) {
    if (own || present.contains(split)) continue;
    present.erase("");
    fail("cannot select split {}: {} has only {}; correct --split", split, labels.file,
         fmt::join(present, ", "));
  }
}

// ---- The images ----

struct Picture {
  fs::path file;
  ImageSize size;  ///< 0: not checked
};

class Importer {
 public:
  explicit Importer(const ImportOptions& options)
      : options_(options),
        set_(find_data_set(options.set)),
        splits_(wanted_splits(options, set_)),
        scale_(wanted_scale(options, set_)) {}

  ImportResult run() {
    check_places();
    read_labels();
    find_pictures();
    if (options_.check_images) check_sizes();
    drop_bad_rows();
    write();
    tell();
    return result_;
  }

 private:
  void check_places() {
    std::error_code problem;
    if (!fs::is_directory(options_.root, problem)) {
      fail("cannot read data set {}: no such folder; correct --root", options_.root.string());
    }
    root_ = fs::canonical(options_.root);
    const fs::path folder = options_.out.has_parent_path() ? options_.out.parent_path() : fs::path(".");
    if (!fs::is_directory(folder, problem)) {
      fail("cannot write manifest {}: no folder {}; make it first", options_.out.string(), folder.string());
    }
    out_folder_ = fs::canonical(folder);
    folders_ = options_.images.empty() ? set_.folders : std::vector<std::string>{options_.images};
    pictures_root_ = root_;
    if (!options_.images.empty() && !fs::is_directory(root_ / options_.images, problem)) {
      if (!fs::is_directory(options_.images, problem)) {
        fail("cannot read images {}: no such folder below {} or as a path of its own; correct --images",
             options_.images, options_.root.string());
      }
      pictures_root_ = fs::canonical(options_.images);
      folders_ = {""};
    }
    if (fs::exists(options_.out, problem) && !is_manifest(options_.out)) {
      fail_usage(
          "flag --out is '{}', which exists and is not a manifest; give another name, or remove the file",
          options_.out.string());
    }
  }

  /// Whether the first line is a row of a manifest, or the file is empty. Label files and images are not replaced.
  static bool is_manifest(const fs::path& file) {
    std::error_code problem;
    if (!fs::is_regular_file(file, problem)) return false;
    constexpr std::size_t kLongestLine = std::size_t{1} << 20;
    const std::string beginning = read_beginning(file, kLongestLine);
    if (beginning.empty()) return true;
    const auto row = nlohmann::json::parse(beginning.substr(0, beginning.find('\n')), nullptr, false);
    return row.is_object() && row.contains("id") && row.contains("image");
  }

  /// Tables of the user's own are named by the user, or by their file.
  std::string own_name() const {
    return options_.name.empty() ? fs::path(labels_.file).stem().string() : options_.name;
  }

  void read_labels() {
    const LabelRequest request{
        set_,    options_.root,          options_.labels, scale_ ? &*scale_ : nullptr, options_.columns,
        splits_, options_.with_tutorial, options_.sheet};
    labels_ = set_.read(request);
    if (!options_.sheet.empty() && labels_.sheet.empty())
      fail_usage("flag --sheet has no effect on {}, which is not a workbook; leave it out", labels_.file);
    if (labels_.rows.empty())
      fail("cannot use labels {}: they have no rows; name the right file", labels_.file);
    if (set_.is_own_table())
      for (LabelRow& row : labels_.rows) row.set = own_name();
    const NameReader names(set_.pattern);
    for (LabelRow& row : labels_.rows) {
      if (row.id.size() <= kLongestName)
        names.read(row);
      else if (row.problem.empty())
        row.problem =
            fmt::format("cannot use {}: its name has {} bytes; shorten it", row.place, row.id.size());
    }
    keep_splits(labels_, set_, splits_);
    if (labels_.rows.empty()) {
      fail("cannot use labels {}: no row is in split {}; correct --split", labels_.file,
           fmt::join(splits_, ", "));
    }
    if (scale_) refuse_other_scale(labels_, set_, *scale_);
    for (LabelRow& row : labels_.rows) {
      if (!row.problem.empty()) continue;
      ++labels_scored_;
      given_ += row.score ? 1 : 0;
      map_score(row, scale_, labels_.score_name);
    }
    mark_repeated(labels_.rows);
    if (options_.skip_bad) return;
    for (const LabelRow& row : labels_.rows)
      if (!row.problem.empty()) throw Error(row.problem);
  }

  void find_pictures() {
    PictureFinder finder(pictures_root_, folders_, set_.nested);
    std::vector<std::string> names;
    for (const LabelRow& row : labels_.rows)
      if (row.problem.empty()) names.push_back(row.image);
    finder.choose_folder(names);
    folder_ = finder.folder();
    for (LabelRow& row : labels_.rows) {
      Picture picture;
      if (row.problem.empty()) {
        FoundPicture found = finder.find(row.image);
        picture.file = found.file;
        other_case_ += found.other_case ? 1 : 0;
        other_extension_ += found.other_extension ? 1 : 0;
        // A missing image is allowed without a check; a wrong name, or one of two files, is not.
        if (!found.problem.empty() && (options_.check_images || found.is_wrong))
          refuse(row, fmt::format("cannot use {}: {}", row.place, found.problem));
      }
      pictures_.push_back(std::move(picture));
    }
    refuse_shared_pictures();
  }

  /// Two rows of one image would be two scores for it.
  void refuse_shared_pictures() {
    std::unordered_map<std::string, std::size_t> first;
    for (std::size_t i = 0; i < pictures_.size(); ++i) {
      LabelRow& row = labels_.rows[i];
      if (!row.problem.empty()) continue;
      const auto [earlier, added] = first.emplace(pictures_[i].file.string(), i);
      if (added) continue;
      refuse(row, fmt::format("cannot use {}: its image {} already belongs to {}; correct the names",
                              row.place, pictures_[i].file.string(), labels_.rows[earlier->second].place));
    }
  }

  void refuse(LabelRow& row, std::string why) const {
    if (!options_.skip_bad) throw Error(why);
    row.problem = std::move(why);
  }

  void check_sizes() {
    std::vector<fs::path> files;
    std::vector<std::size_t> row_of;
    for (std::size_t i = 0; i < pictures_.size(); ++i) {
      if (!labels_.rows[i].problem.empty()) continue;
      files.push_back(pictures_[i].file);
      row_of.push_back(i);
    }
    const std::vector<PictureCheck> checks = check_pictures(files);
    for (std::size_t i = 0; i < checks.size(); ++i) {
      LabelRow& row = labels_.rows[row_of[i]];
      const ImageSize size = checks[i].size;
      pictures_[row_of[i]].size = size;
      if (!checks[i].problem.empty()) {
        refuse(row, fmt::format("cannot use {}: {}", row.place, checks[i].problem));
      } else if (options_.expected.width > 0 &&
                 (size.width != options_.expected.width || size.height != options_.expected.height)) {
        refuse(
            row,
            fmt::format(
                "cannot use {}: {} has {}x{} pixels, not {}x{}; get the original, or correct --expect-size",
                row.place, files[i].string(), size.width, size.height, options_.expected.width,
                options_.expected.height));
      }
    }
  }

  void drop_bad_rows() {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < labels_.rows.size(); ++i) {
      if (!labels_.rows[i].problem.empty()) {
        result_.left_out.push_back(labels_.rows[i].problem);
        continue;
      }
      if (kept != i) {
        labels_.rows[kept] = std::move(labels_.rows[i]);
        pictures_[kept] = std::move(pictures_[i]);
      }
      ++kept;
    }
    labels_.rows.resize(kept);
    pictures_.resize(kept);
    if (kept > 0) return;
    fail("cannot use labels {}: none of the {} rows is usable; the first: {}", labels_.file,
         result_.left_out.size(), result_.left_out.front());
  }

  void write() {
    std::string text;
    for (std::size_t i = 0; i < labels_.rows.size(); ++i)
      text += line_of(labels_.rows[i], pictures_[i]) + "\n";
    write_file_atomically(options_.out, text);
    result_.rows = static_cast<std::int64_t>(labels_.rows.size());
  }

  std::string line_of(const LabelRow& row, const Picture& picture) const {
    nlohmann::ordered_json line{{"id", row.id},
                                {"image", picture.file.lexically_relative(out_folder_).generic_string()},
                                {"score", *row.score},
                                {"raw_score", row.raw},
                                {"set", row.set}};
    if (!row.split.empty()) line["split"] = row.split;
    if (row.std) line["std"] = *row.std;
    if (!row.reference.empty()) line["reference"] = row.reference;
    if (!row.type.empty()) line["type"] = row.type;
    if (row.level) line["level"] = *row.level;
    if (picture.size.width > 0) {
      line["width"] = picture.size.width;
      line["height"] = picture.size.height;
    }
    nlohmann::ordered_json parts;
    for (const auto& [key, part] :
         {std::pair<const char*, const std::string&>{"description", row.description},
          {"good", row.good},
          {"bad", row.bad}})
      if (!part.empty()) parts[key] = part;
    if (!parts.empty()) line["text"] = parts;
    // Names come from the disk and may hold any bytes.
    try {
      return line.dump();
    } catch (const nlohmann::json::exception&) {
      fail("cannot use {}: the name '{}' is not UTF-8; rename the file", row.place,
           repaired_utf8(picture.file.string()));
    }
  }

  // ---- What a person should know ----

  void tell() const {
    say("{}: wrote {} rows to {}{}\n", set_.name, with_commas(result_.rows), options_.out.string(),
        published());
    tell_scale();
    say("labels: {}\n", labels_.file);
    if (set_.is_own_table())
      say("set: {}, the name in tables of results{}\n", own_name(),
          options_.name.empty() ? "; --name gives another" : "");
    if (!options_.check_images) {
      say("images: not checked (--no-check-images)\n");
    } else {
      say("images: {}\n", (folder_).string());
      tell_sizes();
    }
    if (other_case_ > 0)
      say("{} file names differ from those in the labels by upper and lower case, or by the encoding of "
          "accents\n",
          with_commas(other_case_));
    if (other_extension_ > 0)
      say("{} images have another extension than in the labels\n", with_commas(other_extension_));
    for (const std::string& note : labels_.notes) say("{}\n", note);
    for (const std::string& problem : result_.left_out) say("left out: {}\n", problem);
    if (!result_.left_out.empty()) {
      say("left out {} of {} rows (--skip-bad)\n",
          with_commas(static_cast<std::int64_t>(result_.left_out.size())),
          with_commas(result_.rows + static_cast<std::int64_t>(result_.left_out.size())));
    }
  }

  /// The published count, and whether it is another. Without one for the whole set, that of the splits in the labels.
  std::string published() const {
    const auto count_of = [&](const std::string& split) {
      return std::find_if(set_.counts.begin(), set_.counts.end(),
                          [&](const PublishedCount& count) { return count.split == split; });
    };
    std::vector<std::string> splits = splits_;
    if (splits.empty() && count_of("") == set_.counts.end()) {
      std::set<std::string, std::greater<>> present;  // train before test
      for (const LabelRow& row : labels_.rows) present.insert(row.split);
      for (const std::string& split : present) splits.push_back(split);
    }
    std::int64_t expected = options_.with_tutorial ? set_.tutorial_images : 0;
    for (const std::string& split : splits.empty() ? std::vector<std::string>{""} : splits) {
      const auto found = count_of(split);
      if (found == set_.counts.end()) return "";
      expected += found->rows;
    }
    const std::string what =
        splits.empty() ? set_.title : fmt::format("{} of {}", fmt::join(splits, " and "), set_.title);
    return result_.rows == expected
               ? fmt::format(", the published number")
               : fmt::format("; the published {}{} has {}", what,
                             options_.with_tutorial ? " with tutorial images" : "", with_commas(expected));
  }

  void tell_scale() const {
    if (given_ > 0) say("scores: {} are already on 1..5 in the labels\n", with_commas(given_));
    if (given_ == labels_scored_) return;
    const bool several = set_.scales.size() > 1;
    say("scores: {}{} mapped from {}..{} to 1..5; {}\n", labels_.score_name,
        several ? fmt::format(" (scale {})", scale_->name) : "", scale_->worst, scale_->best,
        scale_->lower_is_better()
            ? "lower is better in the labels, higher in the manifest (raw_score stays as it is)"
            : "higher is better");
  }

  void tell_sizes() const {
    std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> counts;
    std::int64_t small = 0;
    for (const Picture& picture : pictures_) {
      ++counts[{picture.size.width, picture.size.height}];
      if (std::min(picture.size.width, picture.size.height) == set_.resized_side) ++small;
    }
    const auto total = static_cast<std::int64_t>(pictures_.size());
    if (set_.native.width > 0) {
      const auto native = counts.find({set_.native.width, set_.native.height});
      const std::int64_t others = total - (native == counts.end() ? 0 : native->second);
      if (others == 0) return;
      if (native != counts.end()) counts.erase(native);
      const auto most = std::max_element(counts.begin(), counts.end(),
                                         [](const auto& a, const auto& b) { return a.second < b.second; });
      say("resized: {} of {} images do not have the native size {}x{}; most of them have {}x{}\n",
          with_commas(others), with_commas(total), set_.native.width, set_.native.height, most->first.first,
          most->first.second);
    } else if (set_.resized_side > 0 && small * 2 > total) {
      say("resized: {} of {} images have a shorter side of {} pixels; the native ones are larger and of "
          "many sizes\n",
          with_commas(small), with_commas(total), set_.resized_side);
    }
  }

  const ImportOptions& options_;
  fs::path pictures_root_;            ///< the root, or --images if that is not below it
  std::vector<std::string> folders_;  ///< below pictures_root_
  const DataSet& set_;
  std::vector<std::string> splits_;
  std::optional<ScoreScale> scale_;
  fs::path root_, out_folder_, folder_;
  Labels labels_;
  std::vector<Picture> pictures_;  ///< one per row
  std::int64_t other_case_ = 0, other_extension_ = 0;
  std::int64_t labels_scored_ = 0,
               given_ = 0;  ///< rows with a score, and of these the ones with a mapped score
  ImportResult result_;
};

}  // namespace

ImportResult import_data_set(const ImportOptions& options) {
  return Importer(options).run();
}

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) words.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

std::map<std::string, std::string> parse_columns(const std::string& text) {
  std::vector<std::string> roles;
  for (std::size_t i = 0; i <= static_cast<std::size_t>(Role::bad); ++i)
    roles.push_back(name_of(static_cast<Role>(i)));
  std::map<std::string, std::string> columns;
  std::string last;
  for (const std::string& part : words_of(text)) {
    const std::size_t equals = part.find('=');
    const std::string role = part.substr(0, equals);
    const bool known =
        equals != std::string::npos && std::find(roles.begin(), roles.end(), role) != roles.end();
    if (!known && last.empty()) {
      fail_usage("flag --columns is '{}'; give ROLE=NAME pairs, separated by commas; the roles are {}", text,
                 fmt::join(roles, ", "));
    }
    if (!known) {
      columns[last] += "," + part;  // a column whose name has a comma
      continue;
    }
    if (columns.contains(role))
      fail_usage("flag --columns is '{}': {} is there twice; give it once", text, role);
    columns[role] = part.substr(equals + 1);
    last = role;
  }
  for (const auto& [role, name] : columns)
    if (name.empty()) fail_usage("flag --columns is '{}': the name for {} is empty; give one", text, role);
  return columns;
}

ImageSize parse_picture_size(const std::string& text) {
  static const std::regex kSize("([1-9]\\d{0,8})[xX]([1-9]\\d{0,8})");
  std::smatch match;
  if (!std::regex_match(text, match, kSize)) {
    fail_usage("flag --expect-size is '{}'; give width and height in pixels, such as 1024x768", text);
  }
  return {std::stoll(match[1].str()), std::stoll(match[2].str())};
}

}  // namespace biqa
