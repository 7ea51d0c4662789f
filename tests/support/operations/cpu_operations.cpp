// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/cpu_ops.h"
#include "support/operations.h"

namespace biqa::testing {
namespace {

struct Pages final : KvStore {
  Pages(DType type, const HeadShape& shape, std::int64_t count)
      : storage(type, 1, count * kv_page_elements(shape, type), "test pages"),
        pages{storage.view().data(), type, kv_page_elements(shape, type)} {
    storage.zero();
  }
  Tensor storage;
  KvPages pages;
};

class CpuOperations final : public Operations {
 public:
  CpuOperations(DType compute, int threads) : ops_(compute, threads) {}
  CpuOperations(DType compute, int threads, const cpu::TileSet* tiles) : ops_(compute, threads, tiles) {}
  std::int64_t page_tokens() const override { return kPageTokens; }
  double lora_error() const override { return ops_.uses_tiles() ? 0x1.4p-15 : 0; }
  bool rounds_attention() const override { return ops_.uses_tiles(); }
  std::unique_ptr<KvStore> make_pages(const HeadShape& shape, std::int64_t pages) override {
    return std::make_unique<Pages>(ops_.compute_type(), shape, pages);
  }
  std::unique_ptr<FrozenLinear> pack(ConstView weight, std::span<const float> bias, bool backward) override {
    return ops_.pack(weight, bias, backward);
  }
  void linear(ConstView x, const FrozenLinear& w, View y, bool accumulate) override {
    ops_.linear(x, w, y, accumulate);
  }
  void linear_backward(ConstView dy, const FrozenLinear& w, View dx, bool accumulate) override {
    ops_.linear_backward(dy, w, dx, accumulate);
  }
  std::unique_ptr<PackedLora> pack_lora(std::int64_t in, std::span<const LoraFactors> factors) override {
    return ops_.pack_lora(in, factors);
  }
  void lora(ConstView x, const PackedLora& lora, const Dropout* dropout, View u, View y) override {
    ops_.lora(x, lora, dropout, u, y);
  }
  void lora_backward(ConstView x, ConstView u, ConstView dy, const PackedLora& lora, const Dropout* dropout,
                     View d_x, std::span<const LoraGradients> gradients) override {
    ops_.lora_backward(x, u, dy, lora, dropout, d_x, gradients, scratch_);
  }
  void rms_norm(ConstView x, ConstView weight, float eps, View y) override {
    ops_.rms_norm(x, weight, eps, y);
  }
  void rms_norm_backward(ConstView x, ConstView weight, float eps, ConstView dy, View d_x) override {
    ops_.rms_norm_backward(x, weight, eps, dy, d_x);
  }
  void swiglu(ConstView gate_up, View h) override { ops_.swiglu(gate_up, h); }
  void swiglu_backward(ConstView gate_up, ConstView dh, View d_gate_up) override {
    ops_.swiglu_backward(gate_up, dh, d_gate_up);
  }
  void gelu(ConstView x, View y) override { ops_.gelu(x, y); }
  void rotate(View x, std::int64_t head_dim, ConstView cosines, ConstView sines, bool inverse) override {
    ops_.rotate(x, head_dim, cosines, sines, inverse);
  }
  void convert(ConstView x, View y) override { ops_.convert(x, y); }
  void gather_rows(ConstView x, std::span<const std::int64_t> rows, View y) override {
    ops_.gather_rows(x, rows, y);
  }
  void scatter_add_rows(ConstView x, std::span<const std::int64_t> rows, View y) override {
    ops_.scatter_add_rows(x, rows, y);
  }
  void scale_rows(ConstView x, std::span<const float> factors, View y) override {
    ops_.scale_rows(x, factors, y);
  }
  void embed(ConstView table, std::span<const std::int64_t> ids, View x) override {
    ops_.embed(table, ids, x);
  }
  void write_kv(ConstView k, ConstView v, const HeadShape& shape, std::span<const KvWrite> writes,
                KvStore& pages) override {
    ops_.write_kv(k, v, shape, writes, pages_of(pages));
  }
  void copy_page(KvStore& pages, std::int32_t from, std::int32_t to) override {
    ops_.copy_page(pages_of(pages), from, to);
  }
  void attention(ConstView q, const KvStore& pages, const HeadShape& shape,
                 std::span<const AttentionRows> sequences, View out, View lse) override {
    ops_.attention(q, pages_of(pages), shape, sequences, out, lse);
  }
  void attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse,
                          ConstView d_out, const HeadShape& shape, DType kv_type,
                          std::span<const SharedPromptRows> groups, View d_q, View d_k, View d_v) override {
    ops_.attention_backward(q, k, v, out, lse, d_out, shape, kv_type, groups, d_q, d_k, d_v);
  }
  void segment_attention(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                         std::span<const std::int64_t> boundaries, View out) override {
    ops_.segment_attention(q, k, v, shape, boundaries, out);
  }
  void log_prob(ConstView h, const FrozenLinear& head, std::span<const std::int64_t> targets,
                float temperature, std::span<float> logp, std::span<float> entropy, View d_hidden) override {
    ops_.log_prob(h, head, targets, temperature, logp, entropy, d_hidden, arena_);
  }
  void sample(ConstView h, const FrozenLinear& head, std::span<const SampleRequest> requests,
              std::span<const std::int64_t> suppressed, std::span<SampledToken> tokens) override {
    ops_.sample(h, head, requests, suppressed, tokens, arena_);
  }

 private:
  static const KvPages& pages_of(const KvStore& store) { return dynamic_cast<const Pages&>(store).pages; }

  CpuOps ops_;
  Arena arena_{"test"};
  cpu::Scratch scratch_;
};

const Registered kCpu("cpu", [](DType compute, int threads) -> std::unique_ptr<Operations> {
  return std::make_unique<CpuOperations>(compute, threads);
});

/// Attention and the adapter in bf16 on simulated tile registers, on every machine.
const Registered kSimulatedTiles("simulated_tiles",
                                 [](DType compute, int threads) -> std::unique_ptr<Operations> {
                                   return std::make_unique<CpuOperations>(
                                       compute, threads,
                                       compute == DType::bf16 ? cpu::scalar_tiles() : nullptr);
                                 });
/// Attention and the adapter in vectors, also where the processor has tile registers.
const Registered kVectors("vectors", [](DType compute, int threads) -> std::unique_ptr<Operations> {
  return std::make_unique<CpuOperations>(compute, threads, nullptr);
});

}  // namespace
}  // namespace biqa::testing
