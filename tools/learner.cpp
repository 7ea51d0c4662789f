// SPDX-License-Identifier: Apache-2.0
// biqa_learner: the trainer with all roles. Alone it is one process; under mpirun or srun the ranks share the roles.
#include <fmt/format.h>

#include <cmath>
#include <csignal>
#include <optional>

#include "app/program.h"
#include "app/ranks.h"
#include "comm/agreement.h"
#include "comm/launcher.h"
#include "comm/rank_processors.h"
#include "config/config.h"
#include "core/bytes_text.h"
#include "core/error.h"
#include "ops/cuda/device.h"
#include "planning/plan.h"
#include "tensor/device_use.h"
#include "training/run_checks.h"
#include "training/trainer.h"

namespace biqa {
namespace {

const ProgramInfo kInfo{
    "biqa_learner",
    "train a vision-language model to judge image quality",
    "--config FILE [--set KEY=VALUE]… [--dry-run | --print-config]",
    "mpirun -np 4 biqa_learner --config configs/koniq.yaml --set train.steps=20",
    {{"config", "FILE", "YAML configuration (docs/configuration.md)", ""},
     {"set", "KEY=VALUE…", "replace a value of the configuration, e.g. train.seed=1", ""},
     {"print-config", "", "print every setting as the run would use it (bases and --set applied) and stop",
      "false"},
     {"dry-run", "", "print the plan (ranks, memory, tokens, operations, time) and stop", "false"},
     {"gpu", "NAME",
      "with --dry-run and device cuda: GPU to plan the time for, e.g. RTX 4090; default: the one here", ""},
     {"gpu-bandwidth", "GB/S", "with --dry-run: bandwidth of the GPU's memory; 0: its data sheet", "0"},
     {"gpu-share", "0..1",
      "with --dry-run: share of the GPU's peak and bandwidth that the run reaches; 0: "
      "assume 0.4",
      "0"}},
    true};

StopSignals signals;

extern "C" void on_stop(int /*signal*/) {
  signals.stop = true;
}
extern "C" void on_save(int /*signal*/) {
  signals.save = true;
}

/// A plan may be made on a machine that cannot run the job; a warning says so.
void warn_of_device(const RunPlan& plan, const std::filesystem::path& model) {
  if (plan.device != "cuda") return;
  try {
    require_cuda_device();
    if (plan.here) require_gpu_memory(plan.memory, *plan.here, model);
  } catch (const Error& error) {
    say("warning: this is a plan only, and a run here would be refused: {}\n", error.what());
  }
}

/// What the card of the plan lacks, unless it is the one that is here.
std::optional<GpuShortage> planned_card_shortage(const RunPlan& plan, const std::filesystem::path& model) {
  if (plan.device != "cuda" || (plan.here && plan.here->name == plan.gpu.card)) return std::nullopt;
  return planned_shortage(plan.memory, plan.gpu.card, model);
}

GpuRates given_rates(const CommandLine& line) {
  constexpr double kMostBandwidth = 1e6;
  GpuRates rates;
  rates.card = line.text("gpu");
  rates.bandwidth = line.number("gpu-bandwidth", 0, kMostBandwidth) * 1e9;
  rates.share = line.number("gpu-share", 0, 1);
  return rates;
}

/// Before the model is loaded: a run that does not fit into its GPU would fail in the middle of a step. Returns the plan of
/// this rank.
MemoryPlan check_gpu_memory(const Config& config, Communicator& world) {
  MemoryPlan plan;
  if (config.model.device != "cuda") return plan;
  run_alike(world, [&] {
    const DeviceFacts gpu = cuda_device_facts(number_from(kLocalRankVariables));
    plan = count_plan(config, world.size()).rank_memory.at(static_cast<std::size_t>(world.rank()));
    require_gpu_memory(plan, gpu, config.model.path);
  });
  return plan;
}

void print_gpu_peak(const MemoryPlan& plan, Communicator& world) {
  const auto measured = static_cast<double>(device_memory_total().peak);
  const double most = world.all_reduce_max(measured);
  const double planned = world.all_reduce_max(static_cast<double>(plan.peak() - kCudaContextBytes));
  if (world.rank() != 0) return;
  say("peak memory of a GPU: {} in tensors; the plan was at most {}; both are without CUDA's context\n",
      bytes_text(std::llround(most)), bytes_text(std::llround(planned)));
}

/// Called first, so that a signal to a job that has just started does not kill it. SIGUSR2 also stops: mpirun and srun
/// forward it to every rank, but SIGTERM makes mpirun kill the ranks. SIGPIPE: a dead launcher no longer reads the
/// output. The watch notices this and the learners save. SIGXFSZ: a file larger than the limit is an Error like a full
/// disk.
void listen_for_signals() {
  for (const int signal : {SIGINT, SIGTERM, SIGUSR2}) listen_to(signal, on_stop);
  listen_to(SIGUSR1, on_save);
  for (const int signal : {SIGPIPE, SIGXFSZ}) listen_to(signal, SIG_IGN);
}

/// The configuration may choose another signal for saving than SIGUSR1, even SIGUSR2.
void listen_for_save(const Config& config) {
  const std::string& name = config.checkpoint.save_signal;
  if (name != "SIGUSR1") listen_to(SIGUSR1, SIG_DFL);
  if (name == "SIGUSR2")
    listen_to(SIGUSR2, on_save);
  else if (name == "SIGHUP")
    listen_to(SIGHUP, on_save);
}

ExitCode train(const CommandLine& line) {
  if (!line.has("config"))
    fail_usage(
        "flag --config is missing: name a configuration, e.g. configs/quickstart.yaml; see biqa_learner "
        "--help");
  const std::vector<std::string> overrides = line.texts("set");
  return run_on_ranks([&](MpiRuntime& mpi) {
    Communicator& world = mpi.world();
    Watch* watch = mpi.watch();
    Config config;
    run_alike(world, [&] {
      config = load_config(line.text("config"), overrides);
      plan_roles(config.roles, world.size());
      if (!line.on("dry-run") && !line.on("print-config")) require_inputs(config);
    });
    if (line.on("print-config")) {
      if (world.rank() == 0) fmt::print("{}", to_yaml(config));
      return ExitCode::done;
    }
    if (line.on("dry-run")) {
      const int processors = share_processors(world);
      if (world.rank() == 0) {
        RunPlan plan = make_plan(config, world.size(), processors, given_rates(line));
        for (std::string& doubt : data_doubts(config)) plan.doubts.push_back(std::move(doubt));
        warn_of_device(plan, config.model.path);
        const auto shortage = planned_card_shortage(plan, config.model.path);
        if (shortage) plan.doubts.push_back(shortage->text);
        fmt::print("{}", describe_plan(plan));
        if (shortage && shortage->several) fail("{}", shortage->text);
      }
      return ExitCode::done;
    }
    listen_for_save(config);
    MemoryPlan plan;
    const ExitCode code =
        run_training(config, world, signals, watch, [&] { plan = check_gpu_memory(config, world); });
    if (config.model.device == "cuda" && code == ExitCode::done) print_gpu_peak(plan, world);
    return code;
  });
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  biqa::limit_spinning(argv);
  biqa::listen_for_signals();
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::train);
}
