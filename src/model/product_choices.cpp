// SPDX-License-Identifier: Apache-2.0
#include "model/product_choices.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <cstdlib>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "io/files.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

/// A choice of one product takes about 1 KiB.
constexpr std::size_t kMostBytes = std::size_t{16} << 20;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// The text whose choices were taken; empty if none were.
std::string restore(const fs::path& file, ProductTuning& tuning) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return {};
  std::string problem;
  try {
    std::string text = read_file(file, kMostBytes);
    problem = tuning.restore(text);
    if (problem.empty()) return text;
  } catch (const Error& error) {
    problem = error.what();
  }
  LOG(WARNING) << "ignoring the saved choices of cuBLASLt algorithms in " << file.string() << ": " << problem
               << "; choosing again and replacing the file";
  return {};
}

void keep(const fs::path& file, const std::string& text) {
  try {
    std::error_code ignored;  // a missing folder is an error of the write
    if (file.has_parent_path()) fs::create_directories(file.parent_path(), ignored);
    write_file_atomically(file, text);
  } catch (const Error& error) {
    LOG(WARNING) << "cannot save the choices of cuBLASLt algorithms, so the next start chooses again: "
                 << error.what() << "; name another file by BIQA_CUBLASLT_CACHE, or set it to off";
  }
}

}  // namespace

std::optional<fs::path> choices_file(const std::string& key) {
  const std::string named = variable("BIQA_CUBLASLT_CACHE");
  if (key.empty() || named == "off") return std::nullopt;
  if (!named.empty()) return named;
  fs::path folder = variable("XDG_CACHE_HOME");
  if (!folder.is_absolute()) {  // also if it is not set; its standard ignores relative folders
    folder = variable("HOME");
    if (folder.empty()) return std::nullopt;
    folder /= ".cache";
  }
  return folder / "biqa" / fmt::format("cublaslt-{:016x}.txt", hash_text(key));
}

void choose_products(Ops& ops, const ProductShapes& shapes) {
  ProductTuning* tuning = ops.product_tuning();
  if (tuning == nullptr) return;
  const auto file = choices_file(tuning->key());
  const std::string before = file ? restore(*file, *tuning) : "";
  for (const auto& [shape, product] : shapes) tuning->choose(*product);
  if (!file) return;
  if (const std::string text = tuning->saved(); text != before) keep(*file, text);
}

void check_products(Ops& ops, const ProductShapes& shapes, std::chrono::steady_clock::duration budget) {
  choose_products(ops, shapes);
  const auto start = std::chrono::steady_clock::now();
  // Starts with a single row, whose bits differ most often. Starts with the longest sums, because libraries divide
  // these first.
  for (const std::vector<std::int64_t>& counts : {std::vector<std::int64_t>{1}, {7, 31}}) {
    for (auto shape = shapes.rbegin(); shape != shapes.rend(); ++shape) {
      ops.check_rows(*shape->second, counts);
      if (std::chrono::steady_clock::now() - start > budget) return;
    }
  }
}

}  // namespace biqa
