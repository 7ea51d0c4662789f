// SPDX-License-Identifier: Apache-2.0
// biqa_trace: runs one input through the network and writes every intermediate tensor to HDF5, for comparison with
// other implementations. Also converts strings to ids and back, and recomputes a dumped step with the learner's code.
#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "actor/engine.h"
#include "app/program.h"
#include "io/files.h"
#include "io/hdf5.h"
#include "io/json.h"
#include "learner/adapter_store.h"
#include "learner/checkpoint_store.h"
#include "model/training_pass.h"
#include "policy/policy.h"
#include "training/step_reader.h"
#include "training/step_replay.h"

namespace biqa {
namespace {

const ProgramInfo kInfo{
    "biqa_trace",
    "run one input through the network and write every intermediate tensor",
    "--model DIR [--image FILE]… --prompt TEXT [--completion TEXT | --generate N] [--gradient] --out "
    "FILE.h5\n"
    "       biqa_trace --model DIR --step DUMP.h5 --out FILE.h5\n"
    "       biqa_trace --model DIR --tokenize FILE.jsonl | --detokenize FILE.jsonl",
    "biqa_trace --model assets/tiny/model --image photo.png --prompt 'Describe, reason and rate.' --generate "
    "64 --out t.h5",
    {{"model", "DIR", "model folder in Hugging Face format", ""},
     {"adapter", "PATH", "PEFT folder, adapter.h5, checkpoint or run folder", ""},
     {"dtype", "TYPE", "arithmetic: f32 or bf16", "f32"},
     {"device", "DEVICE", "cpu or cuda", "cpu"},
     {"threads", "N",
      "threads; 0: OMP_NUM_THREADS or, if that is unset, all processors that the program may use", "0"},
     {"image", "FILE…", "image before the prompt; repeat for more", ""},
     {"prompt", "TEXT", "the user's text", ""},
     {"system", "TEXT", "system message instead of the template's default", ""},
     {"completion", "TEXT", "completion to score; the end token is added", ""},
     {"generate", "N", "maximum of tokens to generate greedily", "0"},
     {"gradient", "", "gradient of the sum of the completion's log-probabilities, per adapter tensor",
      "false"},
     {"step", "FILE.h5", "a step dump to recompute", ""},
     {"tokenize", "FILE.jsonl", "print the ids of each JSON string", ""},
     {"detokenize", "FILE.jsonl", "print the text of each JSON array of ids", ""},
     {"out", "FILE.h5", "where to write", ""}}};

std::int64_t signed_size(std::size_t size) {
  return static_cast<std::int64_t>(size);
}

ExitCode convert_lines(const std::filesystem::path& model, const std::filesystem::path& file, bool to_ids) {
  const Tokenizer tokenizer = Tokenizer::load(model);
  if (std::filesystem::is_directory(file))
    fail("cannot read {}: it is a folder; name a file with one JSON value per line", file.string());
  std::ifstream input(file);
  if (!input) fail("cannot read {}: no such file; name a file with one JSON value per line", file.string());
  std::string line;
  for (std::int64_t number = 1; std::getline(input, line); ++number) {
    if (line.empty()) continue;
    const std::string where = fmt::format("{}:{}", file.string(), number);
    const nlohmann::json value = parse_json(line, where);
    if (to_ids) {
      if (!value.is_string()) fail("cannot tokenize {}: not a JSON string; write one string per line", where);
      fmt::print("[{}]\n", fmt::join(tokenizer.encode(value.get<std::string>()), ", "));
      continue;
    }
    std::vector<std::int64_t> ids;
    if (!value.is_array())
      fail("cannot detokenize {}: not a JSON array; write one array of ids per line", where);
    for (const auto& id : value) {
      if (!id.is_number_integer())
        fail("cannot detokenize {}: {} is not an id; write one array of ids per line", where, id.dump());
      ids.push_back(id.get<std::int64_t>());
    }
    fmt::print("{}\n", nlohmann::json(tokenizer.decode(ids)).dump(-1, ' ', true));
  }
  if (input.bad()) fail("cannot read {}: reading failed; check the file system", file.string());
  return ExitCode::done;
}

/// Logits [tokens, vocabulary] of a prompt and a completion.
Tensor all_logits(const QwenVl& model, const PromptInput& prompt, std::span<const std::int64_t> completion,
                  const PackedAdapter* adapter) {
  const std::int64_t rows = prompt.tokens() + static_cast<std::int64_t>(completion.size());
  Ops& ops = model.ops();
  KvCache cache =
      model.make_cache(KvCache::pages_for(rows, ops.kv_layout(head_shape(model.config().text))), 1);
  KvSequence sequence;
  CHECK(cache.extend(sequence, rows));
  BatchBuilder builder(cache);
  PromptInput whole = prompt;
  for (std::size_t i = 0; i < completion.size(); ++i) {
    const auto position = prompt.next_position + static_cast<std::int32_t>(i);
    whole.ids.push_back(completion[i]);
    whole.positions.push_back({position, position, position});
  }
  builder.add_prompt(whole, sequence, rows);
  const auto plan = model.decoder().plan(builder.batch());
  Tensor hidden = ops.memory().allocate(ops.compute_type(), rows, model.config().text.hidden, "activations");
  model.decoder().forward(*plan, cache.store(), adapter, hidden.view(), {});
  Tensor logits = ops.memory().allocate(DType::f32, rows, model.config().text.vocab, "logits");
  model.decoder().logits(hidden.view(), logits.view());
  return copied_to_host(ops.memory(), logits.view(), "logits");
}

/// Writes the images' patches and features. Returns the encoded images.
std::vector<EncodedPicture> trace_pictures(const Policy& policy, const std::vector<std::string>& images,
                                           Hdf5Writer& out) {
  const QwenVl& model = *policy.model;
  std::vector<Patches> patches;
  std::vector<float> values;
  std::vector<std::int64_t> grids;
  for (const std::string& image : images) {
    patches.push_back(policy.pictures->patches(image));
    values.insert(values.end(), patches.back().values.begin(), patches.back().values.end());
    grids.insert(grids.end(), patches.back().grid.begin(), patches.back().grid.end());
  }
  const std::int64_t columns = policy.pictures->config().columns();
  out.dataset("pixel_values", std::span<const float>(values),
              {signed_size(values.size()) / columns, columns});
  out.dataset("image_grid_thw", std::span<const std::int64_t>(grids), {signed_size(images.size()), 3});
  std::vector<ImagePatches> inputs;
  inputs.reserve(patches.size());
  for (const Patches& p : patches) inputs.push_back({p.grid, p.values});
  const Observer observer = [&](const std::string& name, ConstView value) {
    const Tensor on_host = copied_to_host(model.ops().memory(), value, "trace");
    out.dataset("extra/" + name, on_host.span<float>(), {value.rows(), value.columns()});
  };
  const Tensor features = model.encode_images(inputs, &observer);
  const Tensor embeds = copied_to_host(model.ops().memory(), features.view(), "trace");
  out.dataset("vision_embeds", embeds.span<float>(), {embeds.rows(), embeds.columns()});
  return policy.pictures->encode(std::span<const Patches>(patches));
}

/// Writes ids and positions of prompt and completion. Throws Error where they, with `generate` new tokens, are too long.
void trace_inputs(const QwenVl& model, const PromptInput& prompt, const std::vector<std::int64_t>& completion,
                  std::int64_t generate, Hdf5Writer& out) {
  std::vector<std::int64_t> ids = prompt.ids;
  ids.insert(ids.end(), completion.begin(), completion.end());
  const std::int64_t limit = model.config().text.max_position;
  if (const auto length = signed_size(ids.size()); limit > 0 && length + generate > limit) {
    fail(
        "prompt and completion of {} tokens with {} new tokens are longer than the model's {} positions: "
        "shorten the text, or use a smaller image",
        length, generate, limit);
  }
  out.dataset("input_ids", std::span<const std::int64_t>(ids), {signed_size(ids.size())});
  std::vector<std::int64_t> positions;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    for (const Position& p : prompt.positions) positions.push_back(p[axis]);
    for (std::size_t i = 0; i < completion.size(); ++i)
      positions.push_back(prompt.next_position + signed_size(i));
  }
  out.dataset("position_ids", std::span<const std::int64_t>(positions), {3, signed_size(ids.size())});
}

/// Writes the completion's log-probabilities, and with `gradient` those of their sum by the adapter's factors.
void trace_completion(const QwenVl& model, const PromptInput& prompt,
                      const std::vector<std::int64_t>& completion, const Lora* lora,
                      const PackedAdapter* adapter, bool gradient, Hdf5Writer& out) {
  PassOptions options;
  options.gradient = gradient;
  TrainingPass pass(model, adapter, options);
  const PromptGroup group{&prompt, {completion}, 0};
  TokenValues logp, entropy;
  pass.forward(std::span(&group, 1), logp, entropy);
  out.dataset("completion_logp", std::span<const float>(logp[0][0]), {signed_size(completion.size())});
  if (gradient) {
    DeviceMemory& memory = model.ops().memory();
    Tensor flat = memory.allocate(DType::f32, 1, signed_size(lora->layout->size()), "gradients");
    memory.zero(flat.view());
    pass.backward({{std::vector<float>(completion.size(), 1.0F)}}, flat.view());
    const Tensor on_host = copied_to_host(memory, flat.view(), "gradients");
    write_factors(out, "gradient", *lora->layout, on_host.span<float>());
  }
}

/// Writes the ids that greedy decoding gives.
void trace_generation(const QwenVl& model, const std::shared_ptr<const PromptInput>& prompt,
                      const std::shared_ptr<const PackedAdapter>& adapter, std::int64_t generate,
                      Hdf5Writer& out) {
  Engine engine(model, {});
  engine.set_adapter(adapter);
  GenerateRequest request;
  request.prompt = prompt;
  request.sampling.greedy = true;
  request.sampling.max_new_tokens = generate;
  request.streams.emplace_back(std::initializer_list<std::uint64_t>{0});
  engine.submit(std::move(request));
  engine.run([&](Generated&& result) {
    out.dataset("generated_ids", std::span<const std::int64_t>(result.ids), {signed_size(result.ids.size())});
  });
}

ExitCode trace(const CommandLine& line) {
  if (!line.has("model"))
    fail_usage("flag --model is missing: name a checkpoint folder; see biqa_trace --help");
  const std::filesystem::path model_path = line.text("model");
  if (line.has("tokenize")) return convert_lines(model_path, line.text("tokenize"), true);
  if (line.has("detokenize")) return convert_lines(model_path, line.text("detokenize"), false);
  if (!line.has("out"))
    fail_usage("flag --out is missing: name the HDF5 file to write; see biqa_trace --help");
  std::vector<std::filesystem::path> inputs;
  for (const char* flag : {"step", "image", "adapter"})
    for (const std::string& file : line.texts(flag)) inputs.emplace_back(file);
  refuse_overwriting(line, {"out"}, inputs);
  const DType dtype = line.choice("dtype", {"f32", "bf16"}) == "bf16" ? DType::bf16 : DType::f32;
  const bool gradient = line.on("gradient");
  const bool step = line.has("step");
  PolicyOptions opening{model_path, dtype, line.choice("device", {"cpu", "cuda"}),
                        static_cast<int>(line.integer("threads", 0, 1024)), gradient || step};
  std::optional<Lora> lora;
  std::optional<DumpedStep> dumped;
  if (step) {
    opening.frozen = read_step_frozen(line.text("step"), model_path);
    // Before a GPU is opened, because a child process checks the file.
    dumped = read_step(line.text("step"), ModelConfig::load(model_path), PreprocessConfig::load(model_path));
  } else if (line.has("adapter")) {
    lora = read_adapter_for(model_path, line.text("adapter"));
    opening.frozen = lora->frozen;
  }
  const Policy policy = Policy::open(opening);
  if (step) {
    replay_step(policy, *std::move(dumped), line.text("step"), line.text("out"));
    return ExitCode::done;
  }
  if (!line.has("prompt"))
    fail_usage("flag --prompt is missing: give the user's text; see biqa_trace --help");
  const std::int64_t generate = line.integer("generate", 0, 1 << 20);
  if (gradient && (!line.has("adapter") || !line.has("completion"))) {
    fail_usage("flag --gradient needs --adapter and --completion: there is no adapter or nothing to score");
  }
  const QwenVl& model = *policy.model;
  Hdf5Writer out(line.text("out"));

  std::vector<EncodedPicture> pictures;
  if (const auto images = line.texts("image"); !images.empty())
    pictures = trace_pictures(policy, images, out);
  std::optional<std::string> system;
  if (line.has("system")) system = line.text("system");
  const auto prompt = policy.prompt(system, pictures, line.text("prompt"));
  std::vector<std::int64_t> completion;
  if (line.has("completion"))
    completion = completion_ids(*policy.tokenizer, policy.chat, line.text("completion"));

  trace_inputs(model, *prompt, completion, generate, out);
  const std::shared_ptr<const PackedAdapter> adapter = lora ? pack_adapter(model, *lora) : nullptr;
  const Tensor logits = all_logits(model, *prompt, completion, adapter.get());
  out.dataset("logits", logits.span<float>(), {logits.rows(), logits.columns()});
  if (!completion.empty())
    trace_completion(model, *prompt, completion, lora ? &*lora : nullptr, adapter.get(), gradient, out);
  if (generate > 0) trace_generation(model, prompt, adapter, generate, out);
  out.close();
  return ExitCode::done;
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::trace);
}
