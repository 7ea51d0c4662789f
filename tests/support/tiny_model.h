// SPDX-License-Identifier: Apache-2.0
// A small Qwen2.5-VL with random weights in a model folder that exists during a test. It has every feature of the
// network (grouped heads, biases, tied or untied head, windowed and full vision blocks) and runs in milliseconds.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "core/random.h"
#include "model/frozen_parts.h"
#include "model/qwen_vl.h"
#include "ops/backends.h"
#include "support/temporary_folder.h"

namespace biqa::testing {

class TinyModel {
 public:
  /// 4 query and 2 key heads of width 16, 3 layers, vocabulary 100. Vision: 3 blocks, the second with full attention,
  /// windows of 56 pixels (2×2 merged cells), 2 heads of width 16. Weights are f32 and depend only on the seed.
  explicit TinyModel(bool tied = true, std::uint64_t seed = 1);
  const std::filesystem::path& path() const { return folder_.path(); }

  static constexpr std::int64_t kVocabulary = 100, kImageToken = 90, kEndToken = 95;
  /// Token ids that the engine must never sample.
  static const std::vector<std::int64_t>& placeholder_tokens();
  /// Values of one patch.
  static constexpr std::int64_t kPatchValues = 3 * 2 * 14 * 14;

 private:
  TemporaryFolder folder_;
};

/// The kinds of model that tests of the network run with.
struct ModelSetting {
  DType type;
  bool tied;
};
inline std::ostream& operator<<(std::ostream& out, const ModelSetting& s) {
  return out << name_of(s.type) << (s.tied ? " tied" : " untied");
}
inline constexpr std::array kModelSettings{ModelSetting{DType::f32, true}, ModelSetting{DType::f32, false},
                                           ModelSetting{DType::bf16, true}, ModelSetting{DType::bf16, false}};

/// A loaded tiny model. Include it only in tests that link the layer model.
inline std::unique_ptr<QwenVl> load(const TinyModel& files, DType compute, int threads = 1) {
  return QwenVl::load(files.path(), make_ops({"cpu", compute, threads}), {true, true});
}

/// A cache for all layers.
inline KvCache rollout_cache(const QwenVl& model, std::int64_t pages) {
  return model.make_cache(pages, model.config().text.layers);
}

/// Hidden states of a batch, in host memory.
inline Tensor hidden_of(const QwenVl& model, const RowBatch& batch, KvCache& cache,
                        const PackedAdapter* adapter) {
  DeviceMemory& memory = model.ops().memory();
  const auto plan = model.decoder().plan(batch);
  Tensor hidden =
      memory.allocate(model.ops().compute_type(), plan->outputs, model.config().text.hidden, "test");
  model.decoder().forward(*plan, cache.store(), adapter, hidden.view(), {});
  return copied_to_host(memory, hidden.view(), "test");
}
/// Hidden states of every token of a prompt, computed in one pass.
inline Tensor hidden_of(const QwenVl& model, const PromptInput& prompt, const PackedAdapter* adapter) {
  KvCache cache = rollout_cache(model, 32);
  KvSequence sequence;
  CHECK(cache.extend(sequence, prompt.tokens()));
  BatchBuilder builder(cache);
  builder.add_prompt(prompt, sequence, prompt.tokens());
  return hidden_of(model, builder.batch(), cache, adapter);
}

/// The head's logits of rows [n, hidden] of any type, all in host memory.
inline Tensor logits_of(const QwenVl& model, ConstView rows) {
  DeviceMemory& memory = model.ops().memory();
  Tensor input(model.ops().compute_type(), rows.rows(), rows.columns(), "test");
  for (std::int64_t r = 0; r < rows.rows(); ++r) {
    for (std::int64_t c = 0; c < rows.columns(); ++c) {
      const float value =
          rows.type() == DType::bf16 ? to_float(rows.row<const Bf16>(r)[c]) : rows.row<const float>(r)[c];
      if (input.type() == DType::bf16)
        input.row<Bf16>(r)[c] = to_bf16(value);
      else
        input.row<float>(r)[c] = value;
    }
  }
  const Tensor hidden = copied_to(memory, input.view(), "test");
  Tensor logits = memory.allocate(DType::f32, rows.rows(), model.config().text.vocab, "test");
  model.decoder().logits(hidden.view(), logits.view());
  return copied_to_host(memory, logits.view(), "test");
}

/// Uniform values in ±size.
inline std::vector<float> random_values(std::size_t count, double size, std::uint64_t seed) {
  std::vector<float> values(count);
  const RandomStream stream{seed, 77};
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<float>(size * (2 * stream.uniform(i) - 1));
  return values;
}

/// Random text ids, without placeholders and end token.
inline std::vector<std::int64_t> random_ids(std::int64_t count, std::uint64_t seed) {
  std::vector<std::int64_t> ids;
  const RandomStream stream{seed, 78};
  for (std::int64_t i = 0; i < count; ++i) {
    ids.push_back(
        static_cast<std::int64_t>(stream.word(static_cast<std::uint64_t>(i)) % TinyModel::kImageToken));
  }
  return ids;
}

/// A prompt of random text.
inline PromptInput text_prompt(const ModelConfig& config, std::int64_t length, std::uint64_t seed) {
  PromptInput prompt;
  prompt.ids = random_ids(length, seed);
  prompt.positions = mrope_positions(config, prompt.ids, {}, prompt.next_position);
  return prompt;
}

/// Two text tokens, an image of rows × columns merged cells with random features, and more text. `features` owns them,
/// [rows · columns, hidden] f32 in the backend's memory.
inline PromptInput image_prompt(const QwenVl& model, std::int64_t rows, std::int64_t columns,
                                std::int64_t text, std::uint64_t seed, Tensor& features) {
  const ModelConfig& config = model.config();
  PromptInput prompt;
  const auto ids = random_ids(2 + text, seed);
  const std::vector<float> values =
      random_values(static_cast<std::size_t>(rows * columns * config.text.hidden), 1, seed);
  features =
      copied_to(model.ops().memory(), ConstView(values.data(), rows * columns, config.text.hidden), "test");
  prompt.ids.assign(ids.begin(), ids.begin() + 2);
  prompt.ids.insert(prompt.ids.end(), static_cast<std::size_t>(rows * columns), TinyModel::kImageToken);
  prompt.ids.insert(prompt.ids.end(), ids.begin() + 2, ids.end());
  prompt.features.push_back({2, features.const_view()});
  const Grid grid{1, rows * config.vision.merge, columns * config.vision.merge};
  prompt.positions = mrope_positions(config, prompt.ids, std::span(&grid, 1), prompt.next_position);
  return prompt;
}

/// An adapter on every projection. Neither A nor B is zero.
inline Lora random_adapter(const ModelConfig& config, std::uint64_t seed, double size = 0.15) {
  Lora lora;
  lora.layout = std::make_shared<LoraLayout>(config, LoraSpec{.rank = 4, .alpha = 8});
  lora.values = random_values(lora.layout->size(), size, seed);
  return lora;
}

/// Parts of an adapter on the frozen modules whose names contain `part`, with ranks 1, 3, 5, 7, 1 … and different
/// scales.
inline std::shared_ptr<const FrozenParts> random_frozen_parts(const ModelConfig& config, std::uint64_t seed,
                                                              const std::string& part = "",
                                                              double size = 0.15) {
  const auto parts = std::make_shared<FrozenParts>();
  for (const FrozenModule& module : frozen_modules(config)) {
    if (module.name.find(part) == std::string::npos) continue;
    FrozenPart one;
    one.module = module;
    const auto number = static_cast<std::int64_t>(parts->parts.size());
    one.rank = 1 + 2 * (number % 4);
    one.scale = 0.5F + 0.25F * static_cast<float>(number % 5);
    for (const char half : {'A', 'B'}) {
      std::size_t count = 1;
      for (const std::int64_t width : one.shape(half)) count *= static_cast<std::size_t>(width);
      (half == 'A' ? one.a : one.b) =
          random_values(count, size, seed * 1000 + 2 * static_cast<std::uint64_t>(number) + (half == 'A'));
    }
    parts->parts.push_back(std::move(one));
  }
  return parts;
}

}  // namespace biqa::testing
