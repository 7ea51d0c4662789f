// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/emulator.h"

#include <cuda_runtime.h>
#include <fmt/core.h>
#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string_view>

namespace biqa::emulation {
namespace {

constexpr std::array<const char*, 3> kOrders{"forward", "backward", "shuffled"};

std::string_view environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

struct Settings {
  Order order = Order::forward;
  std::uint64_t seed = 1;
};

Settings& settings() {
  static Settings settings = [] {
    const auto* order =
        std::find(kOrders.begin(), kOrders.end(), environment("BIQA_EMULATOR_ORDER", kOrders[0]));
    CHECK(order != kOrders.end()) << "BIQA_EMULATOR_ORDER must be forward, backward or shuffled";
    return Settings{static_cast<Order>(order - kOrders.begin()),
                    std::strtoull(environment("BIQA_EMULATOR_SEED", "1").data(), nullptr, 10)};
  }();
  return settings;
}

int device_count = 1;
std::size_t memory_limit = std::numeric_limits<std::size_t>::max();

}  // namespace

void set_order(Order order) {
  settings().order = order;
}

Order order() {
  return settings().order;
}

void set_seed(std::uint64_t seed) {
  settings().seed = seed;
}

std::uint64_t seed() {
  return settings().seed;
}

std::string settings_text() {
  return fmt::format("BIQA_EMULATOR_ORDER={} BIQA_EMULATOR_SEED={}",
                     kOrders.at(static_cast<std::size_t>(order())), seed());
}

void set_device_count(int count) {
  device_count = count;
}

void set_memory_limit(std::size_t bytes) {
  memory_limit = bytes;
}

}  // namespace biqa::emulation

using biqa::emulation::device_count;
using biqa::emulation::memory_limit;

const char* cudaGetErrorName(cudaError_t status) {
  switch (status) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
  }
  return "?";
}

const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaSuccess ? "no error" : "emulated error";
}

cudaError_t cudaGetLastError() {
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = std::max(device_count, 0);
  return device_count < 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return device >= 0 && device < device_count ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaMalloc(void** address, std::size_t bytes) {
  constexpr std::size_t kAlignment = 256;  // CUDA's
  // The exact size, so that AddressSanitizer sees the first byte beyond it.
  const bool granted = bytes <= memory_limit && posix_memalign(address, kAlignment, bytes) == 0;
  return granted ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void* address) {
  std::free(address);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind /*kind*/,
                            cudaStream_t /*stream*/) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned /*flags*/) {
  *stream = nullptr;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t /*stream*/) {
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t /*stream*/) {
  return cudaSuccess;
}
