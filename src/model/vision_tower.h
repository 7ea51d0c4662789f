// SPDX-License-Identifier: Apache-2.0
// The frozen vision tower: computes features from patches with windowed and full attention and a 2×2 merger.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "model/frozen_parts.h"
#include "model/qwen_vl.h"

namespace biqa {

/// The order of merge cells by window, and the boundaries of the segments inside which attention runs.
struct WindowPlan {
  std::vector<std::int64_t> cells;    ///< cells[k]: the raster index of the k-th cell in window order
  std::vector<std::int64_t> windows;  ///< boundaries, in patches; starts with 0
  std::vector<std::int64_t> frames;   ///< boundaries of whole frames, in patches
};
WindowPlan plan_windows(const VisionConfig& config, std::span<const Grid> grids);

/// Reads tensors of a model folder into the backend's layout. With an arena, each product or tensor becomes a block
/// named after its first weight. The weights of a block are read only if the arena is filling(). An adapter's parts on
/// frozen modules are merged during reading, in f32, and rounded once to the compute type. The name of such a block
/// contains their digest, so that ranks with different weights never share it. The loader adds every tensor to
/// `device->tensors`, if `device` is given.
class WeightLoader {
 public:
  WeightLoader(const Checkpoint& checkpoint, Ops& ops, WeightArena* arena,
               const FrozenParts* frozen = nullptr, DeviceWeights* device = nullptr);
  /// The numbers of rows and columns of each weight are padded with zeros to multiples of these.
  struct Padding {
    std::int64_t rows = 1, columns = 1;
  };
  /// Stacks the rows of several weights into one product. "lm_head" of a tied model is its embedding.
  std::unique_ptr<FrozenLinear> linear(std::initializer_list<std::string> parts, bool bias, bool backward,
                                       Padding padding = {1, 1}) const;
  /// [1, n] f32, in the backend's memory.
  Tensor vector(const std::string& name) const;
  /// [rows, columns] of the compute type, in host memory.
  Tensor matrix(const std::string& name) const;
  /// Copies `values` to the backend's memory, unless that is the host's.
  Tensor in_memory_of_backend(Tensor values) const;
  Ops& ops() const { return ops_; }
  /// Ops::pack, or SharedPacking::pack_into the arena.
  std::unique_ptr<FrozenLinear> pack(const std::string& name, ConstView weight, std::span<const float> bias,
                                     bool backward) const;
  /// Chooses the algorithms of the products (choose_products). Then checks with Ops::check_rows that a row does not
  /// depend on its batch. It checks the widest product first. Then it
  /// checks other shapes until it has used about 1 % of the time since the loader was created, or 0.1 s if the loader
  /// read no weights. Does nothing while the weights have no values. The products of this loader must still exist.
  void check_rows() const;
  const ProductShapes& shapes() const { return shapes_; }

 private:
  /// Whether values must be read from the files.
  bool reads() const {
    if (device_ != nullptr) return device_->read;
    return arena_ == nullptr || arena_->filling();
  }
  Tensor read(const std::string& name, DType type, std::int64_t rows, std::int64_t columns) const;
  void copy(const StoredTensor& stored, View target) const;
  const StoredTensor& weight_of(const std::string& module) const;
  const FrozenPart* part_on(const std::string& module) const;
  /// The weight of a module in the mapped file, after a check of its values. Nothing if a product cannot be packed from
  /// there: the bytes are not aligned, the type is not the compute type, or padding or an adapter changes the weight.
  std::optional<ConstView> as_stored(const std::string& module, Padding padding) const;
  /// Copies the weight of a module into rows of a product.
  void copy_weight(const std::string& module, View target) const;
  const Checkpoint& checkpoint_;
  Ops& ops_;
  WeightArena* arena_;
  const FrozenParts* frozen_;
  DeviceWeights* device_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  mutable ProductShapes shapes_;
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
