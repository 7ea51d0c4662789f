// SPDX-License-Identifier: Apache-2.0
// Usage: write_seeds FOLDER. Writes the seeds of every harness to FOLDER/HARNESS/seed-NUMBER.
#include <fmt/format.h>

#include <fstream>

#include "fuzz/seeds.h"

int main(int count, char** arguments) {
  namespace fs = std::filesystem;
  if (count != 2) {
    fmt::print(stderr, "error: usage: write_seeds FOLDER\n");
    return 2;
  }
  for (const auto& [harness, seeds] : biqa::fuzz::make_seeds()) {
    const fs::path folder = fs::path(arguments[1]) / harness;
    fs::create_directories(folder);
    for (std::size_t i = 0; i < seeds.size(); ++i)
      std::ofstream(folder / fmt::format("seed-{:03}", i), std::ios::binary) << seeds[i];
  }
}
