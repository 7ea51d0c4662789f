// SPDX-License-Identifier: Apache-2.0
#include "ops/product_rate.h"

#include <algorithm>
#include <chrono>
#include <span>

#include "core/bf16.h"
#include "core/random.h"

namespace biqa {
namespace {

template <typename T, typename Convert>
void fill(std::span<T> values, float range, const Convert& convert) {
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = convert((static_cast<float>(mix64(i) >> 40) * 0x1.0p-23F - 1.0F) * range);
}

}  // namespace

Tensor random_numbers(DType type, std::int64_t rows, std::int64_t columns, float range) {
  Tensor tensor(type, rows, columns, "measurement");
  if (type == DType::bf16)
    fill(tensor.span<Bf16>(), range, to_bf16);
  else
    fill(tensor.span<float>(), range, [](float value) { return value; });
  return tensor;
}

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
