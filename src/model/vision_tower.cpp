// SPDX-License-Identifier: Apache-2.0
#include "model/vision_tower.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/finite.h"
#include "core/random.h"
#include "io/json.h"

namespace biqa {
namespace {

/// `stored`, converted to `type`, has a NaN or an infinity.
[[noreturn]] void refuse_values(const StoredTensor& stored, DType type) {
  std::vector<float> exact(static_cast<std::size_t>(stored.elements()));
  stored.copy_to(exact);
  if (all_finite(exact)) {
    fail("cannot use the weights of {}: tensor {} holds values beyond the range of {}; use dtype f32",
         stored.file, shown(stored.name), name_of(type));
  }
  fail(
      "cannot use the weights of {}: tensor {} holds values that are not finite; fetch the file again or use "
      "another checkpoint",
      stored.file, shown(stored.name));
}

/// Converts all elements; false where one is not finite. By pieces, which are looked at while they are in the cache.
template <typename T>
bool copy_finite(const StoredTensor& stored, std::span<T> target) {
  constexpr std::size_t kPiece = std::size_t{1} << 16;
  StoredTensor piece = stored;
  const std::size_t element = stored.bytes.size() / std::max<std::size_t>(target.size(), 1);
  bool finite = true;
  for (std::size_t first = 0; first < target.size(); first += kPiece) {
    const std::size_t count = std::min(kPiece, target.size() - first);
    piece.shape = {static_cast<std::int64_t>(count)};
    piece.bytes = stored.bytes.subspan(first * element, count * element);
    piece.copy_to(target.subspan(first, count));
    finite = all_finite(std::span<const T>(target.subspan(first, count))) && finite;
  }
  return finite;
}

}  // namespace

WeightLoader::WeightLoader(const Checkpoint& checkpoint, Ops& ops, WeightArena* arena,
                           const FrozenParts* frozen)
    : checkpoint_(checkpoint), ops_(ops), arena_(arena), frozen_(frozen) {
  CHECK(arena == nullptr || ops.shares_weights());
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
  if (part == nullptr) {
    copy(stored, target);
    return;
  }
  const StoredType type = target.type() == DType::bf16 ? StoredType::bf16 : StoredType::f32;
  const std::span<std::byte> bytes(static_cast<std::byte*>(target.data()),
                                   static_cast<std::size_t>(target.size()) * size_of(target.type()));
  if (!merge_low_rank(stored, part->change(), type, bytes)) {
    std::vector<float> alone(static_cast<std::size_t>(stored.elements()));
    stored.copy_to(alone);
    if (!all_finite(alone)) refuse_values(stored, target.type());
    fail(
        "cannot merge the adapter into tensor {} of {}: a sum is not finite or beyond {}; use another "
        "adapter",
        stored.name, stored.file, name_of(type));
  }
}

void WeightLoader::copy(const StoredTensor& stored, View target) {
  CHECK_EQ(stored.elements(), target.size()) << stored.name;
  const bool finite = target.type() == DType::bf16 ? copy_finite(stored, target.span<Bf16>())
                                                   : copy_finite(stored, target.span<float>());
  if (!finite) refuse_values(stored, target.type());
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
  return read(name, DType::f32, 1, checkpoint_.tensor(name).elements());
}

Tensor WeightLoader::matrix(const std::string& name) const {
  const StoredTensor& stored = checkpoint_.tensor(name);
  const std::int64_t rows = stored.shape.front();
  return read(name, ops_.compute_type(), rows, stored.elements() / rows);
}

std::unique_ptr<FrozenLinear> WeightLoader::pack(const std::string& name, ConstView weight,
                                                 std::span<const float> bias, bool backward) const {
  auto packed = arena_ == nullptr ? ops_.pack(weight, bias, backward)
                                  : ops_.pack_into(*arena_, name, weight, bias, backward);
  shapes_.emplace(std::pair(packed->in, packed->out), packed.get());
  return packed;
}

void WeightLoader::check_rows() const {
  if (!reads()) return;
  const auto start = std::chrono::steady_clock::now();
  const auto budget = (start - start_) / 100;
  // One row alone differs most often, and libraries cut the longest sums first.
  for (const std::vector<std::int64_t>& counts : {std::vector<std::int64_t>{1}, {7, 31}}) {
    for (auto shape = shapes_.rbegin(); shape != shapes_.rend(); ++shape) {
      ops_.check_rows(*shape->second, counts);
      if (std::chrono::steady_clock::now() - start > budget) return;
    }
  }
}

std::unique_ptr<FrozenLinear> WeightLoader::linear(std::initializer_list<std::string> parts, bool bias,
                                                   bool backward) const {
  std::string name = *parts.begin();
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  for (const std::string& part : parts) {
    const StoredTensor& stored = weight_of(part);
    rows += stored.shape.front();
    columns = stored.elements() / stored.shape.front();
    if (const FrozenPart* merged = part_on(part)) name += fmt::format(" + {:016x}", digest_of(*merged));
  }
  std::vector<float> biases(bias ? static_cast<std::size_t>(rows) : 0);
  if (!reads()) {
    const ConstView shape(nullptr, ops_.compute_type(), rows, columns, columns);
    return pack(name, shape, biases, backward);
  }
  Tensor stacked(ops_.compute_type(), rows, columns, "loading");
  std::int64_t first = 0;
  for (const std::string& part : parts) {
    const std::int64_t count = weight_of(part).shape.front();
    copy_weight(part, stacked.view().row_range(first, count));
    if (bias) copy(checkpoint_.tensor(part + ".bias"), View(biases.data() + first, 1, count));
    first += count;
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
  embed_ = load.linear({"visual.patch_embed.proj"}, false, false);
  for (std::int64_t i = 0; i < config_.depth; ++i) {
    const std::string name = fmt::format("visual.blocks.{}.", i);
    blocks_.push_back({load.vector(name + "norm1.weight"), load.vector(name + "norm2.weight"),
                       load.linear({name + "attn.qkv"}, true, false),
                       load.linear({name + "attn.proj"}, true, false),
                       load.linear({name + "mlp.gate_proj", name + "mlp.up_proj"}, true, false),
                       load.linear({name + "mlp.down_proj"}, true, false)});
  }
  merger_norm_ = load.vector("visual.merger.ln_q.weight");
  merger_in_ = load.linear({"visual.merger.mlp.0"}, true, false);
  merger_out_ = load.linear({"visual.merger.mlp.2"}, true, false);
}

Tensor VisionTower::encode(std::span<const ImagePatches> images, Ops& ops, const Observer* observer) const {
  const auto observe = [&](const std::string& name, const Tensor& value) {
    if (observer != nullptr) (*observer)(name, value.const_view());
  };
  std::vector<Grid> grids;
  std::int64_t rows = 0;
  for (const ImagePatches& image : images) {
    grids.push_back(image.grid);
    rows += image.grid[0] * image.grid[1] * image.grid[2];
  }
  const std::int64_t width = embed_->in;
  const std::int64_t hidden = config_.hidden;
  const std::int64_t cell = config_.merge * config_.merge;
  const DType compute = ops.compute_type();
  const WindowPlan plan = plan_windows(config_, grids);

  // Patches in window order, with the angles of their row and column in the picture.
  Tensor patches(DType::f32, rows, width, "activations");
  const std::int64_t dim = hidden / config_.heads;
  const std::int64_t half = dim / 2;
  const std::int64_t quarter = dim / 4;
  Tensor cosines(DType::f32, rows, dim / 2, "activations");
  Tensor sines(DType::f32, rows, dim / 2, "activations");
  std::vector<const float*> sources;
  std::vector<std::array<std::int64_t, 2>> coordinates;
  for (const ImagePatches& image : images) {
    CHECK_EQ(static_cast<std::int64_t>(image.values.size()),
             image.grid[0] * image.grid[1] * image.grid[2] * width);
    std::int64_t row = 0;
    for (std::int64_t frame = 0; frame < image.grid[0]; ++frame) {
      for (std::int64_t y = 0; y < image.grid[1]; y += config_.merge) {
        for (std::int64_t x = 0; x < image.grid[2]; x += config_.merge) {
          for (std::int64_t i = 0; i < cell; ++i, ++row) {
            sources.push_back(image.values.data() + row * width);
            coordinates.push_back({y + i / config_.merge, x + i % config_.merge});
          }
        }
      }
    }
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto from =
        static_cast<std::size_t>(plan.cells[static_cast<std::size_t>(r / cell)] * cell + r % cell);
    std::copy_n(sources[from], width, patches.row<float>(r));
    for (std::int64_t j = 0; j < quarter; ++j) {
      const auto inverse = static_cast<float>(
          1.0 / std::pow(config_.rope_theta, 2.0 * static_cast<double>(j) / static_cast<double>(half)));
      for (std::size_t axis = 0; axis < 2; ++axis) {
        const float angle = static_cast<float>(coordinates[from][axis]) * inverse;
        const std::int64_t at = static_cast<std::int64_t>(axis) * quarter + j;
        // In f64, because mathematical libraries differ in the last bit of an f32 sine.
        cosines.row<float>(r)[at] = static_cast<float>(std::cos(static_cast<double>(angle)));
        sines.row<float>(r)[at] = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
    }
  }

  Tensor input(compute, rows, width, "activations");
  ops.convert(patches.const_view(), input.view());
  Tensor x(DType::f32, rows, hidden, "activations");
  ops.linear(input.const_view(), *embed_, x.view());
  observe("patch_embed", x);

  Tensor normed(compute, rows, hidden, "activations");
  Tensor qkv(DType::f32, rows, 3 * hidden, "activations");
  Tensor attended(compute, rows, hidden, "activations");
  Tensor gate_up(DType::f32, rows, 2 * config_.intermediate, "activations");
  Tensor product(compute, rows, config_.intermediate, "activations");
  const HeadShape shape{config_.heads, config_.heads, dim};
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    const bool full = std::find(config_.full_attention_blocks.begin(), config_.full_attention_blocks.end(),
                                static_cast<std::int64_t>(i)) != config_.full_attention_blocks.end();
    ops.rms_norm(x.const_view(), block.norm1.const_view(), config_.rms_eps, normed.view());
    ops.linear(normed.const_view(), *block.qkv, qkv.view());
    ops.rotate(qkv.view().column_range(0, 2 * hidden), dim, cosines.const_view(), sines.const_view(), false);
    const View v = qkv.view();
    ops.segment_attention(v.column_range(0, hidden), v.column_range(hidden, hidden),
                          v.column_range(2 * hidden, hidden), shape, full ? plan.frames : plan.windows,
                          attended.view());
    ops.linear(attended.const_view(), *block.projection, x.view(), true);
    ops.rms_norm(x.const_view(), block.norm2.const_view(), config_.rms_eps, normed.view());
    ops.linear(normed.const_view(), *block.gate_up, gate_up.view());
    ops.swiglu(gate_up.const_view(), product.view());
    ops.linear(product.const_view(), *block.down, x.view(), true);
    observe(fmt::format("vision_block_{:02}", i), x);
  }

  // The merger reads the four patches of a cell as one row.
  ops.rms_norm(x.const_view(), merger_norm_.const_view(), config_.rms_eps, normed.view());
  const std::int64_t cells = rows / cell;
  const ConstView joined(normed.const_view().data(), compute, cells, cell * hidden, cell * hidden);
  Tensor wide(DType::f32, cells, merger_in_->out, "activations");
  ops.linear(joined, *merger_in_, wide.view());
  Tensor activated(compute, cells, merger_in_->out, "activations");
  ops.gelu(wide.const_view(), activated.view());
  Tensor merged(DType::f32, cells, merger_out_->out, "activations");
  ops.linear(activated.const_view(), *merger_out_, merged.view());
  observe("merger", merged);
  Tensor features(DType::f32, cells, merger_out_->out, "image_features");
  for (std::int64_t k = 0; k < cells; ++k) {
    std::copy_n(merged.row<float>(k), merged.columns(),
                features.row<float>(plan.cells[static_cast<std::size_t>(k)]));
  }
  return features;
}

}  // namespace biqa
