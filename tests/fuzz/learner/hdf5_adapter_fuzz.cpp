// SPDX-License-Identifier: Apache-2.0
// An adapter.h5 that HDF5 finds whole and that holds anything.
#include <glog/logging.h>

#include <cmath>

#include "fuzz/harness.h"
#include "fuzz/hdf5_lines.h"
#include "fuzz/tiny_files.h"
#include "learner/checkpoint_store.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder;
  const std::filesystem::path path = folder.path() / "adapter.h5";
  if (!write_hdf5(path, input)) return;
  Lora lora;
  if (!accepted([&] { lora = read_any_adapter(path, tiny_config()); })) return;
  CHECK_EQ(lora.values.size(), lora.layout->size());
  for (const float value : lora.values) CHECK(std::isfinite(value)) << value;
  for (const LoraModule& module : lora.layout->modules()) CHECK(std::isfinite(module.scale)) << module.scale;
}

const Registered kRegistered("hdf5_adapter", run);

}  // namespace
}  // namespace biqa::fuzz
