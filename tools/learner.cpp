// SPDX-License-Identifier: Apache-2.0
// biqa_learner: the trainer with all roles. Alone it is one process; under mpirun or srun the ranks share the roles.
#include <fmt/format.h>

#include <csignal>

#include "app/program.h"
#include "comm/agreement.h"
#include "comm/mpi.h"
#include "comm/rank_processors.h"
#include "config/config.h"
#include "core/error.h"
#include "core/failure.h"
#include "ops/cuda/device.h"
#include "planning/plan.h"
#include "training/run_checks.h"
#include "training/trainer.h"

namespace biqa {
namespace {

const ProgramInfo kInfo{
    "biqa_learner",
    "train a vision-language model to judge image quality",
    "--config FILE [--set KEY=VALUE]… [--dry-run]",
    "mpirun -np 4 biqa_learner --config configs/koniq.yaml --set train.steps=20",
    {{"config", "FILE", "YAML configuration (docs/configuration.md)", ""},
     {"set", "KEY=VALUE…", "replace a value of the configuration, e.g. train.seed=1", ""},
     {"dry-run", "", "print the plan (ranks, memory, tokens, operations, time) and stop", "false"}},
    true};

StopSignals signals;

extern "C" void on_stop(int /*signal*/) {
  signals.stop = true;
}
extern "C" void on_save(int /*signal*/) {
  signals.save = true;
}

/// A plan may be made on a machine that cannot run the job; a warning says so.
void warn_of_device(const Config& config, RunPlan& plan) {
  if (config.model.device != "cuda") return;
  try {
    require_cuda_device();
  } catch (const Error& error) {
    plan.assumptions.emplace_back(
        "device cpu, for times and memory; with model.device: cuda this is a plan only, and a run here would "
        "be refused");
    say("warning: this is a plan only, and a run here would be refused: {}\n", error.what());
  }
}

void listen(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(signal, &action, nullptr);
}

/// Called first, so that a signal to a job that has just started does not kill it. SIGUSR2 also stops: mpirun and srun
/// forward it to every rank, but SIGTERM makes mpirun kill the ranks. SIGPIPE: a dead launcher no longer reads the
/// output. The watch notices this and the learners save. SIGXFSZ: a file larger than the limit is an Error like a full
/// disk.
void listen_for_signals() {
  for (const int signal : {SIGINT, SIGTERM, SIGUSR2}) listen(signal, on_stop);
  listen(SIGUSR1, on_save);
  for (const int signal : {SIGPIPE, SIGXFSZ}) listen(signal, SIG_IGN);
}

/// The configuration may choose another signal for saving than SIGUSR1, even SIGUSR2.
void listen_for_save(const Config& config) {
  const std::string& name = config.checkpoint.save_signal;
  if (name != "SIGUSR1") listen(SIGUSR1, SIG_DFL);
  if (name == "SIGUSR2")
    listen(SIGUSR2, on_save);
  else if (name == "SIGHUP")
    listen(SIGHUP, on_save);
}

ExitCode train(const CommandLine& line) {
  if (!line.has("config"))
    fail_usage(
        "flag --config is missing: name a configuration, e.g. configs/quickstart.yaml; see biqa_learner "
        "--help");
  const std::vector<std::string> overrides = line.texts("set");
  MpiRuntime mpi;
  Communicator& world = mpi.world();
  // Every rank fails in the same way on a wrong configuration; only one prints the error.
  on_failure([&](const std::string& message) {
    say("error: {}{}\n", world.size() > 1 ? fmt::format("rank {} of {}: ", world.rank(), world.size()) : "",
        message);
  });
  ExitCode code = ExitCode::done;
  try {
    Watch* watch = mpi.watch();
    Config config;
    run_alike(world, [&] {
      config = load_config(line.text("config"), overrides);
      plan_roles(config.roles, world.size());
      if (!line.on("dry-run")) require_inputs(config);
    });
    if (line.on("dry-run")) {
      const int processors = share_processors(world);
      if (world.rank() == 0) {
        RunPlan plan = make_plan(config, world.size(), processors);
        warn_of_device(config, plan);
        fmt::print("{}", describe_plan(plan));
      }
    } else {
      listen_for_save(config);
      code = run_training(config, world, signals, watch);
    }
  } catch (const PeerLost& lost) {
    mpi.abort(static_cast<int>(lost.code()));
  } catch (const std::exception& error) {
    const auto* known = dynamic_cast<const Error*>(&error);
    const int status = static_cast<int>(known != nullptr ? known->code() : ExitCode::world);
    if (!mpi.launched()) {
      on_failure({});
      throw;
    }
    report_failure(error.what());
    mpi.abort(status);
  }
  on_failure({});
  mpi.finalize();
  return code;
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  biqa::limit_spinning(argv);
  biqa::listen_for_signals();
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::train);
}
