// SPDX-License-Identifier: Apache-2.0
// tokenizer.json, or with NULs between them vocab.json, merges.txt and tokenizer_config.json.
#include <glog/logging.h>

#include <optional>

#include "data/tokenizer.h"
#include "data/unicode.h"
#include "fuzz/harness.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder;
  for (const char* name : {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"})
    folder.remove(name);
  const auto parts = parts_of(input, 3);
  if (parts.size() == 3) {
    folder.write("vocab.json", parts[0]);
    folder.write("merges.txt", parts[1]);
    folder.write("tokenizer_config.json", parts[2]);
  } else {
    folder.write("tokenizer.json", input);
  }
  std::optional<Tokenizer> tokenizer;
  if (!accepted([&] { tokenizer = Tokenizer::load(folder.path()); })) return;
  // Whatever the tables say, text comes back.
  const std::string text = "The noise isn't low: <|im_end|>\n\n 12  \u00e9e\u0301 \u4e2d\u6587 \U0001f600\t";
  const std::vector<std::int64_t> ids = tokenizer->encode(text, Tokenizer::AddedTokens::plain_text);
  for (const std::int64_t id : ids) CHECK(id >= 0 && id < tokenizer->size());
  CHECK_EQ(tokenizer->decode(ids), to_nfc(text));
  for (const std::int64_t id : tokenizer->encode(text)) CHECK(id >= 0 && id < tokenizer->size());
}

const Registered kRegistered("tokenizer_files", run);

}  // namespace
}  // namespace biqa::fuzz
