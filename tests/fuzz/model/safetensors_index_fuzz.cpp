// SPDX-License-Identifier: Apache-2.0
// model.safetensors.index.json beside two shards that are whole.
#include <glog/logging.h>

#include <optional>

#include "fuzz/harness.h"
#include "fuzz/tiny_files.h"
#include "model/checkpoint.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder;
  static const bool written = (write_tiny_shards(folder.path()), true);
  CHECK(written);
  folder.write("model.safetensors.index.json", input);
  std::optional<Checkpoint> checkpoint;
  if (!accepted([&] { checkpoint = Checkpoint::open(folder.path(), tiny_config()); })) return;
  CHECK_EQ(checkpoint->names().size(), expected_tensors(tiny_config(), !checkpoint->tied()).size());
  CHECK_EQ(checkpoint->files().size(), 2U);
}

const Registered kRegistered("safetensors_index", run);

}  // namespace
}  // namespace biqa::fuzz
