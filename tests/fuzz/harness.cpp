// SPDX-License-Identifier: Apache-2.0
#include "fuzz/harness.h"

#include <glog/logging.h>
#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): mkdtemp is POSIX, not C++

#include <algorithm>
#include <cctype>
#include <fstream>
#include <system_error>

#include "io/files.h"

namespace biqa::fuzz {
namespace fs = std::filesystem;

std::map<std::string, Harness>& harnesses() {
  static std::map<std::string, Harness> all;
  return all;
}

Verdicts& verdicts() {
  static Verdicts all;
  return all;
}

void check_message(const Error& refused) {
  const std::string_view message = refused.what();
  CHECK(!message.empty());
  for (const char c : message) {
    const auto byte = static_cast<unsigned char>(c);
    CHECK(byte >= 0x20 && byte != 0x7F) << "a control character in: " << message;
  }
}

Folder::Folder() {
  std::string name = (fs::temp_directory_path() / "biqa_fuzz_XXXXXX").string();
  CHECK(::mkdtemp(name.data()) != nullptr) << name;
  path_ = name;
}
Folder::~Folder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}
fs::path Folder::write(const std::string& name, std::string_view content) const {
  fs::path file = path_ / name;
  std::ofstream stream(file, std::ios::binary | std::ios::trunc);
  stream << content;
  stream.close();
  CHECK(!stream.fail()) << file;
  return file;
}
void Folder::remove(const std::string& name) const {
  std::error_code ignored;
  fs::remove_all(path_ / name, ignored);
}

std::vector<std::string_view> parts_of(std::string_view input, std::size_t most) {
  std::vector<std::string_view> parts;
  while (parts.size() + 1 < most) {
    const std::size_t end = input.find('\0');
    if (end == std::string_view::npos) break;
    parts.push_back(input.substr(0, end));
    input.remove_prefix(end + 1);
  }
  parts.push_back(input);
  return parts;
}

std::string safetensors_of(std::string_view header) {
  constexpr std::size_t kMostData = std::size_t{1} << 16;
  std::size_t largest = 0, number = 0;
  for (const char c : header) {
    const bool digit = std::isdigit(static_cast<unsigned char>(c)) != 0;
    number = digit ? std::min(number * 10 + static_cast<std::size_t>(c - '0'), kMostData + 1) : 0;
    if (number <= kMostData) largest = std::max(largest, number);
  }
  std::string file(8, '\0');
  for (std::size_t i = 0; i < file.size(); ++i) file[i] = static_cast<char>(header.size() >> (8 * i));
  return file.append(header).append(largest, '\x3F');
}

std::string source_file(const std::string& name) {
  return read_file(fs::path(BIQA_SOURCE_DIR) / name);
}

}  // namespace biqa::fuzz
