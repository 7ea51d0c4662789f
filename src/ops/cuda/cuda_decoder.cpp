// SPDX-License-Identifier: Apache-2.0
// The language model on a CUDA device: embedding, decoder layers, final norm and head, forward and backward.
#include <array>
#include <optional>
#include <utility>

#include "core/random.h"
#include "ops/cuda/cuda_adapter.h"
#include "ops/cuda/cuda_head.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/cuda_plan.h"
#include "ops/cuda/tile_heads.h"
#include "ops/cuda/tile_swiglu.h"
#include "tensor/arena.h"

namespace biqa::cuda {
namespace {

struct CudaTape final : Tape {
  explicit CudaTape(DeviceMemory& memory) : storage("activations", memory) {}
  Arena storage;
  std::vector<LayerRecord> layers;
  View final_input;  // [outputs, hidden] f32
  bool recompute = false;
  DropoutKey dropout;
};

struct CudaKv final : KvStore {
  CudaKv(CudaMemory& memory, DType type, std::int64_t pages, std::int64_t layers, std::int64_t elements)
      : storage(memory.allocate(type, layers, pages * elements, "kv_cache")), page_elements(elements) {
    memory.zero(storage.view());
  }
  KvPages layer(std::int64_t index) {
    const View row = storage.view().row_range(index % storage.rows(), 1);
    return {row.address(), storage.type(), page_elements};
  }
  Tensor storage;  // [layers, pages · page_elements]
  std::int64_t page_elements;
};

/// Data shared by all layers of a pass.
struct Pass {
  const CudaPlan& plan;
  CudaKv& kv;
  const CudaAdapter* adapter;
  DropoutKey dropout;
  Arena& arena;
};

class CudaDecoder final : public Decoder {
 public:
  CudaDecoder(CudaOps& ops, const DecoderShape& shape, DecoderWeights weights)
      : ops_(ops),
        memory_(ops.device_memory()),
        stream_(ops.stream()),
        shape_(shape),
        weights_(std::move(weights)),
        rotary_(shape.heads.head_dim, shape.rope_theta, shape.mrope_section),
        head_(ops, *weights_.head) {
    const LayerSize size(shape_, ops.compute_type(), tiles_fit(shape_.heads, ops.compute_type()), 1, 1);
    for (const DecoderWeights::Layer& layer : weights_.layers) {
      as_cuda(*layer.qkv).result = size.projected;
      as_cuda(*layer.gate_up).result = size.wide;
      as_cuda(*layer.down).input_gradient = size.wide;
    }
  }

  std::unique_ptr<BatchPlan> plan(const RowBatch& batch) override {
    return std::make_unique<CudaPlan>(batch, rotary_, shape_.heads, ops_.compute_type(), shape_.vocabulary,
                                      memory_);
  }
  std::unique_ptr<KvStore> make_kv(std::int64_t pages, std::int64_t layers) override {
    return std::make_unique<CudaKv>(memory_, ops_.compute_type(), pages, layers,
                                    kv_page_elements(shape_.heads));
  }
  void copy_page(KvStore& kv, std::int32_t from, std::int32_t to) override {
    auto& store = dynamic_cast<CudaKv&>(kv);
    for (std::int64_t layer = 0; layer < store.storage.rows(); ++layer) {
      cuda::copy_page(store.layer(layer), from, to, stream_);
    }
  }
  std::shared_ptr<const PackedAdapter> pack_adapter(std::span<const LoraModule> modules,
                                                    ConstView flat) override;

  void forward(const BatchPlan& plan, KvStore& kv, const PackedAdapter* adapter, View hidden,
               const ForwardOptions& options) override;
  void backward(const BatchPlan& plan, KvStore& kv, const PackedAdapter& adapter, const Tape& tape,
                ConstView d_hidden, View gradient) override;

  void log_prob(const BatchPlan& plan, ConstView hidden, std::span<const std::int64_t> targets,
                float temperature, std::span<float> logp, std::span<float> entropy, View d_picked) override {
    Arena arena("activations", memory_);
    head_.log_prob(picked(plan, hidden, arena), targets, temperature, logp, entropy, d_picked);
  }
  void spread_picks(const BatchPlan& plan, View d_picked, std::span<const float> factors,
                    View d_hidden) override {
    Upload upload;
    const auto place = upload.add(std::vector<float>(factors.begin(), factors.end()));
    upload.commit(memory_, "activations");
    scale_rows(d_picked, upload.at(place), d_picked, stream_);
    memory_.zero(d_hidden);
    add_rows(d_picked, dynamic_cast<const CudaPlan&>(plan).pick_sums, d_hidden, stream_);
  }
  std::unique_ptr<SampledTokens> sample(const BatchPlan& plan, ConstView hidden,
                                        std::span<const SampleRequest> requests,
                                        std::span<const std::int64_t> suppressed) override {
    Arena arena("activations", memory_);
    return head_.sample(picked(plan, hidden, arena), requests, suppressed);
  }
  void logits(ConstView hidden, View logits) override { ops_.linear(hidden, *weights_.head, logits); }

 private:
  std::int64_t q_width() const { return shape_.heads.heads * shape_.heads.head_dim; }
  std::int64_t kv_width() const { return shape_.heads.kv_heads * shape_.heads.head_dim; }
  /// Whether a layer computes the rows of outputs only.
  bool compact(const CudaPlan& plan, std::size_t layer) const {
    return layer + 1 == weights_.layers.size() && plan.compact();
  }

  ConstView picked(const BatchPlan& plan, ConstView hidden, Arena& arena) {
    const View rows = arena.take(hidden.type(), plan.picks, hidden.columns());
    gather_rows(hidden, dynamic_cast<const CudaPlan&>(plan).pick_outputs, rows, stream_);
    return rows;
  }

  LayerSize size_of_layer(const Pass& pass, std::size_t layer) const;

  void embed_rows(const CudaPlan& plan, View x);
  InputDropout dropout_of(const Pass& pass, std::size_t layer, int input) const;
  /// nullptr: the input is not adapted.
  static const AdapterInput* adapter_of(const Pass& pass, std::size_t layer, int input);
  void reduce_input(const Pass& pass, std::size_t layer, int input, ConstView x, View u);
  static LowRankTerm output_term(const Pass& pass, std::size_t layer, int input, ConstView u,
                                 std::int64_t column);
  GateUp wide_input(const Pass& pass, std::size_t layer, const LayerRecord& record) const;
  void project_heads(const Pass& pass, std::size_t l, ConstView x, const LayerRecord& record);
  void add_adapter(const Pass& pass, std::size_t layer, int input, ConstView x, View u, View y);
  void add_adapter_backward(const Pass& pass, std::size_t layer, int input, ConstView x, ConstView u,
                            ConstView dy, View d_x, View gradient);

  void layer_forward(const Pass& pass, std::size_t l, View x, View out, const LayerRecord& record,
                     bool for_backward);
  void layer_backward(const Pass& pass, std::size_t l, const LayerRecord& record, View d_out, View d_x,
                      View gradient);
  void mlp_backward(const Pass& pass, std::size_t l, const LayerRecord& record, View d_x, View gradient);
  void wide_backward(const Pass& pass, std::size_t l, const LayerRecord& record, const MlpBackwardBuffers& b,
                     View gradient);
  View attention_block_backward(const Pass& pass, std::size_t l, const LayerRecord& record, View d_out,
                                View gradient);

  CudaOps& ops_;
  CudaMemory& memory_;
  const Stream& stream_;
  DecoderShape shape_;
  DecoderWeights weights_;
  RotaryTable rotary_;
  CudaHead head_;
};

// --- adapter -----------------------------------------------------------------------------------------------------------

std::shared_ptr<const PackedAdapter> CudaDecoder::pack_adapter(std::span<const LoraModule> modules,
                                                               ConstView flat) {
  auto packed = std::make_shared<CudaAdapter>(static_cast<std::size_t>(flat.size()));
  packed->layers.resize(static_cast<std::size_t>(shape_.layers));
  std::vector<std::array<const LoraModule*, kProjections.size()>> table(packed->layers.size());
  for (const LoraModule& module : modules) {
    table[static_cast<std::size_t>(module.layer)][static_cast<std::size_t>(module.projection)] = &module;
  }
  for (std::size_t layer = 0; layer < packed->layers.size(); ++layer) {
    for (const Input input : {kInputQkv, kInputO, kInputGateUp, kInputDown}) {
      AdapterInput& entry = packed->layers[layer][input];
      for (const InputPart& part : parts_of(shape_, input)) {
        const LoraModule* module = table[layer][static_cast<std::size_t>(part.projection)];
        if (module != nullptr) entry.add(*module, part.column, flat, memory_, stream_);
      }
      entry.finish(ops_.compute_type(), outputs_of(shape_, input), memory_, stream_);
    }
  }
  return packed;
}

InputDropout CudaDecoder::dropout_of(const Pass& pass, std::size_t layer, int input) const {
  if (pass.dropout.rate <= 0) return {};
  const bool outputs_only = input != kInputQkv && compact(pass.plan, layer);
  CHECK(!pass.plan.every_key.empty()) << "dropout without token keys";
  return {pass.dropout.rate,
          mix64(pass.dropout.key ^ mix64(layer * kInputs + static_cast<std::uint64_t>(input))),
          outputs_only ? pass.plan.output_key : pass.plan.every_key};
}

const AdapterInput* CudaDecoder::adapter_of(const Pass& pass, std::size_t layer, int input) {
  if (pass.adapter == nullptr) return nullptr;
  const AdapterInput& entry = pass.adapter->layers[layer][static_cast<std::size_t>(input)];
  return entry.empty() ? nullptr : &entry;
}

/// u = the adapter's inner values.
void CudaDecoder::reduce_input(const Pass& pass, std::size_t layer, int input, ConstView x, View u) {
  const AdapterInput* const adapter = adapter_of(pass, layer, input);
  if (adapter != nullptr) adapter->reduce_input(x, dropout_of(pass, layer, input), u, pass.arena, stream_);
}

/// The same, and y += the adapter's part.
void CudaDecoder::add_adapter(const Pass& pass, std::size_t layer, int input, ConstView x, View u, View y) {
  reduce_input(pass, layer, input, x, u);
  const AdapterInput* const adapter = adapter_of(pass, layer, input);
  if (adapter != nullptr) adapter->add_output(u, y, stream_);
}

/// What the adapter adds to the projection whose output begins at `column`, from the inner values u.
LowRankTerm CudaDecoder::output_term(const Pass& pass, std::size_t layer, int input, ConstView u,
                                     std::int64_t column) {
  const AdapterInput* const adapter = adapter_of(pass, layer, input);
  return adapter == nullptr ? LowRankTerm{} : adapter->output_term(u, column);
}

/// gate_up in bf16 with what its readers add.
GateUp CudaDecoder::wide_input(const Pass& pass, std::size_t layer, const LayerRecord& record) const {
  const View u = record.u[kInputGateUp];
  return {record.gate_up,
          {},
          output_term(pass, layer, kInputGateUp, u, 0),
          output_term(pass, layer, kInputGateUp, u, shape_.intermediate)};
}

/// Adds the adapter's gradient of one input and, unless d_x is empty, its part of d_x.
void CudaDecoder::add_adapter_backward(const Pass& pass, std::size_t layer, int input, ConstView x,
                                       ConstView u, ConstView dy, View d_x, View gradient) {
  const AdapterInput* const adapter = adapter_of(pass, layer, input);
  if (adapter == nullptr) return;
  const Arena::Scope scope(pass.arena);
  const InputDropout dropout = dropout_of(pass, layer, input);
  const View g = pass.arena.take(DType::f32, x.rows(), adapter->rank());
  adapter->reduce_gradient(dy, g, pass.arena, stream_);
  adapter->add_gradients(x, u, dy, g, dropout, gradient, pass.arena, stream_);
  if (!d_x.empty()) adapter->add_input_gradient(g, dropout, d_x, stream_);
}

// --- forward -----------------------------------------------------------------------------------------------------------

void CudaDecoder::embed_rows(const CudaPlan& plan, View x) {
  embed(weights_.embedding.view(), plan.ids, x, stream_);
  for (const FeatureRows& f : plan.features) {
    const View rows = x.row_range(f.first_row, f.features.rows());
    memory_.copy(f.features, rows);  // mostly from host memory, where features wait
    if (ops_.compute_type() == DType::bf16) round_to_bf16(rows, rows, stream_);
  }
}

LayerSize CudaDecoder::size_of_layer(const Pass& pass, std::size_t layer) const {
  LayerSize size(shape_, ops_.compute_type(), pass.plan.tiled, pass.plan.rows,
                 compact(pass.plan, layer) ? pass.plan.outputs : pass.plan.rows);
  if (pass.adapter == nullptr) return size;
  for (std::size_t input = 0; input < kInputs; ++input)
    size.ranks[input] = pass.adapter->layers[layer][input].rank();
  return size;
}

void CudaDecoder::forward(const BatchPlan& batch_plan, KvStore& kv, const PackedAdapter* adapter, View hidden,
                          const ForwardOptions& options) {
  Arena arena("activations", memory_);
  const Pass pass{dynamic_cast<const CudaPlan&>(batch_plan), dynamic_cast<CudaKv&>(kv),
                  dynamic_cast<const CudaAdapter*>(adapter), options.dropout, arena};
  CudaTape* tape = nullptr;
  if (options.tape != nullptr) {
    auto made = std::make_unique<CudaTape>(memory_);
    tape = made.get();
    tape->recompute = options.recompute;
    tape->dropout = options.dropout;
    *options.tape = std::move(made);
  }
  const bool keeps = tape != nullptr && !options.recompute;
  const StreamBuffers streams = take_streams(shape_.hidden, pass.plan.rows, pass.plan.outputs, arena);
  View x = streams.all;
  embed_rows(pass.plan, x);
  for (std::size_t l = 0; l < weights_.layers.size(); ++l) {
    const Arena::Scope scope(arena);
    LayerRecord record = take_record(size_of_layer(pass, l), keeps, keeps ? tape->storage : arena);
    if (tape != nullptr) {
      record.input = tape->storage.take(DType::f32, x.rows(), shape_.hidden);
      memory_.copy(x, record.input);
      tape->layers.push_back(record);
    }
    const View out = compact(pass.plan, l) ? streams.last : x;
    layer_forward(pass, l, x, out, record, keeps);
    x = out;
  }
  rms_norm(x, weights_.final_norm.view(), shape_.rms_eps, hidden, stream_);
  if (tape == nullptr) return;
  tape->final_input = tape->storage.take(DType::f32, x.rows(), shape_.hidden);
  memory_.copy(x, tape->final_input);
}

/// out [T', hidden] = the layer applied to x [T, hidden]. If the layer keeps all rows, x and out are the same memory.
void CudaDecoder::layer_forward(const Pass& pass, std::size_t l, View x, View out, const LayerRecord& record,
                                bool for_backward) {
  const DecoderWeights::Layer& layer = weights_.layers[l];
  const CudaPlan& plan = pass.plan;
  const std::int64_t q = q_width();
  const std::int64_t kv = kv_width();
  const bool compacts = compact(plan, l);

  const ForwardBuffers b = take_forward(size_of_layer(pass, l), pass.arena);
  rms_norm(x, layer.input_norm.view(), shape_.rms_eps, b.normed, stream_);
  project_heads(pass, l, b.normed, record);
  const KvPages pages = pass.kv.layer(static_cast<std::int64_t>(l));
  write_kv(record.qkv.column_range(q, kv), record.qkv.column_range(q + kv, kv), shape_.heads, plan.writes,
           pages, stream_);
  ConstView queries = record.qkv.column_range(0, q);
  if (compacts) {
    gather_rows(queries, plan.output_rows, b.queries, stream_);
    queries = b.queries;
    gather_rows(x, plan.output_rows, out, stream_);
  }
  if (plan.tiled)
    tile_attention(queries, pages, shape_.heads, (compacts ? plan.output_tiles : plan.every_tiles).forward,
                   plan.page_table, record.attended, record.lse, stream_);
  else
    attention(queries, pages, shape_.heads, compacts ? plan.output_query : plan.every_query, plan.page_table,
              record.attended, record.lse, stream_);
  ops_.linear(record.attended, *layer.o, out, true);
  add_adapter(pass, l, kInputO, record.attended, record.u[kInputO], out);
  if (for_backward) memory_.copy(out, record.middle);

  rms_norm(out, layer.middle_norm.view(), shape_.rms_eps, b.middle_normed, stream_);
  ops_.product(b.middle_normed, *layer.gate_up, record.gate_up);  // gate and up have no bias
  if (record.gate_up.type() == DType::f32) {
    add_adapter(pass, l, kInputGateUp, b.middle_normed, record.u[kInputGateUp], record.gate_up);
    swiglu(record.gate_up, b.product, stream_);
  } else {
    reduce_input(pass, l, kInputGateUp, b.middle_normed, record.u[kInputGateUp]);
    swiglu(wide_input(pass, l, record), b.product, stream_);
  }
  ops_.linear(b.product, *layer.down, out, true);
  add_adapter(pass, l, kInputDown, b.product, record.u[kInputDown], out);
}

/// record.qkv = the heads of x, rotated.
void CudaDecoder::project_heads(const Pass& pass, std::size_t l, ConstView x, const LayerRecord& record) {
  const FrozenLinear& weight = *weights_.layers[l].qkv;
  const View u = record.u[kInputQkv];
  const std::int64_t q = q_width();
  const std::int64_t kv = kv_width();
  const ConstView cosines = pass.plan.cosines.view();
  const ConstView sines = pass.plan.sines.view();
  if (record.qkv.type() == DType::f32) {
    ops_.linear(x, weight, record.qkv);
    add_adapter(pass, l, kInputQkv, x, u, record.qkv);
    rotate(record.qkv.column_range(0, q + kv), shape_.heads.head_dim, cosines, sines, false, stream_);
    return;
  }
  ops_.product(x, weight, record.qkv);
  reduce_input(pass, l, kInputQkv, x, u);
  const std::array<LowRankTerm, 3> terms{output_term(pass, l, kInputQkv, u, 0),
                                         output_term(pass, l, kInputQkv, u, q),
                                         output_term(pass, l, kInputQkv, u, q + kv)};
  finish_heads(record.qkv, bias_of(weight), terms, shape_.heads, cosines, sines, stream_);
}

// --- backward ----------------------------------------------------------------------------------------------------------

void CudaDecoder::backward(const BatchPlan& batch_plan, KvStore& kv, const PackedAdapter& adapter,
                           const Tape& base_tape, ConstView d_hidden, View gradient) {
  const auto& tape = dynamic_cast<const CudaTape&>(base_tape);
  CHECK_EQ(static_cast<std::size_t>(gradient.size()), adapter.values);
  Arena arena("gradients", memory_);
  const Pass pass{dynamic_cast<const CudaPlan&>(batch_plan), dynamic_cast<CudaKv&>(kv),
                  dynamic_cast<const CudaAdapter*>(&adapter), tape.dropout, arena};
  const StreamBuffers gradients = take_streams(shape_.hidden, pass.plan.rows, pass.plan.outputs, arena);
  const StreamBuffers again = tape.recompute
                                  ? take_streams(shape_.hidden, pass.plan.rows, pass.plan.outputs, arena)
                                  : StreamBuffers{};
  View d_x = gradients.last;
  memory_.zero(d_x);
  rms_norm_backward(tape.final_input, weights_.final_norm.view(), shape_.rms_eps, d_hidden, d_x, stream_);
  for (std::size_t l = weights_.layers.size(); l-- > 0;) {
    const Arena::Scope scope(arena);
    LayerRecord record = tape.layers[l];
    if (tape.recompute) {
      record = take_record(size_of_layer(pass, l), true, arena);
      record.input = tape.layers[l].input;
      memory_.copy(record.input, again.all);
      const Arena::Scope of_forward(arena);
      layer_forward(pass, l, again.all, compact(pass.plan, l) ? again.last : again.all, record, true);
    }
    layer_backward(pass, l, record, d_x, gradients.all, gradient);
    d_x = gradients.all;
  }
}

/// Computes d_x [T, hidden], the gradient of the layer's input, from d_out [T', hidden], the gradient of its output.
/// Overwrites d_out. If the layer keeps all rows, both are the same memory. The embeddings need no gradient, so the
/// first layer computes no d_x.
void CudaDecoder::layer_backward(const Pass& pass, std::size_t l, const LayerRecord& record, View d_out,
                                 View d_x, View gradient) {
  const DecoderWeights::Layer& layer = weights_.layers[l];
  const CudaPlan& plan = pass.plan;
  {
    const Arena::Scope scope(pass.arena);
    mlp_backward(pass, l, record, d_out, gradient);
  }
  const View d_qkv = attention_block_backward(pass, l, record, d_out, gradient);
  const ProjectionBackwardBuffers b = take_projection_backward(size_of_layer(pass, l), l == 0, pass.arena);
  convert(d_qkv, b.d_projected, stream_);
  rms_norm(record.input, layer.input_norm.view(), shape_.rms_eps, b.normed, stream_);
  if (l > 0) ops_.linear_backward(b.d_projected, *layer.qkv, b.d_normed);
  add_adapter_backward(pass, l, kInputQkv, b.normed, record.u[kInputQkv], b.d_projected, b.d_normed,
                       gradient);
  if (l == 0) return;
  if (compact(plan, l)) {
    memory_.zero(d_x);
    scatter_rows(d_out, plan.output_rows, d_x, stream_);
  }
  rms_norm_backward(record.input, layer.input_norm.view(), shape_.rms_eps, b.d_normed, d_x, stream_);
}

/// Changes d_x [T', hidden] from the gradient of the layer's output into that of the residual stream after attention.
void CudaDecoder::mlp_backward(const Pass& pass, std::size_t l, const LayerRecord& record, View d_x,
                               View gradient) {
  const DecoderWeights::Layer& layer = weights_.layers[l];
  const MlpBackwardBuffers b = take_mlp_backward(size_of_layer(pass, l), pass.arena);
  convert(d_x, b.dy, stream_);
  ops_.linear_backward(b.dy, *layer.down, b.d_product);
  if (record.gate_up.type() == DType::f32) {
    swiglu(record.gate_up, b.product, stream_);
    add_adapter_backward(pass, l, kInputDown, b.product, record.u[kInputDown], b.dy, b.d_product, gradient);
    swiglu_backward(record.gate_up, b.d_product, b.d_gate_up, stream_);
  } else {
    wide_backward(pass, l, record, b, gradient);
  }
  rms_norm(record.middle, layer.middle_norm.view(), shape_.rms_eps, b.normed, stream_);
  ops_.linear_backward(b.d_gate_up, *layer.gate_up, b.d_normed);
  add_adapter_backward(pass, l, kInputGateUp, b.normed, record.u[kInputGateUp], b.d_gate_up, b.d_normed,
                       gradient);
  rms_norm_backward(record.middle, layer.middle_norm.view(), shape_.rms_eps, b.d_normed, d_x, stream_);
}

/// From gate_up and d_product in bf16, both without the adapter: product, d_gate_up and the gradient of the adapter of down.
void CudaDecoder::wide_backward(const Pass& pass, std::size_t l, const LayerRecord& record,
                                const MlpBackwardBuffers& b, View gradient) {
  const GateUp gate_up = wide_input(pass, l, record);
  const AdapterInput* const adapter = adapter_of(pass, l, kInputDown);
  if (adapter == nullptr) {
    swiglu_backward(gate_up, b.d_product, {}, b.product, b.d_gate_up, stream_);
    return;
  }
  const Arena::Scope scope(pass.arena);
  const InputDropout dropout = dropout_of(pass, l, kInputDown);
  const View g = pass.arena.take(DType::f32, b.dy.rows(), adapter->rank());
  adapter->reduce_gradient(b.dy, g, pass.arena, stream_);
  swiglu_backward(gate_up, b.d_product, adapter->input_gradient_term(g, dropout), b.product, b.d_gate_up,
                  stream_);
  adapter->add_gradients(b.product, record.u[kInputDown], b.dy, g, dropout, gradient, pass.arena, stream_);
}

/// Gradient [T, q + 2 kv] f32 with respect to the projections' results, before the rotation.
View CudaDecoder::attention_block_backward(const Pass& pass, std::size_t l, const LayerRecord& record,
                                           View d_out, View gradient) {
  const CudaPlan& plan = pass.plan;
  const std::int64_t q = q_width();
  const std::int64_t kv = kv_width();
  const bool compacts = compact(plan, l);
  const LayerSize size = size_of_layer(pass, l);
  const AttentionBackwardBuffers b = take_attention_backward(size, pass.arena);
  convert(d_out, b.dy, stream_);
  ops_.linear_backward(b.dy, *weights_.layers[l].o, b.d_attended);
  add_adapter_backward(pass, l, kInputO, record.attended, record.u[kInputO], b.dy, b.d_attended, gradient);
  ConstView queries = record.qkv.column_range(0, q);
  if (compacts) {
    gather_rows(queries, plan.output_rows, b.queries, stream_);
    queries = b.queries;
    memory_.zero(b.d_qkv);
  }
  const View d_k = b.d_qkv.column_range(q, kv);
  const View d_v = b.d_qkv.column_range(q + kv, kv);
  if (plan.tiled) {
    const Arena::Scope scope(pass.arena);
    ConstView k_v = record.qkv.column_range(q, 2 * kv);
    if (k_v.type() == DType::f32) {
      const View rounded = take_rounded_keys(size, pass.arena);
      convert(k_v, rounded, stream_);
      k_v = rounded;
    }
    tile_attention_backward(queries, k_v.column_range(0, kv), k_v.column_range(kv, kv), record.attended,
                            record.lse, b.d_attended, shape_.heads,
                            (compacts ? plan.output_tiles : plan.every_tiles).backward, b.d_q, d_k, d_v,
                            pass.arena, stream_);
  } else {
    attention_backward(queries, record.qkv.column_range(q, kv), record.qkv.column_range(q + kv, kv),
                       record.attended, record.lse, b.d_attended, shape_.heads, ops_.compute_type(),
                       compacts ? plan.output_backward : plan.every_backward, b.d_q, d_k, d_v, stream_);
  }
  if (compacts) scatter_rows(b.d_q, plan.output_rows, b.d_qkv.column_range(0, q), stream_);
  rotate(b.d_qkv.column_range(0, q + kv), shape_.heads.head_dim, plan.cosines.view(), plan.sines.view(), true,
         stream_);
  return b.d_qkv;
}

}  // namespace

std::unique_ptr<Decoder> make_decoder(CudaOps& ops, const DecoderShape& shape, DecoderWeights weights) {
  return std::make_unique<CudaDecoder>(ops, shape, std::move(weights));
}

}  // namespace biqa::cuda
