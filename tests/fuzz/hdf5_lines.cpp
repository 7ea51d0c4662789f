// SPDX-License-Identifier: Apache-2.0
#include "fuzz/hdf5_lines.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fuzz/harness.h"
#include "io/hdf5.h"

namespace biqa::fuzz {
namespace {

constexpr std::int64_t kMostValues = 4096;
constexpr int kMostLines = 128;

std::vector<std::string> words_of(std::string_view line) {
  std::vector<std::string> words;
  while (!line.empty()) {
    const std::string_view word = line.substr(0, line.find(' '));
    if (!word.empty()) words.emplace_back(word);
    line.remove_prefix(std::min(word.size() + 1, line.size()));
  }
  return words;
}

template <typename T>
T number_of(const std::string& text) {
  T number{};
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

/// Names that our own code may ask HDF5 for.
bool is_name(const std::string& text) {
  return !text.empty() && text.find('\0') == std::string::npos && text.find("..") == std::string::npos;
}

void write_attribute(Hdf5Writer& out, const std::string& object, const std::string& name,
                     const std::string& type, const std::string& value) {
  if (!is_name(object) || !is_name(name)) return;
  if (type == "f") out.attribute(object, name, number_of<double>(value));
  if (type == "i") out.attribute(object, name, number_of<std::int64_t>(value));
  if (type == "t") out.attribute(object, name, value);
}

template <typename T>
std::vector<T> repeated(std::span<const std::string> values, std::size_t count) {
  std::vector<T> numbers(count);
  for (std::size_t i = 0; i < count && !values.empty(); ++i)
    numbers[i] = number_of<T>(values[i % values.size()]);
  return numbers;
}

void write_line(Hdf5Writer& out, std::span<const std::string> words) {
  if (words.size() < 3 || !is_name(words[0])) return;
  const std::string& type = words[1];
  if (const std::size_t at = words[0].find('@'); at != std::string::npos) {
    write_attribute(out, words[0].substr(0, at), words[0].substr(at + 1), type, words[2]);
    return;
  }
  const auto equals = std::find(words.begin(), words.end(), "=");
  std::vector<std::int64_t> shape;
  std::int64_t count = 1;
  for (const std::string& size : std::span(words.begin() + 2, std::max(equals, words.begin() + 2))) {
    shape.push_back(std::clamp<std::int64_t>(number_of<std::int64_t>(size), 0, kMostValues));
    count *= shape.back();
    if (count > kMostValues || shape.size() > 5) return;
  }
  const std::span<const std::string> values(equals == words.end() ? equals : equals + 1, words.end());
  const auto size = static_cast<std::size_t>(count);
  if (type == "f") out.dataset(words[0], repeated<float>(values, size), shape);
  if (type == "i") out.dataset(words[0], repeated<std::int64_t>(values, size), shape);
  if (type == "t") out.dataset(words[0], std::vector<std::string>(size, "text"));
}

}  // namespace

bool write_hdf5(const std::filesystem::path& file, std::string_view lines) {
  try {
    Hdf5Writer out(file);
    for (int count = 0; !lines.empty() && count < kMostLines; ++count) {
      const std::string_view line = lines.substr(0, lines.find('\n'));
      lines.remove_prefix(std::min(line.size() + 1, lines.size()));
      try {
        write_line(out, words_of(line));
      } catch (const Error& refused) {
        check_message(refused);
      }
    }
    out.close(true);
    return true;
  } catch (const Error& refused) {
    check_message(refused);
    return false;
  }
}

}  // namespace biqa::fuzz
