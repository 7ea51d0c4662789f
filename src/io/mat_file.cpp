// SPDX-License-Identifier: Apache-2.0
#include "io/mat_file.h"

#include <matio.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "io/child.h"
#include "io/files.h"
#include "io/hdf5/mat_variables.h"

namespace biqa {
namespace {

constexpr std::uint64_t kChildSeconds = 60;
// Far more than the scores of a data set need, also where the library makes copies.
constexpr std::uint64_t kChildMemory = std::uint64_t{2} << 30;
constexpr char kRefused = 'E', kRead = '+';

struct Close {
  void operator()(mat_t* file) const { Mat_Close(file); }
  void operator()(matvar_t* variable) const { Mat_VarFree(variable); }
};

std::size_t elements_of(const matvar_t& variable) {
  std::size_t count = 1;
  for (int i = 0; i < variable.rank; ++i) {
    const std::size_t side = variable.dims[i];
    if (side != 0 && count > kMaxMatElements / side) throw std::runtime_error("it has too many elements");
    count *= side;
  }
  if (count > 0 && variable.data == nullptr) throw std::runtime_error("its elements are missing");
  return count;
}

template <typename T>
std::vector<double> converted(const matvar_t& variable, std::size_t count) {
  if (variable.nbytes / sizeof(T) < count) throw std::runtime_error("its elements are cut off");
  std::vector<T> values(count);
  if (count > 0) std::memcpy(values.data(), variable.data, count * sizeof(T));
  return {values.begin(), values.end()};
}

std::vector<double> numbers_of(const matvar_t& variable) {
  if (variable.isComplex != 0) throw std::runtime_error("it is not an array of real numbers");
  const std::size_t count = elements_of(variable);
  switch (variable.class_type) {
    case MAT_C_DOUBLE:
      return converted<double>(variable, count);
    case MAT_C_SINGLE:
      return converted<float>(variable, count);
    case MAT_C_UINT8:
      return converted<std::uint8_t>(variable, count);
    case MAT_C_INT8:
      return converted<std::int8_t>(variable, count);
    case MAT_C_UINT16:
      return converted<std::uint16_t>(variable, count);
    case MAT_C_INT16:
      return converted<std::int16_t>(variable, count);
    case MAT_C_UINT32:
      return converted<std::uint32_t>(variable, count);
    case MAT_C_INT32:
      return converted<std::int32_t>(variable, count);
    default:
      throw std::runtime_error("it is not an array of real numbers");
  }
}

void append_code_point(std::uint32_t code, std::string& out) {
  const auto byte = [&](std::uint32_t value) { out += static_cast<char>(value); };
  if (code < 0x80) {
    byte(code);
  } else if (code < 0x800) {
    byte(0xC0U | code >> 6U);
    byte(0x80U | (code & 0x3FU));
  } else if (code < 0x10000) {
    byte(0xE0U | code >> 12U);
    byte(0x80U | (code >> 6U & 0x3FU));
    byte(0x80U | (code & 0x3FU));
  } else {
    byte(0xF0U | code >> 18U);
    byte(0x80U | (code >> 12U & 0x3FU));
    byte(0x80U | (code >> 6U & 0x3FU));
    byte(0x80U | (code & 0x3FU));
  }
}

std::string text_of(const matvar_t& variable) {
  if (variable.class_type != MAT_C_CHAR) throw std::runtime_error("one of its cells is not text");
  const std::size_t count = elements_of(variable);
  if (count == 0) return "";
  if (variable.rank != 2 || variable.dims[0] != 1)
    throw std::runtime_error("one of its cells is not a row of text");
  const auto* bytes = static_cast<const char*>(variable.data);
  if (variable.data_type == MAT_T_UINT16 || variable.data_type == MAT_T_UTF16) {
    std::vector<std::uint16_t> units(std::min(count, variable.nbytes / 2));
    std::memcpy(units.data(), bytes, units.size() * sizeof(std::uint16_t));
    return utf8_of(units);
  }
  return {bytes, variable.nbytes};
}

std::vector<std::string> texts_of(const matvar_t& variable) {
  if (variable.class_type != MAT_C_CELL) throw std::runtime_error("it is not a cell array");
  const std::size_t count = elements_of(variable);
  const auto* cells = static_cast<matvar_t* const*>(variable.data);
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < count; ++i) {
    if (cells[i] == nullptr) throw std::runtime_error("one of its cells is empty");
    texts.push_back(text_of(*cells[i]));
  }
  return texts;
}

// ---- What the child sends: a mark, then the bytes or the reason ----

std::string packed(const std::vector<double>& numbers) {
  return {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(double)};
}

/// Each text with its length as a 64-bit number before it.
std::string packed(const std::vector<std::string>& texts) {
  std::string out;
  for (const std::string& text : texts) {
    const std::uint64_t length = text.size();
    out.append(reinterpret_cast<const char*>(&length), sizeof length);
    out += text;
  }
  return out;
}

struct Conversion {
  std::string (*version5)(const matvar_t&);
  std::string (*version73)(const std::string& file, const std::string& variable);
};

constexpr Conversion kNumbers{[](const matvar_t& variable) { return packed(numbers_of(variable)); },
                              [](const std::string& file, const std::string& variable) {
                                return packed(mat_hdf5_numbers(file, variable));
                              }};
constexpr Conversion kTexts{[](const matvar_t& variable) { return packed(texts_of(variable)); },
                            [](const std::string& file, const std::string& variable) {
                              return packed(mat_hdf5_texts(file, variable));
                            }};

/// Byte 124 of the header holds the version: 1 for version 5 and 2 for 7.3, in the byte order of the file.
bool is_version73(const std::string& file) {
  constexpr std::size_t kHeader = 128;
  const std::string head = read_beginning(file, kHeader);
  return head.size() == kHeader && (head[124] == 2 || head[125] == 2);
}

std::string read_here(const std::string& file, const std::string& name, const Conversion& conversion) {
  try {
    if (is_version73(file)) return kRead + conversion.version73(file, name);
    const std::unique_ptr<mat_t, Close> mat(Mat_Open(file.c_str(), MAT_ACC_RDONLY));
    if (!mat) return kRefused + std::string("it is not a MATLAB file of version 5 or 7.3");
    const std::unique_ptr<matvar_t, Close> variable(Mat_VarRead(mat.get(), name.c_str()));
    if (!variable) return kRefused + std::string("it has no such variable, or is damaged");
    return kRead + conversion.version5(*variable);
  } catch (const std::exception& problem) {
    return kRefused + std::string(problem.what());
  }
}

std::string read_variable(const std::filesystem::path& file, const std::string& variable,
                          const Conversion& conversion) {
  (void)read_beginning(file, 1);  // says why a file cannot be opened
  const std::optional<std::string> answer =
      answer_of_child([&] { return read_here(file.string(), variable, conversion); },
                      {.cpu_seconds = kChildSeconds, .memory = kChildMemory});
  if (!answer) {
    fail(
        "cannot read {} of {}: the file is damaged (the MATLAB library crashes or hangs); get the file again",
        variable, file.string());
  }
  if (answer->front() == kRefused) {
    fail("cannot read {} of {}: {}; check that it is the right file", variable, file.string(),
         answer->substr(1));
  }
  return answer->substr(1);
}

}  // namespace

std::string utf8_of(const std::vector<std::uint16_t>& units) {
  std::string out;
  for (std::size_t i = 0; i < units.size(); ++i) {
    std::uint32_t code = units[i];
    const std::uint32_t next = i + 1 < units.size() ? units[i + 1] : 0U;
    if (code >= 0xD800U && code < 0xDC00U && next >= 0xDC00U && next < 0xE000U) {
      code = 0x10000U + ((code - 0xD800U) << 10U) + (next - 0xDC00U);
      ++i;
    }
    append_code_point(code, out);
  }
  return out;
}

bool is_mat_file(const std::filesystem::path& file) {
  return read_beginning(file, 8).starts_with("MATLAB ");
}

std::vector<double> read_mat_numbers(const std::filesystem::path& file, const std::string& variable) {
  const std::string bytes = read_variable(file, variable, kNumbers);
  std::vector<double> numbers(bytes.size() / sizeof(double));
  if (!numbers.empty()) std::memcpy(numbers.data(), bytes.data(), numbers.size() * sizeof(double));
  return numbers;
}

std::vector<std::string> read_mat_texts(const std::filesystem::path& file, const std::string& variable) {
  const std::string bytes = read_variable(file, variable, kTexts);
  std::vector<std::string> texts;
  for (std::size_t at = 0; at + sizeof(std::uint64_t) <= bytes.size();) {
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data() + at, sizeof length);
    at += sizeof length;
    texts.push_back(bytes.substr(at, length));
    at += length;
  }
  return texts;
}

}  // namespace biqa
