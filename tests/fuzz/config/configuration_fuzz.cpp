// SPDX-License-Identifier: Apache-2.0
// A run's configuration: what is read and written is read back the same.
#include <glog/logging.h>

#include "config/config.h"
#include "fuzz/harness.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder;
  const auto parts = parts_of(input, 2);
  std::vector<std::string> overrides;
  if (parts.size() > 1) overrides.emplace_back(parts[1]);
  Config config;
  const std::filesystem::path file = folder.write("run.yaml", parts[0]);
  if (!accepted([&] { config = load_config(file, overrides); })) return;
  const std::string written = to_yaml(config);
  const Config again = load_config(folder.write("again.yaml", written));
  CHECK_EQ(to_yaml(again), written);
}

const Registered kRegistered("configuration", run);

}  // namespace
}  // namespace biqa::fuzz
