// SPDX-License-Identifier: Apache-2.0
// Reference material outside the repository. Tests use it in addition if it exists.
#pragma once

#include <filesystem>
#include <optional>

namespace biqa {

/// The folder named by BIQA_SHARED, or `shared` next to the source tree; nothing if neither exists.
std::optional<std::filesystem::path> shared_folder();

/// Skips the test with a reason if the folder is absent; otherwise defines `name` as its path.
#define BIQA_REQUIRE_SHARED(name)                                                                          \
  const auto name##_folder = biqa::shared_folder();                                                        \
  if (!name##_folder) GTEST_SKIP() << "no reference folder: set BIQA_SHARED to run the checks against it"; \
  const std::filesystem::path& name = *name##_folder  // NOLINT(bugprone-macro-parentheses)

}  // namespace biqa
