// SPDX-License-Identifier: Apache-2.0
// A checkpoint whose manifest and files are whole and hold anything: adapter.h5 and, behind NULs, up to two shards.
#include <fmt/format.h>
#include <glog/logging.h>

#include <string>

#include "fuzz/harness.h"
#include "fuzz/hdf5_lines.h"
#include "fuzz/tiny_files.h"
#include "learner/checkpoint_store.h"

namespace biqa::fuzz {
namespace {

/// In the first format, which has no digest of its own.
std::string manifest_of(const std::vector<std::filesystem::path>& files) {
  std::string entries;
  for (const std::filesystem::path& path : files) {
    const CheckpointManifest::File file = describe_checkpoint_file(path);
    entries += fmt::format(R"({}{{"name":"{}","bytes":{},"xxh3":"{}"}})", entries.empty() ? "" : ",",
                           file.name, file.bytes, file.digest);
  }
  return fmt::format(R"({{"format":"biqa-checkpoint-1","step":0,"version":0,"data_cursor":0,"files":[{}]}})",
                     entries);
}

void run(std::string_view input) {
  static const Folder folder;
  const auto parts = parts_of(input, 3);
  const auto shards = static_cast<int>(parts.size()) - 1;
  std::vector<std::filesystem::path> files{folder.path() / "adapter.h5"};
  for (int shard = 0; shard < shards; ++shard) files.push_back(folder.path() / shard_name(shard, shards));
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (!write_hdf5(files[i], parts[i])) return;
  }
  folder.write("manifest.json", manifest_of(files));
  const std::vector<std::string> damage = CheckpointStore::find_damage(folder.path());
  for (const std::string& line : damage) check_message(Error(line));
  LoadedCheckpoint loaded;
  if (!accepted([&] { loaded = CheckpointStore::load(folder.path(), tiny_config()); })) return;
  CHECK(damage.empty()) << damage.front();
  const std::size_t size = loaded.adapter.layout->size();
  CHECK(loaded.adapter.values.size() == size && loaded.m.size() == size && loaded.v.size() == size);
}

const Registered kRegistered("checkpoint_shards", run);

}  // namespace
}  // namespace biqa::fuzz
