// SPDX-License-Identifier: Apache-2.0
// Checks of a model's products during loading, and the file that keeps the algorithms chosen for them (ProductTuning).
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "model/qwen_vl.h"
#include "ops/ops.h"

namespace biqa {

/// The file for choices with this key: $BIQA_CUBLASLT_CACHE, or cublaslt-DIGEST.txt in $XDG_CACHE_HOME/biqa or
/// ~/.cache/biqa. The digest is one of the key, so machines with different GPUs may share the folder. nullopt: choices
/// are not kept, because the variable is `off`, the key is empty or there is no home folder.
std::optional<std::filesystem::path> choices_file(const std::string& key);

/// Chooses the algorithms for all shapes (ProductTuning::choose). Takes what an earlier process wrote to the file, and
/// writes what is new. A file that cannot be used is replaced, with a warning. If writing fails there is only a warning,
/// because the next process can choose again. Several processes may do this at once.
void choose_products(Ops& ops, const ProductShapes& shapes);

/// Time for checks of products if no weights are read.
constexpr std::chrono::milliseconds kCheckWithoutReading{100};
/// Calls choose_products(), then Ops::check_rows for each shape, the widest first, until `budget` has passed. The budget
/// limits only the checks.
void check_products(Ops& ops, const ProductShapes& shapes, std::chrono::steady_clock::duration budget);

}  // namespace biqa
