// SPDX-License-Identifier: Apache-2.0
// The safetensors container: the input as a file, then as the header of one whose length and data fit.
#include <glog/logging.h>

#include <algorithm>
#include <cstdint>
#include <optional>

#include "fuzz/harness.h"
#include "io/safetensors.h"

namespace biqa::fuzz {
namespace {

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

  const std::string whole = safetensors_of(input.substr(std::min<std::size_t>(input.size(), 8)));
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
