// SPDX-License-Identifier: Apache-2.0
// Qwen2.5-VL as functions of frozen weights plus an adapter. Weights are const after load; caches, adapter and tape are
// passed in. The reference policy is the same object without an adapter (or with the start adapter).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

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

/// A prompt ready for the decoder.
struct PromptInput {
  std::vector<std::int64_t> ids;
  std::vector<Position> positions;
  std::int32_t next_position = 0;
  /// Per token the image feature [hidden] f32 that takes the place of its embedding, or nullptr; borrowed.
  std::vector<const float*> features;
};
/// Some consecutive tokens of one sequence in a packed batch.
struct SequenceRows {
  std::int64_t first_row = 0, rows = 0;
  std::int64_t first_position = 0;  ///< tokens of the sequence that are in the cache already
  std::int64_t outputs = 0;         ///< hidden states wanted: those of the last `outputs` rows
  const std::int32_t* pages = nullptr;
};

/// Members of `sequences` that form a prompt and the completions behind it (training).
struct GroupRows {
  std::size_t prompt = 0;
  std::vector<std::size_t> members;
};

/// Packed rows: sequences one behind the other, never padded.
struct RowBatch {
  std::vector<std::int64_t> ids;       // [T]
  std::vector<Position> positions;     // [T]
  std::vector<const float*> features;  // [T]; nullptr: the embedding of ids[t]
  std::vector<SequenceRows> sequences;
  std::vector<KvWrite> writes;
  std::vector<GroupRows> groups;          // only for backward
  std::vector<std::uint64_t> token_keys;  // [T]; only with dropout: names the token
  std::int64_t rows() const { return static_cast<std::int64_t>(ids.size()); }
  std::int64_t outputs() const;
  void append(std::int64_t id, const Position& position, const float* feature);
};

/// Adapter factors in the backend's layout, for one version of the adapter.
class PackedAdapter;
std::shared_ptr<const PackedAdapter> pack_adapter(const ModelConfig& config, const Lora& lora, Ops& ops);

/// Dropout of a training pass; rate 0 is none.
struct DropoutKey {
  double rate = 0;
  std::uint64_t key = 0;
};

/// What a forward leaves for the backward.
class Tape;
struct TapeDeleter {
  void operator()(Tape* tape) const;
};
using TapePointer = std::unique_ptr<Tape, TapeDeleter>;

/// Called with (name, tensor) as intermediate results appear; for tracing.
using Observer = std::function<void(const std::string& name, ConstView value)>;

class QwenVl {
 public:
  struct Options {
    bool backward = false;  ///< also prepare the products that the backward needs
    bool vision = true;
    /// Where the weights are to be, if not in memory of this model's own; borrowed for the call. Weights are
    /// read from the folder only where it is filling(); a model that only planned it can do nothing. Needs
    /// ops->shares_weights().
    WeightArena* arena = nullptr;
    /// Parts of an adapter on frozen modules: merged into these weights. Borrowed for the call.
    const FrozenParts* frozen = nullptr;
  };
  /// Reads a checkpoint folder and packs its weights for `ops`. Throws Error naming what is wrong with the folder.
  static std::unique_ptr<QwenVl> load(const std::filesystem::path& directory, std::shared_ptr<Ops> ops,
                                      Options options);
  virtual ~QwenVl() = default;

  virtual const ModelConfig& config() const = 0;
  virtual Ops& ops() const = 0;
  virtual const FrozenLinear& head() const = 0;

  /// Vision tower: features [Σ tokens, hidden] f32, images in order, cells of an image in raster order.
  virtual Tensor encode_images(std::span<const ImagePatches> images,
                               const Observer* observer = nullptr) const = 0;

  /// Decoder over packed rows: hidden [outputs, hidden] (compute type), after the final norm, in order of
  /// sequences. With `tape`, a later backward() is possible; `recompute` then keeps only each layer's input.
  virtual void forward(const RowBatch& batch, KvCache& cache, const PackedAdapter* adapter, View hidden,
                       TapePointer* tape = nullptr, bool recompute = false,
                       const DropoutKey& dropout = {}) const = 0;

  /// Accumulates the adapter's gradient (flat, laid out as LoraLayout says) given d_hidden [outputs, hidden]
  /// f32. Uses the batch, the cache and the adapter of the forward.
  virtual void backward(const RowBatch& batch, KvCache& cache, const PackedAdapter& adapter, const Tape& tape,
                        ConstView d_hidden, std::span<float> gradient) const = 0;
};

}  // namespace biqa
