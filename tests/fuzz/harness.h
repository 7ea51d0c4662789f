// SPDX-License-Identifier: Apache-2.0
// What the fuzz harnesses share. A harness is one file, LAYER/NAME_fuzz.cpp, with one function that takes any bytes; under
// clang it becomes a libFuzzer program of its own, in every other build replay_test.cpp runs all of them on the kept
// inputs. Broken promises are CHECKs.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace biqa::fuzz {

using Harness = void (*)(std::string_view input);

/// All harnesses of this program by name.
std::map<std::string, Harness>& harnesses();

/// A harness announces itself with a variable of this type.
struct Registered {
  Registered(const std::string& name, Harness harness) { harnesses().emplace(name, harness); }
};

/// The promises about messages: one line, no control characters, not empty.
void check_message(const Error& refused);

/// How often parsers took and refused an input.
struct Verdicts {
  int taken = 0, refused = 0;
};
Verdicts& verdicts();

/// Runs a parser. True if it took the input, false if it threw an Error; anything else that is thrown gets through and
/// ends the program.
template <typename Parser>
bool accepted(Parser&& parser) {
  try {
    parser();
    ++verdicts().taken;
    return true;
  } catch (const Error& refused) {
    ++verdicts().refused;
    check_message(refused);
    return false;
  }
}

/// A folder of the process below TMPDIR, which a harness fills anew for each input.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view content) const;
  void remove(const std::string& name) const;

 private:
  std::filesystem::path path_;
};

/// The input in up to `most` parts, which NULs separate; the last part may hold further ones.
std::vector<std::string_view> parts_of(std::string_view input, std::size_t most);

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// A safetensors file with this header: its length in front, and as many bytes of data behind as the largest number in it,
/// up to 64 Ki, which is where the last tensor is likely to end.
std::string safetensors_of(std::string_view header);

/// Reads a file of the project's sources.
std::string source_file(const std::string& name);

}  // namespace biqa::fuzz
