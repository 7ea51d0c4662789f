// SPDX-License-Identifier: Apache-2.0
// Tables of texts: CSV files, columns separated by blanks, and the sheets of xlsx workbooks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace biqa {

struct TableRow {
  std::int64_t line = 0;  ///< line of the text file where the row begins, or row of the sheet; from 1
  std::vector<std::string> fields;
};

struct Table {
  std::string where;           ///< the file, for messages
  std::string sheet;           ///< name of the sheet; empty for a text file
  std::vector<TableRow> rows;  ///< without empty rows

  /// `FILE:LINE`, or `FILE, sheet 'S', row N`.
  std::string place(std::int64_t line) const;
};

/// Whether the content is a zip archive, as xlsx workbooks are.
bool is_zip(std::string_view content);

/// Reads a text table. The first line that is not blank decides the separator. It is the first of tab, comma and
/// semicolon that the line contains outside of quotes; without any of them there, the first one inside of quotes;
/// otherwise blanks. With tab, comma or semicolon, fields may be quoted as in RFC 4180 and may then contain line ends.
/// A byte order mark is skipped, lines end with LF, CRLF or CR, and blanks around unquoted fields are removed. Throws
/// Error for an open quote, text behind a closing quote, a NUL byte and UTF-16.
Table parse_text_table(std::string_view content, const std::string& where);

/// Reads all sheets of an xlsx workbook, in the workbook's order, as texts. A number becomes its shortest decimal form
/// (1600, 0.25), an error its name (#REF!), a formula its stored result. Throws Error for another kind of file, a damaged
/// one, an encrypted one, or one beyond the limits: 64 MiB in a part,
/// 256 MiB in all parts, 1,000 sheets, 16 million cells, 32,767 characters in a cell, 512 MiB in all cells.
std::vector<Table> parse_workbook(std::string_view content, const std::string& where);

/// The tables of a file; its content decides between text and workbook.
std::vector<Table> read_tables(const std::filesystem::path& file);

}  // namespace biqa
