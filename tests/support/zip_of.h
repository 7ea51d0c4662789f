// SPDX-License-Identifier: Apache-2.0
// A zip archive with stored parts, for tests of workbooks.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace biqa {

inline std::string zip_of(const std::vector<std::pair<std::string, std::string>>& parts) {
  const auto little = [](std::uint64_t value, int bytes) {
    std::string text;
    for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 0xFFU);
    return text;
  };
  const auto crc_of = [](const std::string& bytes) {
    std::uint32_t crc = ~0U;
    for (const char c : bytes) {
      crc ^= static_cast<std::uint8_t>(c);
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1U ^ ((crc & 1U) != 0 ? 0xEDB88320U : 0U);
    }
    return ~crc;
  };
  std::string archive, directory;
  for (const auto& [name, content] : parts) {
    // Version, flags, method, time, date, checksum, both sizes, length of the name, length of the extra field.
    const std::string shared = little(20, 2) + little(0, 2) + little(0, 2) + little(0, 2) + little(0x21, 2) +
                               little(crc_of(content), 4) + little(content.size(), 4) +
                               little(content.size(), 4) + little(name.size(), 2) + little(0, 2);
    directory.append("PK\x01\x02").append(little(20, 2)).append(shared).append(little(0, 6));
    directory.append(little(0, 4)).append(little(archive.size(), 4)).append(name);
    archive.append("PK\x03\x04").append(shared).append(name).append(content);
  }
  return archive + directory + "PK\x05\x06" + little(0, 4) + little(parts.size(), 2) +
         little(parts.size(), 2) + little(directory.size(), 4) + little(archive.size(), 4) + little(0, 2);
}

/// A workbook with these parts of its XML. Its sheets are named S, S2, S3, … with `name` S; all are the same part.
inline std::string workbook_of(const std::string& rows, const std::string& shared = "", int sheets = 1,
                               const std::string& name = "S") {
  std::string entries;
  for (int i = 1; i <= sheets; ++i)
    entries += "<sheet name=\"" + name + (i == 1 ? "" : std::to_string(i)) + "\" r:id=\"r7\"/>";
  const std::string office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/";
  const auto relation = [&](const char* id, const char* type, const char* target) {
    return std::string("<Relationship Id=\"") + id + "\" Type=\"" + office + type + "\" Target=\"" + target +
           "\"/>";
  };
  return zip_of(
      {{"_rels/.rels",
        "<Relationships>" + relation("r1", "officeDocument", "book/main.xml") + "</Relationships>"},
       {"book/main.xml", "<workbook xmlns:r=\"x\"><sheets>" + entries + "</sheets></workbook>"},
       {"book/_rels/main.xml.rels", "<Relationships>" + relation("r7", "worksheet", "/book/sheets/a.xml") +
                                        relation("r8", "sharedStrings", "texts.xml") + "</Relationships>"},
       {"book/texts.xml", "<sst>" + shared + "</sst>"},
       {"book/sheets/a.xml", "<worksheet><sheetData>" + rows + "</sheetData></worksheet>"}});
}

}  // namespace biqa
