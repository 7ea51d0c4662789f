// SPDX-License-Identifier: Apache-2.0
// manifest.json of a checkpoint, as it is and with the digest that fits it.
#include <fmt/format.h>
#include <glog/logging.h>

#include <cmath>
#include <string>

#include "fuzz/harness.h"
#include "io/files.h"
#include "learner/checkpoint_store.h"

namespace biqa::fuzz {
namespace {

std::string with_digest(std::string text) {
  constexpr std::string_view kField = "\"manifest_digest\": \"";
  constexpr std::size_t kDigits = 16;
  const std::size_t found = text.find(kField);
  if (found == std::string::npos || found + kField.size() + kDigits > text.size()) return text;
  text.replace(found + kField.size(), kDigits, kDigits, '0');
  return text.replace(found + kField.size(), kDigits,
                      fmt::format("{:016x}", digest_of_bytes(bytes_of(text))));
}

void run(std::string_view input) {
  static const Folder folder;
  for (const std::string& text : {std::string(input), with_digest(std::string(input))}) {
    folder.write("manifest.json", text);
    CheckpointManifest manifest;
    const bool read = accepted([&] { manifest = read_checkpoint_manifest(folder.path()); });
    // The folder holds none of the files.
    const std::vector<std::string> damage = CheckpointStore::find_damage(folder.path());
    CHECK(!damage.empty());
    for (const std::string& line : damage) check_message(Error(line));
    if (!read) continue;
    CHECK(manifest.info.step >= 0 && manifest.info.version >= 0 && manifest.info.data_cursor >= 0);
    for (const CheckpointManifest::File& file : manifest.files) {
      CHECK_EQ((folder.path() / file.name).lexically_normal().parent_path(), folder.path()) << file.name;
    }
  }
}

const Registered kRegistered("checkpoint_manifest", run);

}  // namespace
}  // namespace biqa::fuzz
