// SPDX-License-Identifier: Apache-2.0
// The work of biqa_ckpt on adapters and checkpoints. It needs only files and loads no network.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "learner/checkpoint_store.h"

namespace biqa {

enum class AdapterKind : std::uint8_t { checkpoint, file, peft };
/// "checkpoint", "adapter.h5", "PEFT".
const char* name_of(AdapterKind kind);

struct AdapterPlace {
  AdapterKind kind = AdapterKind::checkpoint;
  std::filesystem::path path;  ///< checkpoint folder, PEFT folder or .h5 file
};
/// Finds the adapter that a path means. The path is a checkpoint folder or a link to one, a run folder or its
/// checkpoints/, a PEFT folder, an adapter.h5 or a folder that holds one. In a run folder it takes the newest undamaged
/// checkpoint and warns of newer, damaged ones. Throws Error if there is none of these.
AdapterPlace find_adapter(const std::filesystem::path& path);
/// As find_adapter(), if only the adapter is needed: in a run it takes the newest checkpoint with an undamaged manifest
/// and adapter.h5. Optimizer shards may be damaged.
AdapterPlace find_adapter_alone(const std::filesystem::path& path);

/// An adapter and everything that was saved with it.
struct AdapterState {
  struct Tensor {
    std::string name;  ///< PEFT key
    std::string type;  ///< as stored: "f32", "BF16" …
    std::vector<std::int64_t> shape;
    float scale = 0;         ///< of the module
    std::size_t offset = 0;  ///< in the flat vectors
    std::size_t count = 0;
    const std::vector<float>* frozen =
        nullptr;  ///< values of a part on a frozen module; they are in no flat vector
  };
  struct Shard {
    std::string file;
    std::int64_t begin = 0, end = 0, updates = 0;
    std::uint64_t bytes = 0;
  };
  AdapterPlace place;
  LoadedCheckpoint content;  ///< only checkpoints have m, v and updates
  std::vector<Tensor> tensors;
  std::vector<Shard> shards;

  std::span<const float> values(const Tensor& tensor) const {
    if (tensor.frozen != nullptr) return *tensor.frozen;
    return std::span(content.adapter.values).subspan(tensor.offset, tensor.count);
  }
};
/// Reads and verifies an adapter. With `model` (a folder with a config.json), the adapter must fit that model. Without
/// it, the shapes come from the tensors.
AdapterState read_adapter_state(const AdapterPlace& place,
                                const std::optional<std::filesystem::path>& model = std::nullopt);
/// Reads only the adapter.
Lora read_placed_adapter(const AdapterPlace& place,
                         const std::optional<std::filesystem::path>& model = std::nullopt);

struct ValueStatistics {
  std::size_t count = 0;
  double mean = 0, deviation = 0;  ///< population standard deviation
  double norm = 0, least = 0, most = 0;
  std::size_t zeros = 0;
};
ValueStatistics statistics_of(std::span<const float> values);
/// Number of values in each of `bins` equal parts of [least, most].
std::vector<std::size_t> histogram_of(std::span<const float> values, double least, double most,
                                      std::size_t bins);

/// Difference of one tensor in two adapters.
struct TensorDifference {
  std::string name;
  std::vector<std::int64_t> shape_a, shape_b;  ///< empty where it is absent
  bool equal = false;                          ///< same shape, scale and bits
  std::size_t differing = 0;                   ///< number of values that differ
  double largest = 0;                          ///< |a - b|
  double largest_relative = 0;                 ///< |a - b| / max(|a|, |b|)
};
/// A property that differs, as text.
struct FieldDifference {
  std::string name, a, b;
};
struct AdapterDifference {
  std::vector<TensorDifference> tensors;        ///< all, by layer; then `m` and `v` if both are checkpoints
  std::vector<FieldDifference> fields;          ///< only those that differ
  std::vector<std::string> config_a, config_b;  ///< lines of the configuration that only one of them has
  std::size_t different_tensors() const;
  bool equal() const { return different_tensors() == 0 && fields.empty(); }
};
AdapterDifference compare_adapters(const AdapterState& a, const AdapterState& b);

/// Result of `verify` for one path.
struct Verdict {
  std::filesystem::path path;
  std::vector<std::string> damage;  ///< empty: whole
};
/// Verifies a checkpoint, an adapter.h5, a PEFT folder or a run. Of a run folder or its checkpoints/ it verifies all
/// checkpoints, the link `latest` and the run's adapter.h5. Throws Error if there is nothing to verify.
std::vector<Verdict> verify_path(const std::filesystem::path& path);

/// Writes a PEFT folder of `lora`, which was read from `place` with `model`. Its configuration lists every module by name,
/// unless `model` shows that every layer is adapted. `beside`: contents of further files by name. Throws Error if `peft`
/// exists.
void export_peft(const AdapterPlace& place, Lora lora, const std::optional<std::filesystem::path>& model,
                 const std::filesystem::path& peft, const std::map<std::string, std::string>& beside);
/// Writes a PEFT adapter as an adapter.h5 if `target` ends in .h5. Otherwise writes a checkpoint folder of step 0 with
/// zero moments, from which training can start. Throws Error if `target` exists. `build` goes into the manifest.
void import_peft(const std::filesystem::path& peft, const std::optional<std::filesystem::path>& model,
                 const std::filesystem::path& target, const std::string& build);

}  // namespace biqa
