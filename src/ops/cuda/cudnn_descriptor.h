// SPDX-License-Identifier: Apache-2.0
// Objects of cuDNN's backend API, and the check of its status codes. Only cudnn_*.cpp may include this.
#pragma once

#include <cudnn.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>

#include "core/error.h"

namespace biqa::cuda {

/// Throws Error unless `status` is success.
inline void check_cudnn(cudnnStatus_t status, const char* call) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  char reason[512] = "";
  cudnnGetLastErrorString(reason, sizeof reason);
  fail(
      "cuDNN {} call {}: {} ({}); set model.vision_attention: own, or check that driver, CUDA and cuDNN are "
      "compatible (nvidia-smi)",
      cudnnGetVersion(), call, cudnnGetErrorString(status), reason);
}
/// Whether cuDNN says that it cannot do what was asked for, and not that something has failed.
inline bool is_unsupported(cudnnStatus_t status) {
  return CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED;
}

/// One object; move-only. Attributes are set, then finish() is called.
class CudnnDescriptor {
 public:
  explicit CudnnDescriptor(cudnnBackendDescriptorType_t type) {
    check_cudnn(cudnnBackendCreateDescriptor(type, &handle_), "cudnnBackendCreateDescriptor");
  }
  ~CudnnDescriptor() {
    if (handle_ != nullptr) cudnnBackendDestroyDescriptor(handle_);
  }
  CudnnDescriptor(CudnnDescriptor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  CudnnDescriptor& operator=(CudnnDescriptor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  CudnnDescriptor(const CudnnDescriptor&) = delete;
  CudnnDescriptor& operator=(const CudnnDescriptor&) = delete;

  cudnnBackendDescriptor_t get() const { return handle_; }

  /// `values` have the C type that belongs to `type`.
  template <typename T>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::span<const T> values) {
    check_cudnn(cudnnBackendSetAttribute(handle_, name, type, static_cast<std::int64_t>(values.size()),
                                         values.data()),
                "cudnnBackendSetAttribute");
  }
  template <typename T>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const T& value) {
    set(name, type, std::span<const T>(&value, 1));
  }
  void set(cudnnBackendAttributeName_t name, std::int64_t value) { set(name, CUDNN_TYPE_INT64, value); }
  void set(cudnnBackendAttributeName_t name, bool value) { set(name, CUDNN_TYPE_BOOLEAN, value); }
  void set(cudnnBackendAttributeName_t name, cudnnDataType_t value) {
    set(name, CUDNN_TYPE_DATA_TYPE, value);
  }
  void set(cudnnBackendAttributeName_t name, const CudnnDescriptor& value) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, value.handle_);
  }
  void set(cudnnBackendAttributeName_t name, std::span<const std::int64_t> values) {
    set(name, CUDNN_TYPE_INT64, values);
  }

  void finish() { check_cudnn(cudnnBackendFinalize(handle_), "cudnnBackendFinalize"); }
  /// False if cuDNN does not support what was asked for.
  bool finish_if_supported() {
    const cudnnStatus_t status = cudnnBackendFinalize(handle_);
    if (is_unsupported(status)) return false;
    check_cudnn(status, "cudnnBackendFinalize");
    return true;
  }

  /// Reads the first values of an attribute into `values`, at most `room`; returns how many there are to read.
  std::int64_t read(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t room,
                    void* values) const {
    std::int64_t count = 0;
    check_cudnn(cudnnBackendGetAttribute(handle_, name, type, room, &count, values),
                "cudnnBackendGetAttribute");
    return std::min(count, room);
  }

 private:
  cudnnBackendDescriptor_t handle_ = nullptr;
};

}  // namespace biqa::cuda
