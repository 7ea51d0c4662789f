// SPDX-License-Identifier: Apache-2.0
#include "tensor/cuda/runtime.h"

#include <fmt/format.h>

#include <array>
#include <string_view>

#include "core/error.h"

namespace biqa::cuda {
namespace {

std::string_view file_name(std::string_view path) {
  return path.substr(path.find_last_of('/') + 1);
}

/// CUDA's number of a version, such as 12040, as people write it.
std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

void copy(ConstView from, View to, cudaMemcpyKind kind, const Stream& stream) {
  CHECK(from.type() == to.type()) << name_of(from.type()) << " into " << name_of(to.type());
  CHECK(from.rows() == to.rows() && from.columns() == to.columns())
      << from.rows() << "x" << from.columns() << " into " << to.rows() << "x" << to.columns();
  CHECK(from.dense() && to.dense());
  if (from.empty()) return;
  const std::size_t bytes = static_cast<std::size_t>(from.size()) * size_of(from.type());
  BIQA_CUDA_CHECK(cudaMemcpyAsync(to.address(), from.address(), bytes, kind, stream.get()));
}

}  // namespace

void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  fail(
      "CUDA call {} at {}:{}: {} ({}); look for an earlier error, or set BIQA_CUDA_SYNC=1 to see the kernel "
      "that failed",
      call, file_name(file), line, cudaGetErrorString(status), cudaGetErrorName(status));
}

void select_device(int local_rank) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) {
    int driver = 0;
    int runtime = 0;
    BIQA_CUDA_CHECK(cudaDriverGetVersion(&driver));
    BIQA_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
    if (driver == 0)
      fail(
          "device cuda: NVIDIA's driver is not installed; install it (nvidia-smi must list a device) or use "
          "device cpu");
    fail(
        "device cuda: NVIDIA's driver is too old: it supports CUDA {}, and this program was built with CUDA "
        "{}; install a "
        "newer driver, build with an older CUDA, or use device cpu",
        version_text(driver), version_text(runtime));
  }
  if (status != cudaSuccess) {
    fail(
        "device cuda: no CUDA device can be used: {} ({}); install NVIDIA's driver (nvidia-smi must list a "
        "device) or "
        "use device cpu",
        cudaGetErrorString(status), cudaGetErrorName(status));
  }
  if (count == 0) fail("device cuda: this machine has no CUDA device; use device cpu");
  const int device = local_rank % count;
  BIQA_CUDA_CHECK(cudaSetDevice(device));
  int major = 0;
  int minor = 0;
  BIQA_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  BIQA_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  constexpr int kLeastMajor = 8;  // bf16 on tensor cores, asynchronous copies
  if (major < kLeastMajor) {
    fail(
        "device cuda: GPU {} has compute capability {}.{} (sm_{}{}), and biqa needs 8.0 or later; use "
        "another GPU or device "
        "cpu",
        device, major, minor, major, minor);
  }
}

std::string device_name() {
  int device = 0;
  BIQA_CUDA_CHECK(cudaGetDevice(&device));
  std::array<char, 32> address{};
  BIQA_CUDA_CHECK(cudaDeviceGetPCIBusId(address.data(), static_cast<int>(address.size()), device));
  return address.data();
}

std::string device_type() {
  int device = 0;
  BIQA_CUDA_CHECK(cudaGetDevice(&device));
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    BIQA_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device));
    return value;
  };
  return fmt::format("{} (sm_{}{}, {} multiprocessors)", selected_device().name,
                     attribute(cudaDevAttrComputeCapabilityMajor),
                     attribute(cudaDevAttrComputeCapabilityMinor), attribute(cudaDevAttrMultiProcessorCount));
}

std::string driver_version() {
  int version = 0;
  BIQA_CUDA_CHECK(cudaDriverGetVersion(&version));
  return version_text(version);
}

Device selected_device() {
  int device = 0;
  BIQA_CUDA_CHECK(cudaGetDevice(&device));
  cudaDeviceProp properties{};
  BIQA_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  std::size_t available = 0;
  std::size_t total = 0;
  BIQA_CUDA_CHECK(cudaMemGetInfo(&available, &total));
  return {&properties.name[0], static_cast<std::int64_t>(total), static_cast<std::int64_t>(available)};
}

Stream::Stream() {
  BIQA_CUDA_CHECK(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking));
}

Stream::~Stream() {
  if (handle_ == nullptr) return;
  const cudaError_t status = cudaStreamDestroy(handle_);
  LOG_IF(WARNING, status != cudaSuccess) << "destroying a CUDA stream failed: " << cudaGetErrorString(status);
}

void Stream::synchronise() const {
  BIQA_CUDA_CHECK(cudaStreamSynchronize(handle_));
}

DeviceBuffer::DeviceBuffer(std::size_t bytes, std::string label) : bytes_(bytes), label_(std::move(label)) {
  if (bytes == 0) return;
  const cudaError_t status = cudaMalloc(&data_, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // clears the status, which would otherwise be reported by the next launch
    fail(
        "cannot allocate {} bytes of CUDA memory for {}: the device has not enough free memory; lower "
        "micro_batch_tokens, kv_memory or images_per_step",
        bytes, label_);
  }
  BIQA_CUDA_CHECK(status);
  if (observe_label != nullptr) observe_label(data_, label_);
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ == nullptr) return;
  const cudaError_t status = cudaFree(data_);
  LOG_IF(WARNING, status != cudaSuccess) << "freeing " << label_ << " failed: " << cudaGetErrorString(status);
}

void copy_to_device(ConstView host, View device, const Stream& stream) {
  copy(host, device, cudaMemcpyHostToDevice, stream);
}

void copy_to_host(ConstView device, View host, const Stream& stream) {
  copy(device, host, cudaMemcpyDeviceToHost, stream);
}

}  // namespace biqa::cuda
