// SPDX-License-Identifier: Apache-2.0
#include "model/low_rank.h"

#include <glog/logging.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/bf16.h"
#include "core/processors.h"
#include "core/threads.h"

namespace biqa {
namespace {

constexpr std::int64_t kMostThreads = 16;

void round_to(float value, float& target) {
  target = value;
}
void round_to(float value, Bf16& target) {
  target = to_bf16(value);
}
void round_to(float value, std::uint16_t& target) {
  target = to_half(value);
}
bool is_finite(float value) {
  return std::isfinite(value);
}
bool is_finite(Bf16 value) {
  return std::isfinite(to_float(value));
}
bool is_finite(std::uint16_t half) {
  return std::isfinite(half_to_float(half));
}

template <typename T>
bool merge_rows(const StoredTensor& weight, const LowRank& change, std::int64_t first, std::int64_t last,
                std::byte* target) {
  const auto width = static_cast<std::size_t>(change.in);
  const std::size_t row_bytes = weight.bytes.size() / static_cast<std::size_t>(change.out);
  StoredTensor row = weight;
  row.shape = {change.in};
  std::vector<float> values(width), sum(width);
  std::vector<T> merged(width);
  bool finite = true;
  for (std::int64_t o = first; o < last; ++o) {
    row.bytes = weight.bytes.subspan(static_cast<std::size_t>(o) * row_bytes, row_bytes);
    row.copy_to(values);
    std::fill(sum.begin(), sum.end(), 0.0F);
    const float* b = change.b + o * change.rank;
    std::int64_t r = 0;
    // Adds four terms at a time. Each sum still adds in the order of r.
    for (; r + 4 <= change.rank; r += 4) {
      const float* a0 = change.a + r * change.in;
      const float* a1 = a0 + change.in;
      const float* a2 = a1 + change.in;
      const float* a3 = a2 + change.in;
      for (std::size_t i = 0; i < width; ++i)
        sum[i] = (((sum[i] + b[r] * a0[i]) + b[r + 1] * a1[i]) + b[r + 2] * a2[i]) + b[r + 3] * a3[i];
    }
    for (; r < change.rank; ++r) {
      const float* a = change.a + r * change.in;
      for (std::size_t i = 0; i < width; ++i) sum[i] += b[r] * a[i];
    }
    for (std::size_t i = 0; i < width; ++i) {
      round_to(values[i] + change.scale * sum[i], merged[i]);
      finite = finite && is_finite(merged[i]);
    }
    std::memcpy(target + static_cast<std::size_t>(o) * width * sizeof(T), merged.data(), width * sizeof(T));
  }
  return finite;
}

template <typename T>
bool merge_as(const StoredTensor& weight, const LowRank& change, std::span<std::byte> target) {
  CHECK_EQ(static_cast<std::int64_t>(target.size() / sizeof(T)), weight.elements());
  const std::int64_t threads =
      std::clamp<std::int64_t>(threads_for(usable_processors()), 1, std::min(kMostThreads, change.out));
  std::atomic<bool> finite{true};
  on_threads(threads, [&](std::int64_t index) {
    if (!merge_rows<T>(weight, change, change.out * index / threads, change.out * (index + 1) / threads,
                       target.data()))
      finite = false;
  });
  return finite;
}

}  // namespace

bool merge_low_rank(const StoredTensor& weight, const LowRank& change, StoredType type,
                    std::span<std::byte> target) {
  CHECK_EQ(weight.elements(), change.out * change.in) << weight.name << ": the adapter is for another model";
  if (type == StoredType::f32) return merge_as<float>(weight, change, target);
  if (type == StoredType::bf16) return merge_as<Bf16>(weight, change, target);
  CHECK(type == StoredType::f16) << weight.name;
  return merge_as<std::uint16_t>(weight, change, target);
}

}  // namespace biqa
