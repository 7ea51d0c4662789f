// SPDX-License-Identifier: Apache-2.0
#include "support/shared_folder.h"

#include <cstdlib>

namespace biqa {

std::optional<std::filesystem::path> shared_folder() {
  const char* named = std::getenv("BIQA_SHARED");
  const std::filesystem::path folder = named != nullptr ? named : BIQA_SOURCE_DIR "/../shared";
  if (!std::filesystem::is_directory(folder)) return std::nullopt;
  return std::filesystem::canonical(folder);
}

}  // namespace biqa
