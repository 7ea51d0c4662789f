// SPDX-License-Identifier: Apache-2.0
// Escaping, numbers, charts and pictures.
#include "report/html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <span>

#include "core/error.h"
#include "io/image.h"
#include "report/chart.h"
#include "report/page_reader.h"
#include "report/thumbnails.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using testing::attributes;
using ::testing::ElementsAre;
using testing::expect_well_formed;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::table_rows;

std::string base64_of(std::string_view text) {
  return base64(std::as_bytes(std::span(text.data(), text.size())));
}

TEST(Html, MarkupInATextIsText) {
  EXPECT_EQ(escaped_html("<script>alert('x' & \"y\")</script>"),
            "&lt;script&gt;alert(&#39;x&#39; &amp; &quot;y&quot;)&lt;/script&gt;");
}

TEST(Html, BytesThatAreNoTextAreReplacedOrLeftOut) {
  EXPECT_EQ(escaped_html(std::string("a\0b\x1B[31mc\x7F\td\n", 13)), "ab[31mc\td\n");
  EXPECT_EQ(escaped_html("\xFF ü"), "\xEF\xBF\xBD ü");
}

TEST(Html, NumbersWithoutValueAreADash) {
  EXPECT_EQ(fixed_text(NAN), kNoValue);
  EXPECT_EQ(figure_text(-INFINITY), kNoValue);
  EXPECT_EQ(fixed_text(-0.0004), "0.000");
  EXPECT_EQ(fixed_text(-0.0006), "-0.001");
  EXPECT_EQ(fixed_text(1e300, 2), "1e+300");
  EXPECT_EQ(figure_text(0.000123456), "0.0001235");
  EXPECT_EQ(interval_text(0.5, 0.25, 0.75), "0.500 [0.250, 0.750]");
  EXPECT_EQ(interval_text(0.5, NAN, NAN), "0.500");
}

TEST(Html, CellsOfTablesAreEscaped) {
  HtmlTable table("<caption>", {{"a&b"}, {"c", false}});
  table.add({"1 < 2", "\"q\""});
  const std::string html = table.html();
  expect_well_formed(html);
  EXPECT_THAT(html, HasSubstr("<caption>&lt;caption&gt;</caption>"));
  EXPECT_THAT(table_rows(html, "&lt;caption&gt;"),
              ElementsAre(ElementsAre("a&amp;b", "c"), ElementsAre("1 &lt; 2", "&quot;q&quot;")));
  // Titles that would take many lines get a wider column.
  EXPECT_THAT(HtmlTable("t", {{"PLCC from the caption alone"}, {"set", false}}).html(),
              HasSubstr("<th scope=\"col\" class=\"number long\">PLCC from the caption alone</th>"
                        "<th scope=\"col\">set</th>"));
}

TEST(Html, Base64) {  // RFC 4648, section 10
  EXPECT_EQ(base64_of(""), "");
  EXPECT_EQ(base64_of("f"), "Zg==");
  EXPECT_EQ(base64_of("fo"), "Zm8=");
  EXPECT_EQ(base64_of("foobar"), "Zm9vYmFy");
  EXPECT_EQ(base64_of("\xFB\xFF\xBF"), "+/+/");
}

TEST(Html, PicturesAreScaledDownAndNeverUp) {
  const TemporaryFolder folder;
  const auto picture = [&](std::int64_t width, std::int64_t height) {
    const auto file = folder.path() / "picture.png";
    write_png(file,
              {width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * 3), 99)});
    return embedded_picture(file, "a \"b\"", 100);
  };
  EXPECT_THAT(picture(400, 200), HasSubstr("width=\"100\" height=\"50\""));
  EXPECT_THAT(picture(300, 9), HasSubstr("width=\"100\" height=\"3\""));
  EXPECT_THAT(
      picture(30, 20),
      HasSubstr("alt=\"a &quot;b&quot;\" width=\"30\" height=\"20\" src=\"data:image/jpeg;base64,/9j/"));
  EXPECT_THROW(embedded_picture(folder.path() / "none.png", ""), Error);
}

LineChart chart_of(std::vector<LinePoint> points) {
  LineChart chart;
  chart.title = "A <b> title";
  chart.lines.push_back({"one & two", 0, Stroke::solid, false, std::move(points)});
  return chart;
}

TEST(Chart, ALineHasTitleDescriptionAndTable) {
  const std::string html = line_chart(chart_of({{1, 0.5}, {2, 0.75}, {3, 1}}));
  expect_well_formed(html);
  EXPECT_THAT(attributes(html, "aria-label"), ::testing::Contains("A &lt;b&gt; title"));
  EXPECT_THAT(html, HasSubstr("<desc>one &amp; two: 0.5 at step 1, 1 at step 3. </desc>"));
  EXPECT_THAT(table_rows(html, "A &lt;b&gt; title"),
              ElementsAre(ElementsAre("step", "one &amp; two"), ElementsAre("1", "0.5"),
                          ElementsAre("2", "0.75"), ElementsAre("3", "1")));
}

std::size_t count_of(const std::string& html, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = html.find(part); at != std::string::npos; at = html.find(part, at + 1)) ++count;
  return count;
}

TEST(Chart, AMissingValueInterruptsTheLine) {
  EXPECT_EQ(count_of(line_chart(chart_of({{1, 0.5}, {2, 0.6}, {3, 0.7}})), "class=\"line"), 1U);
  const std::string html = line_chart(chart_of({{1, 0.5}, {2, NAN}, {3, 0.7}, {4, INFINITY}}));
  EXPECT_EQ(count_of(html, "class=\"line"), 2U);
  EXPECT_THAT(html, Not(HasSubstr("nan")));
  EXPECT_THAT(html, Not(HasSubstr("inf")));
  EXPECT_EQ(table_rows(html, "A &lt;b&gt; title").at(2).at(1), kNoValue);
}

TEST(Chart, WithoutAnyValueThereIsNone) {
  EXPECT_EQ(line_chart(chart_of({{1, NAN}})), "");
  EXPECT_EQ(line_chart(chart_of({})), "");
  EXPECT_EQ(bar_chart("t", "s", {{"a", {{"p", 0, NAN}, {"q", 0, -1}}}}), "");
}

TEST(Chart, ABandSurroundsItsLine) {
  const std::string html = line_chart(chart_of({{1, 0.5, 0.25, 0.75}, {2, 0.5, 0.25, 0.75}}));
  EXPECT_EQ(count_of(html, "class=\"band"), 1U);
  EXPECT_EQ(table_rows(html, "A &lt;b&gt; title").at(1).at(1), "0.5 [0.25, 0.75]");
  EXPECT_EQ(count_of(line_chart(chart_of({{1, 0.5}, {2, 0.5}})), "class=\"band"), 0U);
}

TEST(Chart, HugeValuesAreDrawn) {
  const std::string html = line_chart(chart_of({{1, -1e308}, {2, 1e308}}));
  expect_well_formed(html);
  EXPECT_THAT(html, Not(HasSubstr("nan")));
}

TEST(Chart, PointsOutsideAFixedRangeAreNotDrawn) {
  PointChart chart;
  chart.title = "scatter";
  chart.x_title = "rating";
  chart.y_title = "score";
  chart.cloud = chart.diagonal = true;
  chart.least = 0;
  chart.most = 6;
  chart.groups.push_back({"g", 0, {{3, 3, "", "a"}, {1e9, 3, "", "b"}, {NAN, 3, "", "c"}}});
  const std::string html = point_chart(chart);
  expect_well_formed(html);
  EXPECT_EQ(count_of(html, "h0"), 1U);
}

}  // namespace
}  // namespace biqa
