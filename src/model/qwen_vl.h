// SPDX-License-Identifier: Apache-2.0
// Qwen2.5-VL: reads a model folder and gives its weights to a backend's decoder and vision tower. Weights are constant
// after loading. Caches, adapter and tape are arguments. The reference policy is the same object without an adapter, or
// with the adapter of `model.adapter`.
#pragma once

#include <compare>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "model/batch_builder.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "model/lora.h"
#include "model/positions.h"
#include "ops/ops.h"

namespace biqa {

/// One image as input of the vision tower: patches [frames·rows·columns, 3·temporal·patch²] f32 in the order of merge
/// cells.
struct ImagePatches {
  Grid grid{};
  std::span<const float> values;
};

HeadShape head_shape(const TextConfig& text);
DecoderShape decoder_shape(const TextConfig& text);

class VisionTower;

/// The weights of a model in device memory. They are valid as long as the model.
struct DeviceWeights {
  /// False: the model takes memory for its weights, but reads only the shapes. It cannot compute before the caller has
  /// written all `tensors` and called check_rows().
  bool read = true;
  /// Set by load(), in an order that depends only on the model and the type.
  std::vector<View> tensors;
};

/// The properties by which a backend distinguishes products.
struct ProductShape {
  std::int64_t in = 0, out = 0;
  bool bias = false, backward = false;
  auto operator<=>(const ProductShape&) const =
      default;  // NOLINT(modernize-use-nullptr): a fault of clang-tidy 14
};
/// One product of each shape.
using ProductShapes = std::map<ProductShape, const FrozenLinear*>;

class QwenVl {
 public:
  struct Options {
    bool backward = false;  ///< also prepare the products of the backward pass
    bool vision = true;
    /// Memory for the weights; nullptr: the model allocates its own. Weights are read from the folder only if the arena
    /// is filling(). If the arena is only planning, the model cannot compute. Needs ops->shared_packing(). Borrowed for
    /// the call.
    WeightArena* arena = nullptr;
    /// Parts of an adapter on frozen modules, to be merged into these weights. Borrowed for the call.
    const FrozenParts* frozen = nullptr;
    /// For weights that one device sends to others. Needs ops->device_packing() and no arena. Borrowed for the call.
    DeviceWeights* device = nullptr;
  };
  /// Reads a model folder and packs its weights for `ops`. Throws Error naming what is wrong with the folder.
  static std::unique_ptr<QwenVl> load(const std::filesystem::path& directory, std::shared_ptr<Ops> ops,
                                      Options options);
  ~QwenVl();
  QwenVl(const QwenVl&) = delete;
  QwenVl& operator=(const QwenVl&) = delete;

  const ModelConfig& config() const { return config_; }
  Ops& ops() const { return *ops_; }
  Decoder& decoder() const { return *decoder_; }

  /// Call it for weights that load() has not read; for weights that it reads, load() does the same. Chooses the
  /// algorithms of the products. Then checks for about 0.1 s that a row does not depend on its batch. Throws Error.
  void check_rows() const;

  /// A cache for this decoder (model/kv_cache.h).
  KvCache make_cache(std::int64_t pages, std::int64_t stored_layers) const;

  /// Runs the vision tower. Returns features [Σ tokens, hidden] f32 in the backend's memory, image by image, the cells
  /// of an image in raster order.
  Tensor encode_images(std::span<const ImagePatches> images, const Observer* observer = nullptr) const;

 private:
  QwenVl(const std::filesystem::path& directory, std::shared_ptr<Ops> ops, Options options);

  ModelConfig config_;
  std::shared_ptr<Ops> ops_;
  ProductShapes shapes_;
  std::unique_ptr<VisionTower> vision_;
  std::unique_ptr<Decoder> decoder_;
};

/// An adapter in the layout of the model's decoder.
std::shared_ptr<const PackedAdapter> pack_adapter(const QwenVl& model, const Lora& lora);

}  // namespace biqa
