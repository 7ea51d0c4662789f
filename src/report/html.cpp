// SPDX-License-Identifier: Apache-2.0
#include "report/html.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include "core/markup.h"
#include "data/unicode.h"
#include "report/style.h"

namespace biqa {

std::string escaped_html(std::string_view text) {
  return escaped_markup(repaired_utf8(text));
}

std::string fixed_text(double value, int decimals) {
  if (!std::isfinite(value)) return kNoValue;
  if (std::abs(value) >= 1e7) return fmt::format("{:.4g}", value);
  std::string text = fmt::format("{:.{}f}", value, decimals);
  // Minus zero is a result of rounding.
  if (text.front() == '-' && text.find_first_not_of("-0.") == std::string::npos) text.erase(0, 1);
  return text;
}

std::string figure_text(double value) {
  if (!std::isfinite(value)) return kNoValue;
  if (value == std::round(value) && std::abs(value) < 1e7) return fmt::format("{:.0f}", value);
  return fmt::format("{:.4g}", value);
}

std::string interval_text(double value, double low, double high) {
  if (!std::isfinite(low) || !std::isfinite(high)) return fixed_text(value);
  return fmt::format("{} [{}, {}]", fixed_text(value), fixed_text(low), fixed_text(high));
}

std::string counted(std::int64_t count, std::string_view one, std::string_view many) {
  return fmt::format("{} {}", count, count == 1 ? one : many);
}

HtmlTable::HtmlTable(std::string caption, std::vector<Column> columns)
    : caption_(std::move(caption)), columns_(std::move(columns)) {}

namespace {

/// Brackets at the end of a number may stand in a line of their own.
std::string number_cell(const std::string& text) {
  const std::size_t bracket = std::min(text.find(" ["), text.find(" ("));
  if (bracket == std::string::npos) return escaped_html(text);
  return fmt::format("{} <span>{}</span>", escaped_html(text.substr(0, bracket)),
                     escaped_html(text.substr(bracket + 1)));
}

}  // namespace

void HtmlTable::add(const std::vector<std::string>& cells) {
  CHECK_EQ(cells.size(), columns_.size());
  rows_ += "<tr>";
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const char* element = i == 0 ? "th" : "td";
    rows_ += fmt::format("<{}{}{}>{}</{}>", element, i == 0 ? " scope=\"row\"" : "",
                         columns_[i].is_number ? " class=\"number\"" : "",
                         columns_[i].is_number ? number_cell(cells[i]) : escaped_html(cells[i]), element);
  }
  rows_ += "</tr>\n";
}

std::string HtmlTable::html() const {
  // The box takes the focus, so that the keyboard can scroll it.
  std::string out = fmt::format(
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table>"
      "<caption>{0}</caption><thead><tr>",
      escaped_html(caption_));
  // A long title over narrow figures would take many lines.
  constexpr std::size_t kLongTitle = 24;
  for (const Column& column : columns_) {
    std::vector<std::string_view> classes;
    if (column.is_number) classes.emplace_back("number");
    if (column.title.size() > kLongTitle) classes.emplace_back("long");
    const std::string attribute =
        classes.empty() ? "" : fmt::format(" class=\"{}\"", fmt::join(classes, " "));
    out += fmt::format("<th scope=\"col\"{}>{}</th>", attribute, escaped_html(column.title));
  }
  return out + "</tr></thead><tbody>\n" + rows_ + "</tbody></table></div>\n";
}

std::string folded(std::string_view summary, const std::string& html) {
  return fmt::format("<details><summary>{}</summary>\n{}</details>\n", escaped_html(summary), html);
}

std::string paragraph(std::string_view text, std::string_view css_class) {
  return fmt::format("<p{}>{}</p>\n", css_class.empty() ? "" : fmt::format(" class=\"{}\"", css_class),
                     escaped_html(text));
}

std::string note_list(const std::vector<std::string>& notes) {
  if (notes.empty()) return "";
  std::string out = "<ul class=\"notes\">";
  for (const std::string& note : notes) out += fmt::format("<li>{}</li>", escaped_html(note));
  return out + "</ul>\n";
}

std::string page_begin(std::string_view title, const std::string& lead) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      // Whatever the texts of a model contain: this page fetches nothing and runs nothing.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src "
      "'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n"
      // Browsers ask for favicon.ico unless a page has an icon of its own.
      "<link rel=\"icon\" href=\"data:,\">\n"
      "<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n"
      "<a class=\"skip\" href=\"#content\">Skip to the content</a>\n"
      "<header><h1>{0}</h1>\n{2}</header>\n<main id=\"content\">\n",
      escaped_html(title), kPageStyle, lead);
}

std::string page_sections(const std::vector<PageSection>& sections) {
  std::string out = "<nav aria-label=\"Sections\"><ul>";
  for (const PageSection& section : sections)
    out += fmt::format("<li><a href=\"#{}\">{}</a></li>", section.id, escaped_html(section.title));
  out += "</ul></nav>\n";
  for (const PageSection& section : sections) {
    out += fmt::format(
        "<section id=\"{0}\" aria-labelledby=\"{0}-title\"><h2 id=\"{0}-title\">{1}</h2>\n{2}</section>\n",
        section.id, escaped_html(section.title), section.html);
  }
  return out;
}

std::string page_end(std::string_view footer) {
  return fmt::format("</main>\n<footer>{}</footer>\n</body>\n</html>\n", escaped_html(footer));
}

}  // namespace biqa
