// SPDX-License-Identifier: Apache-2.0
// Qwen2.5-VL: a checkpoint's weights in the hands of a backend's decoder and vision tower. Weights are const after load;
// caches, adapter and tape are passed in. The reference policy is the same object without an adapter (or with the start
// adapter).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "model/batch_builder.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "model/lora.h"
#include "model/positions.h"
#include "ops/ops.h"

namespace biqa {

/// One picture as the vision tower takes it: patches [frames·rows·columns, 3·temporal·patch²] f32 in merge-cell order.
struct ImagePatches {
  Grid grid{};
  std::span<const float> values;
};

HeadShape head_shape(const TextConfig& text);
DecoderShape decoder_shape(const TextConfig& text);

class VisionTower;

class QwenVl {
 public:
  struct Options {
    bool backward = false;  ///< also prepare the products that the backward needs
    bool vision = true;
    /// Where the weights are to be, if not in memory of this model's own; borrowed for the call. Weights are
    /// read from the folder only where it is filling(); a model that only planned it can do nothing. Needs
    /// ops->shared_packing().
    WeightArena* arena = nullptr;
    /// Parts of an adapter on frozen modules: merged into these weights. Borrowed for the call.
    const FrozenParts* frozen = nullptr;
  };
  /// Reads a checkpoint folder and packs its weights for `ops`. Throws Error naming what is wrong with the folder.
  static std::unique_ptr<QwenVl> load(const std::filesystem::path& directory, std::shared_ptr<Ops> ops,
                                      Options options);
  ~QwenVl();
  QwenVl(const QwenVl&) = delete;
  QwenVl& operator=(const QwenVl&) = delete;

  const ModelConfig& config() const { return config_; }
  Ops& ops() const { return *ops_; }
  Decoder& decoder() const { return *decoder_; }

  /// A cache for this decoder (model/kv_cache.h).
  KvCache make_cache(std::int64_t pages, std::int64_t stored_layers) const;

  /// Vision tower: features [Σ tokens, hidden] f32 in the backend's memory, images in order, cells of an image in raster order.
  Tensor encode_images(std::span<const ImagePatches> images, const Observer* observer = nullptr) const;

 private:
  QwenVl(const std::filesystem::path& directory, std::shared_ptr<Ops> ops, Options options);

  ModelConfig config_;
  std::shared_ptr<Ops> ops_;
  std::unique_ptr<VisionTower> vision_;
  std::unique_ptr<Decoder> decoder_;
};

/// An adapter as the model's decoder takes it.
std::shared_ptr<const PackedAdapter> pack_adapter(const QwenVl& model, const Lora& lora);

}  // namespace biqa
