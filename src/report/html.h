// SPDX-License-Identifier: Apache-2.0
// Pieces of a self-contained HTML page: escaped texts, numbers, tables, and the page around them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace biqa {

/// `text` for the content of an element or for an attribute in double quotes. Invalid UTF-8 becomes U+FFFD. Control
/// characters except tab and line end are left out, because HTML allows none.
std::string escaped_html(std::string_view text);

/// What stands for a figure without a value (NaN).
inline constexpr const char* kNoValue = "–";
/// With this number of decimals. A value that is not finite is kNoValue.
std::string fixed_text(double value, int decimals = 3);
/// With four significant digits.
std::string figure_text(double value);
/// "0.61 [0.52, 0.68]"
std::string interval_text(double value, double low, double high);
/// "1 run", "3 runs".
std::string counted(std::int64_t count, std::string_view one, std::string_view many);

/// A table that scrolls in a box of its own when the page is narrow. The first cell of a row is its header.
class HtmlTable {
 public:
  struct Column {
    std::string title;
    bool is_number = true;  ///< aligned at the right
  };
  /// `caption` is shown above the table.
  HtmlTable(std::string caption, std::vector<Column> columns);
  /// One text per column (CHECK). They are escaped.
  void add(const std::vector<std::string>& cells);
  bool empty() const { return rows_.empty(); }
  std::string html() const;

 private:
  std::string caption_;
  std::vector<Column> columns_;
  std::string rows_;
};

/// A closed <details> with this summary; `html` is its content.
std::string folded(std::string_view summary, const std::string& html);
/// A paragraph; `text` is escaped.
std::string paragraph(std::string_view text, std::string_view css_class = "");
/// A list of notes; empty without notes.
std::string note_list(const std::vector<std::string>& notes);

struct PageSection {
  std::string id;     ///< of the element, for links within the page
  std::string title;  ///< escaped
  std::string html;   ///< its content
};

/// Everything before the content: head with style sheet and the rule that nothing is fetched, skip link, header.
/// `lead` is HTML below the title.
std::string page_begin(std::string_view title, const std::string& lead);
/// Links to the sections, then the sections.
std::string page_sections(const std::vector<PageSection>& sections);
/// Everything after the content. `footer` is escaped.
std::string page_end(std::string_view footer);

}  // namespace biqa
