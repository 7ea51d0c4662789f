// SPDX-License-Identifier: Apache-2.0
// The text files of a sentence encoder's folder, with NULs between them: config.json, vocab.txt, tokenizer_config.json,
// modules.json, the pooling's config.json and sentence_bert_config.json. The weights are those of the fixture.
#include <glog/logging.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <optional>

#include "fuzz/harness.h"
#include "semantic/sentence_encoder.h"

namespace biqa::fuzz {
namespace {

constexpr std::array<const char*, 6> kFiles{"config.json",           "vocab.txt",
                                            "tokenizer_config.json", "modules.json",
                                            "1_Pooling/config.json", "sentence_bert_config.json"};

const Folder& folder_with_weights() {
  static const Folder folder;
  static const bool filled = [] {
    std::filesystem::create_directory(folder.path() / "1_Pooling");
    folder.write("model.safetensors", source_file("tests/fixtures/sentence/model.safetensors"));
    return true;
  }();
  CHECK(filled);
  return folder;
}

void run(std::string_view input) {
  const Folder& folder = folder_with_weights();
  const auto parts = parts_of(input, kFiles.size());
  for (std::size_t i = 0; i < kFiles.size(); ++i) {
    if (i < parts.size())
      folder.write(kFiles[i], parts[i]);
    else
      folder.remove(kFiles[i]);
  }
  std::optional<SentenceEncoder> encoder;
  if (!accepted([&] { encoder.emplace(SentenceEncoder::open(folder.path(), 1)); })) return;
  const std::string_view text = "The picture isn't sharp: \u00e9\u4e2d [MASK]";
  for (const float value : encoder->encode({&text, 1})) CHECK(std::isfinite(value));
}

const Registered kRegistered("sentence_folder", run);

}  // namespace
}  // namespace biqa::fuzz
