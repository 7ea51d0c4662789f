// SPDX-License-Identifier: Apache-2.0
#include "io/table_file.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "support/temporary_folder.h"
#include "support/zip_of.h"

namespace biqa {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Fields = std::vector<std::string>;

Table parsed(std::string_view content) {
  return parse_text_table(content, "t.csv");
}
std::vector<Fields> fields_of(const Table& table) {
  std::vector<Fields> all;
  for (const TableRow& row : table.rows) all.push_back(row.fields);
  return all;
}

TEST(TextTable, CommasQuotesAndLineEnds) {
  const Table table = parsed("\xEF\xBB\xBF\"a\"\"b\",  plain , \"x,\r\ny\"\r\n\r\n1,,\n2,\"\",3\rlast,,");
  EXPECT_THAT(fields_of(table), ElementsAre(Fields{"a\"b", "plain", "x,\ny"}, Fields{"1", "", ""},
                                            Fields{"2", "", "3"}, Fields{"last", "", ""}));
  EXPECT_EQ(table.rows[0].line, 1);
  EXPECT_EQ(table.rows[1].line, 4) << "a field may hold line ends, and blank lines count";
  EXPECT_EQ(table.place(table.rows[2].line), "t.csv:5");
}

TEST(TextTable, Separators) {
  EXPECT_THAT(fields_of(parsed("5.5\t I01 x.bmp\n")), ElementsAre(Fields{"5.5", "I01 x.bmp"}));
  EXPECT_THAT(fields_of(parsed("file;score\na;0,5\n")),
              ElementsAre(Fields{"file", "score"}, Fields{"a", "0,5"}));
  EXPECT_THAT(fields_of(parsed("\n5.5   I01.bmp \r\n6 \"x\" z")),
              ElementsAre(Fields{"5.5", "I01.bmp"}, Fields{"6", "\"x\"", "z"}));
  EXPECT_THAT(fields_of(parsed("")), IsEmpty());
  EXPECT_THAT(fields_of(parsed(" \n,,\n\n")), IsEmpty());
}

TEST(TextTable, SeparatorsInQuotesDoNotDecide) {
  EXPECT_THAT(fields_of(parsed("\"name, of file\";score\na;0,5\n")),
              ElementsAre(Fields{"name, of file", "score"}, Fields{"a", "0,5"}));
  EXPECT_THAT(fields_of(parsed("\"a\tb\",\"two\nlines; x\"\n1,2\n")),
              ElementsAre(Fields{"a\tb", "two\nlines; x"}, Fields{"1", "2"}));
  // One quoted column, and a quote that is no field's.
  EXPECT_THAT(fields_of(parsed("\"a,b\"\n\"c,d\"\n")), ElementsAre(Fields{"a,b"}, Fields{"c,d"}));
  EXPECT_THAT(fields_of(parsed("5\" x\n")), ElementsAre(Fields{"5\"", "x"}));
  EXPECT_THAT(fields_of(parsed("5\" x; y\n6\" z, w; v\n")),
              ElementsAre(Fields{"5\" x", "y"}, Fields{"6\" z, w", "v"}));
}

TEST(TextTable, Refusals) {
  EXPECT_THAT(error_of([] { parsed("a,b\n1,\"open\n2,3\n"); }),
              HasSubstr("t.csv:2: a quote that opens here"));
  EXPECT_THAT(error_of([] { parsed("a,b\n\"x\"y,3\n"); }),
              HasSubstr("t.csv:2: text follows a closing quote"));
  EXPECT_THAT(error_of([] { parsed(std::string_view("a,\0b", 4)); }), HasSubstr("byte 2 is NUL"));
  EXPECT_THAT(error_of([] {
                parsed(
                    "\xFF\xFE"
                    "a");
              }),
              HasSubstr("UTF-16"));
  EXPECT_THAT(error_of([] { parsed("\xD0\xCF\x11\xE0\xA1"); }), HasSubstr(".xls"));
}

// What openpyxl wrote, as openpyxl reads it.
TEST(Workbook, AgreesWithOpenpyxl) {
  const std::filesystem::path folder = std::filesystem::path(BIQA_SOURCE_DIR) / "tests/fixtures/labels";
  const auto expected = nlohmann::json::parse(file_content(folder / "expected.json"))["workbook"];
  const std::vector<Table> tables = read_tables(folder / "labels.xlsx");
  ASSERT_EQ(tables.size(), expected.size());
  std::int64_t cells = 0;
  for (const Table& table : tables) {
    const auto& sheet = expected.at(table.sheet);
    std::size_t next = 0;
    for (std::size_t row = 0; row < sheet.size(); ++row) {
      Fields wanted;
      for (const auto& cell : sheet[row]) {
        wanted.push_back(cell.is_null()      ? ""
                         : cell.is_boolean() ? (cell.get<bool>() ? "1" : "0")
                         : cell.is_number()  ? fmt::format("{}", cell.get<double>())
                                             : cell.get<std::string>());
      }
      while (!wanted.empty() && wanted.back().empty()) wanted.pop_back();
      if (wanted.empty()) continue;
      ASSERT_LT(next, table.rows.size());
      EXPECT_EQ(table.rows[next].line, static_cast<std::int64_t>(row) + 1);
      EXPECT_EQ(table.rows[next].fields, wanted);
      cells += static_cast<std::int64_t>(wanted.size());
      ++next;
    }
    EXPECT_EQ(next, table.rows.size());
  }
  EXPECT_GT(cells, 10);
}

std::vector<Fields> cells_of(const std::string& rows, const std::string& shared = "") {
  const std::vector<Table> tables = parse_workbook(workbook_of(rows, shared), "b.xlsx");
  EXPECT_EQ(tables.size(), 1U);
  return fields_of(tables.front());
}

TEST(Workbook, KindsOfCells) {
  EXPECT_THAT(
      cells_of("<row><c t='inlineStr'><is><t>a</t></is></c><c><v>1.60E3</v></c><c t='s'><v>1</v></c></row>"
               "<row/><row><c/><c t='e'><v>#REF!</v></c><c t='str'><f>x</f><v>y</v></c></row>",
               "<si><t>no</t></si><si><r><t>two </t></r><r><t>runs</t></r><rPh><t>not</t></rPh></si>"),
      ElementsAre(Fields{"a", "1600", "two runs"}, Fields{"", "#REF!", "y"}));
  // References leave gaps; prefixes of the namespace do not matter.
  const std::vector<Table> tables = parse_workbook(
      workbook_of("<x:row r='4'><x:c r='C4'><x:v>0.25</x:v></x:c><x:c><x:v>7</x:v></x:c></x:row>"), "b.xlsx");
  EXPECT_THAT(fields_of(tables.front()), ElementsAre(Fields{"", "", "0.25", "7"}));
  EXPECT_EQ(tables.front().place(tables.front().rows[0].line), "b.xlsx, sheet 'S', row 4");
}

TEST(Workbook, Refusals) {
  const auto refusal = [](const std::string& rows) { return error_of([&] { cells_of(rows); }); };
  EXPECT_THAT(refusal("<row><c t='s'><v>0</v></c></row>"), HasSubstr("refers to the text '0', of 0"));
  EXPECT_THAT(refusal("<row><c r='ZZZZ1'><v>0</v></c></row>"), HasSubstr("the reference 'ZZZZ1'"));
  EXPECT_THAT(refusal("<row><c r='B1'/><c r='A1'/></row>"), HasSubstr("the reference 'A1'"));
  EXPECT_THAT(refusal("<row r='5'/><row r='5'/>"), HasSubstr("the number '5'"));
  EXPECT_THAT(refusal("<row><c></row>"), HasSubstr("part book/sheets/a.xml is damaged"));
  EXPECT_THAT(error_of([] {
                parse_workbook(zip_of({{"x", "y"}}), "b.xlsx");
              }),
              HasSubstr("without a workbook"));
  EXPECT_THAT(error_of([] { parse_workbook("PK\x03\x04 cut", "b.xlsx"); }),
              HasSubstr("cannot read workbook b.xlsx"));
  std::string broken = workbook_of("<row><c><v>1</v></c></row>");
  broken[broken.find("<v>1") + 3] = '2';
  EXPECT_THAT(error_of([&] { parse_workbook(broken, "b.xlsx"); }), HasSubstr("CRC"));
}

TEST(Workbook, HostileTexts) {
  // Runs inside runs are not of the format. A reader that follows them would exhaust its stack.
  std::string open, close;
  for (int i = 0; i < 300000; ++i) {
    open += "<r>";
    close += "</r>";
  }
  EXPECT_THAT(
      cells_of("<row><c><v>1</v></c><c t='inlineStr'><is>" + open + "<t>x</t>" + close + "</is></c></row>"),
      ElementsAre(Fields{"1", ""}));
  // A text that many cells refer to.
  std::string rows;
  for (int row = 0; row < 5000; ++row) rows += "<row><c t='s'><v>0</v></c></row>";
  const auto shared = [](std::size_t bytes) { return "<si><t>" + std::string(bytes, 'x') + "</t></si>"; };
  EXPECT_THAT(error_of([&] { cells_of(rows, shared(131000)); }), HasSubstr("more than 512 MiB of text"));
  EXPECT_THAT(error_of([&] { cells_of(rows, shared(132000)); }), HasSubstr("more than 32,767 characters"));
}

TEST(Workbook, LimitsItsParts) {
  const std::string megabyte = "<row>" + std::string(std::size_t{1} << 20, ' ') + "</row>";
  const auto refusal = [](const std::string& workbook) {
    return error_of([&] { parse_workbook(workbook, "b.xlsx"); });
  };
  EXPECT_EQ(refusal(workbook_of(megabyte, "", 3)), "");
  EXPECT_THAT(refusal(workbook_of(megabyte, "", 300)),
              HasSubstr("its parts are together larger than 256 MiB"));
  EXPECT_THAT(refusal(workbook_of("<row/>", "", 1001)), HasSubstr("more than 1,000 sheets"));
  EXPECT_THAT(refusal(workbook_of("<row>" + std::string(std::size_t{65} << 20, ' ') + "</row>")),
              HasSubstr("its part book/sheets/a.xml is larger than 64 MiB"));
}

// Few bytes that ask for many cells.
TEST(Workbook, LimitsItsCells) {
  std::string rows;
  for (int row = 1; row <= 1100; ++row) rows += "<row><c r='XFD1'><v>1</v></c></row>";
  EXPECT_THAT(error_of([&] { cells_of(rows); }), HasSubstr("more than 16 million cells"));
}

}  // namespace
}  // namespace biqa
