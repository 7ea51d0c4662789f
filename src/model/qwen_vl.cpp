// SPDX-License-Identifier: Apache-2.0
#include "model/qwen_vl.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "model/checkpoint.h"
#include "model/vision_tower.h"

namespace biqa {

std::int64_t RowBatch::outputs() const {
  std::int64_t count = 0;
  for (const SequenceRows& s : sequences) count += s.outputs;
  return count;
}

void RowBatch::append(std::int64_t id, const Position& position, const float* feature) {
  ids.push_back(id);
  positions.push_back(position);
  features.push_back(feature);
}

// ---------------------------------------------------------------------------------------------------------------------

namespace {
/// The four inputs of a decoder layer that feed projections.
enum Input : std::uint8_t { kInputQkv, kInputO, kInputGateUp, kInputDown, kInputs };

struct InputParts {
  std::vector<Projection> projections;
  std::vector<std::int64_t> offsets;
};
InputParts parts_of(const TextConfig& text, int input) {
  const std::int64_t q = text.heads * text.head_dim;
  const std::int64_t kv = text.kv_heads * text.head_dim;
  switch (input) {
    case kInputQkv:
      return {{Projection::q, Projection::k, Projection::v}, {0, q, q + kv}};
    case kInputO:
      return {{Projection::o}, {0}};
    case kInputGateUp:
      return {{Projection::gate, Projection::up}, {0, text.intermediate}};
    default:
      return {{Projection::down}, {0}};
  }
}
}  // namespace

class PackedAdapter {
 public:
  struct Entry {
    std::unique_ptr<PackedLora> factors;  // null: no projection of this input is adapted
    std::vector<const LoraModule*> modules;
  };
  std::shared_ptr<const LoraLayout> layout;
  std::vector<std::array<Entry, kInputs>> layers;
};

std::shared_ptr<const PackedAdapter> pack_adapter(const ModelConfig& config, const Lora& lora, Ops& ops) {
  auto packed = std::make_shared<PackedAdapter>();
  packed->layout = lora.layout;
  packed->layers.resize(static_cast<std::size_t>(config.text.layers));
  for (std::int64_t layer = 0; layer < config.text.layers; ++layer) {
    for (int input = 0; input < kInputs; ++input) {
      const InputParts parts = parts_of(config.text, input);
      auto& entry = packed->layers[static_cast<std::size_t>(layer)][static_cast<std::size_t>(input)];
      std::vector<LoraFactors> factors;
      for (std::size_t i = 0; i < parts.projections.size(); ++i) {
        const LoraModule* module = lora.layout->find(layer, parts.projections[i]);
        if (module == nullptr) continue;
        factors.push_back(
            {lora.a(*module), lora.b(*module), module->rank, module->out, parts.offsets[i], module->scale});
        entry.modules.push_back(module);
      }
      if (!factors.empty()) entry.factors = ops.pack_lora(entry.modules.front()->in, factors);
    }
  }
  return packed;
}

/// What the forward keeps of a layer. `input` is enough to compute the rest again.
struct LayerTape {
  Tensor input;                   // [T, hidden] f32
  Tensor qkv;                     // [T, q + 2 kv] f32, rotated
  Tensor attended;                // [T', q] compute type
  Tensor lse;                     // [T', heads] f32
  Tensor middle;                  // [T', hidden] f32
  Tensor gate_up;                 // [T', 2 intermediate] f32
  std::array<Tensor, kInputs> u;  // LoRA's inner values, [T or T', ranks] f32
};

class Tape {
 public:
  std::vector<LayerTape> layers;
  Tensor final_input;  // [outputs, hidden] f32
  bool recompute = false;
  DropoutKey dropout;
};
void TapeDeleter::operator()(Tape* tape) const {
  delete tape;
}

// ---------------------------------------------------------------------------------------------------------------------

namespace {

/// Cosines and sines of position · inverse frequency, for every position met so far.
class RotaryTable {
 public:
  explicit RotaryTable(const TextConfig& text) : half_(text.head_dim / 2) {
    for (std::int64_t j = 0; j < half_; ++j) {
      inverse_.push_back(
          static_cast<float>(1.0 / std::pow(text.rope_theta, 2.0 * static_cast<double>(j) /
                                                                 static_cast<double>(text.head_dim))));
    }
    for (std::size_t axis = 0; axis < 3; ++axis)
      axes_.insert(axes_.end(), static_cast<std::size_t>(text.mrope_section[axis]), axis);
  }
  void fill(std::span<const Position> positions, Tensor& cosines, Tensor& sines) {
    std::int32_t highest = 0;
    for (const Position& p : positions) highest = std::max(highest, *std::max_element(p.begin(), p.end()));
    const std::lock_guard lock(mutex_);
    grow(highest);
    for (std::size_t r = 0; r < positions.size(); ++r) {
      float* c = cosines.row<float>(static_cast<std::int64_t>(r));
      float* s = sines.row<float>(static_cast<std::int64_t>(r));
      for (std::int64_t j = 0; j < half_; ++j) {
        const auto at =
            static_cast<std::size_t>(positions[r][axes_[static_cast<std::size_t>(j)]] * half_ + j);
        c[j] = cosines_[at];
        s[j] = sines_[at];
      }
    }
  }

 private:
  void grow(std::int32_t highest) {
    auto have = static_cast<std::int64_t>(cosines_.size()) / half_;
    for (; have <= highest; ++have) {
      for (std::int64_t j = 0; j < half_; ++j) {
        const float angle = static_cast<float>(have) * inverse_[static_cast<std::size_t>(j)];
        cosines_.push_back(static_cast<float>(std::cos(static_cast<double>(angle))));
        sines_.push_back(static_cast<float>(std::sin(static_cast<double>(angle))));
      }
    }
  }
  std::int64_t half_;
  std::vector<float> inverse_, cosines_, sines_;
  std::vector<std::size_t> axes_;
  std::mutex mutex_;
};

/// Rows whose hidden state is wanted in the end. All layers but the last need every row; the last one needs
/// keys and values of every row, and the rest for these only.
struct OutputRows {
  explicit OutputRows(const RowBatch& batch) {
    for (const SequenceRows& s : batch.sequences) {
      AttentionRows compact{static_cast<std::int64_t>(rows.size()), s.outputs,
                            s.first_position + s.rows - s.outputs, s.pages};
      for (std::int64_t i = s.rows - s.outputs; i < s.rows; ++i) rows.push_back(s.first_row + i);
      all_sequences.push_back({s.first_row, s.rows, s.first_position, s.pages});
      sequences.push_back(compact);
    }
    for (const GroupRows& g : batch.groups) {
      const SequenceRows& prompt = batch.sequences[g.prompt];
      SharedPromptRows every{prompt.first_row, prompt.rows, prompt.first_row, prompt.rows, {}};
      SharedPromptRows last{prompt.first_row, prompt.rows, sequences[g.prompt].first_row, prompt.outputs, {}};
      for (const std::size_t m : g.members) {
        const SequenceRows& member = batch.sequences[m];
        CHECK_EQ(member.outputs, member.rows);
        every.members.push_back({member.first_row, member.rows, member.first_row});
        last.members.push_back({member.first_row, member.rows, sequences[m].first_row});
      }
      all_groups.push_back(std::move(every));
      groups.push_back(std::move(last));
    }
  }
  std::vector<std::int64_t> rows;
  std::vector<AttentionRows> all_sequences, sequences;
  std::vector<SharedPromptRows> all_groups, groups;
};

class QwenVlImplementation final : public QwenVl {
 public:
  QwenVlImplementation(const std::filesystem::path& directory, std::shared_ptr<Ops> ops, Options options)
      : config_(ModelConfig::load(directory)),
        ops_(std::move(ops)),
        rotary_(config_.text),
        backward_(options.backward) {
    const Checkpoint checkpoint = Checkpoint::open(directory, config_);
    const WeightLoader load(checkpoint, *ops_, options.arena, options.frozen);
    if (options.vision) vision_ = std::make_unique<VisionTower>(load, config_);
    embedding_ = load.matrix("model.embed_tokens.weight");
    for (std::int64_t i = 0; i < config_.text.layers; ++i) {
      const std::string name = fmt::format("model.layers.{}.", i);
      const bool back = options.backward;
      // Nothing flows into the embeddings, so the first layer's q, k, v need no input gradient.
      layers_.push_back(
          {load.vector(name + "input_layernorm.weight"),
           load.vector(name + "post_attention_layernorm.weight"),
           load.linear({name + "self_attn.q_proj", name + "self_attn.k_proj", name + "self_attn.v_proj"},
                       true, back && i > 0),
           load.linear({name + "self_attn.o_proj"}, false, back),
           load.linear({name + "mlp.gate_proj", name + "mlp.up_proj"}, false, back),
           load.linear({name + "mlp.down_proj"}, false, back)});
    }
    final_norm_ = load.vector("model.norm.weight");
    // A part on the head of a tied model changes the head alone, as in PEFT.
    const bool shared =
        checkpoint.tied() && (options.frozen == nullptr || options.frozen->find("lm_head") == nullptr);
    head_ = shared ? load.pack("lm_head", embedding_.const_view(), {}, options.backward)
                   : load.linear({"lm_head"}, false, options.backward);
    load.check_rows();
  }

  const ModelConfig& config() const override { return config_; }
  Ops& ops() const override { return *ops_; }
  const FrozenLinear& head() const override { return *head_; }

  Tensor encode_images(std::span<const ImagePatches> images, const Observer* observer) const override {
    CHECK(vision_ != nullptr) << "loaded without the vision tower";
    return vision_->encode(images, *ops_, observer);
  }

  void forward(const RowBatch& batch, KvCache& cache, const PackedAdapter* adapter, View hidden,
               TapePointer* tape, bool recompute, const DropoutKey& dropout) const override {
    const OutputRows outputs(batch);
    Tensor cosines, sines;
    rotary(batch, cosines, sines);
    Tensor x = embed(batch);
    if (tape != nullptr) {
      tape->reset(new Tape);
      (*tape)->layers.resize(layers_.size());
      (*tape)->recompute = recompute;
      (*tape)->dropout = dropout;
    }
    LayerTape scratch;
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      LayerTape* keep = tape != nullptr ? &(*tape)->layers[l] : nullptr;
      if (keep != nullptr) keep->input = x.clone();
      layer_forward(l, batch, outputs, cosines, sines, cache, adapter, dropout, x,
                    keep != nullptr && !recompute ? *keep : scratch, keep != nullptr && !recompute);
    }
    ops_->rms_norm(x.const_view(), final_norm_.const_view(), config_.text.rms_eps, hidden);
    if (tape != nullptr) (*tape)->final_input = std::move(x);
  }

  void backward(const RowBatch& batch, KvCache& cache, const PackedAdapter& adapter, const Tape& tape,
                ConstView d_hidden, std::span<float> gradient) const override {
    CHECK(backward_) << "loaded without backward";
    CHECK_EQ(gradient.size(), adapter.layout->size());
    const OutputRows outputs(batch);
    Tensor cosines, sines;
    rotary(batch, cosines, sines);
    Tensor d_x(DType::f32, static_cast<std::int64_t>(outputs.rows.size()), config_.text.hidden, "gradients");
    d_x.zero();
    ops_->rms_norm_backward(tape.final_input.const_view(), final_norm_.const_view(), config_.text.rms_eps,
                            d_hidden, d_x.view());
    LayerTape again;
    for (std::size_t l = layers_.size(); l-- > 0;) {
      const LayerTape* kept = &tape.layers[l];
      if (tape.recompute) {
        Tensor x = tape.layers[l].input.clone();
        layer_forward(l, batch, outputs, cosines, sines, cache, &adapter, tape.dropout, x, again, true);
        kept = &again;
      }
      layer_backward(l, batch, outputs, cosines, sines, cache.type(), adapter, tape.dropout,
                     tape.layers[l].input, *kept, d_x, gradient);
    }
  }

 private:
  struct Layer {
    Tensor input_norm, middle_norm;
    std::unique_ptr<FrozenLinear> qkv, o, gate_up, down;
  };

  std::int64_t q_width() const { return config_.text.heads * config_.text.head_dim; }
  std::int64_t kv_width() const { return config_.text.kv_heads * config_.text.head_dim; }
  bool last(std::size_t layer) const { return layer + 1 == layers_.size(); }

  void rotary(const RowBatch& batch, Tensor& cosines, Tensor& sines) const {
    cosines = Tensor(DType::f32, batch.rows(), config_.text.head_dim / 2, "activations");
    sines = Tensor(DType::f32, batch.rows(), config_.text.head_dim / 2, "activations");
    rotary_.fill(batch.positions, cosines, sines);
  }

  Tensor embed(const RowBatch& batch) const {
    Tensor x(DType::f32, batch.rows(), config_.text.hidden, "activations");
    std::vector<std::int64_t> ids = batch.ids;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (batch.features[i] != nullptr) ids[i] = 0;
    }
    ops_->embed(embedding_.const_view(), ids, x.view());
    const bool rounded = ops_->compute_type() == DType::bf16;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (batch.features[i] == nullptr) continue;
      float* row = x.row<float>(static_cast<std::int64_t>(i));
      for (std::int64_t c = 0; c < x.columns(); ++c) {
        row[c] = rounded ? to_float(to_bf16(batch.features[i][c])) : batch.features[i][c];
      }
    }
    return x;
  }

  std::optional<Dropout> dropout_of(const DropoutKey& key, const RowBatch& batch, std::size_t layer,
                                    int input, const std::vector<std::uint64_t>& token_keys) const {
    if (key.rate <= 0) return std::nullopt;
    CHECK_EQ(batch.token_keys.size(), batch.ids.size());
    return Dropout{key.rate, mix64(key.key ^ mix64(layer * kInputs + static_cast<std::uint64_t>(input))),
                   token_keys};
  }

  /// y += the adapter's part; u keeps the inner values.
  void add_lora(const PackedAdapter* adapter, std::size_t layer, int input,
                const std::optional<Dropout>& dropout, const Tensor& x, Tensor& u, Tensor& y) const {
    if (adapter == nullptr) return;
    const auto& entry = adapter->layers[layer][static_cast<std::size_t>(input)];
    if (entry.factors == nullptr) return;
    u = Tensor(DType::f32, x.rows(), entry.factors->rank, "activations");
    ops_->lora(x.const_view(), *entry.factors, dropout ? &*dropout : nullptr, u.view(), y.view());
  }

  static std::vector<std::uint64_t> select_keys(const RowBatch& batch,
                                                const std::vector<std::int64_t>& rows) {
    std::vector<std::uint64_t> keys;
    if (batch.token_keys.empty()) return keys;
    for (const std::int64_t row : rows) keys.push_back(batch.token_keys[static_cast<std::size_t>(row)]);
    return keys;
  }

  /// x [T, hidden] becomes the layer's output [T', hidden]; `keep` receives what the backward needs, all of it only if `for_backward`.
  void layer_forward(std::size_t l, const RowBatch& batch, const OutputRows& outputs, const Tensor& cosines,
                     const Tensor& sines, KvCache& cache, const PackedAdapter* adapter,
                     const DropoutKey& dropout, Tensor& x, LayerTape& keep, bool for_backward) const {
    const Layer& layer = layers_[l];
    const TextConfig& text = config_.text;
    const DType compute = ops_->compute_type();
    const std::int64_t q = q_width();
    const std::int64_t kv = kv_width();
    const bool compact = last(l) && static_cast<std::int64_t>(outputs.rows.size()) != batch.rows();

    Tensor normed(compute, x.rows(), text.hidden, "activations");
    ops_->rms_norm(x.const_view(), layer.input_norm.const_view(), text.rms_eps, normed.view());
    keep.qkv = Tensor(DType::f32, x.rows(), q + 2 * kv, "activations");
    ops_->linear(normed.const_view(), *layer.qkv, keep.qkv.view());
    add_lora(adapter, l, kInputQkv, dropout_of(dropout, batch, l, kInputQkv, batch.token_keys), normed,
             keep.u[kInputQkv], keep.qkv);
    ops_->rotate(keep.qkv.view().column_range(0, q + kv), text.head_dim, cosines.const_view(),
                 sines.const_view(), false);
    const KvPages pages = cache.layer(static_cast<std::int64_t>(l));
    ops_->write_kv(keep.qkv.const_view().column_range(q, kv), keep.qkv.const_view().column_range(q + kv, kv),
                   cache.shape(), batch.writes, pages);

    const auto rows =
        static_cast<std::int64_t>(compact ? outputs.rows.size() : static_cast<std::size_t>(batch.rows()));
    Tensor gathered_q;
    ConstView queries = keep.qkv.const_view().column_range(0, q);
    if (compact) {
      gathered_q = Tensor(DType::f32, rows, q, "activations");
      ops_->gather_rows(queries, outputs.rows, gathered_q.view());
      queries = gathered_q.const_view();
      Tensor gathered_x(DType::f32, rows, text.hidden, "activations");
      ops_->gather_rows(x.const_view(), outputs.rows, gathered_x.view());
      x = std::move(gathered_x);
    }
    const std::vector<std::uint64_t> keys = compact ? select_keys(batch, outputs.rows) : batch.token_keys;
    keep.attended = Tensor(compute, rows, q, "activations");
    if (for_backward) keep.lse = Tensor(DType::f32, rows, text.heads, "activations");
    ops_->attention(queries, pages, cache.shape(), compact ? outputs.sequences : outputs.all_sequences,
                    keep.attended.view(), keep.lse.view());
    ops_->linear(keep.attended.const_view(), *layer.o, x.view(), true);
    add_lora(adapter, l, kInputO, dropout_of(dropout, batch, l, kInputO, keys), keep.attended,
             keep.u[kInputO], x);
    if (for_backward) keep.middle = x.clone();

    Tensor normed2(compute, rows, text.hidden, "activations");
    ops_->rms_norm(x.const_view(), layer.middle_norm.const_view(), text.rms_eps, normed2.view());
    keep.gate_up = Tensor(DType::f32, rows, 2 * text.intermediate, "activations");
    ops_->linear(normed2.const_view(), *layer.gate_up, keep.gate_up.view());
    add_lora(adapter, l, kInputGateUp, dropout_of(dropout, batch, l, kInputGateUp, keys), normed2,
             keep.u[kInputGateUp], keep.gate_up);
    Tensor product(compute, rows, text.intermediate, "activations");
    ops_->swiglu(keep.gate_up.const_view(), product.view());
    ops_->linear(product.const_view(), *layer.down, x.view(), true);
    add_lora(adapter, l, kInputDown, dropout_of(dropout, batch, l, kInputDown, keys), product,
             keep.u[kInputDown], x);
  }

  /// Adds the adapter's gradient of one input and its part of d_x.
  void lora_backward(const PackedAdapter& adapter, std::size_t layer, int input,
                     const std::optional<Dropout>& dropout, const Tensor& x, const Tensor& u,
                     const Tensor& dy, View d_x, std::span<float> gradient) const {
    const auto& entry = adapter.layers[layer][static_cast<std::size_t>(input)];
    if (entry.factors == nullptr) return;
    std::vector<LoraGradients> targets;
    for (const LoraModule* module : entry.modules) {
      targets.push_back({gradient.data() + module->a_offset, gradient.data() + module->b_offset});
    }
    ops_->lora_backward(x.const_view(), u.const_view(), dy.const_view(), *entry.factors,
                        dropout ? &*dropout : nullptr, d_x, targets);
  }

  Tensor rounded(const Tensor& x) const {
    Tensor y(ops_->compute_type(), x.rows(), x.columns(), "gradients");
    ops_->convert(x.const_view(), y.view());
    return y;
  }

  /// d_x [T', hidden] of the layer's output becomes d_x [T, hidden] of its input.
  void layer_backward(std::size_t l, const RowBatch& batch, const OutputRows& outputs, const Tensor& cosines,
                      const Tensor& sines, DType kv_type, const PackedAdapter& adapter,
                      const DropoutKey& dropout, const Tensor& input, const LayerTape& kept, Tensor& d_x,
                      std::span<float> gradient) const {
    const Layer& layer = layers_[l];
    const TextConfig& text = config_.text;
    const DType compute = ops_->compute_type();
    const std::int64_t q = q_width();
    const std::int64_t kv = kv_width();
    const std::int64_t rows = d_x.rows();
    const bool compact = rows != batch.rows();
    const std::vector<std::uint64_t> keys = compact ? select_keys(batch, outputs.rows) : batch.token_keys;

    {  // MLP
      Tensor product(compute, rows, text.intermediate, "activations");
      ops_->swiglu(kept.gate_up.const_view(), product.view());
      const Tensor dy = rounded(d_x);
      Tensor d_product(DType::f32, rows, text.intermediate, "gradients");
      ops_->linear_backward(dy.const_view(), *layer.down, d_product.view());
      lora_backward(adapter, l, kInputDown, dropout_of(dropout, batch, l, kInputDown, keys), product,
                    kept.u[kInputDown], dy, d_product.view(), gradient);
      Tensor d_gate_up(compute, rows, 2 * text.intermediate, "gradients");
      ops_->swiglu_backward(kept.gate_up.const_view(), d_product.const_view(), d_gate_up.view());
      Tensor normed(compute, rows, text.hidden, "activations");
      ops_->rms_norm(kept.middle.const_view(), layer.middle_norm.const_view(), text.rms_eps, normed.view());
      Tensor d_normed(DType::f32, rows, text.hidden, "gradients");
      ops_->linear_backward(d_gate_up.const_view(), *layer.gate_up, d_normed.view());
      lora_backward(adapter, l, kInputGateUp, dropout_of(dropout, batch, l, kInputGateUp, keys), normed,
                    kept.u[kInputGateUp], d_gate_up, d_normed.view(), gradient);
      ops_->rms_norm_backward(kept.middle.const_view(), layer.middle_norm.const_view(), text.rms_eps,
                              d_normed.const_view(), d_x.view());
    }

    // Attention
    const Tensor dy = rounded(d_x);
    Tensor d_attended(DType::f32, rows, q, "gradients");
    ops_->linear_backward(dy.const_view(), *layer.o, d_attended.view());
    lora_backward(adapter, l, kInputO, dropout_of(dropout, batch, l, kInputO, keys), kept.attended,
                  kept.u[kInputO], dy, d_attended.view(), gradient);
    Tensor d_qkv(DType::f32, batch.rows(), q + 2 * kv, "gradients");
    Tensor compact_q, compact_d_q;
    ConstView queries = kept.qkv.const_view().column_range(0, q);
    View d_q = d_qkv.view().column_range(0, q);
    if (compact) {
      compact_q = Tensor(DType::f32, rows, q, "gradients");
      ops_->gather_rows(queries, outputs.rows, compact_q.view());
      compact_d_q = Tensor(DType::f32, rows, q, "gradients");
      queries = compact_q.const_view();
      d_q = compact_d_q.view();
      d_qkv.zero();
    }
    ops_->attention_backward(
        queries, kept.qkv.const_view().column_range(q, kv), kept.qkv.const_view().column_range(q + kv, kv),
        kept.attended.const_view(), kept.lse.const_view(), d_attended.const_view(),
        {text.heads, text.kv_heads, text.head_dim}, kv_type, compact ? outputs.groups : outputs.all_groups,
        d_q, d_qkv.view().column_range(q, kv), d_qkv.view().column_range(q + kv, kv));
    if (compact)
      ops_->scatter_add_rows(compact_d_q.const_view(), outputs.rows, d_qkv.view().column_range(0, q));
    ops_->rotate(d_qkv.view().column_range(0, q + kv), text.head_dim, cosines.const_view(),
                 sines.const_view(), true);

    const Tensor d_projected = rounded(d_qkv);
    Tensor normed(compute, batch.rows(), text.hidden, "activations");
    ops_->rms_norm(input.const_view(), layer.input_norm.const_view(), text.rms_eps, normed.view());
    Tensor d_normed;
    if (l > 0) {
      d_normed = Tensor(DType::f32, batch.rows(), text.hidden, "gradients");
      ops_->linear_backward(d_projected.const_view(), *layer.qkv, d_normed.view());
    }
    lora_backward(adapter, l, kInputQkv, dropout_of(dropout, batch, l, kInputQkv, batch.token_keys), normed,
                  kept.u[kInputQkv], d_projected, l > 0 ? d_normed.view() : View{}, gradient);
    if (l == 0) return;
    if (compact) {
      Tensor spread(DType::f32, batch.rows(), text.hidden, "gradients");
      spread.zero();
      ops_->scatter_add_rows(d_x.const_view(), outputs.rows, spread.view());
      d_x = std::move(spread);
    }
    ops_->rms_norm_backward(input.const_view(), layer.input_norm.const_view(), text.rms_eps,
                            d_normed.const_view(), d_x.view());
  }

  ModelConfig config_;
  std::shared_ptr<Ops> ops_;
  mutable RotaryTable rotary_;
  bool backward_;
  std::unique_ptr<VisionTower> vision_;
  Tensor embedding_, final_norm_;
  std::vector<Layer> layers_;
  std::unique_ptr<FrozenLinear> head_;
};

}  // namespace

std::unique_ptr<QwenVl> QwenVl::load(const std::filesystem::path& directory, std::shared_ptr<Ops> ops,
                                     Options options) {
  return std::make_unique<QwenVlImplementation>(directory, std::move(ops), options);
}

}  // namespace biqa
