// SPDX-License-Identifier: Apache-2.0
#include "ops/product_rate.h"

#include <algorithm>
#include <chrono>

#include "core/bf16.h"
#include "core/random.h"

namespace biqa {
namespace {

/// Numbers, since zeros take less power: the processor multiplies them faster than it can anything else.
Tensor random_numbers(DType type, std::int64_t rows, std::int64_t columns) {
  Tensor tensor(type, rows, columns, "product rate");
  std::uint64_t state = 1;
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    state = mix64(state + 1);
    const float value = static_cast<float>(state >> 40) * 0x1.0p-23F - 1.0F;
    if (type == DType::bf16)
      tensor.span<Bf16>()[static_cast<std::size_t>(i)] = to_bf16(value);
    else
      tensor.span<float>()[static_cast<std::size_t>(i)] = value;
  }
  return tensor;
}

}  // namespace

double product_rate(Ops& ops, std::int64_t rows, std::int64_t size) {
  using Clock = std::chrono::steady_clock;
  const DType type = ops.compute_type();
  DeviceMemory& memory = ops.memory();
  const auto packed = ops.pack(random_numbers(type, size, size).view(), {}, false);
  // As in a run. Otherwise a GPU would multiply all rows with the algorithm for 256.
  if (ProductTuning* tuning = ops.product_tuning()) tuning->choose(*packed);
  const Tensor x = copied_to(memory, random_numbers(type, rows, size).view(), "product rate");
  Tensor y = memory.allocate(DType::f32, rows, size, "product rate");
  const auto operations = 2.0 * static_cast<double>(rows * size * size);
  double best = 0;
  for (int i = 0; i < 12; ++i) {
    const auto start = Clock::now();
    ops.linear(x.const_view(), *packed, y.view());
    memory.wait();
    best = std::max(best, operations / std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

}  // namespace biqa
