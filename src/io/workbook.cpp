// SPDX-License-Identifier: Apache-2.0
// xlsx workbooks (ECMA-376): a zip archive of XML parts. libzip unpacks it, pugixml reads the parts.
#include <zip.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <pugixml.hpp>
#include <utility>

#include "core/error.h"
#include "io/files.h"
#include "io/table_file.h"

namespace biqa {
namespace {

constexpr std::size_t kMaxPart = std::size_t{64} << 20;    // a parsed part takes about ten times its bytes
constexpr std::size_t kMaxParts = std::size_t{256} << 20;  // of all parts; two sheets may refer to one part
constexpr std::size_t kMaxSheets = 1000;
constexpr std::size_t kMaxCells = std::size_t{16} << 20;
constexpr std::size_t kMaxCellText =
    32767;  // characters, as in the standard's applications; here bytes of up to 4 each
constexpr std::size_t kMaxTexts = std::size_t{512} << 20;
constexpr std::int64_t kMaxColumns = 16384,
                       kMaxRows = std::int64_t{1} << 20;  // as in the standard's applications

/// The name without its namespace prefix. Some writers use one for every element.
std::string_view local_name(std::string_view name) {
  const std::size_t colon = name.rfind(':');
  return colon == std::string_view::npos ? name : name.substr(colon + 1);
}

bool is_named(const pugi::xml_node& node, std::string_view name) {
  return local_name(node.name()) == name;
}

pugi::xml_node child_of(const pugi::xml_node& node, std::string_view name) {
  return node.find_child([&](const pugi::xml_node& child) { return is_named(child, name); });
}

std::string_view attribute_of(const pugi::xml_node& node, std::string_view name) {
  for (const pugi::xml_attribute& attribute : node.attributes())
    if (local_name(attribute.name()) == name) return attribute.value();
  return {};
}

/// The text of a node: its own, and that of its runs (`r`), without that of nodes for pronunciation.
void add_text(const pugi::xml_node& node, std::string& text) {
  for (const pugi::xml_node& child : node.children()) {
    if (is_named(child, "t")) text += child.text().get();
    if (!is_named(child, "r")) continue;
    for (const pugi::xml_node& part : child.children())
      if (is_named(part, "t")) text += part.text().get();
  }
}

class Archive {
 public:
  Archive(std::string_view content, const std::string& where) : where_(where) {
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t* source = zip_source_buffer_create(content.data(), content.size(), 0, &error);
    if (source != nullptr) archive_.reset(zip_open_from_source(source, ZIP_RDONLY, &error));
    if (!archive_) {
      const std::string reason = zip_error_strerror(&error);
      zip_error_fini(&error);
      if (source != nullptr) zip_source_free(source);
      refuse(reason);
    }
    zip_error_fini(&error);
  }

  [[noreturn]] void refuse(const std::string& why) const {
    fail("cannot read workbook {}: {}; save it again as .xlsx, or as CSV", where_, why);
  }

  /// A part, parsed. Nothing if there is none of this name.
  std::optional<pugi::xml_document> part(const std::string& name) const {
    const zip_int64_t index = zip_name_locate(archive_.get(), name.c_str(), 0);
    if (index < 0) return std::nullopt;
    const std::string content = unpacked(static_cast<zip_uint64_t>(index), name);
    std::optional<pugi::xml_document> document(std::in_place);
    const pugi::xml_parse_result parsed = document->load_buffer(content.data(), content.size());
    if (!parsed) refuse(fmt::format("its part {} is damaged ({})", name, parsed.description()));
    return document;
  }

 private:
  struct Close {
    void operator()(zip_t* archive) const { zip_discard(archive); }
    void operator()(zip_file_t* file) const { zip_fclose(file); }
  };

  std::string unpacked(zip_uint64_t index, const std::string& name) const {
    const std::unique_ptr<zip_file_t, Close> file(zip_fopen_index(archive_.get(), index, 0));
    if (!file) refuse(fmt::format("its part {}: {}", name, zip_strerror(archive_.get())));
    std::string content;
    std::vector<char> piece(std::size_t{64} << 10);
    while (true) {
      const zip_int64_t count = zip_fread(file.get(), piece.data(), piece.size());
      if (count < 0) refuse(fmt::format("its part {} is damaged ({})", name, zip_file_strerror(file.get())));
      if (count == 0) return content;
      content.append(piece.data(), static_cast<std::size_t>(count));
      if (content.size() > kMaxPart) refuse(fmt::format("its part {} is larger than 64 MiB", name));
      unpacked_bytes_ += static_cast<std::size_t>(count);
      if (unpacked_bytes_ > kMaxParts) refuse("its parts are together larger than 256 MiB");
    }
  }

  std::string where_;
  std::unique_ptr<zip_t, Close> archive_;
  mutable std::size_t unpacked_bytes_ = 0;
};

/// The target of a relation from a part: relative to the part's folder, or from the root of the archive.
std::string resolved(const std::string& part, std::string_view target) {
  if (target.starts_with('/')) return std::string(target.substr(1));
  const std::filesystem::path folder = std::filesystem::path(part).parent_path();
  return (folder / std::filesystem::path(target)).lexically_normal().generic_string();
}

struct Relation {
  std::string id, type, target;
};

/// The relations of a part; "" stands for the archive.
std::vector<Relation> relations_of(const Archive& archive, const std::string& part) {
  const std::filesystem::path path(part);
  const std::string file =
      (path.parent_path() / "_rels" / (path.filename().string() + ".rels")).generic_string();
  std::vector<Relation> relations;
  const auto document = archive.part(file);
  if (!document) return relations;
  for (const pugi::xml_node& node : document->document_element().children()) {
    const std::string_view type = attribute_of(node, "Type");
    relations.push_back({std::string(attribute_of(node, "Id")), std::string(type.substr(type.rfind('/') + 1)),
                         resolved(part, attribute_of(node, "Target"))});
  }
  return relations;
}

/// The column of a reference such as AB12, from 0. Nothing if it is none.
std::optional<std::int64_t> column_of(std::string_view reference) {
  std::int64_t column = 0;
  for (const char c : reference) {
    if (c < 'A' || c > 'Z') break;
    column = column * 26 + (c - 'A' + 1);
    if (column > kMaxColumns) return std::nullopt;
  }
  if (column == 0) return std::nullopt;
  return column - 1;
}

class SheetReader {
 public:
  SheetReader(const Archive& archive, const std::vector<std::string>& shared)
      : archive_(archive), shared_(shared) {}

  void read(const pugi::xml_document& document, Table& table) {
    const pugi::xml_node data = child_of(document.document_element(), "sheetData");
    std::int64_t number = 0;
    for (const pugi::xml_node& row : data.children()) {
      if (!is_named(row, "row")) continue;
      number = number_of(row, number + 1);
      TableRow result{number, {}};
      for (const pugi::xml_node& cell : row.children())
        if (is_named(cell, "c")) add_cell(cell, result);
      const bool empty = std::all_of(result.fields.begin(), result.fields.end(),
                                     [](const std::string& field) { return field.empty(); });
      if (!empty) table.rows.push_back(std::move(result));
    }
  }

 private:
  std::int64_t number_of(const pugi::xml_node& row, std::int64_t following) const {
    const std::string_view text = attribute_of(row, "r");
    if (text.empty()) return following;
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || number < following || number > kMaxRows)
      archive_.refuse(fmt::format("a row has the number '{}'", text));
    return number;
  }

  void add_cell(const pugi::xml_node& cell, TableRow& row) {
    auto column = static_cast<std::int64_t>(row.fields.size());
    if (const std::string_view reference = attribute_of(cell, "r"); !reference.empty()) {
      const std::optional<std::int64_t> given = column_of(reference);
      if (!given || *given < column) archive_.refuse(fmt::format("a cell has the reference '{}'", reference));
      column = *given;
    }
    const std::string text = text_of(cell);
    if (text.size() > 4 * kMaxCellText) archive_.refuse("a cell has more than 32,767 characters");
    bytes_ += text.size();  // many cells may refer to one text
    if (bytes_ > kMaxTexts) archive_.refuse("its cells have more than 512 MiB of text");
    if (text.empty() && attribute_of(cell, "r").empty() && column >= kMaxColumns) return;
    const auto size = static_cast<std::size_t>(column) + 1;
    cells_ += size - row.fields.size();
    if (cells_ > kMaxCells) archive_.refuse("it has more than 16 million cells");
    row.fields.resize(size);
    row.fields.back() = text;
  }

  std::string text_of(const pugi::xml_node& cell) const {
    const std::string_view type = attribute_of(cell, "t");
    std::string text;
    if (type == "inlineStr") {
      add_text(child_of(cell, "is"), text);
      return text;
    }
    std::string value = child_of(cell, "v").text().get();
    if (type == "s") {
      std::size_t index = 0;
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), index);
      if (error != std::errc() || end != value.data() + value.size() || index >= shared_.size())
        archive_.refuse(fmt::format("a cell refers to the text '{}', of {}", value, shared_.size()));
      return shared_[index];
    }
    if (type.empty() || type == "n") return number_text(value);
    return value;
  }

  /// The shortest decimal form, so that 1600.0 and 1.6E3 give 1600.
  static std::string number_text(const std::string& value) {
    double number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc() || end != value.data() + value.size() || !std::isfinite(number)) return value;
    return fmt::format("{}", number);
  }

  const Archive& archive_;
  const std::vector<std::string>& shared_;
  std::size_t cells_ = 0, bytes_ = 0;  ///< of all sheets
};

std::vector<std::string> shared_texts(const Archive& archive, const std::string& part) {
  std::vector<std::string> texts;
  const auto document = archive.part(part);
  if (!document) return texts;
  for (const pugi::xml_node& item : document->document_element().children()) {
    if (!is_named(item, "si")) continue;
    add_text(item, texts.emplace_back());
  }
  return texts;
}

}  // namespace

std::vector<Table> parse_workbook(std::string_view content, const std::string& where) {
  const Archive archive(content, where);
  std::string part = "xl/workbook.xml";
  for (const Relation& relation : relations_of(archive, ""))
    if (relation.type == "officeDocument") part = relation.target;
  const auto workbook = archive.part(part);
  if (!workbook) archive.refuse("it is a zip archive without a workbook");
  std::map<std::string, std::string> targets;
  std::vector<std::string> shared;
  for (const Relation& relation : relations_of(archive, part)) {
    if (relation.type == "worksheet") targets[relation.id] = relation.target;
    if (relation.type == "sharedStrings") shared = shared_texts(archive, relation.target);
  }
  std::vector<Table> tables;
  SheetReader reader(archive, shared);
  for (const pugi::xml_node& node : child_of(workbook->document_element(), "sheets").children()) {
    const auto target = targets.find(std::string(attribute_of(node, "id")));
    if (target == targets.end()) continue;  // a sheet that is a chart
    if (tables.size() == kMaxSheets) archive.refuse("it has more than 1,000 sheets");
    Table table{where, std::string(attribute_of(node, "name")), {}};
    const auto sheet = archive.part(target->second);
    if (!sheet)
      archive.refuse(fmt::format("the part {} of its sheet '{}' is missing", target->second, table.sheet));
    reader.read(*sheet, table);
    tables.push_back(std::move(table));
  }
  if (tables.empty()) archive.refuse("it has no sheet");
  return tables;
}

}  // namespace biqa
