// SPDX-License-Identifier: Apache-2.0
// The language model on the CPU: embedding, decoder layers, final norm and head, forward and backward.
#include "ops/cpu/cpu_network.h"

#include <array>
#include <cstring>
#include <optional>
#include <utility>

#include "core/random.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/cpu_plan.h"
#include "tensor/arena.h"

namespace biqa::cpu {
namespace {

/// The four inputs of a layer that feed projections.
enum Input : std::uint8_t { kInputQkv, kInputO, kInputGateUp, kInputDown, kInputs };
constexpr std::size_t kMostPerInput = 3;  // projections: q, k and v

/// Adapter factors of the projections that share an input.
struct AdapterEntry {
  std::unique_ptr<PackedLora> factors;  // null: none of them is adapted
  std::vector<LoraModule> modules;
};

struct CpuAdapter final : PackedAdapter {
  using PackedAdapter::PackedAdapter;
  std::vector<std::array<AdapterEntry, kInputs>> layers;
};

/// Results of a layer's forward pass that the backward pass reads. The others can be recomputed from `input`.
struct LayerRecord {
  View input;                   // [T, hidden] f32
  View qkv;                     // [T, q + 2 kv] f32, rotated
  View attended;                // [T', q] compute type
  View lse;                     // [T', heads] f32
  View middle;                  // [T', hidden] f32
  View gate_up;                 // [T', 2 intermediate] f32
  std::array<View, kInputs> u;  // LoRA's inner values, [T or T', ranks] f32
};

struct CpuTape final : Tape {
  Arena storage{"activations"};
  std::vector<LayerRecord> layers;
  View final_input;  // [outputs, hidden] f32
  bool recompute = false;
  DropoutKey dropout;
};

struct CpuKv final : KvStore {
  CpuKv(DType type, std::int64_t pages, std::int64_t layers, std::int64_t elements)
      : storage(type, layers, pages * elements, "kv_cache"), page_elements(elements) {
    storage.zero();  // claims the memory now, because later it may be missing
  }
  KvPages layer(std::int64_t index) {
    const View row = storage.view().row_range(index % storage.rows(), 1);
    return {row.data(), storage.type(), page_elements};
  }
  Tensor storage;  // [layers, pages · page_elements]
  std::int64_t page_elements;
};

class CpuSampled final : public SampledTokens {
 public:
  explicit CpuSampled(std::size_t count) : tokens(count) {}
  std::span<const SampledToken> wait() override { return tokens; }
  std::vector<SampledToken> tokens;
};

/// Data shared by all layers of a pass.
struct Pass {
  const CpuPlan& plan;
  CpuKv& kv;
  const CpuAdapter* adapter;
  DropoutKey dropout;
  Arena& arena;
  Scratch& scratch;  // for the adapter's gradients
};

void copy(ConstView from, View to) {
  host_memory().copy(from, to);
}

class CpuDecoder final : public Decoder {
 public:
  CpuDecoder(CpuOps& ops, const DecoderShape& shape, DecoderWeights weights)
      : ops_(ops),
        shape_(shape),
        weights_(std::move(weights)),
        rotary_(shape.heads.head_dim, shape.rope_theta, shape.mrope_section) {}

  std::unique_ptr<BatchPlan> plan(const RowBatch& batch) override {
    return std::make_unique<CpuPlan>(batch, rotary_, shape_.heads.head_dim);
  }
  std::unique_ptr<KvStore> make_kv(std::int64_t pages, std::int64_t layers) override {
    return std::make_unique<CpuKv>(ops_.compute_type(), pages, layers,
                                   kv_page_elements(shape_.heads, ops_.compute_type()));
  }
  void copy_page(KvStore& kv, std::int32_t from, std::int32_t to) override {
    auto& store = dynamic_cast<CpuKv&>(kv);
    for (std::int64_t layer = 0; layer < store.storage.rows(); ++layer) {
      ops_.copy_page(store.layer(layer), from, to);
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
    Arena arena("activations");
    ops_.log_prob(picked(plan, hidden, arena), *weights_.head, targets, temperature, logp, entropy, d_picked,
                  arena);
  }
  void spread_picks(const BatchPlan& plan, View d_picked, std::span<const float> factors,
                    View d_hidden) override {
    ops_.scale_rows(d_picked, factors, d_picked);
    host_memory().zero(d_hidden);
    ops_.scatter_add_rows(d_picked, dynamic_cast<const CpuPlan&>(plan).batch.picks, d_hidden);
  }
  std::unique_ptr<SampledTokens> sample(const BatchPlan& plan, ConstView hidden,
                                        std::span<const SampleRequest> requests,
                                        std::span<const std::int64_t> suppressed) override {
    Arena arena("activations");
    auto sampled = std::make_unique<CpuSampled>(requests.size());
    ops_.sample(picked(plan, hidden, arena), *weights_.head, requests, suppressed, sampled->tokens, arena);
    return sampled;
  }
  void logits(ConstView hidden, View logits) override { ops_.linear(hidden, *weights_.head, logits); }

 private:
  std::int64_t q_width() const { return shape_.heads.heads * shape_.heads.head_dim; }
  std::int64_t kv_width() const { return shape_.heads.kv_heads * shape_.heads.head_dim; }
  /// Whether a layer computes the rows of outputs only.
  bool compact(const CpuPlan& plan, std::size_t layer) const {
    return layer + 1 == weights_.layers.size() && plan.compact();
  }
  std::int64_t rows_behind_attention(const CpuPlan& plan, std::size_t layer) const {
    return compact(plan, layer) ? plan.outputs : plan.rows;
  }

  ConstView picked(const BatchPlan& plan, ConstView hidden, Arena& arena) {
    const View rows = arena.take(hidden.type(), plan.picks, hidden.columns());
    ops_.gather_rows(hidden, dynamic_cast<const CpuPlan&>(plan).batch.picks, rows);
    return rows;
  }

  struct InputPart {
    Projection projection;
    std::int64_t offset;  // first column in the input's fused output
  };
  std::vector<InputPart> parts_of(int input) const;
  LayerRecord take_record(const Pass& pass, std::size_t layer, bool for_backward, Arena& arena) const;

  void embed(const CpuPlan& plan, View x);
  std::optional<Dropout> dropout_of(const Pass& pass, std::size_t layer, int input,
                                    const std::vector<std::uint64_t>& keys) const;
  void add_lora(const Pass& pass, std::size_t layer, int input, const std::vector<std::uint64_t>& keys,
                ConstView x, View u, View y);
  void add_lora_backward(const Pass& pass, std::size_t layer, int input,
                         const std::vector<std::uint64_t>& keys, ConstView x, ConstView u, ConstView dy,
                         View d_x, View gradient);
  View rounded(ConstView x, Arena& arena);

  void layer_forward(const Pass& pass, std::size_t l, View x, View out, const LayerRecord& record,
                     bool for_backward);
  void layer_backward(const Pass& pass, std::size_t l, const LayerRecord& record, View d_out, View d_x,
                      View gradient);
  void mlp_backward(const Pass& pass, std::size_t l, const LayerRecord& record, View d_x, View gradient);
  View attention_backward(const Pass& pass, std::size_t l, const LayerRecord& record, View d_out,
                          View gradient);

  CpuOps& ops_;
  DecoderShape shape_;
  DecoderWeights weights_;
  RotaryTable rotary_;
};

// --- adapter -----------------------------------------------------------------------------------------------------------

std::vector<CpuDecoder::InputPart> CpuDecoder::parts_of(int input) const {
  const std::int64_t q = q_width();
  switch (input) {
    case kInputQkv:
      return {{Projection::q, 0}, {Projection::k, q}, {Projection::v, q + kv_width()}};
    case kInputO:
      return {{Projection::o, 0}};
    case kInputGateUp:
      return {{Projection::gate, 0}, {Projection::up, shape_.intermediate}};
    default:
      return {{Projection::down, 0}};
  }
}

std::shared_ptr<const PackedAdapter> CpuDecoder::pack_adapter(std::span<const LoraModule> modules,
                                                              ConstView flat) {
  const std::span<const float> values = flat.span<const float>();
  auto packed = std::make_shared<CpuAdapter>(values.size());
  packed->layers.resize(static_cast<std::size_t>(shape_.layers));
  std::vector<std::array<const LoraModule*, kProjections.size()>> table(packed->layers.size());
  for (const LoraModule& module : modules) {
    table[static_cast<std::size_t>(module.layer)][static_cast<std::size_t>(module.projection)] = &module;
  }
  for (std::size_t layer = 0; layer < packed->layers.size(); ++layer) {
    for (int input = 0; input < kInputs; ++input) {
      AdapterEntry& entry = packed->layers[layer][static_cast<std::size_t>(input)];
      std::vector<LoraFactors> factors;
      for (const InputPart& part : parts_of(input)) {
        const LoraModule* module = table[layer][static_cast<std::size_t>(part.projection)];
        if (module == nullptr) continue;
        factors.push_back({values.data() + module->a_offset, values.data() + module->b_offset, module->rank,
                           module->out, part.offset, module->scale});
        entry.modules.push_back(*module);
      }
      if (!factors.empty()) entry.factors = ops_.pack_lora(entry.modules.front().in, factors);
    }
  }
  return packed;
}

std::optional<Dropout> CpuDecoder::dropout_of(const Pass& pass, std::size_t layer, int input,
                                              const std::vector<std::uint64_t>& keys) const {
  if (pass.dropout.rate <= 0) return std::nullopt;
  CHECK_EQ(pass.plan.batch.token_keys.size(), pass.plan.batch.ids.size());
  return Dropout{pass.dropout.rate,
                 mix64(pass.dropout.key ^ mix64(layer * kInputs + static_cast<std::uint64_t>(input))), keys};
}

/// y += the adapter's part; u keeps the inner values.
void CpuDecoder::add_lora(const Pass& pass, std::size_t layer, int input,
                          const std::vector<std::uint64_t>& keys, ConstView x, View u, View y) {
  if (pass.adapter == nullptr) return;
  const AdapterEntry& entry = pass.adapter->layers[layer][static_cast<std::size_t>(input)];
  if (entry.factors == nullptr) return;
  const auto dropout = dropout_of(pass, layer, input, keys);
  ops_.lora(x, *entry.factors, dropout ? &*dropout : nullptr, u, y);
}

/// Adds the adapter's gradient of one input and its part of d_x.
void CpuDecoder::add_lora_backward(const Pass& pass, std::size_t layer, int input,
                                   const std::vector<std::uint64_t>& keys, ConstView x, ConstView u,
                                   ConstView dy, View d_x, View gradient) {
  const AdapterEntry& entry = pass.adapter->layers[layer][static_cast<std::size_t>(input)];
  if (entry.factors == nullptr) return;
  float* flat = gradient.row<float>(0);
  std::array<LoraGradients, kMostPerInput> targets;
  for (std::size_t i = 0; i < entry.modules.size(); ++i)
    targets[i] = {flat + entry.modules[i].a_offset, flat + entry.modules[i].b_offset};
  const auto dropout = dropout_of(pass, layer, input, keys);
  ops_.lora_backward(x, u, dy, *entry.factors, dropout ? &*dropout : nullptr, d_x,
                     std::span(targets).first(entry.modules.size()), pass.scratch);
}

// --- forward -----------------------------------------------------------------------------------------------------------

void CpuDecoder::embed(const CpuPlan& plan, View x) {
  ops_.embed(weights_.embedding.view(), plan.batch.ids, x);
  const bool rounds = ops_.compute_type() == DType::bf16;
  for (const FeatureRows& f : plan.batch.features) {
    for (std::int64_t i = 0; i < f.features.rows(); ++i) {
      const float* feature = f.features.row<float>(i);
      float* row = x.row<float>(f.first_row + i);
      for (std::int64_t c = 0; c < x.columns(); ++c)
        row[c] = rounds ? to_float(to_bf16(feature[c])) : feature[c];
    }
  }
}

/// Takes memory for the results of a layer.
LayerRecord CpuDecoder::take_record(const Pass& pass, std::size_t layer, bool for_backward,
                                    Arena& arena) const {
  const std::int64_t all = pass.plan.rows;
  const std::int64_t rows = rows_behind_attention(pass.plan, layer);
  LayerRecord record;
  record.qkv = arena.take(DType::f32, all, q_width() + 2 * kv_width());
  record.attended = arena.take(ops_.compute_type(), rows, q_width());
  if (for_backward) {
    record.lse = arena.take(DType::f32, rows, shape_.heads.heads);
    record.middle = arena.take(DType::f32, rows, shape_.hidden);
  }
  record.gate_up = arena.take(DType::f32, rows, 2 * shape_.intermediate);
  if (pass.adapter == nullptr) return record;
  for (std::size_t input = 0; input < kInputs; ++input) {
    const AdapterEntry& entry = pass.adapter->layers[layer][input];
    if (entry.factors == nullptr) continue;
    record.u[input] = arena.take(DType::f32, input == kInputQkv ? all : rows, entry.factors->rank);
  }
  return record;
}

void CpuDecoder::forward(const BatchPlan& batch_plan, KvStore& kv, const PackedAdapter* adapter, View hidden,
                         const ForwardOptions& options) {
  Arena arena("activations");
  Scratch scratch;
  const Pass pass{dynamic_cast<const CpuPlan&>(batch_plan),
                  dynamic_cast<CpuKv&>(kv),
                  dynamic_cast<const CpuAdapter*>(adapter),
                  options.dropout,
                  arena,
                  scratch};
  CpuTape* tape = nullptr;
  if (options.tape != nullptr) {
    auto made = std::make_unique<CpuTape>();
    tape = made.get();
    tape->recompute = options.recompute;
    tape->dropout = options.dropout;
    tape->layers.reserve(weights_.layers.size());
    *options.tape = std::move(made);
  }
  const bool keeps = tape != nullptr && !options.recompute;
  View x = arena.take(DType::f32, pass.plan.rows, shape_.hidden);
  const View last = pass.plan.compact() ? arena.take(DType::f32, pass.plan.outputs, shape_.hidden) : x;
  embed(pass.plan, x);
  for (std::size_t l = 0; l < weights_.layers.size(); ++l) {
    const Arena::Scope scope(arena);
    LayerRecord record = take_record(pass, l, keeps, keeps ? tape->storage : arena);
    if (tape != nullptr) {
      record.input = tape->storage.take(DType::f32, x.rows(), shape_.hidden);
      copy(x, record.input);
      tape->layers.push_back(record);
    }
    const View out = compact(pass.plan, l) ? last : x;
    layer_forward(pass, l, x, out, record, keeps);
    x = out;
  }
  ops_.rms_norm(x, weights_.final_norm.view(), shape_.rms_eps, hidden);
  if (tape == nullptr) return;
  tape->final_input = tape->storage.take(DType::f32, x.rows(), shape_.hidden);
  copy(x, tape->final_input);
}

/// out [T', hidden] = the layer applied to x [T, hidden]. If the layer keeps all rows, x and out are the same memory.
void CpuDecoder::layer_forward(const Pass& pass, std::size_t l, View x, View out, const LayerRecord& record,
                               bool for_backward) {
  const DecoderWeights::Layer& layer = weights_.layers[l];
  const CpuPlan& plan = pass.plan;
  const DType compute = ops_.compute_type();
  const std::int64_t q = q_width();
  const std::int64_t kv = kv_width();
  const bool compacts = compact(plan, l);
  const std::int64_t rows = out.rows();
  const auto& every_key = plan.batch.token_keys;
  const auto& keys = compacts ? plan.output_keys : every_key;

  const View normed = pass.arena.take(compute, x.rows(), shape_.hidden);
  ops_.rms_norm(x, layer.input_norm.view(), shape_.rms_eps, normed);
  ops_.linear(normed, *layer.qkv, record.qkv);
  add_lora(pass, l, kInputQkv, every_key, normed, record.u[kInputQkv], record.qkv);
  ops_.rotate(record.qkv.column_range(0, q + kv), shape_.heads.head_dim, plan.cosines.view(),
              plan.sines.view(), false);
  const KvPages pages = pass.kv.layer(static_cast<std::int64_t>(l));
  ops_.write_kv(record.qkv.column_range(q, kv), record.qkv.column_range(q + kv, kv), shape_.heads,
                plan.batch.writes, pages);
  ConstView queries = record.qkv.column_range(0, q);
  if (compacts) {
    const View gathered = pass.arena.take(DType::f32, rows, q);
    ops_.gather_rows(queries, plan.output_rows, gathered);
    queries = gathered;
    ops_.gather_rows(x, plan.output_rows, out);
  }
  ops_.attention(queries, pages, shape_.heads, compacts ? plan.output_sequences : plan.all_sequences,
                 record.attended, record.lse);
  ops_.linear(record.attended, *layer.o, out, true);
  add_lora(pass, l, kInputO, keys, record.attended, record.u[kInputO], out);
  if (for_backward) copy(out, record.middle);

  const View normed2 = pass.arena.take(compute, rows, shape_.hidden);
  ops_.rms_norm(out, layer.middle_norm.view(), shape_.rms_eps, normed2);
  ops_.linear(normed2, *layer.gate_up, record.gate_up);
  add_lora(pass, l, kInputGateUp, keys, normed2, record.u[kInputGateUp], record.gate_up);
  const View product = pass.arena.take(compute, rows, shape_.intermediate);
  ops_.swiglu(record.gate_up, product);
  ops_.linear(product, *layer.down, out, true);
  add_lora(pass, l, kInputDown, keys, product, record.u[kInputDown], out);
}

// --- backward ----------------------------------------------------------------------------------------------------------

View CpuDecoder::rounded(ConstView x, Arena& arena) {
  const View y = arena.take(ops_.compute_type(), x.rows(), x.columns());
  ops_.convert(x, y);
  return y;
}

void CpuDecoder::backward(const BatchPlan& batch_plan, KvStore& kv, const PackedAdapter& adapter,
                          const Tape& base_tape, ConstView d_hidden, View gradient) {
  const auto& tape = dynamic_cast<const CpuTape&>(base_tape);
  CHECK_EQ(static_cast<std::size_t>(gradient.size()), adapter.values);
  Arena arena("gradients");
  Scratch scratch;
  const Pass pass{dynamic_cast<const CpuPlan&>(batch_plan),
                  dynamic_cast<CpuKv&>(kv),
                  dynamic_cast<const CpuAdapter*>(&adapter),
                  tape.dropout,
                  arena,
                  scratch};
  View d_x = arena.take(DType::f32, pass.plan.outputs, shape_.hidden);
  const View d_all = pass.plan.compact() ? arena.take(DType::f32, pass.plan.rows, shape_.hidden) : d_x;
  const View x = tape.recompute ? arena.take(DType::f32, pass.plan.rows, shape_.hidden) : View{};
  const View last =
      tape.recompute && pass.plan.compact() ? arena.take(DType::f32, pass.plan.outputs, shape_.hidden) : x;
  host_memory().zero(d_x);
  ops_.rms_norm_backward(tape.final_input, weights_.final_norm.view(), shape_.rms_eps, d_hidden, d_x);
  for (std::size_t l = weights_.layers.size(); l-- > 0;) {
    const Arena::Scope scope(arena);
    LayerRecord record = tape.layers[l];
    if (tape.recompute) {
      record = take_record(pass, l, true, arena);
      record.input = tape.layers[l].input;
      copy(record.input, x);
      const Arena::Scope of_forward(arena);
      layer_forward(pass, l, x, compact(pass.plan, l) ? last : x, record, true);
    }
    layer_backward(pass, l, record, d_x, d_all, gradient);
    d_x = d_all;
  }
}

/// Computes d_x [T, hidden], the gradient of the layer's input, from d_out [T', hidden], the gradient of its output.
/// Overwrites d_out. If the layer keeps all rows, both are the same memory. The embeddings need no gradient, so the
/// first layer computes no d_x.
void CpuDecoder::layer_backward(const Pass& pass, std::size_t l, const LayerRecord& record, View d_out,
                                View d_x, View gradient) {
  const DecoderWeights::Layer& layer = weights_.layers[l];
  const CpuPlan& plan = pass.plan;
  {
    const Arena::Scope scope(pass.arena);
    mlp_backward(pass, l, record, d_out, gradient);
  }
  const View d_projected = rounded(attention_backward(pass, l, record, d_out, gradient), pass.arena);
  const View normed = pass.arena.take(ops_.compute_type(), plan.rows, shape_.hidden);
  ops_.rms_norm(record.input, layer.input_norm.view(), shape_.rms_eps, normed);
  View d_normed;
  if (l > 0) {
    d_normed = pass.arena.take(DType::f32, plan.rows, shape_.hidden);
    ops_.linear_backward(d_projected, *layer.qkv, d_normed);
  }
  add_lora_backward(pass, l, kInputQkv, plan.batch.token_keys, normed, record.u[kInputQkv], d_projected,
                    d_normed, gradient);
  if (l == 0) return;
  if (compact(plan, l)) {
    host_memory().zero(d_x);
    ops_.scatter_add_rows(d_out, plan.output_rows, d_x);
  }
  ops_.rms_norm_backward(record.input, layer.input_norm.view(), shape_.rms_eps, d_normed, d_x);
}

/// Changes d_x [T', hidden] from the gradient of the layer's output into that of the residual stream after attention.
void CpuDecoder::mlp_backward(const Pass& pass, std::size_t l, const LayerRecord& record, View d_x,
                              View gradient) {
  const DecoderWeights::Layer& layer = weights_.layers[l];
  const DType compute = ops_.compute_type();
  const std::int64_t rows = d_x.rows();
  const auto& keys = compact(pass.plan, l) ? pass.plan.output_keys : pass.plan.batch.token_keys;
  Arena& arena = pass.arena;
  const View product = arena.take(compute, rows, shape_.intermediate);
  ops_.swiglu(record.gate_up, product);
  const View dy = rounded(d_x, arena);
  const View d_product = arena.take(DType::f32, rows, shape_.intermediate);
  ops_.linear_backward(dy, *layer.down, d_product);
  add_lora_backward(pass, l, kInputDown, keys, product, record.u[kInputDown], dy, d_product, gradient);
  const View d_gate_up = arena.take(compute, rows, 2 * shape_.intermediate);
  ops_.swiglu_backward(record.gate_up, d_product, d_gate_up);
  const View normed = arena.take(compute, rows, shape_.hidden);
  ops_.rms_norm(record.middle, layer.middle_norm.view(), shape_.rms_eps, normed);
  const View d_normed = arena.take(DType::f32, rows, shape_.hidden);
  ops_.linear_backward(d_gate_up, *layer.gate_up, d_normed);
  add_lora_backward(pass, l, kInputGateUp, keys, normed, record.u[kInputGateUp], d_gate_up, d_normed,
                    gradient);
  ops_.rms_norm_backward(record.middle, layer.middle_norm.view(), shape_.rms_eps, d_normed, d_x);
}

/// Gradient [T, q + 2 kv] f32 with respect to the projections' results, before the rotation.
View CpuDecoder::attention_backward(const Pass& pass, std::size_t l, const LayerRecord& record, View d_out,
                                    View gradient) {
  const CpuPlan& plan = pass.plan;
  const std::int64_t q = q_width();
  const std::int64_t kv = kv_width();
  const std::int64_t rows = d_out.rows();
  const bool compacts = compact(plan, l);
  const auto& keys = compacts ? plan.output_keys : plan.batch.token_keys;
  Arena& arena = pass.arena;
  const View dy = rounded(d_out, arena);
  const View d_attended = arena.take(DType::f32, rows, q);
  ops_.linear_backward(dy, *weights_.layers[l].o, d_attended);
  add_lora_backward(pass, l, kInputO, keys, record.attended, record.u[kInputO], dy, d_attended, gradient);
  const View d_qkv = arena.take(DType::f32, plan.rows, q + 2 * kv);
  ConstView queries = record.qkv.column_range(0, q);
  View d_q = d_qkv.column_range(0, q);
  if (compacts) {
    const View gathered = arena.take(DType::f32, rows, q);
    ops_.gather_rows(queries, plan.output_rows, gathered);
    queries = gathered;
    d_q = arena.take(DType::f32, rows, q);
    host_memory().zero(d_qkv);
  }
  ops_.attention_backward(queries, record.qkv.column_range(q, kv), record.qkv.column_range(q + kv, kv),
                          record.attended, record.lse, d_attended, shape_.heads, ops_.compute_type(),
                          compacts ? plan.output_groups : plan.all_groups, d_q, d_qkv.column_range(q, kv),
                          d_qkv.column_range(q + kv, kv));
  if (compacts) ops_.scatter_add_rows(d_q, plan.output_rows, d_qkv.column_range(0, q));
  ops_.rotate(d_qkv.column_range(0, q + kv), shape_.heads.head_dim, plan.cosines.view(), plan.sines.view(),
              true);
  return d_qkv;
}

}  // namespace

std::unique_ptr<Decoder> make_decoder(CpuOps& ops, const DecoderShape& shape, DecoderWeights weights) {
  return std::make_unique<CpuDecoder>(ops, shape, std::move(weights));
}

}  // namespace biqa::cpu
