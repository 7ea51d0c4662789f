// SPDX-License-Identifier: Apache-2.0
#include "model/vision_tower.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/finite.h"
#include "core/processors.h"
#include "core/random.h"
#include "core/threads.h"
#include "io/json.h"
#include "model/product_choices.h"

namespace biqa {
namespace {

/// Throws Error: `stored`, converted to `type`, has a NaN or an infinity.
[[noreturn]] void refuse_values(const StoredTensor& stored, DType type) {
  std::vector<float> exact(static_cast<std::size_t>(stored.elements()));
  stored.copy_to(exact);
  if (all_finite(exact)) {
    fail("cannot use the weights of {}: tensor {} has values outside the range of {}; use dtype f32",
         stored.file, shown(stored.name), name_of(type));
  }
  fail(
      "cannot use the weights of {}: tensor {} has values that are not finite; fetch the file again or use "
      "another model",
      stored.file, shown(stored.name));
}

/// Whether `finite(first, count)` holds for all pieces of 0 … size − 1. Large tensors are divided among threads.
bool in_pieces(std::size_t size, const std::function<bool(std::size_t first, std::size_t count)>& finite) {
  constexpr std::size_t kPiece = std::size_t{1} << 16, kPiecesOfThread = 16;
  constexpr std::int64_t kMostThreads = 16;
  const std::size_t pieces = (size + kPiece - 1) / kPiece;
  const std::int64_t threads =
      std::clamp<std::int64_t>(static_cast<std::int64_t>(pieces / kPiecesOfThread), 1,
                               std::min<std::int64_t>(threads_for(usable_processors()), kMostThreads));
  std::atomic<std::size_t> next{0};
  std::atomic<bool> all{true};
  on_threads(threads, [&](std::int64_t) {
    for (std::size_t piece = next++; piece < pieces; piece = next++) {
      const std::size_t first = piece * kPiece;
      if (!finite(first, std::min(kPiece, size - first))) all = false;
    }
  });
  return all;
}

/// Converts all elements. Returns false if one is not finite. Works in pieces, so that each is checked while it is in
/// the cache.
template <typename T>
bool copy_finite(const StoredTensor& stored, std::span<T> target) {
  const std::size_t element = stored.bytes.size() / std::max<std::size_t>(target.size(), 1);
  return in_pieces(target.size(), [&](std::size_t first, std::size_t count) {
    const StoredTensor piece{stored.name,
                             stored.type,
                             {static_cast<std::int64_t>(count)},
                             stored.bytes.subspan(first * element, count * element),
                             stored.file};
    piece.copy_to(target.subspan(first, count));
    return all_finite(std::span<const T>(target.subspan(first, count)));
  });
}

template <typename T>
bool is_finite_in_place(const StoredTensor& stored) {
  const std::span<const T> values(reinterpret_cast<const T*>(stored.bytes.data()),
                                  static_cast<std::size_t>(stored.elements()));
  return in_pieces(values.size(), [&](std::size_t first, std::size_t count) {
    return all_finite(values.subspan(first, count));
  });
}

}  // namespace

WeightLoader::WeightLoader(const Checkpoint& checkpoint, Ops& ops, WeightArena* arena,
                           const FrozenParts* frozen, DeviceWeights* device)
    : checkpoint_(checkpoint), ops_(ops), arena_(arena), frozen_(frozen), device_(device) {
  CHECK(arena == nullptr || ops.shared_packing() != nullptr);
  CHECK(device == nullptr || (arena == nullptr && ops.device_packing() != nullptr));
  if (frozen != nullptr && reads()) check_copies(*frozen, checkpoint);
}

const StoredTensor& WeightLoader::weight_of(const std::string& module) const {
  const bool embedding = module == "lm_head" && checkpoint_.tied();
  return checkpoint_.tensor((embedding ? "model.embed_tokens" : module) + ".weight");
}

const FrozenPart* WeightLoader::part_on(const std::string& module) const {
  return frozen_ == nullptr ? nullptr : frozen_->find(module);
}

void WeightLoader::copy_weight(const std::string& module, View target) const {
  const StoredTensor& stored = weight_of(module);
  const FrozenPart* part = part_on(module);
  if (part == nullptr) return copy(stored, target);
  const StoredType type = target.type() == DType::bf16 ? StoredType::bf16 : StoredType::f32;
  const std::span<std::byte> bytes(static_cast<std::byte*>(target.data()),
                                   static_cast<std::size_t>(target.size()) * size_of(target.type()));
  const bool merged = merge_low_rank(stored, part->change(), type, bytes);
  checkpoint_.release(stored);
  if (!merged) {
    std::vector<float> alone(static_cast<std::size_t>(stored.elements()));
    stored.copy_to(alone);
    if (!all_finite(alone)) refuse_values(stored, target.type());
    fail(
        "cannot merge the adapter into tensor {} of {}: a sum is not finite or outside the range of {}; use "
        "another adapter",
        stored.name, stored.file, name_of(type));
  }
}

void WeightLoader::copy(const StoredTensor& stored, View target) const {
  CHECK_EQ(stored.elements(), target.size()) << stored.name;
  const bool finite = target.type() == DType::bf16 ? copy_finite(stored, target.span<Bf16>())
                                                   : copy_finite(stored, target.span<float>());
  checkpoint_.release(stored);
  if (!finite) refuse_values(stored, target.type());
}

std::optional<ConstView> WeightLoader::as_stored(const std::string& module, Padding padding) const {
  const StoredTensor& stored = weight_of(module);
  const std::int64_t rows = stored.shape.front();
  const std::int64_t columns = stored.elements() / rows;
  const DType type = ops_.compute_type();
  const bool aligned = reinterpret_cast<std::uintptr_t>(stored.bytes.data()) % size_of(type) == 0;
  if (!aligned || stored.type != (type == DType::bf16 ? StoredType::bf16 : StoredType::f32) ||
      rows % padding.rows != 0 || columns % padding.columns != 0 || part_on(module) != nullptr)
    return std::nullopt;
  if (!(type == DType::bf16 ? is_finite_in_place<Bf16>(stored) : is_finite_in_place<float>(stored)))
    refuse_values(stored, type);
  return ConstView(stored.bytes.data(), type, rows, columns, columns);
}

Tensor WeightLoader::read(const std::string& name, DType type, std::int64_t rows,
                          std::int64_t columns) const {
  Tensor values;
  if (arena_ == nullptr) {
    values = Tensor(type, rows, columns, "weights");
  } else {
    const std::uint64_t fingerprint =
        mix64(mix64(static_cast<std::uint64_t>(rows)) ^ static_cast<std::uint64_t>(type));
    const auto bytes = static_cast<std::size_t>(rows * columns) * size_of(type);
    values = Tensor(type, rows, columns, arena_->take(name, WeightPart::forward, bytes, fingerprint));
  }
  if (reads()) copy(checkpoint_.tensor(name), values.view());
  return values;
}

Tensor WeightLoader::vector(const std::string& name) const {
  return in_memory_of_backend(read(name, DType::f32, 1, checkpoint_.tensor(name).elements()));
}

Tensor WeightLoader::in_memory_of_backend(Tensor values) const {
  if (ops_.memory().kind() != Memory::device) return values;
  Tensor placed = reads() ? copied_to(ops_.memory(), values.view(), "weights")
                          : ops_.memory().allocate(values.type(), values.rows(), values.columns(), "weights");
  if (device_ != nullptr) device_->tensors.push_back(placed.view());
  return placed;
}

Tensor WeightLoader::matrix(const std::string& name) const {
  const StoredTensor& stored = checkpoint_.tensor(name);
  const std::int64_t rows = stored.shape.front();
  return read(name, ops_.compute_type(), rows, stored.elements() / rows);
}

std::unique_ptr<FrozenLinear> WeightLoader::pack(const std::string& name, ConstView weight,
                                                 std::span<const float> bias, bool backward) const {
  std::unique_ptr<FrozenLinear> packed;
  if (arena_ != nullptr)
    packed = ops_.shared_packing()->pack_into(*arena_, name, weight, bias, backward);
  else if (reads())
    packed = ops_.pack(weight, bias, backward);
  else
    packed = ops_.device_packing()->pack_later(weight.rows(), weight.columns(), !bias.empty(), backward);
  if (device_ != nullptr) {
    for (const View& tensor : ops_.device_packing()->tensors_of(*packed)) device_->tensors.push_back(tensor);
  }
  shapes_.emplace(ProductShape{packed->in, packed->out, !bias.empty(), backward}, packed.get());
  return packed;
}

void WeightLoader::check_rows() const {
  const bool later = device_ != nullptr && !device_->read;
  if (later || (arena_ != nullptr && !arena_->filling() && !arena_->filled())) return;
  // A rank that maps the weights of another also checks: its processor or number of threads may differ.
  const auto spent = std::chrono::steady_clock::now() - start_;
  check_products(ops_, shapes_, reads() ? spent / 100 : kCheckWithoutReading);
}

namespace {

std::int64_t padded(std::int64_t size, std::int64_t unit) {
  return (size + unit - 1) / unit * unit;
}

}  // namespace

std::unique_ptr<FrozenLinear> WeightLoader::linear(std::initializer_list<std::string> parts, bool bias,
                                                   bool backward, Padding padding) const {
  std::string name = *parts.begin();
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  for (const std::string& part : parts) {
    const StoredTensor& stored = weight_of(part);
    rows += padded(stored.shape.front(), padding.rows);
    columns = stored.elements() / stored.shape.front();
    if (const FrozenPart* merged = part_on(part)) name += fmt::format(" + {:016x}", digest_of(*merged));
  }
  const std::int64_t width = padded(columns, padding.columns);
  std::vector<float> biases(bias ? static_cast<std::size_t>(rows) : 0);
  if (!reads()) {
    const ConstView shape(nullptr, ops_.compute_type(), rows, width, width);
    return pack(name, shape, biases, backward);
  }
  if (parts.size() == 1) {
    const std::string& module = *parts.begin();
    if (const std::optional<ConstView> stored = as_stored(module, padding)) {
      if (bias) copy(checkpoint_.tensor(module + ".bias"), View(biases.data(), 1, rows));
      auto packed = pack(name, *stored, biases, backward);
      checkpoint_.release(weight_of(module));
      return packed;
    }
  }
  Tensor stacked(ops_.compute_type(), rows, width, "loading");
  if (padding.rows > 1 || padding.columns > 1) host_memory().zero(stacked.view());
  std::int64_t first = 0;
  for (const std::string& part : parts) {
    const std::int64_t count = weight_of(part).shape.front();
    const View target = stacked.view().row_range(first, count);
    if (width == columns) {
      copy_weight(part, target);
    } else {
      Tensor dense(target.type(), count, columns, "loading");
      copy_weight(part, dense.view());
      host_memory().copy(dense.view(), target.column_range(0, columns));
    }
    if (bias) copy(checkpoint_.tensor(part + ".bias"), View(biases.data() + first, 1, count));
    first += padded(count, padding.rows);
  }
  return pack(name, stacked.const_view(), biases, backward);
}

WindowPlan plan_windows(const VisionConfig& config, std::span<const Grid> grids) {
  WindowPlan plan{{}, {0}, {0}};
  const std::int64_t side = config.window / config.merge / config.patch;
  const std::int64_t patches_per_cell = config.merge * config.merge;
  std::int64_t base = 0;
  for (const Grid& grid : grids) {
    const std::int64_t rows = grid[1] / config.merge;
    const std::int64_t columns = grid[2] / config.merge;
    for (std::int64_t frame = 0; frame < grid[0]; ++frame) {
      for (std::int64_t top = 0; top < rows; top += side) {
        for (std::int64_t left = 0; left < columns; left += side) {
          for (std::int64_t y = top; y < std::min(rows, top + side); ++y) {
            for (std::int64_t x = left; x < std::min(columns, left + side); ++x) {
              plan.cells.push_back(base + y * columns + x);
            }
          }
          plan.windows.push_back(static_cast<std::int64_t>(plan.cells.size()) * patches_per_cell);
        }
      }
      base += rows * columns;
      plan.frames.push_back(base * patches_per_cell);
    }
  }
  return plan;
}

VisionTower::VisionTower(const WeightLoader& load, const ModelConfig& config) : config_(config.vision) {
  VisionWeights weights;
  const std::int64_t unit = load.ops().vision_width_unit();
  weights.embed = load.linear({"visual.patch_embed.proj"}, false, false);
  for (std::int64_t i = 0; i < config_.depth; ++i) {
    const std::string name = fmt::format("visual.blocks.{}.", i);
    weights.blocks.push_back(
        {load.vector(name + "norm1.weight"), load.vector(name + "norm2.weight"),
         load.linear({name + "attn.qkv"}, true, false), load.linear({name + "attn.proj"}, true, false),
         load.linear({name + "mlp.gate_proj", name + "mlp.up_proj"}, true, false, {unit, 1}),
         load.linear({name + "mlp.down_proj"}, true, false, {1, unit})});
  }
  weights.merger_norm = load.vector("visual.merger.ln_q.weight");
  weights.merger_in = load.linear({"visual.merger.mlp.0"}, true, false);
  weights.merger_out = load.linear({"visual.merger.mlp.2"}, true, false);
  patch_width_ = weights.embed->in;
  feature_width_ = weights.merger_out->out;
  const VisionShape shape{config_.hidden,  padded(config_.intermediate, unit),
                          config_.heads,   config_.merge * config_.merge,
                          config_.rms_eps, config_.full_attention_blocks};
  encoder_ = load.ops().make_vision(shape, std::move(weights));
}

namespace {

/// A patch: its values, and its row and column in the image.
struct PatchSource {
  const float* values;
  std::array<std::int64_t, 2> place;
};

/// Patches of all images in merge-cell order.
std::vector<PatchSource> sources_of(std::span<const ImagePatches> images, std::int64_t merge,
                                    std::int64_t width) {
  std::vector<PatchSource> sources;
  for (const ImagePatches& image : images) {
    CHECK_EQ(static_cast<std::int64_t>(image.values.size()),
             image.grid[0] * image.grid[1] * image.grid[2] * width);
    std::int64_t row = 0;
    for (std::int64_t frame = 0; frame < image.grid[0]; ++frame) {
      for (std::int64_t y = 0; y < image.grid[1]; y += merge) {
        for (std::int64_t x = 0; x < image.grid[2]; x += merge) {
          for (std::int64_t i = 0; i < merge * merge; ++i, ++row)
            sources.push_back({image.values.data() + row * width, {y + i / merge, x + i % merge}});
        }
      }
    }
  }
  return sources;
}

/// Angles of a place: frequencies of the row, then of the column.
void fill_angles(const std::array<std::int64_t, 2>& place, double theta, std::int64_t half, float* cosines,
                 float* sines) {
  const std::int64_t quarter = half / 2;
  for (std::int64_t j = 0; j < quarter; ++j) {
    const auto inverse =
        static_cast<float>(1.0 / std::pow(theta, 2.0 * static_cast<double>(j) / static_cast<double>(half)));
    for (std::size_t axis = 0; axis < 2; ++axis) {
      const float angle = static_cast<float>(place[axis]) * inverse;
      const std::int64_t at = static_cast<std::int64_t>(axis) * quarter + j;
      // In f64, because mathematical libraries differ in the last bit of an f32 sine.
      cosines[at] = static_cast<float>(std::cos(static_cast<double>(angle)));
      sines[at] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
}

}  // namespace

Tensor VisionTower::encode(std::span<const ImagePatches> images, Ops& ops, const Observer* observer) const {
  std::vector<Grid> grids;
  for (const ImagePatches& image : images) grids.push_back(image.grid);
  const WindowPlan plan = plan_windows(config_, grids);
  const std::vector<PatchSource> sources = sources_of(images, config_.merge, patch_width_);
  const auto rows = static_cast<std::int64_t>(sources.size());
  const std::int64_t cell = config_.merge * config_.merge;
  const std::int64_t half = config_.hidden / config_.heads / 2;

  // The rows are in window order.
  Tensor patches(DType::f32, rows, patch_width_, "activations");
  Tensor cosines(DType::f32, rows, half, "activations");
  Tensor sines(DType::f32, rows, half, "activations");
  for (std::int64_t r = 0; r < rows; ++r) {
    const PatchSource& source =
        sources[static_cast<std::size_t>(plan.cells[static_cast<std::size_t>(r / cell)] * cell + r % cell)];
    std::copy_n(source.values, patch_width_, patches.row<float>(r));
    fill_angles(source.place, config_.rope_theta, half, cosines.row<float>(r), sines.row<float>(r));
  }
  Tensor features = ops.memory().allocate(DType::f32, rows / cell, feature_width_, "image_features");
  encoder_->encode({patches.view(), cosines.view(), sines.view(), plan.windows, plan.frames, plan.cells},
                   features.view(), observer);
  return features;
}

}  // namespace biqa
