// SPDX-License-Identifier: Apache-2.0
// Labels from tables: finds the columns by their names, then reads the rows.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "data/unicode.h"
#include "datasets/data_set.h"
#include "datasets/labels.h"
#include "io/table_file.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kHeaderRows = 50;  // a header may stand below a title
constexpr std::array<const char*, 5> kGrades = {"c1", "c2", "c3", "c4", "c5"};

/// Where the columns of a table are.
struct Columns {
  std::map<Role, std::size_t> at;
  std::map<Role, std::string> name;  ///< as in the header
  std::vector<std::size_t> grades;   ///< of c1 to c5; empty if they are not used
  std::optional<std::size_t> total;  ///< of c_total, which the grades must sum to if they are no shares
  std::size_t first_row = 0;         ///< behind the header
};

using Header = std::vector<std::string>;  // without blanks around the names

/// The columns of this name: those that are spelled so, or else those that differ in case only.
std::vector<std::size_t> all_in(const Header& header, const std::string& name) {
  std::vector<std::size_t> exact, others;
  for (std::size_t i = 0; i < header.size(); ++i) {
    if (header[i] == name) exact.push_back(i);
    if (lower_case(header[i]) == lower_case(name)) others.push_back(i);
  }
  if (name.empty()) return {};
  return exact.empty() ? others : exact;
}

std::optional<std::size_t> find_in(const Header& header, const std::string& name) {
  const std::vector<std::size_t> found = all_in(header, name);
  return found.empty() ? std::nullopt : std::optional(found.front());
}

bool has_all(const Header& header, const std::vector<std::string>& names) {
  return std::all_of(names.begin(), names.end(),
                     [&](const std::string& name) { return find_in(header, name).has_value(); });
}

/// Matches the rows of a table with one form of the labels.
class Matcher {
 public:
  Matcher(const LabelRequest& request, const LabelForm& form) : request_(request), form_(form) {}

  /// Nothing if the table is not of this form.
  std::optional<Columns> match(const Table& table) const {
    for (std::size_t row = 0; row < std::min(table.rows.size(), kHeaderRows); ++row)
      if (std::optional<Columns> columns = in_header(table, row)) return columns;
    return request_.columns.empty() ? without_header(table) : std::nullopt;
  }

  /// The names that are looked for, for messages.
  std::string wanted() const {
    std::vector<std::string> names;
    for (const Role role : {Role::image, Role::score}) {
      std::vector<std::string> any = names_of(role);
      names.push_back(fmt::format("{}", fmt::join(any, " or ")));
    }
    names.insert(names.end(), form_.also.begin(), form_.also.end());
    return fmt::format("{}", fmt::join(names, ", "));
  }

 private:
  std::vector<std::string> names_of(Role role) const {
    const auto given = request_.columns.find(name_of(role));
    if (given != request_.columns.end()) return {given->second};
    std::vector<std::string> names;
    for (const ColumnNames& column : form_.columns) {
      const bool fits =
          column.scale.empty() || request_.scale == nullptr || column.scale == request_.scale->name;
      if (column.role == role && fits) names.insert(names.end(), column.names.begin(), column.names.end());
    }
    return names;
  }

  /// The first column with one of the role's names.
  std::optional<std::size_t> find_role(const Table& table, const Header& header, Role role) const {
    std::optional<std::size_t> found;
    for (const std::string& name : names_of(role)) {
      const std::vector<std::size_t> all = all_in(header, name);
      if (all.empty()) continue;
      const std::optional<std::size_t> at = all.front();
      const bool must_be_one = form_.ambiguous && (role == Role::image || role == Role::score);
      if (found && *found != *at && must_be_one) {
        fail(
            "cannot read {}: the columns '{}' and '{}' could both be the {}; choose one with --columns "
            "{}=NAME",
            table.where, header[*found], header[*at], name_of(role), name_of(role));
      }
      if (!found) found = at;
      if (!must_be_one) break;
    }
    return found;
  }

  /// A column whose name is there twice. A name that the user gives may differ from another one in case.
  void refuse_repeated(const Table& table, const Header& header, const Columns& columns) const {
    for (const auto& [role, at] : columns.at) {
      const bool given = request_.columns.contains(name_of(role));
      const auto same =
          std::count_if(header.begin(), header.end(), [&, &column = header[at]](const auto& other) {
            return given ? other == column : lower_case(other) == lower_case(column);
          });
      if (same > 1) {
        fail("cannot read {}: it has {} columns '{}'; rename all but the one to use{}", table.where, same,
             header[at], given ? "" : fmt::format(", or choose one with --columns {}=NAME", name_of(role)));
      }
    }
  }

  std::optional<Columns> in_header(const Table& table, std::size_t row) const {
    const std::vector<std::string>& fields = table.rows[row].fields;
    Header header;
    for (const std::string& field : fields) header.emplace_back(without_blanks(field));
    if (!has_all(header, form_.also)) return std::nullopt;
    for (const std::string& name : form_.without)
      if (find_in(header, name)) return std::nullopt;
    for (const auto& [role, name] : request_.columns)
      if (!find_in(header, name)) return std::nullopt;
    Columns columns;
    columns.first_row = row + 1;
    for (std::size_t i = 0; i <= static_cast<std::size_t>(Role::bad); ++i) {
      const auto role = static_cast<Role>(i);
      const std::optional<std::size_t> at = find_role(table, header, role);
      if (!at) continue;
      columns.at[role] = *at;
      columns.name[role] = fields[*at];
    }
    const std::vector<std::string> score = names_of(Role::score);
    const bool needs_grades =
        !columns.at.contains(Role::score) && score == std::vector<std::string>{kMeanOfGrades};
    if (needs_grades || form_.grades) {
      for (const char* grade : kGrades)
        if (const std::optional<std::size_t> at = find_in(header, grade)) columns.grades.push_back(*at);
      if (columns.grades.size() != kGrades.size()) columns.grades.clear();
      columns.total = find_in(header, "c_total");
    }
    if (needs_grades && columns.grades.empty()) return std::nullopt;
    if (needs_grades) columns.name[Role::score] = kMeanOfGrades;
    if (!columns.at.contains(Role::image) || !columns.name.contains(Role::score)) return std::nullopt;
    refuse_repeated(table, header, columns);
    return columns;
  }

  /// The columns of a file without header whose first row has a number in the place of the score.
  std::optional<Columns> without_header(const Table& table) const {
    if (form_.order.empty() || table.rows.empty()) return std::nullopt;
    const std::vector<std::string>& fields = table.rows.front().fields;
    if (fields.size() != form_.order.size()) return std::nullopt;
    Columns columns;
    for (std::size_t i = 0; i < form_.order.size(); ++i) {
      const Role role = form_.order[i];
      if (role == Role::score && !number_in(fields[i])) return std::nullopt;
      columns.at[role] = i;
      columns.name[role] = name_of(role);
    }
    return columns;
  }

  const LabelRequest& request_;
  const LabelForm& form_;
};

/// Reads the rows of one table.
class RowReader {
 public:
  RowReader(const LabelRequest& request, const LabelForm& form, const Table& table, const Columns& columns)
      : request_(request), form_(form), table_(table), columns_(columns) {}

  void read(std::vector<LabelRow>& rows) const {
    for (std::size_t i = columns_.first_row; i < table_.rows.size(); ++i) {
      LabelRow row;
      row.place = table_.place(table_.rows[i].line);
      row.set = request_.set.name;
      try {
        read_row(table_.rows[i].fields, row);
      } catch (const Error& problem) {
        row.problem = fmt::format("cannot use {}: {}; correct the row, or leave it out with --skip-bad",
                                  row.place, problem.what());
      }
      rows.push_back(std::move(row));
    }
  }

 private:
  /// A comma in a number or in an unquoted text shifts the fields behind it. Sheets may have notes beside the table.
  void check_width(const std::vector<std::string>& fields) const {
    if (columns_.first_row == 0 || !table_.sheet.empty()) return;
    const std::size_t width = table_.rows[columns_.first_row - 1].fields.size();
    for (std::size_t i = width; i < fields.size(); ++i)
      if (!fields[i].empty()) fail("it has {} fields, the header {}", fields.size(), width);
  }

  static std::string field(const std::vector<std::string>& fields, std::size_t at) {
    return at < fields.size() ? fields[at] : "";
  }

  std::string text(const std::vector<std::string>& fields, Role role) const {
    const auto found = columns_.at.find(role);
    if (found == columns_.at.end()) return "";
    const std::string value = field(fields, found->second);
    if (!is_valid_utf8(value)) fail("{} is not UTF-8", columns_.name.at(role));
    return std::string(without_blanks(value));
  }

  double number(const std::string& name, const std::string& text) const {
    const std::optional<double> value = number_in(text);
    if (!value) fail("{} is '{}', not a number", name, text);
    return *value;
  }

  double score(const std::vector<std::string>& fields) const {
    const std::string& name = columns_.name.at(Role::score);
    const double mean = columns_.grades.empty() ? 0 : mean_of_grades(fields);  // also checks the grades
    return columns_.at.contains(Role::score) ? number(name, text(fields, Role::score)) : mean;
  }

  /// c1 to c5 are shares, or counts that c_total sums.
  double mean_of_grades(const std::vector<std::string>& fields) const {
    double sum = 0, weighted = 0;
    for (std::size_t i = 0; i < columns_.grades.size(); ++i) {
      const double share = number(kGrades.at(i), field(fields, columns_.grades[i]));
      sum += share;
      weighted += static_cast<double>(i + 1) * share;
    }
    // Shares are rounded, so that their sum is nearly 1; counts must be divided by theirs.
    constexpr double kRounding = 1e-6;
    constexpr double kShareRounding = 1e-3;  // of files whose shares have few digits
    const bool shares = std::abs(sum - 1) < kRounding;
    if (!(sum > 0)) fail("c1 to c5 sum to {}", sum);
    if (columns_.total && std::abs(sum - 1) > kShareRounding) {
      const double total = number("c_total", field(fields, *columns_.total));
      if (std::abs(sum - total) > kShareRounding * total)
        fail("c1 to c5 sum to {}, which is neither 1 nor c_total, {}", sum, total);
    }
    return shares ? weighted : weighted / sum;
  }

  void read_row(const std::vector<std::string>& fields, LabelRow& row) const {
    check_width(fields);
    // First, because a bad row counts only in its split.
    row.split = canonical_split(text(fields, Role::split));
    if (row.split.empty() && columns_.at.contains(Role::split))
      fail("{} is empty", columns_.name.at(Role::split));
    row.id = text(fields, Role::image);
    if (row.id.empty()) fail("{} is empty", columns_.name.at(Role::image));
    row.type = text(fields, Role::type);
    const std::string level = text(fields, Role::level);
    if (form_.file_name != nullptr) row.id = form_.file_name(row.id, row.type, level);
    row.image = row.id;
    row.raw = score(fields);
    if (const std::string std = text(fields, Role::std); !std.empty())
      row.std = number(columns_.name.at(Role::std), std);
    row.level = level_in(level);
    if (!level.empty() && !row.level)
      fail("{} is '{}', not a whole number from 0 on", columns_.name.at(Role::level), level);
    row.reference = text(fields, Role::reference);
    row.description = text(fields, Role::description);
    row.good = text(fields, Role::good);
    row.bad = text(fields, Role::bad);
  }

  const LabelRequest& request_;
  const LabelForm& form_;
  const Table& table_;
  const Columns& columns_;
};

/// The .txt files of a folder, by name.
std::vector<fs::path> text_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code problem;
  for (fs::directory_iterator entry(folder, problem), end; !problem && entry != end;
       entry.increment(problem)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with('.') && lower_case(entry->path().extension().string()) == ".txt")
      files.push_back(entry->path());
  }
  if (problem) fail("cannot list folder {}: {}; check its permissions", folder.string(), problem.message());
  std::sort(files.begin(), files.end());
  if (files.empty())
    fail("cannot read labels {}: the folder has no .txt file; correct --labels", folder.string());
  return files;
}

/// The label file: the user's, or the first of the set's that is there.
fs::path find_label_file(const LabelRequest& request) {
  if (request.labels) return named_label_file(request);
  std::vector<std::string> names;
  for (const LabelForm& form : request.set.forms) {
    for (const std::string& name : form.files) {
      std::error_code ignored;
      fs::path file = request.root / (name.ends_with('/') ? name.substr(0, name.size() - 1) : name);
      if (name.ends_with('/') ? fs::is_directory(file, ignored) : fs::exists(file, ignored)) return file;
      names.push_back(name);
    }
  }
  if (names.empty()) fail_usage("flag --labels is missing: name the label file of {}", request.set.title);
  no_label_file(request, names);
}

struct Match {
  const LabelForm* form;
  std::size_t table;
  Columns columns;
  std::vector<std::string> other_sheets;  ///< further sheets of this form, which are not read
};

/// Leaves only the sheet that the user chose. Text files have no sheets and stay. Throws Error (usage) if there is no such
/// sheet.
std::vector<Table> chosen_sheet(const LabelRequest& request, std::vector<Table> tables) {
  if (request.sheet.empty() || tables.front().sheet.empty()) return tables;
  std::vector<std::string> names;
  for (Table& table : tables) {
    if (table.sheet == request.sheet) return {std::move(table)};
    names.push_back(repaired_utf8(table.sheet));
  }
  fail_usage("flag --sheet is '{}', but {} has only the sheets '{}'; name one of them", request.sheet,
             tables.front().where, fmt::join(names, "', '"));
}

bool names_sheet(const LabelForm& form, const Table& table) {
  return std::find(form.sheets.begin(), form.sheets.end(), table.sheet) != form.sheets.end();
}

/// Throws Error if several sheets have the columns and the form does not say which of them is meant.
void refuse_several_sheets(const Match& match, const std::vector<Table>& tables) {
  const Table& table = tables[match.table];
  if (match.other_sheets.empty() || names_sheet(*match.form, table)) return;
  fail("cannot read {}: several sheets have the columns: '{}', '{}'; choose one with --sheet NAME",
       table.where, table.sheet, fmt::join(match.other_sheets, "', '"));
}

/// The form of the labels and the table (a sheet) that has it. Throws Error if none fits, or if several sheets do.
Match match_form(const LabelRequest& request, const std::vector<Table>& tables) {
  std::vector<std::string> wanted;
  for (const LabelForm& form : request.set.forms) {
    std::vector<std::size_t> order(tables.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_partition(order.begin(), order.end(),
                          [&](std::size_t i) { return names_sheet(form, tables[i]); });
    const Matcher matcher(request, form);
    std::optional<Match> found;
    for (const std::size_t i : order) {
      std::optional<Columns> columns = matcher.match(tables[i]);
      if (columns && found)
        found->other_sheets.push_back(tables[i].sheet);
      else if (columns)
        found = Match{&form, i, *std::move(columns), {}};
    }
    if (found) {
      refuse_several_sheets(*found, tables);
      return *std::move(found);
    }
    wanted.push_back(matcher.wanted());
  }
  std::vector<std::string> present, missing;
  std::set<std::string> lower;
  for (const Table& table : tables) {
    if (table.rows.empty()) continue;
    for (const std::string& field : table.rows.front().fields) {
      if (field.empty() || present.size() >= 40) continue;
      constexpr std::size_t kShown = 60;
      present.push_back(repaired_utf8(field.size() > kShown ? field.substr(0, kShown) + "…" : field));
      lower.insert(lower_case(field));
    }
  }
  for (const auto& [role, name] : request.columns)
    if (!lower.contains(lower_case(name))) missing.push_back(name);
  const std::string looked_for = missing.empty() ? fmt::format("{}", fmt::join(wanted, "; or "))
                                                 : fmt::format("{}", fmt::join(missing, ", "));
  fail(
      "cannot read labels {}: no columns {}; its first row is {}; name the right file, or columns with "
      "--columns",
      tables.front().where, looked_for,
      present.empty() ? "empty" : fmt::format("{}", fmt::join(present, ", ")));
}

/// The numbers 0 to 2 stand for train, val and test in pyiqa's tables. Larger ones are folds, which are no such splits.
void check_split_numbers(const Table& table, const Columns& columns, std::vector<std::string>& notes) {
  const auto column = columns.at.find(Role::split);
  if (column == columns.at.end()) return;
  const std::string& name = columns.name.at(Role::split);
  bool any = false;
  for (std::size_t i = columns.first_row; i < table.rows.size(); ++i) {
    const std::vector<std::string>& fields = table.rows[i].fields;
    if (column->second >= fields.size()) continue;
    const std::optional<double> number = number_in(std::string(without_blanks(fields[column->second])));
    if (!number) continue;
    any = true;
    if (*number == 0 || *number == 1 || *number == 2) continue;
    fail(
        "cannot read {}: the column {} has the number {}, which is a fold and not a split; write train, val "
        "and test into it, or rename the column",
        table.place(table.rows[i].line), name, fields[column->second]);
  }
  if (any) notes.push_back(fmt::format("splits: in the column {}, 0 is train, 1 is val and 2 is test", name));
}

/// Adds the standard deviations of a file with one number per row.
void add_deviations(const fs::path& file, Labels& labels) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return;
  const std::vector<Table> tables = read_tables(file);
  const std::vector<TableRow>& rows = tables.front().rows;
  if (rows.size() != labels.rows.size()) {
    labels.notes.push_back(
        fmt::format("standard deviations left out: {} has {} values, the labels have {} rows", file.string(),
                    rows.size(), labels.rows.size()));
    return;
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    labels.rows[i].std = number_in(rows[i].fields.front());
    if (!labels.rows[i].std) {
      fail("cannot read {}: '{}' is not a number; correct the file, or remove it",
           tables.front().place(rows[i].line), repaired_utf8(rows[i].fields.front()));
    }
  }
}

/// A field that must be true or false.
bool is_true(const Table& table, const TableRow& row, std::size_t column) {
  const std::string word = column < row.fields.size() ? lower_case(row.fields[column]) : "";
  if (word == "true" || word == "1" || word == "1.0") return true;
  if (word == "false" || word == "0" || word == "0.0") return false;
  fail("cannot read {}: '{}' is neither True nor False; get the file again", table.place(row.line),
       repaired_utf8(word));
}

/// The file names in a list that forms a split.
std::set<std::string> names_in_list(const Table& table, const SplitList& list) {
  std::set<std::string> names;
  if (table.rows.empty()) fail("cannot read {}: it is empty; get the file again", table.where);
  Header header;
  for (const std::string& field : table.rows.front().fields) header.emplace_back(without_blanks(field));
  const std::optional<std::size_t> name = find_in(header, list.column);
  const std::optional<std::size_t> condition = find_in(header, list.condition);
  if (!name || (!list.condition.empty() && !condition)) {
    fail("cannot read {}: no column {}; get the file again", table.where,
         name ? list.condition : list.column);
  }
  for (std::size_t i = 1; i < table.rows.size(); ++i) {
    const std::vector<std::string>& fields = table.rows[i].fields;
    if (*name >= fields.size()) continue;
    if (condition && !is_true(table, table.rows[i], *condition)) continue;
    names.insert(fields[*name]);
  }
  return names;
}

/// A name that is in no row, or in two lists, would put images into the wrong split.
void check_lists(const LabelRequest& request, const fs::path& folder,
                 const std::map<std::string, std::set<std::string>>& names, const Labels& labels) {
  std::set<std::string> known;
  for (const LabelRow& row : labels.rows) known.insert(row.id);
  std::map<std::string, std::string> list_of;
  for (const SplitList& list : request.set.split_lists) {
    const std::string file = (folder / list.file).string();
    for (const std::string& name : names.at(list.split)) {
      if (!known.contains(name)) {
        fail("cannot use the split of {}: its name '{}' is not in {}; get both files again", file,
             repaired_utf8(name), labels.file);
      }
      const auto [earlier, added] = list_of.emplace(name, file);
      if (!added)
        fail("cannot use the split of {}: '{}' is also in {}; get the files again", file, repaired_utf8(name),
             earlier->second);
    }
  }
}

void add_splits_of_lists(const LabelRequest& request, const fs::path& folder, Labels& labels) {
  std::map<std::string, std::set<std::string>> names;
  for (const SplitList& list : request.set.split_lists) {
    const fs::path file = folder / list.file;
    std::error_code ignored;
    if (!fs::exists(file, ignored)) {
      labels.notes.push_back(fmt::format("no splits: {} is missing", file.string()));
      return;
    }
    names[list.split] = names_in_list(read_tables(file).front(), list);
  }
  labels.has_splits = true;
  check_lists(request, folder, names, labels);
  for (LabelRow& row : labels.rows) {
    if (row.id.empty()) continue;  // a bad row of an unknown split
    row.split = request.set.rest_split;
    for (const SplitList& list : request.set.split_lists)
      if (names[list.split].contains(row.id)) row.split = list.split;
  }
}

}  // namespace

Labels read_table_labels(const LabelRequest& request) {
  const fs::path file = find_label_file(request);
  std::error_code ignored;
  const bool is_folder = fs::is_directory(file, ignored);
  Labels labels;
  labels.file = file.string();
  const LabelForm* form = nullptr;
  for (const fs::path& part : is_folder ? text_files(file) : std::vector<fs::path>{file}) {
    const std::vector<Table> tables = chosen_sheet(request, read_tables(part));
    const Match match = match_form(request, tables);
    form = match.form;
    labels.score_name = match.columns.name.at(Role::score);
    labels.has_splits = match.columns.at.contains(Role::split);
    const Table& table = tables[match.table];
    labels.sheet = table.sheet;
    if (!match.other_sheets.empty()) {
      labels.notes.push_back(
          fmt::format("sheets: '{}' of {} is read; other sheets with the same columns are not read: '{}'",
                      table.sheet, table.where, fmt::join(match.other_sheets, "', '")));
    }
    check_split_numbers(table, match.columns, labels.notes);
    RowReader(request, *form, table, match.columns).read(labels.rows);
  }
  if (form != nullptr && !form->deviations.empty())
    add_deviations(file.parent_path() / form->deviations, labels);
  if (!request.set.split_lists.empty() && !labels.has_splits)
    add_splits_of_lists(request, file.parent_path(), labels);
  return labels;
}

}  // namespace biqa
