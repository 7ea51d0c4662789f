// SPDX-License-Identifier: Apache-2.0
// cuBLASLt is column-major, our matrices row-major: the transpose of y, [out, tokens] column-major, is
// weightᵀ (stored [in, out]) transposed times x's transpose (stored [in, tokens]).
#include "ops/cuda/cublaslt_matmul.h"

#include <cublasLt.h>

#include <algorithm>
#include <cstdint>

#include "core/error.h"

namespace biqa::cuda {
namespace {

/// What Nvidia recommends for Hopper.
constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

void check_cublas(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail("cuBLASLt call {}: {}; check that driver and CUDA libraries are compatible (nvidia-smi)", call,
       cublasLtGetStatusString(status));
}

cudaDataType_t cuda_type(DType type) {
  return type == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

/// A cuBLASLt descriptor with its destructor; `Handle` is one of the library's opaque pointers.
template <typename Handle, cublasStatus_t (*destroy)(Handle)>
class Descriptor {
 public:
  Descriptor() = default;
  ~Descriptor() {
    if (handle_ != nullptr) destroy(handle_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  Handle* address() { return &handle_; }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};
using Library = Descriptor<cublasLtHandle_t, cublasLtDestroy>;
using Operation = Descriptor<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Descriptor<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Descriptor<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

/// The row-major matrix as cuBLASLt's column-major [columns, rows].
void describe(ConstView matrix, Layout& layout) {
  check_cublas(cublasLtMatrixLayoutCreate(
                   layout.address(), cuda_type(matrix.type()), static_cast<std::uint64_t>(matrix.columns()),
                   static_cast<std::uint64_t>(matrix.rows()), std::max<std::int64_t>(matrix.stride(), 1)),
               "cublasLtMatrixLayoutCreate");
}

template <typename Value>
void set(Operation& operation, cublasLtMatmulDescAttributes_t attribute, const Value& value) {
  check_cublas(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof value),
               "cublasLtMatmulDescSetAttribute");
}

template <typename Value>
void set(Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, const Value& value) {
  check_cublas(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value),
               "cublasLtMatmulPreferenceSetAttribute");
}

/// The largest power of two up to 256 that divides the address.
std::uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address) | 256U;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

class CublasLtMatmul final : public MatmulBackend {
 public:
  explicit CublasLtMatmul(const Stream& stream)
      : stream_(stream), workspace_(kWorkspaceBytes, "cuBLASLt workspace") {
    check_cublas(cublasLtCreate(library_.address()), "cublasLtCreate");
  }

 private:
  void multiply(ConstView x, ConstView weight, ConstView bias, View y) override {
    Operation operation;
    check_cublas(cublasLtMatmulDescCreate(operation.address(), CUBLAS_COMPUTE_32F, CUDA_R_32F),
                 "cublasLtMatmulDescCreate");
    set(operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (!bias.empty()) {
      set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.address());
      set(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cuda_type(bias.type()));
    }
    Layout weight_layout;
    Layout x_layout;
    Layout y_layout;
    describe(weight, weight_layout);
    describe(x, x_layout);
    describe(y, y_layout);

    Preference preference;
    check_cublas(cublasLtMatmulPreferenceCreate(preference.address()), "cublasLtMatmulPreferenceCreate");
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_.bytes());
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(weight.address()));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(x.address()));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(y.address()));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(y.address()));
    cublasLtMatmulHeuristicResult_t choice{};
    int found = 0;
    check_cublas(
        cublasLtMatmulAlgoGetHeuristic(library_.get(), operation.get(), weight_layout.get(), x_layout.get(),
                                       y_layout.get(), y_layout.get(), preference.get(), 1, &choice, &found),
        "cublasLtMatmulAlgoGetHeuristic");
    if (found == 0) {
      fail(
          "cuBLASLt has no algorithm for the product of {} x [{}, {}] and weight [{}, {}]: strides {} and "
          "{}; use "
          "device cpu",
          name_of(x.type()), x.rows(), x.columns(), weight.rows(), weight.columns(), x.stride(),
          weight.stride());
    }
    const float one = 1.0F;
    const float zero = 0.0F;
    check_cublas(
        cublasLtMatmul(library_.get(), operation.get(), &one, weight.address(), weight_layout.get(),
                       x.address(), x_layout.get(), &zero, y.address(), y_layout.get(), y.address(),
                       y_layout.get(), &choice.algo, workspace_.data(), workspace_.bytes(), stream_.get()),
        "cublasLtMatmul");
  }

  const Stream& stream_;
  DeviceBuffer workspace_;
  Library library_;
};

}  // namespace

std::unique_ptr<MatmulBackend> make_cublaslt_matmul(const Stream& stream) {
  return std::make_unique<CublasLtMatmul>(stream);
}

}  // namespace biqa::cuda
