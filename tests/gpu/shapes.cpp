// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/bf16.h"
#include "core/error.h"
#include "core/random.h"
#include "gpu/measures.h"

namespace biqa::gpu {
namespace {

constexpr ModelShape kShapes[] = {{"7B", 3584, 18944, 152064, {28, 4, 128}, 1176, 3456, {16, 16, 80}, false},
                                  {"3B", 2048, 11008, 151936, {16, 2, 128}, 1176, 3456, {16, 16, 80}, false},
                                  {"tiny", 64, 96, 128, {4, 2, 16}, 24, 64, {2, 2, 16}, true}};
constexpr DType kF32 = DType::f32, kBf16 = DType::bf16;

}  // namespace

const ModelShape& shape_of(const std::string& size) {
  const auto* found = std::find_if(std::begin(kShapes), std::end(kShapes),
                                   [&](const ModelShape& s) { return size == s.name; });
  CHECK(found != std::end(kShapes)) << size;
  return *found;
}

std::vector<ModelProduct> model_products(const ModelShape& s) {
  const std::int64_t vision = s.vision_hidden();
  const std::int64_t merged = 4 * vision;
  return {{"query, key, value", s.hidden, s.heads_width(), false, true, kBf16, kF32},
          {"attention output", s.heads.heads * s.heads.head_dim, s.hidden, false, true, kF32, kF32},
          {"gate and up", s.hidden, 2 * s.intermediate, false, true, kBf16, kF32},
          {"down", s.intermediate, s.hidden, false, true, kF32, kBf16},
          {"head", s.hidden, s.vocabulary, false, true, kF32, kF32, false, true},
          {"patches", s.patch_values, vision, false, false, kF32, kF32, true},
          {"vision query, key, value", vision, 3 * vision, false, false, kBf16, kF32, true},
          {"vision attention output", vision, vision, true, false, kF32, kF32, true},
          {"vision gate and up", vision, 2 * s.vision_intermediate, false, false, kBf16, kF32, true},
          {"vision down", s.vision_intermediate, vision, true, false, kF32, kF32, true},
          {"merger", merged, merged, true, false, kF32, kF32, true},
          {"merger output", merged, s.hidden, true, false, kF32, kF32, true}};
}

cuda::Product product_of(const ModelProduct& product, bool forward) {
  return cuda::dense_product(kBf16, forward ? product.result : product.input_gradient,
                             forward ? product.inner : product.outer, forward ? product.outer : product.inner,
                             forward, forward && product.bias);
}

Tensor random_numbers(DType type, std::int64_t rows, std::int64_t columns, DeviceMemory& memory) {
  Tensor host(type, rows, columns, "numbers");
  constexpr std::size_t kPeriod = 1048573;  // a prime, so that no two rows are equal
  const auto size = static_cast<std::size_t>(host.size());
  for (std::size_t i = 0; i < std::min(size, kPeriod); ++i) {
    const float value = static_cast<float>(mix64(i) >> 40) * 0x1.0p-23F - 1.0F;
    if (type == kBf16)
      host.span<Bf16>()[i] = to_bf16(value);
    else
      host.span<float>()[i] = value;
  }
  auto* bytes = static_cast<std::byte*>(host.view().data());
  for (std::size_t at = kPeriod; at < size; at += kPeriod)
    std::memcpy(bytes + at * size_of(type), bytes, std::min(kPeriod, size - at) * size_of(type));
  Tensor device = copied_to(memory, host.view(), "numbers");
  memory.wait();
  return device;
}

double seconds_of(DeviceMemory& memory, bool once, const std::function<void(std::size_t)>& call) {
  using Clock = std::chrono::steady_clock;
  std::size_t calls = 0;
  const auto series = [&](int count) {
    memory.wait();
    const auto start = Clock::now();
    for (int i = 0; i < count; ++i) call(calls++);
    memory.wait();
    return std::chrono::duration<double>(Clock::now() - start).count() / count;
  };
  double best = series(1);  // the first one loads the code
  if (once) return best;
  constexpr double kSeries = 0.01;
  const int count = static_cast<int>(std::clamp(kSeries / series(3), 1.0, 200.0));
  best = series(count);
  for (int i = 0; i < 2; ++i) best = std::min(best, series(count));
  return best;
}

double copy_rate(DeviceMemory& memory, bool tiny) {
  const std::int64_t bytes = std::int64_t{1} << (tiny ? 16 : 30);
  const Tensor from = random_numbers(DType::bf16, 1, bytes / 2, memory);
  Tensor to = memory.allocate(DType::bf16, 1, bytes / 2, "numbers");
  return 2.0 * static_cast<double>(bytes) /
         seconds_of(memory, tiny, [&](std::size_t) { memory.copy(from.view(), to.view()); });
}

void Report::figure(const std::string& name, double value, const std::string& unit, const std::string& bar) {
  say(fmt::format("figure: {}|{:.4g}|{}{}{}", name, value, unit, bar.empty() ? "" : "|", bar));
}

void measure_copy(const ModelShape& shape, Report& report) {
  cuda::CudaOps ops(DType::bf16);
  report.figure("copy within the memory", copy_rate(ops.memory(), shape.tiny) / 1e9, "GB/s");
}

}  // namespace biqa::gpu
