// SPDX-License-Identifier: Apache-2.0
// The emulated CUDA runtime: errors, devices, memory and attributes of kernels.
#include <cuda_runtime.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "cuda_emulation/device_memory.h"
#include "cuda_emulation/emulator.h"
#include "cuda_emulation/streams.h"
#include "tensor/cuda/runtime.h"

namespace biqa::emulation {
namespace {

int device_count = 1;
int device_capability = 90;
std::string& device_name() {
  static std::string name = [] {
    const char* given = std::getenv("BIQA_EMULATOR_DEVICE");
    return std::string(given == nullptr ? "emulated device" : given);
  }();
  return name;
}
std::array<std::atomic<cudaError_t>, 3> planned{};  // by Call
thread_local int current_device = 0;

[[maybe_unused]] const bool labels_are_observed = [] {
  cuda::observe_label = &label_device;
  return true;
}();

std::mutex granted_mutex;

/// What cudaFuncSetAttribute has granted to kernels, in bytes of dynamic shared memory.
std::map<const void*, int>& granted() {
  static std::map<const void*, int> granted;
  return granted;
}

}  // namespace

void set_device_count(int count) {
  device_count = count;
}

void set_device_capability(int capability) {
  device_capability = capability;
  const std::lock_guard lock(granted_mutex);
  granted().clear();
}

void set_device_name(const std::string& name) {
  device_name() = name;
}

void fail_next(Call call, int status) {
  planned.at(static_cast<std::size_t>(call)).store(static_cast<cudaError_t>(status));
}

cudaError_t planned_failure(Call call) {
  return planned.at(static_cast<std::size_t>(call)).exchange(cudaSuccess);
}

int max_shared_bytes() {
  const bool large = device_capability / 10 == 9 || device_capability / 10 == 10;
  return (large ? 227 : device_capability == 80 ? 163 : 99) * 1024;
}

bool grant_shared_bytes(const void* kernel, int bytes) {
  if (bytes < 0 || bytes > max_shared_bytes()) return false;
  const std::lock_guard lock(granted_mutex);
  granted()[kernel] = bytes;
  return true;
}

bool can_launch(const Launch& launch) {
  constexpr std::size_t kSharedWithoutAsking = 48 * 1024;
  const std::size_t threads = std::size_t{launch.block[0]} * launch.block[1] * launch.block[2];
  const auto& grid = launch.grid;
  if (threads == 0 || threads > 1024 || launch.block[2] > 64) return false;
  if (grid[0] == 0 || grid[0] > 0x7fffffffU || grid[1] == 0 || grid[1] > 65535 || grid[2] == 0 ||
      grid[2] > 65535)
    return false;
  if (launch.shared_bytes <= kSharedWithoutAsking) return true;
  const std::lock_guard lock(granted_mutex);
  const auto found = granted().find(launch.kernel);
  return found != granted().end() && launch.shared_bytes <= static_cast<std::size_t>(found->second);
}

void enqueue_launch(const Launch& launch, cudaStream_t stream) {
  enqueue(stream, [launch] { run(launch); });
}

}  // namespace biqa::emulation

using biqa::emulation::current_device;
using biqa::emulation::device_capability;
using biqa::emulation::device_count;
using biqa::emulation::kOldDriver;

const char* cudaGetErrorName(cudaError_t status) {
  switch (status) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidPitchValue:
      return "cudaErrorInvalidPitchValue";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorDevicesUnavailable:
      return "cudaErrorDevicesUnavailable";
    case cudaErrorNoKernelImageForDevice:
      return "cudaErrorNoKernelImageForDevice";
    case cudaErrorECCUncorrectable:
      return "cudaErrorECCUncorrectable";
    case cudaErrorNvlinkUncorrectable:
      return "cudaErrorNvlinkUncorrectable";
    case cudaErrorUnsupportedPtxVersion:
      return "cudaErrorUnsupportedPtxVersion";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorHardwareStackError:
      return "cudaErrorHardwareStackError";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorUnknown:
      return "cudaErrorUnknown";
  }
  return "?";
}

const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaSuccess ? "no error" : "emulated error";
}

cudaError_t cudaGetLastError() {
  return cudaSuccess;
}

cudaError_t cudaPeekAtLastError() {
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = std::max(device_count, 0);
  if (device_count == kOldDriver) return cudaErrorInsufficientDriver;
  return device_count < 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= device_count) return cudaErrorInvalidDevice;
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = device_count == kOldDriver ? 12020 : 13000;
  return cudaSuccess;
}

// Each process emulates devices of its own.
cudaError_t cudaDeviceGetPCIBusId(char* address, int length, int device) {
  std::snprintf(address, static_cast<std::size_t>(length), "emulated %d of process %d", device,
                static_cast<int>(getpid()));
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= device_count) return cudaErrorInvalidDevice;
  *properties = {};
  std::strncpy(properties->name, biqa::emulation::device_name().c_str(), sizeof properties->name - 1);
  const char* chosen = std::getenv("BIQA_EMULATOR_UUIDS");
  const std::string uuids = chosen == nullptr ? "own" : chosen;
  if (uuids != "none") {
    const int process = static_cast<int>(getpid());
    std::memcpy(&properties->uuid.bytes[0], &process, sizeof process);
    properties->uuid.bytes[15] = static_cast<char>(uuids == "shared" ? 1 : device + 1);
  }
  properties->totalGlobalMem = biqa::emulation::device_bytes();
  properties->sharedMemPerBlock = 48 * 1024;
  properties->sharedMemPerBlockOptin = static_cast<std::size_t>(biqa::emulation::max_shared_bytes());
  properties->major = device_capability / 10;
  properties->minor = device_capability % 10;
  cudaDeviceGetAttribute(&properties->multiProcessorCount, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&properties->maxThreadsPerBlock, cudaDevAttrMaxThreadsPerBlock, device);
  cudaDeviceGetAttribute(&properties->warpSize, cudaDevAttrWarpSize, device);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= device_count) return cudaErrorInvalidDevice;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = 48 * 1024;
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = 32;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = device_capability / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = device_capability % 10;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = biqa::emulation::max_shared_bytes();
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = biqa::emulation::device_bytes();
  *free = *total - std::min(*total, biqa::emulation::device_bytes_in_use());
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** address, std::size_t bytes) {
  if (const cudaError_t planned = biqa::emulation::planned_failure(biqa::emulation::Call::allocation);
      planned != cudaSuccess)
    return planned;
  *address = bytes == 0 ? nullptr : biqa::emulation::allocate_device(bytes);
  return bytes == 0 || *address != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

// Waits for all work, as CUDA does.
cudaError_t cudaFree(void* address) {
  biqa::emulation::finish_all_work();
  if (address != nullptr) biqa::emulation::free_device(address);
  return cudaSuccess;
}

// Memory in a stream's order: it is there at once, and goes when the stream gets there.
cudaError_t cudaMallocAsync(void** address, std::size_t bytes, cudaStream_t /*stream*/) {
  return cudaMalloc(address, bytes);
}

cudaError_t cudaFreeAsync(void* address, cudaStream_t stream) {
  if (address == nullptr) return cudaSuccess;
  biqa::emulation::announce_free(address);
  biqa::emulation::enqueue(stream, [address] { biqa::emulation::free_device(address); });
  return cudaSuccess;
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int /*device*/) {
  *pool = nullptr;
  return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t /*pool*/, cudaMemPoolAttr /*attribute*/, void* /*value*/) {
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** address, std::size_t bytes, unsigned /*flags*/) {
  *address = bytes == 0 ? nullptr : biqa::emulation::allocate_pinned(bytes);
  return bytes == 0 || *address != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void* address) {
  biqa::emulation::finish_all_work();
  if (address != nullptr) biqa::emulation::free_pinned(address);
  return cudaSuccess;
}
