// SPDX-License-Identifier: Apache-2.0
// The safetensors container: the input as a file, then as the header of one whose length and data fit.
#include <glog/logging.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <optional>

#include "fuzz/harness.h"
#include "io/safetensors.h"

namespace biqa::fuzz {
namespace {

/// The largest number up to 64 Ki in a text: where a header's data are likely to end.
std::size_t likely_data_bytes(std::string_view header) {
  constexpr std::size_t kMost = std::size_t{1} << 16;
  std::size_t largest = 0, number = 0;
  for (const char c : header) {
    const bool digit = std::isdigit(static_cast<unsigned char>(c)) != 0;
    number = digit ? std::min(number * 10 + static_cast<std::size_t>(c - '0'), kMost + 1) : 0;
    if (number <= kMost) largest = std::max(largest, number);
  }
  return largest;
}

void check_tensors(const Safetensors& file, std::size_t file_bytes) {
  std::size_t total = 0;
  for (const StoredTensor& tensor : file.tensors()) {
    total += tensor.bytes.size();
    CHECK_EQ(static_cast<std::int64_t>(tensor.bytes.size()) * 8, tensor.elements() * bits_of(tensor.type));
    CHECK(&file.at(tensor.name) == &tensor);
    if (!tensor.is_float()) continue;
    std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
    tensor.copy_to(values);
    std::vector<Bf16> rounded(values.size());
    tensor.copy_to(rounded);
  }
  CHECK_LE(total, file_bytes);
}

void run(std::string_view input) {
  static const Folder folder;
  const auto open = [&](std::string_view content) {
    std::optional<Safetensors> file;
    const std::filesystem::path path = folder.write("a.safetensors", content);
    if (accepted([&] { file = Safetensors::open(path); })) check_tensors(*file, content.size());
    return file;
  };
  open(input);

  const std::string_view header = input.substr(std::min<std::size_t>(input.size(), 8));
  std::string whole(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) whole[i] = static_cast<char>(header.size() >> (8 * i));
  whole.append(header).append(likely_data_bytes(header), '\x3F');
  const std::optional<Safetensors> read = open(whole);
  if (!read) return;
  // Written again, nothing has changed.
  std::vector<NamedTensor> tensors;
  for (const StoredTensor& tensor : read->tensors())
    tensors.push_back({tensor.name, tensor.type, tensor.shape, tensor.bytes});
  write_safetensors(folder.path() / "b.safetensors", tensors, read->metadata());
  const Safetensors again = Safetensors::open(folder.path() / "b.safetensors");
  CHECK_EQ(again.tensors().size(), tensors.size());
  CHECK(again.metadata() == read->metadata());
  for (const NamedTensor& tensor : tensors) {
    const StoredTensor& same = again.at(tensor.name);
    CHECK(same.type == tensor.type && same.shape == tensor.shape);
    CHECK(std::equal(same.bytes.begin(), same.bytes.end(), tensor.bytes.begin(), tensor.bytes.end()));
  }
}

const Registered kRegistered("safetensors", run);

}  // namespace
}  // namespace biqa::fuzz
