// SPDX-License-Identifier: Apache-2.0
// biqa_sweep: what launch/sweep.sh needs to know of its runs, and the table of their evaluations.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "app/program.h"
#include "config/config.h"
#include "core/error.h"
#include "io/files.h"
#include "run/run_folder.h"
#include "run/sweep_differences.h"
#include "run/sweep_table.h"
#include "training/run_checks.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

const ProgramInfo kInfo{
    "biqa_sweep",
    "compare configurations that were trained with several seeds (launch/sweep.sh)",
    "COMMAND …\n\n"
    "  table OUT      print the figures of the last evaluation of each configuration, as mean ± standard\n"
    "                 deviation over its seeds. OUT is the folder that launch/sweep.sh got with --out; it\n"
    "                 holds the run folders CONFIG/seed-N. Exit code 3: some runs are not finished and left\n"
    "                 out\n"
    "  evaluations OUT\n"
    "                 print a table of the figures of biqa_eval, which launch/sweep.sh --evaluate\n"
    "                 wrote into the run folders\n"
    "  state          print the state of the run of --config and --set: `new`, `started`, `finished`, or\n"
    "                 `changed` with the settings that differ from those of the run so far\n"
    "  check          check that the model, adapter, manifests, sentence encoder and lexicon of --config "
    "and\n"
    "                 --set are there and can be opened; print nothing if so",
    "biqa_sweep table runs/sweep",
    {{"config", "FILE", "state, check: YAML configuration", ""},
     {"set", "KEY=VALUE…", "state, check: replace a value of the configuration, e.g. train.seed=1", ""},
     {"against", "NAME",
      "evaluations: print the differences of the other configurations to this one instead, paired by seed, "
      "with 95 % intervals of Student's t",
      ""},
     {"format", "FORMAT", "table, evaluations: table, csv or json", "table"}}};

/// Says what a reader of a table must know. Partial if runs were left out.
ExitCode conclude(const std::vector<std::string>& notes, const std::vector<SweepRun>& runs) {
  for (const std::string& note : notes) say("warning: {}\n", note);
  const bool whole = std::all_of(runs.begin(), runs.end(), [](const SweepRun& run) { return run.finished; });
  return whole ? ExitCode::done : ExitCode::partial;
}

ExitCode print_table(const CommandLine& line) {
  const std::string& command = line.positional()[0];
  if (line.positional().size() != 2)
    fail_usage("command {} needs one folder, the --out of launch/sweep.sh; see biqa_sweep --help", command);
  const std::string format = line.choice("format", {"table", "csv", "json"});
  const SweepSource source = command == "table" ? SweepSource::training : SweepSource::evaluation;
  if (line.has("against") && source == SweepSource::training)
    fail_usage("flag --against belongs to the command evaluations; see biqa_sweep --help");
  const std::vector<SweepRun> runs = read_sweep(line.positional()[1], source);
  if (line.has("against")) {
    const SweepDifferences differences = sweep_differences(runs, line.text("against"));
    fmt::print("{}", format == "csv"    ? differences_csv(differences)
                     : format == "json" ? differences_json(differences)
                                        : differences_text(differences));
    return conclude(differences.notes, runs);
  }
  const SweepTable table = sweep_table(runs, sweep_columns(source));
  fmt::print("{}", format == "csv"    ? sweep_csv(table)
                   : format == "json" ? sweep_json(table)
                                      : sweep_text(table));
  return conclude(table.notes, runs);
}

/// Settings that a run may change when it goes on without becoming another one.
bool may_change(const std::string& setting) {
  const auto names = {"model.threads:", "checkpoint.resume:", "train.progress:", "train.out:"};
  return std::any_of(names.begin(), names.end(), [&](const char* name) { return setting.starts_with(name); });
}

/// Whether the run folder holds something that a start with these settings would go on from.
bool has_begun(const fs::path& root) {
  if (is_finished(root)) return true;
  std::error_code ignored;
  const fs::directory_iterator checkpoints(root / "checkpoints", ignored);
  return std::any_of(begin(checkpoints), end(checkpoints), [](const fs::directory_entry& entry) {
    return entry.path().filename().string().starts_with("step-");
  });
}

/// The configuration of the commands that need one.
Config named_config(const CommandLine& line) {
  if (!line.has("config") || line.positional().size() != 1)
    fail_usage("command {} needs --config and nothing else but --set; see biqa_sweep --help",
               line.positional().front());
  const std::vector<std::string> overrides = line.texts("set");
  Config config = load_config(line.text("config"), overrides);
  require_training_keys(config);
  return config;
}

ExitCode print_state(const CommandLine& line) {
  const Config config = named_config(line);
  const fs::path& root = config.train.out;
  std::error_code ignored;
  if (!has_begun(root) || !fs::exists(root / "config.yaml", ignored)) {
    fmt::print("new\n");
    return ExitCode::done;
  }
  std::vector<std::string> changed = changed_settings(read_file(root / "config.yaml"), config);
  std::erase_if(changed, may_change);
  if (!changed.empty())
    fmt::print("changed {}\n", one_line(fmt::format("{}", fmt::join(changed, "; "))));
  else
    fmt::print("{}\n", is_finished(root) ? "finished" : "started");
  return ExitCode::done;
}

ExitCode run(const CommandLine& line) {
  const std::string command = line.positional().empty() ? "" : line.positional().front();
  if (command == "table" || command == "evaluations") return print_table(line);
  if (command == "state") return print_state(line);
  if (command == "check") {
    check_inputs(named_config(line));
    return ExitCode::done;
  }
  fail_usage("command '{}' is not known: it is table, evaluations, state or check; see biqa_sweep --help",
             command);
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::run);
}
