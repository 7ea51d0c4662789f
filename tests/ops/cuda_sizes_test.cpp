// SPDX-License-Identifier: Apache-2.0
// The sizes of the decoder's passes against what the CUDA backend allocates for them in the emulator. They are exact.
#include "ops/cuda_sizes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>

#include "ops/cuda/cuda_ops.h"
#include "tensor/device_use.h"

namespace biqa {
namespace {

constexpr std::int64_t kPrompt = 20, kMembers = 3, kCompletion = 4;
constexpr std::int64_t kRows = kPrompt + kMembers * kCompletion, kOutputs = 1 + kMembers * kCompletion;

/// So wide that the adapter's sums are made of parts, which take memory: two over `hidden`, one over `intermediate`.
constexpr DecoderShape kShape{.layers = 2,
                              .hidden = 1024,
                              .intermediate = 48,
                              .vocabulary = 50,
                              .heads = {4, 2, 16},
                              .rms_eps = 1e-6F,
                              .rope_theta = 10000,
                              .mrope_section = {2, 3, 3}};
constexpr std::int64_t kQ = 4 * 16, kKv = 2 * 16;

/// What work allocates at most, besides what is there before it.
template <typename Work>
std::int64_t peak_of(const Work& work) {
  restart_memory_peaks();
  const std::size_t before = device_memory_total().now;
  work();
  return static_cast<std::int64_t>(device_memory_total().peak - before);
}

Tensor zeros(Ops& ops, DType type, std::int64_t rows, std::int64_t columns) {
  Tensor values = ops.memory().allocate(type, rows, columns, "test");
  ops.memory().zero(values.view());
  return values;
}

std::unique_ptr<Decoder> make_decoder(Ops& ops) {
  const auto linear = [&](std::int64_t out, std::int64_t in) {
    Tensor weight(DType::f32, out, in, "test");
    weight.zero();
    return ops.pack(weight.const_view(), {}, true);
  };
  DecoderWeights weights;
  weights.embedding = zeros(ops, ops.compute_type(), kShape.vocabulary, kShape.hidden);
  weights.final_norm = zeros(ops, DType::f32, 1, kShape.hidden);
  weights.head = linear(kShape.vocabulary, kShape.hidden);
  for (std::int64_t l = 0; l < kShape.layers; ++l) {
    DecoderWeights::Layer& layer = weights.layers.emplace_back();
    layer.input_norm = zeros(ops, DType::f32, 1, kShape.hidden);
    layer.middle_norm = zeros(ops, DType::f32, 1, kShape.hidden);
    layer.qkv = linear(kQ + 2 * kKv, kShape.hidden);
    layer.o = linear(kShape.hidden, kQ);
    layer.gate_up = linear(2 * kShape.intermediate, kShape.hidden);
    layer.down = linear(kShape.hidden, kShape.intermediate);
  }
  return ops.make_decoder(kShape, std::move(weights));
}

struct Adapter {
  std::vector<LoraModule> modules;
  std::int64_t values = 0;
};
/// All projections but k and up; ranks differ.
Adapter make_adapter() {
  Adapter adapter;
  const auto add = [&](std::int64_t layer, Projection projection, std::int64_t rank, std::int64_t in,
                       std::int64_t out) {
    const auto at = static_cast<std::size_t>(adapter.values);
    adapter.modules.push_back(
        {layer, projection, rank, in, out, 1.0F, at, at + static_cast<std::size_t>(rank * in)});
    adapter.values += rank * (in + out);
  };
  for (std::int64_t layer = 0; layer < kShape.layers; ++layer) {
    add(layer, Projection::q, 8, kShape.hidden, kQ);
    add(layer, Projection::v, 3, kShape.hidden, kKv);
    add(layer, Projection::o, 5, kQ, kShape.hidden);
    add(layer, Projection::gate, 7, kShape.hidden, kShape.intermediate);
    add(layer, Projection::down, 6, kShape.intermediate, kShape.hidden);
  }
  return adapter;
}

/// A prompt and its completions. The first page of a completion is its own: what was before is zeros.
RowBatch group() {
  RowBatch batch;
  std::int32_t row = 0;
  const auto add = [&](std::int32_t rows, std::int32_t preceding, std::int64_t outputs) {
    const auto page = static_cast<std::int32_t>(batch.sequences.size());
    batch.sequences.push_back({row, rows, preceding, outputs, {page}});
    for (std::int32_t i = 0; i < rows; ++i, ++row) {
      batch.ids.push_back(row % kShape.vocabulary);
      batch.positions.push_back({preceding + i, preceding + i, preceding + i});
      batch.writes.push_back({row, page, preceding + i});
      batch.token_keys.push_back(static_cast<std::uint64_t>(row));
    }
  };
  add(kPrompt, 0, 1);
  GroupRows& members = batch.groups.emplace_back();
  for (std::size_t m = 0; m < kMembers; ++m) {
    add(kCompletion, kPrompt, kCompletion);
    members.members.push_back(m + 1);
  }
  for (std::int64_t output = 0; output < kOutputs; ++output) batch.picks.push_back(output);
  return batch;
}

class CudaSizes : public ::testing::TestWithParam<DType> {
 protected:
  CudaSizes()
      : ops_(GetParam()),
        decoder_(make_decoder(ops_)),
        adapter_(make_adapter()),
        sizes_(kShape, GetParam(), adapter_.modules),
        kv_(decoder_->make_kv(1 + kMembers, 1)),
        plan_(decoder_->plan(group())) {}
  std::shared_ptr<const PackedAdapter> pack() {
    const Tensor flat = zeros(ops_, DType::f32, 1, adapter_.values);
    return decoder_->pack_adapter(adapter_.modules, flat.view());
  }
  static BatchSize batch(bool dropout) { return {kRows, kOutputs, kOutputs, 1 + kMembers, 4, true, dropout}; }

  cuda::CudaOps ops_;
  std::unique_ptr<Decoder> decoder_;
  Adapter adapter_;
  CudaDecoderSizes sizes_;
  std::unique_ptr<KvStore> kv_;
  std::unique_ptr<BatchPlan> plan_;
};
INSTANTIATE_TEST_SUITE_P(Types, CudaSizes, ::testing::Values(DType::f32, DType::bf16));

TEST_P(CudaSizes, Packing) {
  std::shared_ptr<const PackedAdapter> packed;
  const std::size_t before = device_memory_total().now;
  EXPECT_EQ(peak_of([&] { packed = pack(); }), sizes_.adapter() + sizes_.packing());
  EXPECT_EQ(static_cast<std::int64_t>(device_memory_total().now - before), sizes_.adapter());
}

TEST_P(CudaSizes, ForwardOfARollout) {
  const auto packed = pack();
  Tensor hidden = zeros(ops_, GetParam(), kOutputs, kShape.hidden);
  const std::int64_t most =
      peak_of([&] { decoder_->forward(*plan_, *kv_, packed.get(), hidden.view(), {}); });
  EXPECT_EQ(most, sizes_.forward(batch(false)));
}

TEST_P(CudaSizes, Training) {
  const auto packed = pack();
  Tensor hidden = zeros(ops_, GetParam(), kOutputs, kShape.hidden);
  Tensor d_hidden = zeros(ops_, DType::f32, kOutputs, kShape.hidden);
  Tensor gradient = zeros(ops_, DType::f32, 1, adapter_.values);
  for (const int variant : {0, 1, 2, 3}) {
    const bool recompute = variant > 1;
    const bool dropout = variant % 2 == 1;
    SCOPED_TRACE(::testing::Message() << "recompute " << recompute << ", dropout " << dropout);
    const CudaDecoderSizes::Training planned = sizes_.training(batch(dropout), recompute);
    const DropoutKey key{dropout ? 0.1 : 0, 5};
    std::unique_ptr<Tape> tape;
    EXPECT_EQ(peak_of([&] {
                decoder_->forward(*plan_, *kv_, packed.get(), hidden.view(), {&tape, recompute, key});
              }),
              planned.tape + planned.forward);
    EXPECT_EQ(peak_of([&] {
                decoder_->backward(*plan_, *kv_, *packed, *tape, d_hidden.const_view(), gradient.view());
              }),
              planned.backward);
  }
}

}  // namespace
}  // namespace biqa
