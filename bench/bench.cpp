// SPDX-License-Identifier: Apache-2.0
// biqa_bench: times sampling and one GRPO step of fixed size, and measures the machine's limits in the same run.
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "actor/engine.h"
#include "actor/rollout.h"
#include "app/program.h"
#include "core/processors.h"
#include "core/random.h"
#include "core/threads.h"
#include "data/manifest.h"
#include "data/prompts.h"
#include "learner/learner.h"
#include "model/model_sizes.h"
#include "ops/backends.h"
#include "ops/gpu_cards.h"
#include "ops/product_rate.h"
#include "policy/policy.h"
#include "tensor/device_use.h"

namespace biqa {
namespace {

const ProgramInfo kInfo{
    "biqa_bench",
    "time sampling and one GRPO step of fixed size, beside the machine's limits",
    "--model DIR --images FILE.jsonl [--what generate|step|all] --format json",
    "biqa_bench --model assets/tiny/model --images assets/tiny/train.jsonl --batch 16 "
    "--group 8 --new 48 --format json",
    {{"model", "DIR", "checkpoint folder", ""},
     {"images", "FILE.jsonl", "manifest; the first B images are used", ""},
     {"what", "WHAT", "generate, step or all", "all"},
     {"batch", "B", "images", "4"},
     {"group", "G", "completions per image", "8"},
     {"new", "N", "exact number of tokens of each completion (end tokens are ignored)", "64"},
     {"rank", "R", "LoRA rank on the seven projections", "8"},
     {"dtype", "TYPE", "f32 or bf16", "bf16"},
     {"device", "DEVICE", "cpu or cuda", "cpu"},
     {"vision-attention", "WHO", "own or cudnn; cudnn needs --device cuda and bf16", "own"},
     {"threads", "T", "threads; 0: OMP_NUM_THREADS or, if that is unset, all processors", "0"},
     {"repeats", "K", "measured repeats, after an unmeasured one", "5"},
     {"micro-batch-tokens", "N", "packed rows of one learner pass",
      std::to_string(LearnerOptions{}.micro_batch_tokens)},
     {"prompt", "TEXT", "the user's text",
      "Describe the picture and how good it looks in a <caption>, give your reasons in a "
      "<reasoning>, and rate its quality from 1 to 5 with two decimals in a <rating>, in that order."},
     {"stage2", "N",
      "after each completion, a second stage of exactly N tokens, which reads the completion's first third; "
      "it is not "
      "trained. 0: none",
      "0"},
     {"stage2-prompt", "TEXT", "the text around the {caption} that the second stage reads",
      "A picture is described so: {caption} How good is it?"},
     {"recompute", "", "the learner computes layers again and keeps less memory", "false"},
     {"limit-size", "N",
      "with --device cuda: rows, inner width and columns of the product that measures the limit", "8192"},
     {"format", "FORMAT", "json or table", "table"}}};

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// CPU time that other processes use during a measurement, in cores.
class Others {
 public:
  double cores() const {
    return std::max(0.0, (busy() - busy_ - (own() - own_)) / std::max(1e-3, seconds_since(start_)));
  }

 private:
  static double busy() {
    std::ifstream stat("/proc/stat");
    std::string name;
    double value = 0, sum = 0;
    stat >> name;
    for (int i = 0; i < 8 && stat >> value; ++i) sum += (i == 3 || i == 4) ? 0 : value;
    return sum / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  static double own() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& t) {
      return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
    };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
  }
  Clock::time_point start_ = Clock::now();
  double busy_ = busy(), own_ = own();
};

/// Seconds in which all threads together read `data`, each its own share. A share is read as kStreams streams side by side, since
/// the processor fetches ahead for several streams at once.
template <int kStreams, bool kPrefetch>
double seconds_to_read(const Tensor& data, int threads) {
  constexpr std::size_t kLine = 64 / sizeof(std::uint64_t);  // words of a cache line
  constexpr std::size_t kAhead = 16 * kLine;
  const auto* words = reinterpret_cast<const std::uint64_t*>(data.row<float>(0));
  const std::size_t share = data.bytes() / sizeof(std::uint64_t) / static_cast<std::size_t>(threads);
  const std::size_t stream = share / kStreams / kLine * kLine;
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(threads));
  const auto start = Clock::now();
  on_threads(threads, [&](std::int64_t t) {
    const std::uint64_t* const own = words + share * static_cast<std::size_t>(t);
    std::array<std::uint64_t, kLine> parts{};
    for (std::size_t k = 0; k < stream; k += kLine) {
      for (std::size_t i = 0; i < kStreams; ++i) {
        const std::uint64_t* const line = own + i * stream + k;
        if (kPrefetch) __builtin_prefetch(line + kAhead);
        for (std::size_t w = 0; w < kLine; ++w) parts[w] += line[w];
      }
    }
    sums[static_cast<std::size_t>(t)] = std::accumulate(parts.begin(), parts.end(), std::uint64_t{0});
  });
  const double seconds = seconds_since(start);
  CHECK_EQ(sums.front(), 0U);
  return seconds;
}

/// Bytes per second in GB/s, the best of several ways of reading.
double read_rate(int threads) {
  const std::size_t count = std::size_t{64} << 20;  // 256 MiB of floats
  Tensor data(DType::f32, 1, static_cast<std::int64_t>(count), "bench");
  data.zero();
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 4; ++i) {
    best = std::min({best, seconds_to_read<1, false>(data, threads), seconds_to_read<1, true>(data, threads),
                     seconds_to_read<2, true>(data, threads), seconds_to_read<4, false>(data, threads),
                     seconds_to_read<4, true>(data, threads), seconds_to_read<8, true>(data, threads)});
  }
  return static_cast<double>(data.bytes()) / best / 1e9;
}

/// What is sampled and learned in one repeat.
struct Work {
  std::int64_t images = 0, group = 0, tokens = 0;  ///< tokens: new ones of each completion
  std::int64_t stage2_tokens = 0;                  ///< of each second stage; 0: none
  std::vector<std::filesystem::path> paths;        ///< [images]
  std::string prompt, stage2_prompt;

  double completion_tokens() const { return static_cast<double>(images * group * tokens); }
};

/// B is not zero after the first update of a real run.
Lora bench_adapter(const ModelConfig& config, std::int64_t rank) {
  LoraSpec spec;
  spec.rank = rank;
  spec.alpha = 2.0 * static_cast<double>(spec.rank);
  Lora adapter = initial_lora(std::make_shared<LoraLayout>(config, spec), 0);
  for (const LoraModule& m : adapter.layout->modules()) {
    const RandomStream stream({m.b_offset});
    for (std::int64_t i = 0; i < m.out * m.rank; ++i) {
      adapter.values[m.b_offset + static_cast<std::size_t>(i)] =
          static_cast<float>((stream.uniform(static_cast<std::uint64_t>(i)) - 0.5) * 1e-3);
    }
  }
  return adapter;
}

/// Adds PART_gflops: 10^9 operations per second in the PART_s seconds of `row`.
void set_rate(nlohmann::json& row, const std::string& part, double operations) {
  row[part + "_gflops"] = operations / row.at(part + "_s").get<double>() / 1e9;
}

/// Prompts and what was generated from each.
struct Sampled {
  double uncounted_seconds = 0;  ///< spent on measuring alone
  std::vector<std::shared_ptr<const PromptInput>> prompts;
  std::vector<std::vector<Generated>> results;  ///< of the first stage
  std::int64_t stage2_prompt_tokens = 0, stage2_shared_tokens = 0;
};

std::vector<EncodedPicture> encode(const Policy& policy, const Work& work, nlohmann::json& row) {
  const auto start = Clock::now();
  std::vector<Patches> patches;
  patches.reserve(work.paths.size());
  for (const auto& path : work.paths) patches.push_back(policy.pictures->patches(path));
  row["pictures_s"] = seconds_since(start);
  const auto encoding = Clock::now();
  std::vector<EncodedPicture> pictures = policy.pictures->encode(std::span<const Patches>(patches));
  policy.model->ops().memory().wait();
  row["vision_s"] = seconds_since(encoding);
  const ModelFlop flop(policy.model->config());
  double operations = 0;
  for (const Patches& one : patches) operations += flop.vision(1, static_cast<double>(one.rows()));
  set_rate(row, "vision", operations);
  return pictures;
}

/// Submits a request for each prompt and runs the engine until all are done. Returns the seconds.
double run_engine(const Policy& policy, Engine& engine, const Work& work, std::int64_t tokens,
                  std::int64_t repeat, Sampled& sampled) {
  sampled.results.assign(static_cast<std::size_t>(work.images), {});
  engine.reset_statistics();
  const auto start = Clock::now();
  for (std::size_t i = 0; i < sampled.prompts.size(); ++i) {
    GenerateRequest request;
    request.prompt = sampled.prompts[i];
    request.sampling.max_new_tokens = tokens;
    request.sampling.ignore_end = true;
    request.tag = i;
    for (std::int64_t m = 0; m < work.group; ++m) {
      request.streams.emplace_back(std::initializer_list<std::uint64_t>{static_cast<std::uint64_t>(repeat), i,
                                                                        static_cast<std::uint64_t>(m)});
    }
    engine.submit(std::move(request));
  }
  const auto submit_second = [&](const Generated& first) {
    const std::span<const std::int64_t> caption(first.ids.data(), (first.ids.size() + 2) / 3);
    GenerateRequest request;
    request.prompt = policy.prompt(
        std::nullopt, {},
        fill(work.stage2_prompt, completion_text(*policy.tokenizer, policy.model->config(), caption)));
    request.sampling.max_new_tokens = work.stage2_tokens;
    request.sampling.ignore_end = true;
    request.tag = sampled.prompts.size();
    request.urgent = true;
    request.shares_beginning = true;
    request.streams.emplace_back(
        std::initializer_list<std::uint64_t>{static_cast<std::uint64_t>(repeat), first.tag, first.member, 2});
    sampled.stage2_prompt_tokens += request.prompt->tokens();
    engine.submit(std::move(request));
  };
  engine.run([&](Generated&& result) {
    if (result.tag >= sampled.prompts.size()) return;
    if (work.stage2_tokens > 0) submit_second(result);
    sampled.results[result.tag].push_back(std::move(result));
  });
  sampled.stage2_shared_tokens = engine.statistics().shared_prompt_tokens;
  return seconds_since(start);
}

Sampled generate(const Policy& policy, Engine& engine, const Work& work, std::int64_t repeat,
                 Clock::time_point start, nlohmann::json& row) {
  Sampled sampled;
  const std::vector<EncodedPicture> pictures = encode(policy, work, row);
  const ModelFlop flop(policy.model->config());
  double prompt_tokens = 0, prefill = 0;
  for (const EncodedPicture& picture : pictures) {
    sampled.prompts.push_back(policy.prompt(std::nullopt, std::span(&picture, 1), work.prompt));
    const auto tokens = static_cast<double>(sampled.prompts.back()->ids.size());
    prompt_tokens += tokens;
    prefill += flop.prompt(tokens) + flop.head(1);
  }
  const double before = seconds_since(start);
  // A GPU runs behind the engine, whose own times are those of the host. So it prefills once alone, not counted.
  const bool on_device = policy.model->ops().memory().kind() == Memory::device;
  const double alone = on_device ? run_engine(policy, engine, work, 1, repeat, sampled) : 0;
  sampled.uncounted_seconds = alone;
  const double engine_seconds = run_engine(policy, engine, work, work.tokens, repeat, sampled);
  row["prefill_s"] = on_device ? alone : engine.statistics().prefill_seconds;
  row["decode_s"] = on_device ? engine_seconds - alone : engine.statistics().decode_seconds;
  row["generate_tokens_per_s"] = work.completion_tokens() / (before + engine_seconds);
  if (work.stage2_tokens > 0) {
    row["stage2_prompt_tokens"] = sampled.stage2_prompt_tokens;
    row["stage2_shared_tokens"] = sampled.stage2_shared_tokens;
  }
  const double prompt = prompt_tokens / static_cast<double>(work.images);
  row["prompt_tokens"] = prompt;
  // The first token of a completion comes from its prompt's last row.
  const double decoded = static_cast<double>(work.images * work.group * (work.tokens - 1));
  set_rate(row, "prefill", prefill);
  if (decoded > 0)
    set_rate(row, "decode",
             flop.layers(decoded, prompt + static_cast<double>(work.tokens) / 2) + flop.head(decoded));
  return sampled;
}

/// Operations of an update. A layer that is computed again counts once, and the adapter's own operations are left out. The
/// passes over the layers are a forward, a backward of the inputs, and perhaps a forward of the reference.
double learn_flop(const ModelFlop& flop, const Work& work, double prompt, bool reference) {
  const double passes = reference ? 3 : 2;
  const double rows = static_cast<double>(work.images * work.group * (work.tokens - 1));
  return passes * (static_cast<double>(work.images) * flop.prompt(prompt) +
                   flop.layers(rows, prompt + static_cast<double>(work.tokens) / 2) +
                   flop.head(work.completion_tokens()));
}

void learn(Learner& learner, const Sampled& sampled, const Work& work, Clock::time_point start,
           nlohmann::json& row) {
  std::vector<LearnerGroup> groups;
  for (std::size_t i = 0; i < sampled.results.size(); ++i) {
    LearnerGroup one{sampled.prompts[i], {}, 0};
    for (const Generated& r : sampled.results[i]) {
      const double advantage = RandomStream({i, r.member}).uniform(0) * 2 - 1;
      one.sequences.push_back({r.ids, r.logp, {}, advantage});
    }
    groups.push_back(std::move(one));
  }
  const auto learn_start = Clock::now();
  const UpdateResult update = learner.update(groups, 1e-5);
  const double learned = seconds_since(learn_start);
  const double all = seconds_since(start) - sampled.uncounted_seconds;
  row["learn_s"] = learned - update.optimizer_seconds;
  row["optimizer_s"] = update.optimizer_seconds;
  row["step_s"] = all;
  row["trained_tokens_per_s"] = work.completion_tokens() / learned;
  row["trajectories_per_s"] = static_cast<double>(work.images * work.group) / all;
  row["actor_learner_logp_gap"] = update.logp_max_gap;
}

nlohmann::json median_of(const std::vector<nlohmann::json>& rows) {
  nlohmann::json median = nlohmann::json::object();
  for (const auto& [name, value] : rows.front().items()) {
    std::vector<double> values;
    values.reserve(rows.size());
    for (const auto& row : rows) values.push_back(row[name].get<double>());
    std::sort(values.begin(), values.end());
    const std::size_t half = values.size() / 2;
    median[name] = values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
  }
  return median;
}

nlohmann::json processor_limits(int threads) {
  nlohmann::json limits = nlohmann::json::object();
  for (const DType type : {DType::f32, DType::bf16})
    limits[fmt::format("gemm_gflops_{}", name_of(type))] =
        product_rate(*make_ops({"cpu", type, threads}), 512, 2048) / 1e9;
  limits["read_gb_s"] = read_rate(threads);
  return limits;
}

nlohmann::json gpu_limits(Ops& ops, std::int64_t size) {
  nlohmann::json limits = nlohmann::json::object();
  limits[fmt::format("gemm_gflops_{}", name_of(ops.compute_type()))] = product_rate(ops, size, size) / 1e9;
  if (const GpuCard* card = find_gpu_card(ops.card_name())) {
    limits["sheet_gflops_bf16"] = card->peak_flop / 1e9;
    limits["sheet_gb_s"] = card->bandwidth / 1e9;
  }
  return limits;
}

ExitCode bench(const CommandLine& line) {
  if (!line.has("model") || !line.has("images"))
    fail_usage("flags --model and --images are needed; see biqa_bench --help");
  const std::string what = line.choice("what", {"generate", "step", "all"});
  Work work;
  work.images = line.integer("batch", 1, 4096);
  work.group = line.integer("group", 1, 4096);
  work.tokens = line.integer("new", 1, 1 << 20);
  work.stage2_tokens = line.integer("stage2", 0, 1 << 20);
  work.prompt = line.text("prompt");
  work.stage2_prompt = line.text("stage2-prompt");
  const DType dtype = line.choice("dtype", {"f32", "bf16"}) == "bf16" ? DType::bf16 : DType::f32;
  const int threads = threads_for(usable_processors(), static_cast<int>(line.integer("threads", 0, 1024)));
  const std::string format = line.choice("format", {"json", "table"});
  const std::int64_t repeats = line.integer("repeats", 1, 1000);
  const std::int64_t limit_size = line.integer("limit-size", 1, 1 << 15);

  const std::vector<Sample> samples = read_manifest(line.text("images"));
  const auto load_start = Clock::now();
  const bool step = what != "generate";
  const std::string device = line.choice("device", {"cpu", "cuda"});
  PolicyOptions opened{line.text("model"), dtype, device, threads, step};
  if (line.choice("vision-attention", {"own", "cudnn"}) == "cudnn")
    opened.vision_attention = VisionAttentionBy::cudnn;
  const Policy policy = Policy::open(opened);
  policy.model->ops().memory().wait();
  const double load_seconds = seconds_since(load_start);
  const Lora adapter = bench_adapter(policy.model->config(), line.integer("rank", 1, 1024));
  const auto local = make_local();
  LearnerOptions options;
  options.micro_batch_tokens = line.integer("micro-batch-tokens", 1, std::int64_t{1} << 40);
  options.recompute_layers = line.on("recompute");
  std::unique_ptr<Learner> learner;
  if (step) learner = std::make_unique<Learner>(*policy.model, adapter, nullptr, *local, options);
  Engine engine(*policy.model, {});

  for (std::int64_t i = 0; i < work.images; ++i)
    work.paths.push_back(samples[static_cast<std::size_t>(i) % samples.size()].image);
  std::vector<nlohmann::json> rows;
  for (std::int64_t repeat = 0; repeat <= repeats; ++repeat) {
    const Others others;
    const auto start = Clock::now();
    nlohmann::json row = nlohmann::json::object();
    engine.set_adapter(pack_adapter(*policy.model, learner != nullptr ? learner->adapter() : adapter));
    const Sampled sampled = generate(policy, engine, work, repeat, start, row);
    if (learner != nullptr) {
      learn(*learner, sampled, work, start, row);
      const ModelFlop flop(policy.model->config());
      set_rate(row, "learn",
               learn_flop(flop, work, row["prompt_tokens"].get<double>(), options.objective.beta != 0));
    }
    row["others_cores"] = others.cores();
    if (repeat > 0) rows.push_back(row);
  }
  nlohmann::json median = median_of(rows);
  median["load_s"] = load_seconds;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  median["peak_rss_bytes"] = static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
  if (device == "cuda") median["device_peak_bytes"] = device_memory_total().peak;  // before the limits' own
  const nlohmann::json limits =
      device == "cpu" ? processor_limits(threads) : gpu_limits(policy.model->ops(), limit_size);
  if (format == "json") {
    fmt::print("{}\n", nlohmann::json{{"repeats", rows}, {"median", median}, {"limits", limits}}.dump(2));
  } else {
    for (const nlohmann::json* part :
         {static_cast<const nlohmann::json*>(&median), static_cast<const nlohmann::json*>(&limits)}) {
      for (const auto& [name, value] : part->items())
        fmt::print("{:<24} {:.6g}\n", name, value.get<double>());
    }
  }
  return ExitCode::done;
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::bench);
}
