// SPDX-License-Identifier: Apache-2.0
// An adapter.h5 that HDF5 finds whole and that holds anything: the input names datasets and attributes.
// A line is a dataset `NAME TYPE SIZE…` or an attribute `OBJECT@NAME TYPE VALUE`, with TYPE f, i or t.
#include <glog/logging.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <numeric>
#include <string>

#include "fuzz/harness.h"
#include "fuzz/tiny_files.h"
#include "io/hdf5.h"
#include "learner/checkpoint_store.h"

namespace biqa::fuzz {
namespace {

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

// HDF5 takes no other names.
bool is_name(const std::string& text) {
  return !text.empty() && text.find('\0') == std::string::npos && text.find("..") == std::string::npos;
}

void write_line(Hdf5Writer& out, const std::vector<std::string>& words) {
  if (words.size() < 3 || !is_name(words[0])) return;
  const std::string& type = words[1];
  if (const std::size_t at = words[0].find('@'); at != std::string::npos) {
    const std::string object = words[0].substr(0, at), name = words[0].substr(at + 1);
    if (!is_name(object) || !is_name(name)) return;
    if (type == "f") out.attribute(object, name, number_of<double>(words[2]));
    if (type == "i") out.attribute(object, name, number_of<std::int64_t>(words[2]));
    if (type == "t") out.attribute(object, name, words[2]);
    return;
  }
  constexpr std::int64_t kMostValues = 4096;
  std::vector<std::int64_t> shape;
  std::int64_t count = 1;
  for (std::size_t i = 2; i < std::min<std::size_t>(words.size(), 6); ++i) {
    shape.push_back(std::clamp<std::int64_t>(number_of<std::int64_t>(words[i]), 0, kMostValues));
    count *= shape.back();
    if (count > kMostValues) return;
  }
  const std::vector<double> values(static_cast<std::size_t>(count), 0.5);
  if (type == "f") out.dataset(words[0], values, shape);
  if (type == "i") out.dataset(words[0], std::vector<std::int64_t>(values.size(), 1), shape);
  if (type == "t") out.dataset(words[0], std::vector<std::string>(values.size(), "text"));
}

void run(std::string_view input) {
  static const Folder folder;
  const std::filesystem::path path = folder.path() / "adapter.h5";
  const bool written = accepted([&] {
    Hdf5Writer out(path);
    for (int lines = 0; !input.empty() && lines < 64; ++lines) {
      const std::string_view line = input.substr(0, input.find('\n'));
      input.remove_prefix(std::min(line.size() + 1, input.size()));
      accepted([&] { write_line(out, words_of(line)); });
    }
    out.close(true);
  });
  if (!written) return;
  Lora lora;
  if (!accepted([&] { lora = read_any_adapter(path, tiny_config()); })) return;
  CHECK_EQ(lora.values.size(), lora.layout->size());
}

const Registered kRegistered("hdf5_adapter", run);

}  // namespace
}  // namespace biqa::fuzz
