// SPDX-License-Identifier: Apache-2.0
#include "tensor/cuda/runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <string_view>

#include "core/bytes_text.h"
#include "core/error.h"
#include "core/open_device.h"

namespace biqa::cuda {
namespace {

std::string_view file_name(std::string_view path) {
  return path.substr(path.find_last_of('/') + 1);
}

/// CUDA's number of a version, such as 12040, as people write it.
std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

/// What the selected device can run; 0: unknown. Needs no working device. Emulated ranks are threads and share it.
std::atomic<int> capability = 0;

/// Such a device answers nothing any more, for any process.
bool has_failed(cudaError_t status) {
  return status == cudaErrorECCUncorrectable || status == cudaErrorNvlinkUncorrectable ||
         status == cudaErrorHardwareStackError || status == cudaErrorUnknown;
}

/// A kernel of ours has failed. The process cannot use the device again.
bool kernel_has_failed(cudaError_t status) {
  return status == cudaErrorIllegalAddress || status == cudaErrorLaunchFailure;
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

/// As nvidia-smi -L prints it. Empty if the driver gives none.
std::string uuid_of(int device) {
  cudaDeviceProp properties{};
  BIQA_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  std::string text = "GPU";
  bool given = false;
  for (std::size_t i = 0; i < sizeof properties.uuid.bytes; ++i) {
    const auto byte = static_cast<unsigned char>(properties.uuid.bytes[i]);
    const bool begins_group = i == 0 || i == 4 || i == 6 || i == 8 || i == 10;
    text += fmt::format("{}{:02x}", begins_group ? "-" : "", byte);
    given = given || byte != 0;
  }
  return given ? text : std::string();
}

}  // namespace

#ifdef BIQA_BUILT_ARCHITECTURES
std::string_view built_architectures = BIQA_BUILT_ARCHITECTURES;
#else
std::string_view built_architectures;
#endif

void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  const std::string what = fmt::format("CUDA call {} at {}:{}: {} ({})", call, file_name(file), line,
                                       cudaGetErrorString(status), cudaGetErrorName(status));
  if (has_failed(status))
    fail(
        "{}; the GPU has failed or was lost: nvidia-smi and the system log (Xid) say more. Reset the GPU or "
        "use another one, then start the job again; a training run resumes from its last checkpoint",
        what);
  if (status == cudaErrorDevicesUnavailable)
    fail(
        "{}; the GPU cannot be used now: another process uses it exclusively, or it has failed. nvidia-smi "
        "shows which. Use another GPU or wait, then start the job again",
        what);
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorUnsupportedPtxVersion) {
    const std::string missing = missing_architecture(built_architectures, capability);
    fail("{}; {}", what,
         missing.empty()
             ? "the driver cannot use this program's code for the GPU: install a newer driver, or build "
               "with the GPU's own architecture in BIQA_CUDA_ARCHITECTURES"
             : missing);
  }
  if (kernel_has_failed(status))
    fail(
        "{}; this or an earlier GPU kernel has failed, or the GPU was lost: look for Xid in the system log. "
        "BIQA_CUDA_SYNC=1 shows which kernel failed. Start the job again; a training run resumes from its "
        "last checkpoint",
        what);
  fail(
      "CUDA call {} at {}:{}: {} ({}); look for an earlier error, or set BIQA_CUDA_SYNC=1 to see the kernel "
      "that failed",
      call, file_name(file), line, cudaGetErrorString(status), cudaGetErrorName(status));
}

std::string missing_architecture(std::string_view built, int device_capability) {
  if (built.empty() || device_capability == 0) return {};
  std::string names;
  for (std::size_t at = 0; at < built.size();) {
    const std::size_t end = std::min(built.find(' ', at), built.size());
    const std::string_view name = built.substr(at, end - at);
    int number = 0;
    const auto read = std::from_chars(name.begin(), name.end(), number);
    // Code for exactly one architecture (90a), for its family (100f), or, through the driver, for all later ones.
    const std::string_view suffix(read.ptr, static_cast<std::size_t>(name.end() - read.ptr));
    const bool runs = suffix == "a"   ? number == device_capability
                      : suffix == "f" ? number / 10 == device_capability / 10 && number <= device_capability
                                      : number <= device_capability;
    if (runs) return {};
    names += fmt::format("{}sm_{}", names.empty() ? "" : ", ", name);
    at = end + 1;
  }
  return fmt::format(
      "this program has code only for {}, but the GPU is sm_{}: build it with BIQA_CUDA_ARCHITECTURES={} "
      "launch/build.sh cuda",
      names, device_capability, device_capability);
}

void fail_to_allocate(std::size_t bytes, const std::string& label) {
  std::size_t available = 0;
  std::size_t total = 0;
  BIQA_CUDA_CHECK(cudaMemGetInfo(&available, &total));
  fail(
      "cannot allocate {} of the GPU's memory for {}: {} of its {} are free; end other programs on it "
      "(nvidia-smi), or lower the memory use: in a training, objective.micro_batch_tokens, rollout.kv_memory "
      "or rollout.images_per_step; in other programs, --batch, --micro-batch-tokens or the images' "
      "max_pixels",
      bytes_text(bytes), label, bytes_text(available), bytes_text(total));
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
  device_is_open = true;
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
  capability = 10 * major + minor;
  if (const std::string missing = missing_architecture(built_architectures, capability); !missing.empty())
    fail("device cuda: GPU {} cannot run this program: {}", device, missing);
}

std::string device_name() {
  int device = 0;
  BIQA_CUDA_CHECK(cudaGetDevice(&device));
  if (std::string uuid = uuid_of(device); !uuid.empty()) return uuid;
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
    fail_to_allocate(bytes, label_);
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
