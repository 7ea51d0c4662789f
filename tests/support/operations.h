// SPDX-License-Identifier: Apache-2.0
// Single operations on host views, for every backend that has them, so that tests/ops runs the same cases on each.
// BIQA_TEST_BACKEND names the backend (default: cpu). ops/cpu/cpu_ops.h has formulas and shapes.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>

#include "core/error.h"
#include "ops/cpu/cpu_ops.h"

namespace biqa::testing {

class Operations {
 public:
  virtual ~Operations() = default;
  virtual std::unique_ptr<FrozenLinear> pack(ConstView weight, std::span<const float> bias,
                                             bool backward) = 0;
  virtual void linear(ConstView x, const FrozenLinear& w, View y, bool accumulate = false) = 0;
  virtual void linear_backward(ConstView dy, const FrozenLinear& w, View dx, bool accumulate = false) = 0;
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
                        const KvPages& pages) = 0;
  virtual void copy_page(const KvPages& pages, std::int32_t from, std::int32_t to) = 0;
  virtual void attention(ConstView q, const KvPages& pages, const HeadShape& shape,
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

/// Works with any class that has these members, such as the CPU backend.
template <typename Backend>
class OperationsOf final : public Operations {
 public:
  template <typename... Arguments>
  explicit OperationsOf(Arguments... arguments) : b_(arguments...) {}
  std::unique_ptr<FrozenLinear> pack(ConstView weight, std::span<const float> bias, bool backward) override {
    return b_.pack(weight, bias, backward);
  }
  void linear(ConstView x, const FrozenLinear& w, View y, bool accumulate) override {
    b_.linear(x, w, y, accumulate);
  }
  void linear_backward(ConstView dy, const FrozenLinear& w, View dx, bool accumulate) override {
    b_.linear_backward(dy, w, dx, accumulate);
  }
  std::unique_ptr<PackedLora> pack_lora(std::int64_t in, std::span<const LoraFactors> factors) override {
    return b_.pack_lora(in, factors);
  }
  void lora(ConstView x, const PackedLora& lora, const Dropout* dropout, View u, View y) override {
    b_.lora(x, lora, dropout, u, y);
  }
  void lora_backward(ConstView x, ConstView u, ConstView dy, const PackedLora& lora, const Dropout* dropout,
                     View d_x, std::span<const LoraGradients> gradients) override {
    b_.lora_backward(x, u, dy, lora, dropout, d_x, gradients);
  }
  void rms_norm(ConstView x, ConstView weight, float eps, View y) override { b_.rms_norm(x, weight, eps, y); }
  void rms_norm_backward(ConstView x, ConstView weight, float eps, ConstView dy, View d_x) override {
    b_.rms_norm_backward(x, weight, eps, dy, d_x);
  }
  void swiglu(ConstView gate_up, View h) override { b_.swiglu(gate_up, h); }
  void swiglu_backward(ConstView gate_up, ConstView dh, View d_gate_up) override {
    b_.swiglu_backward(gate_up, dh, d_gate_up);
  }
  void gelu(ConstView x, View y) override { b_.gelu(x, y); }
  void rotate(View x, std::int64_t head_dim, ConstView cosines, ConstView sines, bool inverse) override {
    b_.rotate(x, head_dim, cosines, sines, inverse);
  }
  void convert(ConstView x, View y) override { b_.convert(x, y); }
  void gather_rows(ConstView x, std::span<const std::int64_t> rows, View y) override {
    b_.gather_rows(x, rows, y);
  }
  void scatter_add_rows(ConstView x, std::span<const std::int64_t> rows, View y) override {
    b_.scatter_add_rows(x, rows, y);
  }
  void scale_rows(ConstView x, std::span<const float> factors, View y) override {
    b_.scale_rows(x, factors, y);
  }
  void embed(ConstView table, std::span<const std::int64_t> ids, View x) override { b_.embed(table, ids, x); }
  void write_kv(ConstView k, ConstView v, const HeadShape& shape, std::span<const KvWrite> writes,
                const KvPages& pages) override {
    b_.write_kv(k, v, shape, writes, pages);
  }
  void copy_page(const KvPages& pages, std::int32_t from, std::int32_t to) override {
    b_.copy_page(pages, from, to);
  }
  void attention(ConstView q, const KvPages& pages, const HeadShape& shape,
                 std::span<const AttentionRows> sequences, View out, View lse) override {
    b_.attention(q, pages, shape, sequences, out, lse);
  }
  void attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse,
                          ConstView d_out, const HeadShape& shape, DType kv_type,
                          std::span<const SharedPromptRows> groups, View d_q, View d_k, View d_v) override {
    b_.attention_backward(q, k, v, out, lse, d_out, shape, kv_type, groups, d_q, d_k, d_v);
  }
  void segment_attention(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                         std::span<const std::int64_t> boundaries, View out) override {
    b_.segment_attention(q, k, v, shape, boundaries, out);
  }
  void log_prob(ConstView h, const FrozenLinear& head, std::span<const std::int64_t> targets,
                float temperature, std::span<float> logp, std::span<float> entropy, View d_hidden) override {
    b_.log_prob(h, head, targets, temperature, logp, entropy, d_hidden);
  }
  void sample(ConstView h, const FrozenLinear& head, std::span<const SampleRequest> requests,
              std::span<const std::int64_t> suppressed, std::span<SampledToken> tokens) override {
    b_.sample(h, head, requests, suppressed, tokens);
  }

 private:
  Backend b_;
};

/// `threads`: for backends that use threads.
inline std::unique_ptr<Operations> make_operations(DType compute, int threads) {
  const char* name = std::getenv("BIQA_TEST_BACKEND");
  if (name == nullptr || std::string(name) == "cpu")
    return std::make_unique<OperationsOf<CpuOps>>(compute, threads);
  fail("no backend {} in this build", name);
}

}  // namespace biqa::testing
