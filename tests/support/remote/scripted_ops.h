// SPDX-License-Identifier: Apache-2.0
// A backend that computes nothing: the decoder says what the test has written, draw by draw, and the vision tower gives
// each cell of a picture the number of the call and, in the last column, the first value of its patches. For tests of what
// happens around a model.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "ops/ops.h"

namespace biqa::testing {

/// What the scripted decoder answers and what it was asked; shared between the test and the backend.
struct Script {
  /// The next token for each draw (SampleRequest::uniform).
  std::map<double, std::int64_t> tokens;
  std::int64_t passes = 0;
  std::vector<std::int64_t> encoded;  ///< patches of each call of the vision tower

  /// A stream's draws give these tokens, the first as draw 0.
  template <typename Stream>
  void say(const Stream& stream, const std::vector<std::int64_t>& ids) {
    for (std::size_t i = 0; i < ids.size(); ++i) tokens[stream.uniform(i)] = ids[i];
  }
};

class ScriptedDecoder final : public Decoder {
 public:
  explicit ScriptedDecoder(std::shared_ptr<Script> script) : script_(std::move(script)) {}
  std::unique_ptr<BatchPlan> plan(const RowBatch& batch) override {
    return std::make_unique<BatchPlan>(batch.rows(), batch.outputs(),
                                       static_cast<std::int64_t>(batch.picks.size()));
  }
  std::unique_ptr<KvStore> make_kv(std::int64_t, std::int64_t) override {
    return std::make_unique<KvStore>();
  }
  void copy_page(KvStore&, std::int32_t, std::int32_t) override {}
  std::shared_ptr<const PackedAdapter> pack_adapter(std::span<const LoraModule>, ConstView flat) override {
    return std::make_shared<PackedAdapter>(static_cast<std::size_t>(flat.size()));
  }
  void forward(const BatchPlan&, KvStore&, const PackedAdapter*, View, const ForwardOptions&) override {
    ++script_->passes;
  }
  void backward(const BatchPlan&, KvStore&, const PackedAdapter&, const Tape&, ConstView, View) override {}
  void log_prob(const BatchPlan&, ConstView, std::span<const std::int64_t>, float, std::span<float>,
                std::span<float>, View) override {}
  void spread_picks(const BatchPlan&, View, std::span<const float>, View) override {}
  std::unique_ptr<SampledTokens> sample(const BatchPlan& plan, ConstView,
                                        std::span<const SampleRequest> requests,
                                        std::span<const std::int64_t>) override {
    CHECK_EQ(static_cast<std::int64_t>(requests.size()), plan.picks);
    auto sampled = std::make_unique<Sampled>();
    for (const SampleRequest& request : requests) {
      const auto token = script_->tokens.find(request.uniform);
      CHECK(token != script_->tokens.end()) << "a draw that the script does not have";
      sampled->tokens.push_back({token->second, -1, 0.5F});
    }
    return sampled;
  }
  void logits(ConstView, View) override {}

 private:
  struct Sampled final : SampledTokens {
    std::span<const SampledToken> wait() override { return tokens; }
    std::vector<SampledToken> tokens;
  };
  std::shared_ptr<Script> script_;
};

class ScriptedVision final : public VisionEncoder {
 public:
  explicit ScriptedVision(std::shared_ptr<Script> script) : script_(std::move(script)) {}
  void encode(const VisionBatch& batch, View features, const Observer*) override {
    script_->encoded.push_back(batch.patches.rows());
    for (float& value : features.span<float>()) value = static_cast<float>(script_->encoded.size());
    const std::int64_t patches_of_cell = batch.patches.rows() / features.rows();
    for (std::int64_t i = 0; i < features.rows(); ++i) {
      const std::int64_t cell = batch.cells[static_cast<std::size_t>(i)];
      features.row<float>(cell)[features.columns() - 1] = batch.patches.row<float>(i * patches_of_cell)[0];
    }
  }

 private:
  std::shared_ptr<Script> script_;
};

/// The host's memory, which says that it is a device's.
class MemoryLikeDevice final : public DeviceMemory {
 public:
  Memory kind() const override { return Memory::device; }
  Tensor allocate(DType type, std::int64_t rows, std::int64_t columns, std::string label) override {
    return host_memory().allocate(type, rows, columns, std::move(label));
  }
  void copy(ConstView from, View to) override { host_memory().copy(from, to); }
  void zero(View values) override { host_memory().zero(values); }
  void wait() override { host_memory().wait(); }
};

class ScriptedOps : public Ops {
 public:
  explicit ScriptedOps(std::shared_ptr<Script> script, bool like_device = false)
      : script_(std::move(script)), like_device_(like_device) {}
  DType compute_type() const override { return DType::f32; }
  DeviceMemory& memory() override { return like_device_ ? device_ : host_memory(); }
  KvLayout kv_layout(const HeadShape&) const override { return {16, 1024}; }
  std::unique_ptr<FrozenLinear> pack(ConstView weight, std::span<const float>, bool) override {
    return std::make_unique<FrozenLinear>(weight.columns(), weight.rows());
  }
  void check_rows(const FrozenLinear&, std::span<const std::int64_t>) override {}
  std::unique_ptr<Decoder> make_decoder(const DecoderShape&, DecoderWeights) override {
    return std::make_unique<ScriptedDecoder>(script_);
  }
  std::unique_ptr<VisionEncoder> make_vision(const VisionShape&, VisionWeights) override {
    return std::make_unique<ScriptedVision>(script_);
  }
  void linear(ConstView, const FrozenLinear&, View, bool) override {}
  double squared_norm(ConstView) override { return 0; }
  void adamw(View, ConstView, View, View, const AdamWStep&) override {}

 private:
  std::shared_ptr<Script> script_;
  bool like_device_;
  MemoryLikeDevice device_;
};

}  // namespace biqa::testing
