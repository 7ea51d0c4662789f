// SPDX-License-Identifier: Apache-2.0
// Owners of CUDA resources, and the check of CUDA's status codes. Private to the cuda/ and nccl/ folders. Only
// copies and kernels may use the address of device memory.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "tensor/tensor.h"

namespace biqa::cuda {

/// Throws Error unless `status` is success. The message contains the call, CUDA's error text and the source line.
void check(cudaError_t status, const char* call, const char* file, int line);

/// The architectures that this program has code for, such as "80 90a". Empty: any (the emulator). Tests set it.
extern std::string_view built_architectures;
/// Why a program with code for `built` cannot run on a device with this compute capability (86 for 8.6), and what to do.
/// Empty: it can. Code for a plain number runs on all later devices, because the driver translates it.
std::string missing_architecture(std::string_view built, int device_capability);
/// Throws the Error that says that device memory is used up.
[[noreturn]] void fail_to_allocate(std::size_t bytes, const std::string& label);

/// Selects CUDA device `local_rank` modulo the number of devices. A process that sees only one device selects that
/// device, whatever its rank. Throws Error with advice if no device works.
void select_device(int local_rank);
/// UUID of the selected device, as nvidia-smi -L prints it. If the driver gives none, its PCI address.
std::string device_name();
/// The selected device's type: its maker's name, compute capability and number of multiprocessors.
std::string device_type();
/// The newest version of CUDA that the driver supports.
std::string driver_version();
/// The selected device: its maker's name, and its memory now.
struct Device {
  std::string name;
  std::int64_t total_bytes = 0, free_bytes = 0;
};
Device selected_device();

/// A non-blocking stream; move-only. Work is ordered only within it, not with the default stream.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(Stream&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return handle_; }
  /// Waits for all work in the stream. Throws the Error of failed work.
  void synchronise() const;

 private:
  cudaStream_t handle_ = nullptr;
};

/// If set, it is called with the label of every allocation. The tests' emulator uses the label to name memory in its
/// reports.
inline void (*observe_label)(const void* data, const std::string& label) = nullptr;

/// Device memory with a label; move-only. Throws Error if the device has not enough memory.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(std::size_t bytes, std::string label);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  const std::string& label() const { return label_; }

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(label_, other.label_);
  }
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::string label_;
};

/// A dense matrix [rows, columns] in device memory; elements start uninitialised.
class DeviceTensor {
 public:
  DeviceTensor() = default;
  DeviceTensor(DType type, std::int64_t rows, std::int64_t columns, std::string label)
      : buffer_(static_cast<std::size_t>(rows * columns) * size_of(type), std::move(label)),
        type_(type),
        rows_(rows),
        columns_(columns) {}

  View view() const { return {buffer_.data(), type_, rows_, columns_, columns_, Memory::device}; }

 private:
  DeviceBuffer buffer_;
  DType type_ = DType::f32;
  std::int64_t rows_ = 0, columns_ = 0;
};

/// Enqueues a copy between host and device memory of the same type and shape. Both sides must be dense. Do not touch
/// the host side until the stream has been synchronised.
void copy_to_device(ConstView host, View device, const Stream& stream);
void copy_to_host(ConstView device, View host, const Stream& stream);

}  // namespace biqa::cuda

#define BIQA_CUDA_CHECK(call) ::biqa::cuda::check((call), #call, __FILE__, __LINE__)
