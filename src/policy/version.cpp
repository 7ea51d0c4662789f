// SPDX-License-Identifier: Apache-2.0
#include "policy/version.h"

#include <fmt/format.h>

#include "ops/cuda/device.h"

namespace biqa {

std::string version_text() {
  return fmt::format("biqa {} (git {}), backends: {}", BIQA_VERSION, BIQA_GIT_HASH,
                     built_with_cuda() ? "cpu, cuda" : "cpu");
}

}  // namespace biqa
