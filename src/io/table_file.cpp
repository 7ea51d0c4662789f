// SPDX-License-Identifier: Apache-2.0
#include "io/table_file.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "io/files.h"

namespace biqa {
namespace {

constexpr char kBlanks = ' ';  // as the separator: any number of spaces

bool is_blank(char c) {
  return c == ' ' || c == '\t';
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

/// Whether a quote that follows this part of a line opens a field.
bool is_at_field_start(std::string_view line) {
  const std::size_t last = line.find_last_not_of(' ');
  return last == std::string_view::npos || line[last] == '\t' || line[last] == ',' || line[last] == ';';
}

/// The first line that is not blank, without the fields in quotes. Empty if a quote stays open.
std::string first_line_unquoted(std::string_view content) {
  std::string line;
  bool in_quotes = false;
  for (const char c : content) {
    if (c == '"' && (in_quotes || line.ends_with('"') || is_at_field_start(line))) in_quotes = !in_quotes;
    if (in_quotes) continue;
    if (c != '\n' && c != '\r') {
      line += c;
    } else if (!trimmed(line).empty()) {
      break;
    } else {
      line.clear();
    }
  }
  return in_quotes ? "" : line;
}

char separator_of(std::string_view content) {
  // Quotes belong to fields only if a separator stands outside of them.
  const std::string unquoted = first_line_unquoted(content);
  for (const char separator : {'\t', ',', ';'})
    if (trimmed(unquoted).find(separator) != std::string_view::npos) return separator;
  std::size_t begin = 0;
  while (begin < content.size()) {
    const std::size_t end = std::min(content.find_first_of("\r\n", begin), content.size());
    const std::string_view line = trimmed(content.substr(begin, end - begin));
    if (!line.empty()) {
      for (const char separator : {'\t', ',', ';'})
        if (line.find(separator) != std::string_view::npos) return separator;
      return kBlanks;
    }
    begin = end + 1;
  }
  return ',';
}

class TextParser {
 public:
  TextParser(std::string_view content, std::string where)
      : content_(content), where_(std::move(where)), separator_(separator_of(content)) {}

  Table parse() {
    Table table{where_, "", {}};
    while (at_ < content_.size()) {
      TableRow row{line_, {}};
      separator_ == kBlanks ? read_words(row) : read_fields(row);
      const bool empty =
          std::all_of(row.fields.begin(), row.fields.end(), [](const std::string& f) { return f.empty(); });
      if (!empty) table.rows.push_back(std::move(row));
    }
    return table;
  }

 private:
  bool at_line_end() const {
    return at_ >= content_.size() || content_[at_] == '\n' || content_[at_] == '\r';
  }
  void skip_line_end() {
    if (at_ >= content_.size()) return;
    if (content_[at_] == '\r' && at_ + 1 < content_.size() && content_[at_ + 1] == '\n') ++at_;
    ++at_;
    ++line_;
  }
  void skip_blanks() {
    while (at_ < content_.size() && is_blank(content_[at_]) && content_[at_] != separator_) ++at_;
  }

  void read_words(TableRow& row) {
    while (true) {
      skip_blanks();
      while (at_ < content_.size() && content_[at_] == ' ') ++at_;
      if (at_line_end()) break;
      const std::size_t begin = at_;
      while (!at_line_end() && !is_blank(content_[at_])) ++at_;
      row.fields.emplace_back(content_.substr(begin, at_ - begin));
    }
    skip_line_end();
  }

  void read_fields(TableRow& row) {
    while (true) {
      skip_blanks();
      row.fields.push_back(at_ < content_.size() && content_[at_] == '"' ? quoted() : plain());
      if (at_line_end()) break;
      ++at_;  // the separator
    }
    skip_line_end();
  }

  std::string plain() {
    const std::size_t begin = at_;
    while (!at_line_end() && content_[at_] != separator_) ++at_;
    return std::string(trimmed(content_.substr(begin, at_ - begin)));
  }

  std::string quoted() {
    const std::int64_t first_line = line_;
    std::string text;
    ++at_;
    while (true) {
      if (at_ >= content_.size()) {
        fail("cannot read {}:{}: a quote that opens here is not closed; close it", where_, first_line);
      }
      if (content_[at_] == '"') {
        if (at_ + 1 >= content_.size() || content_[at_ + 1] != '"') break;
        text += '"';
        at_ += 2;
      } else if (content_[at_] == '\n' || content_[at_] == '\r') {
        text += '\n';
        skip_line_end();
      } else {
        text += content_[at_++];
      }
    }
    ++at_;
    skip_blanks();
    if (!at_line_end() && content_[at_] != separator_) {
      fail("cannot read {}:{}: text follows a closing quote; double the quotes inside a field", where_,
           line_);
    }
    return text;
  }

  std::string_view content_;
  std::string where_;
  char separator_;
  std::size_t at_ = 0;
  std::int64_t line_ = 1;
};

}  // namespace

std::string Table::place(std::int64_t line) const {
  return sheet.empty() ? fmt::format("{}:{}", where, line)
                       : fmt::format("{}, sheet '{}', row {}", where, sheet, line);
}

bool is_zip(std::string_view content) {
  return content.starts_with("PK\x03\x04") || content.starts_with("PK\x05\x06");
}

Table parse_text_table(std::string_view content, const std::string& where) {
  if (content.starts_with("\xFF\xFE") || content.starts_with("\xFE\xFF")) {
    fail("cannot read {}: the text is UTF-16; save it as UTF-8", where);
  }
  if (content.starts_with("\xD0\xCF\x11\xE0")) {
    fail("cannot read {}: it is an old .xls or an encrypted workbook; save it as .xlsx or CSV", where);
  }
  if (const std::size_t nul = content.find('\0'); nul != std::string_view::npos) {
    fail("cannot read {}: byte {} is NUL, so it is not a text table; name the right file", where, nul);
  }
  if (content.starts_with("\xEF\xBB\xBF")) content.remove_prefix(3);
  return TextParser(content, where).parse();
}

std::vector<Table> read_tables(const std::filesystem::path& file) {
  const std::string content = read_file(file);
  if (is_zip(content)) return parse_workbook(content, file.string());
  std::vector<Table> tables;
  tables.push_back(parse_text_table(content, file.string()));
  return tables;
}

}  // namespace biqa
