// SPDX-License-Identifier: Apache-2.0
// config.json and, behind a NUL, generation_config.json.
#include "model/config.h"

#include <glog/logging.h>

#include <cmath>

#include "fuzz/harness.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder;
  const auto parts = parts_of(input, 2);
  folder.write("config.json", parts[0]);
  folder.remove("generation_config.json");
  if (parts.size() > 1) folder.write("generation_config.json", parts[1]);
  ModelConfig config;
  if (!accepted([&] { config = ModelConfig::load(folder.path()); })) return;
  config.validate("what was read");
  CHECK_GT(config.layer_parameters(), 0);
  CHECK_GT(config.vision_parameters(), 0);
  CHECK_GT(config.total_parameters(), config.layer_parameters());
  CHECK(std::isfinite(config.text.rms_eps) && std::isfinite(config.text.rope_theta) &&
        std::isfinite(config.vision.rope_theta));
  CHECK(!config.end_tokens.empty());
}

const Registered kRegistered("model_config", run);

}  // namespace
}  // namespace biqa::fuzz
