// SPDX-License-Identifier: Apache-2.0
// cuBLASLt expects column-major matrices; ours are row-major. A row-major matrix in memory is its transpose in
// column-major order. So the calls compute the transpose of y [out, tokens]. For y = x · weightᵀ they compute weight ·
// xᵀ, and cuBLASLt transposes the stored weightᵀ [in, out]. For y = x · weight they compute weightᵀ · xᵀ, with the
// stored weightᵀ as it is.

#include <cublasLt.h>

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

#include "core/error.h"
#include "ops/cuda/product_library.h"
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

cublasLtMatmulAlgo_t library_words(const Algorithm& algorithm) {
  cublasLtMatmulAlgo_t result{};
  static_assert(sizeof result.data == sizeof algorithm.words);
  std::memcpy(&result.data[0], algorithm.words.data(), sizeof result.data);
  return result;
}

Algorithm own_words(const cublasLtMatmulAlgo_t& algorithm) {
  Algorithm result;
  std::memcpy(result.words.data(), &algorithm.data[0], sizeof algorithm.data);
  return result;
}

void describe_operation(Operation& operation, bool transposed) {
  check_cublas(cublasLtMatmulDescCreate(operation.address(), CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "cublasLtMatmulDescCreate");
  set(operation, CUBLASLT_MATMUL_DESC_TRANSA, transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
}

void add_bias(Operation& operation, const void* address, DType type) {
  set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, address);
  set(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cuda_type(type));
}

/// Without a workspace, the inner sum is not divided either.
void describe_preference(Preference& preference, std::uint32_t alignment, std::size_t workspace_bytes) {
  check_cublas(cublasLtMatmulPreferenceCreate(preference.address()), "cublasLtMatmulPreferenceCreate");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  if (workspace_bytes == 0)
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        std::uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    set(preference, attribute, alignment);
  }
}

class CublasLt final : public ProductLibrary {
 public:
  CublasLt(const Stream& stream, std::size_t workspace_bytes)
      : stream_(stream), workspace_(workspace_bytes, "product workspace") {
    check_cublas(cublasLtCreate(library_.address()), "cublasLtCreate");
  }

  std::string version() const override { return fmt::format("cuBLASLt {}", cublasLtGetVersion()); }

  std::vector<Algorithm> candidates(const Product& product, std::int64_t rows, int most) override {
    Operation operation;
    describe_operation(operation, product.transposed);
    // Nothing is read from this address. As that of a real bias, it is not null and a multiple of 256.
    if (product.bias) add_bias(operation, reinterpret_cast<const void*>(std::uintptr_t{256}), product.output);
    const auto shape = [](DType type, std::int64_t count, std::int64_t columns, std::int64_t stride) {
      return ConstView(nullptr, type, count, columns, stride);
    };
    Layout weight_layout;
    Layout x_layout;
    Layout y_layout;
    const std::int64_t weight_rows = product.transposed ? product.outer : product.inner;
    const std::int64_t weight_columns = product.transposed ? product.inner : product.outer;
    describe(shape(product.input, weight_rows, weight_columns, product.weight_stride), weight_layout);
    describe(shape(product.input, rows, product.inner, product.x_stride), x_layout);
    describe(shape(product.output, rows, product.outer, product.y_stride), y_layout);
    Preference preference;
    describe_preference(preference, product.alignment, workspace_.bytes());
    std::vector<cublasLtMatmulHeuristicResult_t> answers(static_cast<std::size_t>(most));
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        library_.get(), operation.get(), weight_layout.get(), x_layout.get(), y_layout.get(), y_layout.get(),
        preference.get(), most, answers.data(), &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return {};
    check_cublas(status, "cublasLtMatmulAlgoGetHeuristic");
    std::vector<Algorithm> result;
    for (const cublasLtMatmulHeuristicResult_t& answer :
         std::span(answers).first(static_cast<std::size_t>(count))) {
      if (answer.state == CUBLAS_STATUS_SUCCESS) result.push_back(own_words(answer.algo));
    }
    return result;
  }

  bool multiply(const ProductOperands& operands, const Algorithm& algorithm) override {
    const auto& [x, weight, bias, y, transposed, accumulate] = operands;
    Operation operation;
    describe_operation(operation, transposed);
    if (!bias.empty()) add_bias(operation, bias.address(), bias.type());
    Layout weight_layout;
    Layout x_layout;
    Layout y_layout;
    describe(weight, weight_layout);
    describe(x, x_layout);
    describe(y, y_layout);
    const cublasLtMatmulAlgo_t words = library_words(algorithm);
    cublasLtMatmulHeuristicResult_t fit{};
    if (cublasLtMatmulAlgoCheck(library_.get(), operation.get(), weight_layout.get(), x_layout.get(),
                                y_layout.get(), y_layout.get(), &words, &fit) != CUBLAS_STATUS_SUCCESS ||
        fit.workspaceSize > workspace_.bytes()) {
      return false;
    }
    const float one = 1.0F;
    const float beta = accumulate ? 1.0F : 0.0F;
    const cublasStatus_t status =
        cublasLtMatmul(library_.get(), operation.get(), &one, weight.address(), weight_layout.get(),
                       x.address(), x_layout.get(), &beta, y.address(), y_layout.get(), y.address(),
                       y_layout.get(), &words, workspace_.data(), workspace_.bytes(), stream_.get());
    // The check above does not find everything that the call refuses.
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return false;
    check_cublas(status, "cublasLtMatmul");
    return true;
  }

 private:
  const Stream& stream_;
  DeviceBuffer workspace_;
  Library library_;
};

}  // namespace

std::unique_ptr<ProductLibrary> make_product_library(const Stream& stream) {
  return std::make_unique<CublasLt>(stream, 0);
}

std::unique_ptr<ProductLibrary> make_free_product_library(const Stream& stream) {
  return std::make_unique<CublasLt>(stream, std::size_t{32} << 20);
}

}  // namespace biqa::cuda
