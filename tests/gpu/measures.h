// SPDX-License-Identifier: Apache-2.0
// What tests/gpu.sh measures of the CUDA backend beside whole runs: the GPU's memory, products and kernels, in the shapes of a
// model. In the emulator, at tiny shapes, this only tests the measurements.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "ops/cuda/cuda_ops.h"

namespace biqa::gpu {

/// The widths of a model that its products and kernels follow from.
struct ModelShape {
  const char* name;
  std::int64_t hidden, intermediate, vocabulary;
  HeadShape heads;
  std::int64_t patch_values, vision_intermediate;  ///< the latter with its padding
  HeadShape vision_heads;
  bool tiny = false;  ///< few rows, and one call per measurement
  std::int64_t heads_width() const { return (heads.heads + 2 * heads.kv_heads) * heads.head_dim; }
  std::int64_t vision_hidden() const { return vision_heads.heads * vision_heads.head_dim; }
};
/// 7B, 3B or tiny.
const ModelShape& shape_of(const std::string& size);

/// A product of the network: y [rows, outer] = x [rows, inner] · weightᵀ forward, dx = dy · weight backward.
struct ModelProduct {
  std::string name;
  std::int64_t inner, outer;
  bool bias, backward;
  DType result, input_gradient;  ///< types of the results, forward and backward
  bool vision = false, head = false;
};
std::vector<ModelProduct> model_products(const ModelShape& shape);
/// As the network asks for it, forward or backward.
cuda::Product product_of(const ModelProduct& product, bool forward);

/// What a measurement says, in lines that tests/gpu.sh reads. It says each line as soon as it knows it, for it may be stopped.
struct Report {
  std::function<void(const std::string&)> say;
  bool ok = true;  ///< false: something is wrong, not only slow

  /// `bar`: such as "<=|5".
  void figure(const std::string& name, double value, const std::string& unit, const std::string& bar = "");
  /// The figures since the last such line belong together.
  void line(const std::string& name) { say("line: " + name); }
  void detail(const std::string& text) { say("detail: " + text); }
};

/// Random numbers, since zeros take less power.
Tensor random_numbers(DType type, std::int64_t rows, std::int64_t columns, DeviceMemory& memory);
/// Seconds of one call, the best of some series. A series waits once, and short calls include the time to launch them. The
/// argument counts the calls.
double seconds_of(DeviceMemory& memory, bool once, const std::function<void(std::size_t)>& call);

/// The rate of a copy within the GPU's memory, in bytes read and written per second.
double copy_rate(DeviceMemory& memory, bool tiny);
void measure_copy(const ModelShape& shape, Report& report);

/// Products of ones for many inner widths, by every algorithm that the library proposes: each result must be the width. Behind
/// the inner width lie twos, so reading too far shows as well.
void check_ones(const ModelShape& shape, Report& report);

/// What batch invariance costs: our algorithms against the fastest that the library has for a number of rows, which may divide
/// the inner sum. `classes`: a file that keeps the choices of algorithms for later calls, or nothing.
void measure_invariance(const ModelShape& shape, const std::filesystem::path& classes, Report& report);

/// The numbers of rows in the order in which check_rows() takes them: 1 … 64, then the multiples of ever smaller powers of two.
struct RowCount {
  std::int64_t rows;
  std::int64_t stride;  ///< after this number, all multiples of it are done; 0: not yet
};
std::vector<RowCount> order_of_rows(std::int64_t most);
/// For every number of rows from 1 to 8,192, whether our algorithm gives a row the bits that it has among other numbers. Stops
/// after so many seconds, and says how far it came.
void check_rows(const ModelShape& shape, const std::filesystem::path& classes, double seconds,
                Report& report);

/// Each kernel alone in a layer's shapes: its time, and the computed time as a share of it. Computed is the larger of bytes /
/// bandwidth and operations / peak, by the GPU's data sheet, or as measured if the GPU is not known.
void measure_kernels(const ModelShape& shape, Report& report);

}  // namespace biqa::gpu
