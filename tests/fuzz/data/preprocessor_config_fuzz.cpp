// SPDX-License-Identifier: Apache-2.0
// preprocessor_config.json, also as processor_config.json; then the sizes that such a configuration gives.
#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "data/preprocess.h"
#include "fuzz/harness.h"

namespace biqa::fuzz {
namespace {

void check_config(const PreprocessConfig& config) {
  CHECK(config.patch >= 1 && config.merge >= 1 && config.temporal >= 1);
  CHECK(config.min_pixels >= 1 && config.max_pixels >= 1 && config.scale > 0);
  for (std::size_t c = 0; c < 3; ++c)
    CHECK(std::isfinite(config.mean[c]) && std::isfinite(config.std[c]) && config.std[c] > 0);
  constexpr std::array<Size, 4> kSides{{{1, 1}, {480, 640}, {1, 200}, {13'377, 13'377}}};
  for (const Size& side : kSides) {
    Size size;
    if (!accepted([&] {
          size = smart_resize(side.height, side.width, config.factor(), config.min_pixels, config.max_pixels);
        }))
      continue;
    CHECK(size.height >= config.factor() && size.height % config.factor() == 0) << size.height;
    CHECK(size.width >= config.factor() && size.width % config.factor() == 0) << size.width;
  }
}

void run(std::string_view input) {
  static const Folder folder;
  PreprocessConfig config;
  for (const char* name : {"preprocessor_config.json", "processor_config.json"}) {
    folder.write(name, input);
    if (accepted([&] { config = PreprocessConfig::load(folder.path()); })) check_config(config);
    folder.remove(name);
  }
}

const Registered kRegistered("preprocessor_config", run);

}  // namespace
}  // namespace biqa::fuzz
