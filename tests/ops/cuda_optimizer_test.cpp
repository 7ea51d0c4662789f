// SPDX-License-Identifier: Apache-2.0
// The optimizer's kernels in the emulator: AdamW has the CPU's bits, the norm is a sum in f64 in a fixed order.
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "cuda_emulation/emulator.h"
#include "ops/cuda/optimizer.h"
#include "support/compare.h"
#include "support/device_matrix.h"

namespace biqa {
namespace {

using cuda::Stream;
using testing::DeviceMatrix;
using testing::Layout;
using testing::random_tensor;
using testing::same_bits;

constexpr std::array<std::int64_t, 6> kSizes{1, 3, 1000, 4097, 65536, 200003};

TEST(CudaAdamW, HasTheBitsOfTheCpu) {
  const Stream stream;
  for (const std::int64_t size : kSizes) {
    for (const Layout layout : {Layout::dense, Layout::spaced}) {
      Tensor values = random_tensor(DType::f32, 1, size, 1, 1);
      Tensor m = random_tensor(DType::f32, 1, size, 1, 3);
      Tensor v = random_tensor(DType::f32, 1, size, 1, 4);
      for (float& second : v.span<float>()) second = std::abs(second);
      DeviceMatrix device_values(values.view(), layout, stream);
      DeviceMatrix device_m(m.view(), layout, stream);
      DeviceMatrix device_v(v.view(), layout, stream);
      for (const std::int64_t step : {1, 2}) {
        const Tensor gradient = random_tensor(DType::f32, 1, size, 1, 4 + static_cast<std::uint64_t>(step));
        const DeviceMatrix device_gradient(gradient.view(), layout, stream);
        const AdamWStep settings{{0.9, 0.99, 1e-8, 0.01}, 3e-3, 0.7, step};
        adamw_update<float>(values.span<float>(), gradient.span<float>(), m.span<float>(), v.span<float>(),
                            settings);
        cuda::adamw(device_values.view(), device_gradient.view(), device_m.view(), device_v.view(), settings,
                    stream);
      }
      EXPECT_TRUE(same_bits(device_values.fetch().view(), values.view())) << size;
      EXPECT_TRUE(same_bits(device_m.fetch().view(), m.view())) << size;
      EXPECT_TRUE(same_bits(device_v.fetch().view(), v.view())) << size;
    }
  }
}

double norm_of(const Tensor& gradient, Layout layout) {
  const Stream stream;
  const DeviceMatrix device(gradient.view(), layout, stream);
  const std::int64_t chunks = cuda::squared_norm_chunks(gradient.size());
  cuda::DeviceBuffer working(static_cast<std::size_t>(chunks) * sizeof(double), "test");
  cuda::DeviceBuffer sum(sizeof(double), "test");
  cuda::squared_norm(device.view(), static_cast<double*>(working.data()), static_cast<double*>(sum.data()),
                     stream);
  double result = -1;
  const auto bytes = static_cast<std::int64_t>(sizeof result);
  cuda::copy_to_host(ConstView(sum.data(), DType::u8, 1, bytes, bytes),
                     View(&result, DType::u8, 1, bytes, bytes), stream);
  stream.synchronise();
  return result;
}

TEST(CudaSquaredNorm, AgreesWithTheCpuWithinTheRoundingsOfASum) {
  for (const std::int64_t size : kSizes) {
    const Tensor gradient = random_tensor(DType::f32, 1, size, 2, 1);
    const double expected = squared_norm(gradient.span<float>());
    const double sum = norm_of(gradient, Layout::dense);
    EXPECT_NEAR(sum, expected, 2 * static_cast<double>(size) * 0x1.0p-53 * expected) << size;
    EXPECT_EQ(norm_of(gradient, Layout::spaced), sum) << size;
    for (const emulation::Order order : {emulation::Order::backward, emulation::Order::shuffled}) {
      emulation::set_order(order);
      EXPECT_EQ(norm_of(gradient, Layout::dense), sum) << size;
    }
    emulation::set_order(emulation::Order::forward);
  }
  EXPECT_EQ(norm_of(Tensor(DType::f32, 1, 0, "test"), Layout::dense), 0);
}

TEST(CudaSquaredNorm, AValueThatIsNotFiniteShows) {
  Tensor gradient = random_tensor(DType::f32, 1, 70000, 2, 1);
  gradient.row<float>(0)[69999] = INFINITY;
  EXPECT_EQ(norm_of(gradient, Layout::dense), INFINITY);
  gradient.row<float>(0)[3] = NAN;
  EXPECT_TRUE(std::isnan(norm_of(gradient, Layout::dense)));
}

}  // namespace
}  // namespace biqa
