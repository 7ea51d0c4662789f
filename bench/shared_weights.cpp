// SPDX-License-Identifier: Apache-2.0
// biqa_shared_weights: measures the time in which the ranks of a job open a model, and the memory that they use
// together. Run by bench/shared_weights.sh.
#include <fmt/format.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "app/program.h"
#include "comm/mpi.h"
#include "comm/rank_processors.h"
#include "core/processors.h"
#include "core/random.h"
#include "model/kv_cache.h"
#include "model/lora.h"
#include "policy/policy.h"

namespace biqa {
namespace {

const ProgramInfo kInfo{
    "biqa_shared_weights",
    "open a model on all ranks and report time and memory",
    "--model DIR [--private]",
    "mpirun -np 8 biqa_shared_weights --model checkpoints/qwen",
    {{"model", "DIR", "checkpoint folder", ""},
     {"dtype", "f32|bf16", "type of the products' inputs", "bf16"},
     {"threads", "N", "threads of a rank; 0: its share of the processors that its node's ranks may use", "0"},
     {"learners", "N", "the last N ranks also hold the weights for the backward pass", "1"},
     {"private", "", "every rank reads and packs its own copy", "false"}}};

/// Proportional memory of this process in MiB (a page that n processes map counts 1/n): total and shared memory.
struct Proportional {
  double all = 0, shared = 0;
};
Proportional proportional() {
  Proportional mib;
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string line; std::getline(file, line);) {
    const auto value = [&] { return std::stod(line.substr(line.find(':') + 1)) / 1024; };
    if (line.starts_with("Pss:")) mib.all = value();
    if (line.starts_with("Pss_Shmem:")) mib.shared = value();
  }
  return mib;
}

/// Reads every weight of the decoder once, as the first token does.
double decode(const QwenVl& model, std::int64_t steps) {
  const ModelConfig& config = model.config();
  Ops& ops = model.ops();
  KvCache cache =
      model.make_cache(KvCache::pages_for(steps, ops.kv_layout(head_shape(config.text))), config.text.layers);
  KvSequence sequence;
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t i = 0; i < steps; ++i) {
    CHECK(cache.extend(sequence, 1));
    BatchBuilder builder(cache);
    const std::int64_t id = i % 100;
    builder.add_tokens(std::span(&id, 1), static_cast<std::int32_t>(i), i, sequence);
    const auto plan = model.decoder().plan(builder.batch());
    Tensor hidden = ops.memory().allocate(ops.compute_type(), 1, config.text.hidden, "bench");
    model.decoder().forward(*plan, cache.store(), nullptr, hidden.view(), {});
    Tensor logits = ops.memory().allocate(DType::f32, 1, config.text.vocab, "bench");
    model.decoder().logits(hidden.view(), logits.view());
    ops.memory().wait();
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
         static_cast<double>(steps);
}

/// Sum over all ranks.
double sum(Communicator& world, double value) {
  world.all_reduce_sum(std::span(&value, 1));
  return value;
}

void measure(const CommandLine& line, Communicator& world) {
  const Proportional before = proportional();
  PolicyOptions options;
  options.path = line.text("model");
  options.dtype = line.choice("dtype", {"f32", "bf16"}) == "bf16" ? DType::bf16 : DType::f32;
  options.threads = threads_for(share_processors(world), static_cast<int>(line.integer("threads", 0, 1024)));
  options.backward = world.rank() >= world.size() - line.integer("learners", 0, 1 << 20);
  world.barrier("the start");
  const auto start = std::chrono::steady_clock::now();
  const Policy policy = line.on("private") ? Policy::open(options) : Policy::open(options, world);
  policy.model->ops().memory().wait();
  world.barrier("models of all ranks");
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  constexpr std::int64_t kSteps = 64;
  decode(*policy.model, 1);
  world.barrier("a token");
  const double token_seconds = decode(*policy.model, kSteps);
  world.barrier("all tokens");
  const Proportional after = proportional();
  const double all = sum(world, after.all);
  const double shared = sum(world, after.shared);
  const double grown = sum(world, after.all - before.all);
  const double tokens = sum(world, 1 / token_seconds);
  if (world.rank() == 0) {
    const nlohmann::json row = {
        {"ranks", world.size()},        {"load_seconds", seconds}, {"pss_mib", all},
        {"pss_shared_mib", shared},     {"grown_mib", grown},      {"tokens_per_second", tokens},
        {"private", line.on("private")}};
    fmt::print("{}\n", row.dump());
  }
  world.barrier("the end");
}

ExitCode bench(const CommandLine& line) {
  if (!line.has("model")) fail_usage("flag --model is missing; see biqa_shared_weights --help");
  MpiRuntime mpi;
  try {
    measure(line, mpi.world());
  } catch (const Error& error) {
    if (!mpi.launched()) throw;
    fmt::print(stderr, "error: rank {} of {}: {}\n", mpi.world().rank(), mpi.world().size(), error.what());
    mpi.abort(static_cast<int>(error.code()));
  }
  mpi.finalize();
  return ExitCode::done;
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::bench);
}
