// SPDX-License-Identifier: Apache-2.0
// Single operations on host views, so that tests/ops runs the same cases (op_cases.h) on every backend that has them.
// ops/cpu/cpu_ops.h has formulas and shapes. BIQA_TEST_BACKEND names the backend; without it, it is the CPU.
//
// A further backend implements Operations in support/operations/NAME_operations.cpp, which defines a Registered of its
// name. tests/CMakeLists.txt lists the backends (operation_backends). Each call has finished when it returns. What one Operations
// has packed or stored may be given to another of the same backend and compute type.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "ops/decoder.h"
#include "ops/op_arguments.h"
#include "tensor/tensor.h"

namespace biqa::testing {

class Operations {
 public:
  Operations() = default;
  virtual ~Operations() = default;
  Operations(const Operations&) = delete;
  Operations& operator=(const Operations&) = delete;
  /// Tokens whose keys and values a page holds.
  virtual std::int64_t page_tokens() const = 0;
  /// Pages of one layer, numbered from 0; all of them hold zeros. Keys and values have the compute type.
  virtual std::unique_ptr<KvStore> make_pages(const HeadShape& shape, std::int64_t pages) = 0;
  virtual std::unique_ptr<FrozenLinear> pack(ConstView weight, std::span<const float> bias,
                                             bool backward) = 0;
  virtual void linear(ConstView x, const FrozenLinear& w, View y, bool accumulate = false) = 0;
  virtual void linear_backward(ConstView dy, const FrozenLinear& w, View dx, bool accumulate = false) = 0;
  /// Error of an adapter's products relative to the sizes of their terms, beyond rounding in f32 (docs/numerics.md).
  virtual double lora_error() const { return 0; }
  virtual std::unique_ptr<PackedLora> pack_lora(std::int64_t in, std::span<const LoraFactors> factors) = 0;
  virtual void lora(ConstView x, const PackedLora& lora, const Dropout* dropout, View u, View y) = 0;
  virtual void lora_backward(ConstView x, ConstView u, ConstView dy, const PackedLora& lora,
                             const Dropout* dropout, View d_x, std::span<const LoraGradients> gradients) = 0;
  virtual void rms_norm(ConstView x, ConstView weight, float eps, View y) = 0;
  virtual void rms_norm_backward(ConstView x, ConstView weight, float eps, ConstView dy, View d_x) = 0;
  virtual void swiglu(ConstView gate_up, View h) = 0;
  virtual void swiglu_backward(ConstView gate_up, ConstView dh, View d_gate_up) = 0;
  virtual void gelu(ConstView x, View y) = 0;
  virtual void rotate(View x, std::int64_t head_dim, ConstView cosines, ConstView sines, bool inverse) = 0;
  virtual void convert(ConstView x, View y) = 0;
  virtual void gather_rows(ConstView x, std::span<const std::int64_t> rows, View y) = 0;
  virtual void scatter_add_rows(ConstView x, std::span<const std::int64_t> rows, View y) = 0;
  virtual void scale_rows(ConstView x, std::span<const float> factors, View y) = 0;
  virtual void embed(ConstView table, std::span<const std::int64_t> ids, View x) = 0;
  virtual void write_kv(ConstView k, ConstView v, const HeadShape& shape, std::span<const KvWrite> writes,
                        KvStore& pages) = 0;
  virtual void copy_page(KvStore& pages, std::int32_t from, std::int32_t to) = 0;
  /// Whether attention rounds all factors of its products to bf16: queries, softmax weights, gradients of scores and the
  /// gradient of the output, and in segments keys and values too (docs/numerics.md).
  virtual bool rounds_attention() const { return false; }
  virtual void attention(ConstView q, const KvStore& pages, const HeadShape& shape,
                         std::span<const AttentionRows> sequences, View out, View lse) = 0;
  virtual void attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse,
                                  ConstView d_out, const HeadShape& shape, DType kv_type,
                                  std::span<const SharedPromptRows> groups, View d_q, View d_k, View d_v) = 0;
  virtual void segment_attention(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                                 std::span<const std::int64_t> boundaries, View out) = 0;
  virtual void log_prob(ConstView h, const FrozenLinear& head, std::span<const std::int64_t> targets,
                        float temperature, std::span<float> logp, std::span<float> entropy,
                        View d_hidden) = 0;
  virtual void sample(ConstView h, const FrozenLinear& head, std::span<const SampleRequest> requests,
                      std::span<const std::int64_t> suppressed, std::span<SampledToken> tokens) = 0;
};

/// Creates the operations of a backend. `threads`: for backends that use threads; 0: all that it may use.
using MakeOperations = std::unique_ptr<Operations> (*)(DType compute, int threads);

/// A variable of this type makes a backend known by its name.
struct Registered {
  Registered(const std::string& name, MakeOperations make);
};

/// The backend that the tests run on: BIQA_TEST_BACKEND, or "cpu".
std::string tested_backend();
/// Whether it is the CPU. What only the CPU has is skipped on another backend: threads, instruction sets, packed layouts.
inline bool cpu_is_tested() {
  return tested_backend() == "cpu";
}

/// The operations of tested_backend(). Throws Error if the test was not built with it.
std::unique_ptr<Operations> make_operations(DType compute, int threads);
/// Those of another backend, for comparisons.
std::unique_ptr<Operations> make_operations_of(const std::string& backend, DType compute, int threads);

}  // namespace biqa::testing
