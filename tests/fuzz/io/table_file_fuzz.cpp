// SPDX-License-Identifier: Apache-2.0
// Text tables and xlsx workbooks.
#include "io/table_file.h"

#include <glog/logging.h>

#include <algorithm>

#include "fuzz/harness.h"

namespace biqa::fuzz {
namespace {

void check(const Table& table) {
  std::int64_t before = 0;
  for (const TableRow& row : table.rows) {
    CHECK_GT(row.line, before);
    before = row.line;
    CHECK(
        std::any_of(row.fields.begin(), row.fields.end(), [](const auto& field) { return !field.empty(); }));
    check_message(Error(table.place(row.line) + ": wrong"));
  }
}

void run(std::string_view input) {
  if (is_zip(input)) {
    std::vector<Table> sheets;
    if (!accepted([&] { sheets = parse_workbook(input, "input"); })) return;
    for (const Table& sheet : sheets) check(sheet);
    return;
  }
  Table table;
  if (accepted([&] { table = parse_text_table(input, "input"); })) check(table);
}

const Registered kRegistered("table_file", run);

}  // namespace
}  // namespace biqa::fuzz
