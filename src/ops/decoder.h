// SPDX-License-Identifier: Apache-2.0
// The language model in a backend. One call is a whole forward or backward pass over packed rows. So a backend can plan
// a batch once, choose the layout of its activations and fuse operations. ops/cpu/cpu_decoder.cpp is the CPU's version.
// ops/ops.h has the rules of order and waiting.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "ops/adapter.h"
#include "ops/batch.h"
#include "ops/frozen_linear.h"
#include "tensor/tensor.h"

namespace biqa {

struct DecoderShape {
  std::int64_t layers = 0, hidden = 0, intermediate = 0, vocabulary = 0;
  HeadShape heads;
  float rms_eps = 0;
  double rope_theta = 0;
  std::array<std::int64_t, 3>
      mrope_section{};  ///< number of frequencies of the temporal, height and width coordinates
};

/// Norms [1, hidden] f32 and the embedding [vocabulary, hidden] of the compute type are in the backend's memory.
struct DecoderWeights {
  struct Layer {
    Tensor input_norm, middle_norm;
    std::unique_ptr<FrozenLinear> qkv, o, gate_up, down;  ///< q, k, v and gate, up stacked row by row
  };
  Tensor embedding, final_norm;
  std::vector<Layer> layers;
  std::unique_ptr<FrozenLinear> head;
};

/// A batch in the backend's own form. It is made once and used by every layer, forward and backward.
class BatchPlan {
 public:
  BatchPlan(std::int64_t row_count, std::int64_t output_count, std::int64_t pick_count)
      : rows(row_count), outputs(output_count), picks(pick_count) {}
  virtual ~BatchPlan() = default;
  BatchPlan(const BatchPlan&) = delete;
  BatchPlan& operator=(const BatchPlan&) = delete;
  const std::int64_t rows, outputs, picks;
};

/// Keys and values of some layers in pages, in the backend's own layout.
class KvStore {
 public:
  KvStore() = default;
  virtual ~KvStore() = default;
  KvStore(const KvStore&) = delete;
  KvStore& operator=(const KvStore&) = delete;
};

/// One version of an adapter in the backend's own layout.
class PackedAdapter {
 public:
  explicit PackedAdapter(std::size_t value_count) : values(value_count) {}
  virtual ~PackedAdapter() = default;
  PackedAdapter(const PackedAdapter&) = delete;
  PackedAdapter& operator=(const PackedAdapter&) = delete;
  const std::size_t values;  ///< size of its flat vector and of the gradient
};

/// Values that a forward pass keeps for its backward pass.
class Tape {
 public:
  Tape() = default;
  virtual ~Tape() = default;
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;
};

/// Inverted dropout on the adapter's inputs in a training pass; rate 0 is none. `key` is mixed from seed and step. Four
/// inputs of a layer feed projections: 0 (q, k, v), 1 (o), 2 (gate, up), 3 (down). Every adapted projection drops
/// elements of its input independently. Element `column` is kept if u >= rate, and is then scaled by 1/(1 − rate). u is
/// a word of a random stream (core/random.h), divided by 2^32: word column mod 4 of block column div 4. The stream of a
/// row is {mix64(key ^ mix64(4·layer + input)), n, the row's token key}. n counts the adapted projections of the input
/// in the order above, from 0.
struct DropoutKey {
  double rate = 0;
  std::uint64_t key = 0;
};

struct ForwardOptions {
  std::unique_ptr<Tape>* tape = nullptr;  ///< receives what backward() needs
  bool recompute = false;                 ///< the tape keeps only each layer's input
  DropoutKey dropout{};
};

/// Parameters of the choice of the next token. `greedy` takes the largest logit, the lowest id among equals. Otherwise
/// each id has the weight exp(logit/temperature), or 0 if top-k or top-p excludes it. The weights are summed in the
/// order of the ids. The token is the first id whose cumulative weight exceeds `uniform` times the total.
struct SampleRequest {
  float temperature = 1.0F;
  std::int32_t top_k = 0;  ///< 0: off
  float top_p = 1.0F;      ///< 1: off
  bool greedy = false;
  double uniform = 0.5;  ///< the draw, in (0, 1)
};
struct SampledToken {
  std::int64_t id = 0;
  float logp = 0;     ///< log-probability under the full softmax at the sampling temperature
  float entropy = 0;  ///< of that softmax, in nats
};

/// Sampled tokens that the device may still be computing.
class SampledTokens {
 public:
  SampledTokens() = default;
  virtual ~SampledTokens() = default;
  SampledTokens(const SampledTokens&) = delete;
  SampledTokens& operator=(const SampledTokens&) = delete;
  /// Whether wait() returns without waiting.
  virtual bool ready() { return true; }
  /// One token per pick, in order; waits for them. Throws Error if the network's output is not finite. A backend that
  /// samples at once throws this Error in sample().
  virtual std::span<const SampledToken> wait() = 0;
};

class Decoder {
 public:
  Decoder() = default;
  virtual ~Decoder() = default;
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  /// The batch is read before this returns, except for the elements of its features.
  virtual std::unique_ptr<BatchPlan> plan(const RowBatch& batch) = 0;
  /// A store of `pages` pages for each of `layers` layers. If the decoder has more layers, layer l uses the place l mod
  /// `layers`. Training stores one layer at a time; a rollout stores all. Throws Error if there is not enough memory.
  virtual std::unique_ptr<KvStore> make_kv(std::int64_t pages, std::int64_t layers) = 0;
  /// Copies a page in every stored layer.
  virtual void copy_page(KvStore& kv, std::int32_t from, std::int32_t to) = 0;
  /// `flat` [1, n] f32 in the backend's memory has A and B of every module.
  virtual std::shared_ptr<const PackedAdapter> pack_adapter(std::span<const LoraModule> modules,
                                                            ConstView flat) = 0;

  /// hidden [outputs, hidden] (compute type, backend's memory) = hidden states after the final norm. Image features are
  /// first rounded to the compute type.
  virtual void forward(const BatchPlan& plan, KvStore& kv, const PackedAdapter* adapter, View hidden,
                       const ForwardOptions& options) = 0;
  /// gradient [1, n] f32 += the adapter's gradient, given d_hidden [outputs, hidden] f32; both in the backend's memory.
  /// Plan, store and adapter must be those of the forward that wrote the tape.
  virtual void backward(const BatchPlan& plan, KvStore& kv, const PackedAdapter& adapter, const Tape& tape,
                        ConstView d_hidden, View gradient) = 0;

  /// For every pick: the log-probability of its target under softmax(logits / temperature), and the entropy of that
  /// softmax in nats. Unless d_picked is empty, d_picked [picks, hidden] f32 = ∂logp/∂hidden. The loss's gradient with
  /// respect to the hidden states is linear in the loss's derivative with respect to logp. So one pass over the
  /// vocabulary serves forward and backward. Only the logits of a chunk of rows are in memory. Waits.
  virtual void log_prob(const BatchPlan& plan, ConstView hidden, std::span<const std::int64_t> targets,
                        float temperature, std::span<float> logp, std::span<float> entropy,
                        View d_picked) = 0;
  /// d_hidden [outputs, hidden] f32 = Σ factors[i] · d_picked[i] over the picks of each output, in order. Overwrites
  /// d_picked.
  virtual void spread_picks(const BatchPlan& plan, View d_picked, std::span<const float> factors,
                            View d_hidden) = 0;
  /// One token per pick; `suppressed` ids are never chosen but count in the softmax.
  virtual std::unique_ptr<SampledTokens> sample(const BatchPlan& plan, ConstView hidden,
                                                std::span<const SampleRequest> requests,
                                                std::span<const std::int64_t> suppressed) = 0;
  /// logits [rows, vocabulary] f32 of hidden [rows, hidden]; both in the backend's memory. For traces.
  virtual void logits(ConstView hidden, View logits) = 0;
};

}  // namespace biqa
