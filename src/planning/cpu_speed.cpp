// SPDX-License-Identifier: Apache-2.0
#include "planning/cpu_speed.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "actor/engine.h"
#include "model/qwen_vl.h"
#include "model/vision_tower.h"
#include "ops/backends.h"
#include "ops/product_rate.h"

namespace biqa {
namespace {

using Clock = std::chrono::steady_clock;

/// Of a part in a round, unless the fewest rows take longer.
constexpr double kSeconds = 0.08;
/// Of all parts. Other programs that disturb a round have often gone in the next.
constexpr std::size_t kMostRounds = 3;
/// No round begins after these.
constexpr double kEnoughSeconds = 4;
/// Fewer rows would read the weights too often for their operations.
constexpr std::int64_t kFewRows = 128;
/// Of the very first pass. Its speed says how many rows the others may have.
constexpr std::int64_t kProbeRows = 32;

double number(std::int64_t value) {
  return static_cast<double>(value);
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Operations per second. The first run is not counted: it takes the memory that the others use again.
double rate(double operations, const std::function<void()>& run) {
  run();
  const auto start = Clock::now();
  double seconds = 0, runs = 0;
  while (seconds < kSeconds) {
    run();
    ++runs;
    seconds = seconds_since(start);
  }
  return operations * runs / seconds;
}

/// Makes weights. Their size keeps the activations finite.
class RandomWeights {
 public:
  explicit RandomWeights(Ops& ops) : ops_(ops) {}
  Tensor matrix(std::int64_t out, std::int64_t in) const {
    return random_numbers(ops_.compute_type(), out, in, 1.0F / std::sqrt(static_cast<float>(in)));
  }
  static Tensor norm(std::int64_t width) { return random_numbers(DType::f32, 1, width, 1.0F); }
  std::unique_ptr<FrozenLinear> product(std::int64_t out, std::int64_t in, bool bias, bool backward) const {
    const std::vector<float> biases(bias ? static_cast<std::size_t>(out) : 0, 0.1F);
    return ops_.pack(matrix(out, in).view(), biases, backward);
  }

 private:
  Ops& ops_;
};

std::unique_ptr<Decoder> make_decoder(Ops& ops, const TextConfig& text) {
  const RandomWeights random(ops);
  const Widths w(text);
  DecoderWeights weights;
  weights.embedding = random.matrix(text.vocab, w.hidden);
  weights.final_norm = RandomWeights::norm(w.hidden);
  for (std::int64_t layer = 0; layer < text.layers; ++layer) {
    weights.layers.push_back({RandomWeights::norm(w.hidden), RandomWeights::norm(w.hidden),
                              random.product(w.q + 2 * w.kv, w.hidden, true, layer > 0),
                              random.product(w.hidden, w.q, false, true),
                              random.product(2 * w.mlp, w.hidden, false, true),
                              random.product(w.hidden, w.mlp, false, true)});
  }
  weights.head = random.product(text.vocab, w.hidden, false, true);
  return ops.make_decoder(decoder_shape(text), std::move(weights));
}

std::unique_ptr<VisionEncoder> make_tower(Ops& ops, const VisionConfig& v) {
  const RandomWeights random(ops);
  const std::int64_t cell = v.hidden * v.merge * v.merge;
  VisionWeights weights;
  weights.embed = random.product(v.hidden, v.channels * v.temporal * v.patch * v.patch, false, false);
  for (std::int64_t block = 0; block < v.depth; ++block) {
    weights.blocks.push_back({RandomWeights::norm(v.hidden), RandomWeights::norm(v.hidden),
                              random.product(3 * v.hidden, v.hidden, true, false),
                              random.product(v.hidden, v.hidden, true, false),
                              random.product(2 * v.intermediate, v.hidden, true, false),
                              random.product(v.hidden, v.intermediate, true, false)});
  }
  weights.merger_norm = RandomWeights::norm(v.hidden);
  weights.merger_in = random.product(cell, cell, true, false);
  weights.merger_out = random.product(v.out_hidden, cell, true, false);
  return ops.make_vision(
      {v.hidden, v.intermediate, v.heads, v.merge * v.merge, v.rms_eps, v.full_attention_blocks},
      std::move(weights));
}

PromptInput text_prompt(std::int64_t tokens, std::int64_t vocabulary) {
  PromptInput prompt;
  for (std::int64_t i = 0; i < tokens; ++i) {
    const auto at = static_cast<std::int32_t>(i);
    prompt.ids.push_back((7 * i + 3) % vocabulary);
    prompt.positions.push_back({at, at, at});
  }
  prompt.next_position = static_cast<std::int32_t>(tokens);
  return prompt;
}

/// Gives every row an output, so that all layers do the work of a middle layer.
RowBatch with_all_outputs(RowBatch batch) {
  batch.picks.clear();
  for (SequenceRows& sequence : batch.sequences) sequence.outputs = sequence.rows;
  return batch;
}

/// The language model of a few layers, and what is measured with it.
class MeasuredDecoder {
 public:
  explicit MeasuredDecoder(const MemoryInputs& in, Ops& ops)
      : in_(in),
        ops_(ops),
        model_(measured_model(in.model, in.dtype)),
        flop_(model_),
        decoder_(make_decoder(ops, model_.text)),
        lora_(model_, in.lora) {
    const auto size = static_cast<std::int64_t>(lora_.size());
    const Tensor values = random_numbers(DType::f32, 1, size, 0.01F);
    adapter_ = decoder_->pack_adapter(lora_.modules(), values.view());
  }
  double prefill();
  double decode();
  double learn();
  double sample(const SampleRequest& how);
  double score();

 private:
  /// Rows that take about kSeconds, at the speed of the first pass.
  std::int64_t affordable(double flop_per_row);
  double prefill(std::int64_t rows);
  KvCache make_cache(std::int64_t pages, std::int64_t layers) const {
    return {*decoder_, ops_.kv_layout(head_shape(model_.text)), pages, layers};
  }
  /// Random keys and values in every page: those of the first one, computed.
  void fill(KvCache& cache) const;
  Tensor hidden_of(std::int64_t rows) const { return random_numbers(in_.dtype, rows, model_.text.hidden); }
  /// A plan with `rows` outputs and a pick for each.
  std::unique_ptr<BatchPlan> plan_of_picks(std::int64_t rows) const;
  std::int64_t head_rows(std::int64_t rows) const {
    return std::clamp<std::int64_t>(rows, 1, logit_rows(in_.model.text.vocab));
  }
  std::int64_t running() const { return std::max<std::int64_t>(1, in_.images * in_.group); }
  LearnerPasses passes() const { return {in_.reference_pass, in_.recompute}; }

  const MemoryInputs& in_;
  Ops& ops_;
  ModelConfig model_;
  DecoderFlop flop_;
  std::unique_ptr<Decoder> decoder_;
  LoraLayout lora_;
  std::shared_ptr<const PackedAdapter> adapter_;
  double first_rate_ = 0;
};

std::int64_t MeasuredDecoder::affordable(double flop_per_row) {
  if (first_rate_ == 0) first_rate_ = prefill(kProbeRows);
  return std::max(kFewRows, static_cast<std::int64_t>(first_rate_ * kSeconds / flop_per_row));
}

void MeasuredDecoder::fill(KvCache& cache) const {
  const std::int64_t tokens = ops_.kv_layout(head_shape(model_.text)).page_tokens;
  KvSequence first;
  CHECK(cache.extend(first, tokens));
  BatchBuilder builder(cache);
  builder.add_prompt(text_prompt(tokens, model_.text.vocab), first, tokens);
  Tensor hidden = hidden_of(tokens);
  decoder_->forward(*decoder_->plan(builder.batch()), cache.store(), nullptr, hidden.view(), {});
  const std::int32_t filled = first.pages.front();
  for (std::int64_t page = 0; page < cache.pages(); ++page) {
    if (page != filled) decoder_->copy_page(cache.store(), filled, static_cast<std::int32_t>(page));
  }
  cache.release(first);
}

double MeasuredDecoder::prefill() {
  const double row = flop_.forward({1, number(in_.prompt) / 2, 1});
  return prefill(affordable(row));
}

/// Whole prompts, or the middle part of one.
double MeasuredDecoder::prefill(std::int64_t rows) {
  const KvLayout layout = ops_.kv_layout(head_shape(model_.text));
  const std::int64_t count =
      std::clamp<std::int64_t>(rows / in_.prompt, 1, std::max<std::int64_t>(1, in_.images));
  const std::int64_t each = std::min(rows, in_.prompt);
  const std::int64_t first = (in_.prompt - each) / 2;
  KvCache cache = make_cache(count * KvCache::pages_for(in_.prompt, layout), model_.text.layers);
  fill(cache);
  const PromptInput prompt = text_prompt(in_.prompt, model_.text.vocab);
  BatchBuilder builder(cache);
  std::vector<KvSequence> sequences(static_cast<std::size_t>(count));
  for (KvSequence& sequence : sequences) {
    CHECK(cache.extend(sequence, in_.prompt));
    builder.add_prompt(prompt, first, each, sequence, each);
  }
  Tensor hidden = hidden_of(count * each);
  const double done = number(count * each);
  return rate(flop_.forward({done, number(first) + number(each) / 2, done}), [&] {
    decoder_->forward(*decoder_->plan(builder.batch()), cache.store(), adapter_.get(), hidden.view(), {});
  });
}

/// An iteration in the middle of the completions.
double MeasuredDecoder::decode() {
  const KvLayout layout = ops_.kv_layout(head_shape(model_.text));
  const std::int64_t length = in_.prompt + in_.new_tokens / 2;
  const std::int64_t rows = std::min(running(), affordable(flop_.forward({1, number(length), 1})));
  const std::int64_t members = std::min(rows, in_.group);
  const std::int64_t groups = rows / members;
  KvCache cache = make_cache(
      groups * Engine::pages_needed(layout, in_.prompt, members, in_.new_tokens / 2 + 1), model_.text.layers);
  fill(cache);
  BatchBuilder builder(cache);
  std::vector<KvSequence> prompts(static_cast<std::size_t>(groups));
  std::vector<KvSequence> sequences(static_cast<std::size_t>(groups * members));
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    KvSequence& prompt = prompts[i / static_cast<std::size_t>(members)];
    if (prompt.pages.empty()) CHECK(cache.extend(prompt, in_.prompt));
    CHECK(cache.fork(prompt, sequences[i]) && cache.extend(sequences[i], in_.new_tokens / 2 + 1));
    const std::int64_t id = static_cast<std::int64_t>(i) % model_.text.vocab;
    builder.add_tokens(std::span(&id, 1), static_cast<std::int32_t>(length), length, sequences[i]);
  }
  Tensor hidden = hidden_of(groups * members);
  const double done = number(groups * members);
  return rate(flop_.forward({done, number(length), done}), [&] {
    decoder_->forward(*decoder_->plan(builder.batch()), cache.store(), adapter_.get(), hidden.view(), {});
  });
}

/// All passes over a part of a micro-batch: some groups, or some members of one, or shorter ones.
double MeasuredDecoder::learn() {
  const KvLayout layout = ops_.kv_layout(head_shape(model_.text));
  std::int64_t prompt = in_.prompt, completion = std::max<std::int64_t>(1, in_.new_tokens - 1);
  const double row = flop_.learn({1, number(prompt + completion), 1}, passes());
  const std::int64_t rows = std::min(affordable(row), std::max(in_.micro_batch_tokens, prompt + completion));
  if (rows < prompt + completion) {
    const std::int64_t whole = prompt + completion;
    prompt = std::max<std::int64_t>(1, prompt * rows / whole);
    completion = std::max<std::int64_t>(1, completion * rows / whole);
  }
  const std::int64_t members = std::clamp<std::int64_t>((rows - prompt) / completion, 1, in_.group);
  const std::int64_t groups = std::clamp<std::int64_t>(rows / (prompt + members * completion), 1,
                                                       std::max<std::int64_t>(1, in_.images));
  KvCache cache = make_cache(groups * (Engine::pages_needed(layout, prompt, members, completion) +
                                       KvCache::pages_for(prompt, layout)),
                             1);
  const PromptInput input = text_prompt(prompt, model_.text.vocab);
  const std::vector<std::int64_t> fed = text_prompt(completion, model_.text.vocab).ids;
  BatchBuilder builder(cache);
  std::vector<KvSequence> sequences;
  sequences.reserve(static_cast<std::size_t>(groups * (members + 1)));
  for (std::int64_t group = 0; group < groups; ++group) {
    KvSequence& parent = sequences.emplace_back();
    CHECK(cache.extend(parent, prompt));
    builder.begin_group(input, parent);
    for (std::int64_t member = 0; member < members; ++member) {
      KvSequence& child = sequences.emplace_back();
      CHECK(cache.fork_to_write(parent, child) && cache.extend(child, completion));
      builder.add_member(fed, child);
    }
  }
  for (std::int64_t i = 0; i < builder.rows(); ++i) builder.name_token(static_cast<std::uint64_t>(i));
  const auto plan = decoder_->plan(with_all_outputs(builder.batch()));
  Tensor hidden = hidden_of(plan->rows);
  const Tensor d_hidden = random_numbers(DType::f32, plan->rows, model_.text.hidden);
  Tensor gradient(DType::f32, 1, static_cast<std::int64_t>(lora_.size()), "measurement");
  gradient.zero();
  const PackedAdapter* reference = in_.own_reference ? adapter_.get() : nullptr;
  const PassRows done = completion_rows(number(completion), number(prompt));
  const double operations =
      number(groups) * (number(members) * flop_.learn(done, passes()) +
                        flop_.learn({number(prompt), number(prompt) / 2, number(prompt)}, passes()));
  return rate(operations, [&] {
    if (in_.reference_pass) decoder_->forward(*plan, cache.store(), reference, hidden.view(), {});
    std::unique_ptr<Tape> tape;
    decoder_->forward(*plan, cache.store(), adapter_.get(), hidden.view(),
                      {&tape, in_.recompute, {in_.lora.dropout, 1}});
    decoder_->backward(*plan, cache.store(), *adapter_, *tape, d_hidden.view(), gradient.view());
  });
}

std::unique_ptr<BatchPlan> MeasuredDecoder::plan_of_picks(std::int64_t rows) const {
  const KvLayout layout = ops_.kv_layout(head_shape(model_.text));
  KvCache cache = make_cache(KvCache::pages_for(rows, layout), 1);
  KvSequence sequence;
  CHECK(cache.extend(sequence, rows));
  BatchBuilder builder(cache);
  builder.add_prompt(text_prompt(rows, model_.text.vocab), sequence, rows);
  for (std::int64_t row = 0; row < rows; ++row) builder.pick(row);
  return decoder_->plan(builder.batch());
}

double MeasuredDecoder::sample(const SampleRequest& how) {
  const std::int64_t rows = head_rows(running());
  const auto plan = plan_of_picks(rows);
  const Tensor hidden = hidden_of(rows);
  std::vector<SampleRequest> requests(static_cast<std::size_t>(rows), how);
  for (std::size_t i = 0; i < requests.size(); ++i)
    requests[i].uniform = (static_cast<double>(i) + 0.5) / static_cast<double>(rows);
  return rate(flop_.sample(number(rows)),
              [&] { decoder_->sample(*plan, hidden.view(), requests, {})->wait(); });
}

double MeasuredDecoder::score() {
  const std::int64_t rows = head_rows(running() * in_.new_tokens);
  const auto plan = plan_of_picks(rows);
  const Tensor hidden = hidden_of(rows);
  const std::vector<std::int64_t> targets = text_prompt(rows, model_.text.vocab).ids;
  std::vector<float> logp(targets.size()), entropy(targets.size());
  Tensor d_picked(DType::f32, rows, model_.text.hidden, "measurement");
  return rate(flop_.score(number(rows), passes()), [&] {
    if (in_.reference_pass) decoder_->log_prob(*plan, hidden.view(), targets, 1.0F, logp, entropy, {});
    decoder_->log_prob(*plan, hidden.view(), targets, 1.0F, logp, entropy, d_picked.view());
  });
}

/// A vision tower of a few blocks, with an image of about the run's size or with several.
class MeasuredTower {
 public:
  MeasuredTower(const MemoryInputs& in, Ops& ops)
      : model_(measured_model(in.model, in.dtype)), tower_(make_tower(ops, model_.vision)) {
    constexpr std::int64_t kMostCells = 256;
    const VisionConfig& v = model_.vision;
    const std::int64_t cell = v.merge * v.merge;
    const std::int64_t cells = std::clamp<std::int64_t>(in.patch_rows / cell, 1, kMostCells);
    const auto height = std::max<std::int64_t>(1, std::llround(std::sqrt(number(cells))));
    const std::int64_t width = cells / height;
    patches_ = height * width * cell;
    images_ = std::clamp<std::int64_t>(kFewRows / patches_, 1, std::max<std::int64_t>(1, in.images));
    const Grid grid{1, height * v.merge, width * v.merge};
    windows_ = plan_windows(v, std::vector<Grid>(static_cast<std::size_t>(images_), grid));
    const std::int64_t rows = images_ * patches_;
    const std::int64_t half = v.hidden / v.heads / 2;
    input_ = random_numbers(DType::f32, rows, v.channels * v.temporal * v.patch * v.patch);
    cosines_ = random_numbers(DType::f32, rows, half);
    sines_ = random_numbers(DType::f32, rows, half);
    features_ = Tensor(DType::f32, rows / cell, v.out_hidden, "measurement");
  }
  double encode() {
    return rate(ModelFlop(model_).vision(number(images_), number(patches_)), [&] {
      tower_->encode(
          {input_.view(), cosines_.view(), sines_.view(), windows_.windows, windows_.frames, windows_.cells},
          features_.view(), nullptr);
    });
  }

 private:
  ModelConfig model_;
  std::unique_ptr<VisionEncoder> tower_;
  std::int64_t images_ = 0, patches_ = 0;  ///< patches of each
  WindowPlan windows_;
  Tensor input_, cosines_, sines_, features_;
};

/// Of each part.
StepParts medians(const std::vector<StepParts>& rounds) {
  StepParts median;
  for (double StepParts::*part : {&StepParts::vision, &StepParts::prefill, &StepParts::decode,
                                  &StepParts::sample, &StepParts::learn, &StepParts::score}) {
    std::vector<double> values;
    values.reserve(rounds.size());
    for (const StepParts& round : rounds) values.push_back(round.*part);
    std::sort(values.begin(), values.end());
    median.*part = (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
  }
  return median;
}

}  // namespace

ModelConfig measured_model(const ModelConfig& model, DType compute) {
  constexpr std::int64_t kBeyondCaches = std::int64_t{64} << 20;
  const auto element = static_cast<std::int64_t>(size_of(compute));
  const auto enough = [&](std::int64_t elements) {
    return (kBeyondCaches + element * elements - 1) / (element * elements);
  };
  ModelConfig cut = model;
  cut.text.layers = std::min(model.text.layers, enough(Widths(model.text).layer_weights()));
  cut.text.vocab = std::min(model.text.vocab, enough(model.text.hidden));
  VisionConfig& v = cut.vision;
  v.depth = std::min(
      v.depth, std::max<std::int64_t>(2, enough(4 * v.hidden * v.hidden + 3 * v.hidden * v.intermediate)));
  std::erase_if(v.full_attention_blocks, [&](std::int64_t block) { return block >= v.depth; });
  if (v.full_attention_blocks.empty() && !model.vision.full_attention_blocks.empty())
    v.full_attention_blocks.push_back(v.depth - 1);
  return cut;
}

StepParts measure_cpu_speed(const MemoryInputs& inputs, const SampleRequest& sampling) {
  const auto ops = make_ops({"cpu", inputs.dtype, inputs.threads});
  MeasuredDecoder decoder(inputs, *ops);
  MeasuredTower tower(inputs, *ops);
  std::vector<StepParts> rounds;
  const auto start = Clock::now();
  do {
    StepParts& speed = rounds.emplace_back();
    speed.vision = tower.encode();
    speed.prefill = decoder.prefill();
    speed.decode = decoder.decode();
    speed.sample = decoder.sample(sampling);
    speed.learn = decoder.learn();
    speed.score = decoder.score();
  } while (rounds.size() < kMostRounds && seconds_since(start) < kEnoughSeconds);
  return medians(rounds);
}

}  // namespace biqa
