// SPDX-License-Identifier: Apache-2.0
// cuBLASLt expects column-major matrices; ours are row-major. A row-major matrix in memory is its transpose in
// column-major order. So the calls compute the transpose of y [out, tokens]. For y = x · weightᵀ they compute weight ·
// xᵀ, and cuBLASLt transposes the stored weightᵀ [in, out]. For y = x · weight they compute weightᵀ · xᵀ, with the
// stored weightᵀ as it is.

#include <cublasLt.h>

#include <algorithm>
#include <compare>
#include <cstdint>
#include <initializer_list>
#include <map>

#include "core/error.h"
#include "ops/cuda/matmul_backend.h"
#include "tensor/cuda/runtime.h"

namespace biqa::cuda {
namespace {

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

/// The alignment in bytes, at most 16, that addresses and row strides of all operands have.
std::uint32_t common_alignment(std::initializer_list<ConstView> operands) {
  std::uintptr_t bits = 16;
  for (const ConstView& operand : operands) {
    bits |= reinterpret_cast<std::uintptr_t>(operand.address());
    bits |= static_cast<std::uintptr_t>(operand.stride()) * size_of(operand.type());
  }
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

/// Everything on which cuBLASLt's choice may depend, except the number of rows.
struct ProductKey {
  DType input, output;
  std::int64_t inner, outer, x_stride, weight_stride, y_stride;
  bool transposed, bias, accumulate;
  std::uint32_t alignment;
  auto operator<=>(const ProductKey&) const = default;
};

class CublasLtMatmul final : public MatmulBackend {
 public:
  explicit CublasLtMatmul(const Stream& stream) : stream_(stream) {
    check_cublas(cublasLtCreate(library_.address()), "cublasLtCreate");
  }

 private:
  void multiply(ConstView x, ConstView weight, bool transposed, ConstView bias, View y,
                bool accumulate) override {
    const ProductKey key{x.type(),
                         y.type(),
                         x.columns(),
                         y.columns(),
                         x.stride(),
                         weight.stride(),
                         y.stride(),
                         transposed,
                         !bias.empty(),
                         accumulate,
                         common_alignment({x, weight, y})};
    Operation operation;
    describe_operation(operation, transposed, bias);
    Layout weight_layout;
    Layout x_layout;
    Layout y_layout;
    describe(weight, weight_layout);
    describe(x, x_layout);
    describe(y, y_layout);
    const cublasLtMatmulAlgo_t& algorithm = algorithm_for(key, operation, weight_layout);
    cublasLtMatmulHeuristicResult_t fit{};
    if (cublasLtMatmulAlgoCheck(library_.get(), operation.get(), weight_layout.get(), x_layout.get(),
                                y_layout.get(), y_layout.get(), &algorithm, &fit) != CUBLAS_STATUS_SUCCESS) {
      fail(
          "cuBLASLt refuses {} rows for its algorithm of the {}x{} product ({}); use another CUDA version or "
          "device cpu",
          x.rows(), key.inner, key.outer, name_of(x.type()));
    }
    const float one = 1.0F;
    const float beta = accumulate ? 1.0F : 0.0F;
    check_cublas(cublasLtMatmul(library_.get(), operation.get(), &one, weight.address(), weight_layout.get(),
                                x.address(), x_layout.get(), &beta, y.address(), y_layout.get(), y.address(),
                                y_layout.get(), &algorithm, nullptr, 0, stream_.get()),
                 "cublasLtMatmul");
  }

  static void describe_operation(Operation& operation, bool transposed, ConstView bias) {
    check_cublas(cublasLtMatmulDescCreate(operation.address(), CUBLAS_COMPUTE_32F, CUDA_R_32F),
                 "cublasLtMatmulDescCreate");
    set(operation, CUBLASLT_MATMUL_DESC_TRANSA, transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (bias.empty()) return;
    set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.address());
    set(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cuda_type(bias.type()));
  }

  /// The only algorithm of a product, for any number of rows. Rows must not depend on their batch, and other algorithms
  /// may round differently. It is cuBLASLt's first answer for kAnchorRows. The answer follows rules, not timings, so
  /// every process gets the same.
  const cublasLtMatmulAlgo_t& algorithm_for(const ProductKey& key, const Operation& operation,
                                            const Layout& weight_layout) {
    const auto found = algorithms_.find(key);
    if (found != algorithms_.end()) return found->second;
    constexpr std::int64_t kAnchorRows = 256;
    Layout x_layout;
    Layout y_layout;
    describe(ConstView(nullptr, key.input, kAnchorRows, key.inner, key.x_stride), x_layout);
    describe(ConstView(nullptr, key.output, kAnchorRows, key.outer, key.y_stride), y_layout);
    Preference preference;
    check_cublas(cublasLtMatmulPreferenceCreate(preference.address()), "cublasLtMatmulPreferenceCreate");
    // No workspace and no division of the inner sum.
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::size_t{0});
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        std::uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      set(preference, attribute, key.alignment);
    }
    cublasLtMatmulHeuristicResult_t choice{};
    int count = 0;
    check_cublas(
        cublasLtMatmulAlgoGetHeuristic(library_.get(), operation.get(), weight_layout.get(), x_layout.get(),
                                       y_layout.get(), y_layout.get(), preference.get(), 1, &choice, &count),
        "cublasLtMatmulAlgoGetHeuristic");
    if (count == 0) {
      fail(
          "cuBLASLt has no algorithm for the {}x{} product of {} (strides {} and {}); use another CUDA "
          "version or device "
          "cpu",
          key.inner, key.outer, name_of(key.input), key.x_stride, key.weight_stride);
    }
    return algorithms_.emplace(key, choice.algo).first->second;
  }

  const Stream& stream_;
  Library library_;
  std::map<ProductKey, cublasLtMatmulAlgo_t> algorithms_;
};

}  // namespace

std::unique_ptr<MatmulBackend> make_matmul_backend(const Stream& stream) {
  return std::make_unique<CublasLtMatmul>(stream);
}

}  // namespace biqa::cuda
