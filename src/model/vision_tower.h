// SPDX-License-Identifier: Apache-2.0
// The frozen vision tower: patches to features, windowed and full attention, 2×2 merger.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "model/frozen_parts.h"
#include "model/qwen_vl.h"

namespace biqa {

/// Order of merge cells window by window, and the segments inside which attention runs, in patches.
struct WindowPlan {
  std::vector<std::int64_t> cells;    ///< cells[k]: the raster index of the k-th cell in window order
  std::vector<std::int64_t> windows;  ///< boundaries, in patches; starts with 0
  std::vector<std::int64_t> frames;   ///< boundaries of whole frames, in patches
};
WindowPlan plan_windows(const VisionConfig& config, std::span<const Grid> grids);

/// Reads tensors of a checkpoint into the backend's layout; parts are stacked row by row into one product.
/// With an arena all of them are its blocks, named after the first part, and read only where it is filling. An adapter's
/// parts on frozen modules are merged while reading, in f32 and rounded once to the compute type; such a block has their
/// digest in its name, so that ranks which don't mean the same weights never share them.
class WeightLoader {
 public:
  WeightLoader(const Checkpoint& checkpoint, Ops& ops, WeightArena* arena,
               const FrozenParts* frozen = nullptr);
  /// "lm_head" of a tied model is its embedding.
  std::unique_ptr<FrozenLinear> linear(std::initializer_list<std::string> parts, bool bias,
                                       bool backward) const;
  /// [1, n] f32, in the backend's memory.
  Tensor vector(const std::string& name) const;
  /// [rows, columns] of the compute type, in host memory.
  Tensor matrix(const std::string& name) const;
  /// `values`, copied to the backend's memory where that is not the host's.
  Tensor in_memory_of_backend(Tensor values) const;
  Ops& ops() const { return ops_; }
  /// Ops::pack, or SharedPacking::pack_into the arena.
  std::unique_ptr<FrozenLinear> pack(const std::string& name, ConstView weight, std::span<const float> bias,
                                     bool backward) const;
  /// Checks by Ops::check_rows that rows don't depend on their batch: the widest product, and of the other shapes as many
  /// as take about a hundredth of the time since the loader was made. Does nothing where another process does it. The
  /// products made by this loader must be alive.
  void check_rows() const;

 private:
  /// Whether elements are to be read.
  bool reads() const { return arena_ == nullptr || arena_->filling(); }
  Tensor read(const std::string& name, DType type, std::int64_t rows, std::int64_t columns) const;
  static void copy(const StoredTensor& stored, View target);
  const StoredTensor& weight_of(const std::string& module) const;
  const FrozenPart* part_on(const std::string& module) const;
  /// The weight of a module into rows of a product.
  void copy_weight(const std::string& module, View target) const;
  const Checkpoint& checkpoint_;
  Ops& ops_;
  WeightArena* arena_;
  const FrozenParts* frozen_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  mutable std::map<std::pair<std::int64_t, std::int64_t>, const FrozenLinear*>
      shapes_;  // one product of each
};

class VisionTower {
 public:
  VisionTower(const WeightLoader& load, const ModelConfig& config);
  Tensor encode(std::span<const ImagePatches> images, Ops& ops, const Observer* observer) const;

 private:
  VisionConfig config_;
  std::int64_t patch_width_, feature_width_;
  std::unique_ptr<VisionEncoder> encoder_;
};

}  // namespace biqa
