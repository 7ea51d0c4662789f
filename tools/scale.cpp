// SPDX-License-Identifier: Apache-2.0
// biqa_scale: estimates the time of a step on more ranks, and what limits it, from the times and sizes of its parts.
#include "planning/scale.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string_view>

#include "app/program.h"
#include "core/error.h"

namespace biqa {
namespace {

const ProgramInfo kInfo{
    "biqa_scale",
    "simulate a step on more ranks: its time and what limits it",
    "[--machine FILE] [--run FOLDER]… [--set KEY=VALUE]… [--ranks LIST]",
    "biqa_scale --machine bench/machines/h100_7b_koniq.yaml --ranks 1,8,64,512,4096",
    {{"machine", "FILE", "YAML file of inputs (src/planning/scale.h, bench/machines)", ""},
     {"run", "FOLDER…",
      "run on one rank; the simulation takes its times as costs; a second run with fewer images gives the "
      "cost of a rollout iteration",
      ""},
     {"set", "KEY=VALUE…", "replace an input, e.g. policy_lag=1", ""},
     {"cores", "N", "cores that all ranks share; 0: as in the inputs", "0"},
     {"ranks", "LIST", "numbers of ranks, separated by commas",
      "1,2,4,8,16,32,64,128,256,512,1024,2048,4096"},
     {"roles", "ROLES",
      "auto, colocated, best (the fastest roles) or A,R,L: actors, reward ranks and learners; without it as "
      "in the run's configuration, otherwise auto",
      ""},
     {"images-per-rank", "X",
      "images per step and rank, so that a step grows with the number of ranks; 0: images as in the inputs",
      "0"},
     {"inputs", "", "print the inputs as YAML and stop", "false"},
     {"format", "FORMAT", "table, csv or json (one object per line)", "table"}}};

/// Whole numbers separated by commas. Throws Error (usage) naming the flag.
std::vector<int> numbers_of(const std::string& text, const std::string& flag, int least) {
  std::vector<int> numbers;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view part = std::string_view(text).substr(begin, end - begin);
    int value = 0;
    const auto [stop, problem] = std::from_chars(part.data(), part.data() + part.size(), value);
    constexpr int kMost = 1 << 16;
    if (problem != std::errc() || stop != part.data() + part.size() || value < least || value > kMost)
      fail_usage("flag --{} is '{}'; give whole numbers from {} to {}, separated by commas", flag, text,
                 least, kMost);
    numbers.push_back(value);
    begin = end + 1;
  }
  return numbers;
}

RolePlan roles_for(const std::string& wanted, const RoleConfig& of_run, const ScaleInputs& inputs,
                   int ranks) {
  RoleConfig config;
  if (wanted == "best") return find_best_roles(inputs, ranks);
  if (wanted.empty()) {
    config = of_run;
  } else if (wanted == "colocated") {
    config.colocated = true;
  } else if (wanted != "auto") {
    const std::vector<int> counts = numbers_of(wanted, "roles", 0);
    if (counts.size() != 3) fail_usage("flag --roles is '{}'; give auto, colocated, best or A,R,L", wanted);
    config = {false, counts[0], counts[1], counts[2], false};
  }
  return plan_roles(config, ranks);
}

void print_json(const ScaleStep& step) {
  nlohmann::ordered_json row{{"ranks", step.ranks},
                             {"actors", step.actors},
                             {"rewards", step.rewards},
                             {"learners", step.learners},
                             {"colocated", step.colocated},
                             {"images", step.images},
                             {"step_seconds", step.step_seconds},
                             {"rollout_seconds", step.rollout_seconds},
                             {"straggler_seconds", step.straggler_seconds},
                             {"reward_seconds", step.reward_seconds},
                             {"learn_seconds", step.learn_seconds},
                             {"imbalance_seconds", step.imbalance_seconds},
                             {"reduce_seconds", step.reduce_seconds},
                             {"publish_seconds", step.publish_seconds},
                             {"broadcast_seconds", step.broadcast_seconds},
                             {"checkpoint_seconds", step.checkpoint_seconds},
                             {"checkpoint_steps", step.checkpoint_steps},
                             {"copy_seconds", step.copy_seconds},
                             {"trajectories_per_second", step.trajectories_per_second},
                             {"traffic_bytes", step.traffic_bytes()},
                             {"limit", step.limit}};
  for (int kind = 0; kind < kOperations; ++kind)
    row["sent_bytes"][name_of(static_cast<Operation>(kind))] =
        step.sent_bytes.at(static_cast<std::size_t>(kind));
  fmt::print("{}\n", row.dump());
}

ExitCode scale(const CommandLine& line) {
  const std::string format = line.choice("format", {"table", "csv", "json"});
  ScaleInputs inputs;
  RoleConfig roles;
  if (!line.has("machine") && !line.has("run") && !line.has("set"))
    fail_usage("the costs are missing: name a --machine file or a --run; see biqa_scale --help");
  if (line.has("machine")) read_scale_inputs(inputs, line.text("machine"));
  if (line.has("run")) {
    std::vector<std::filesystem::path> folders;
    for (const std::string& folder : line.texts("run")) folders.emplace_back(folder);
    inputs = read_scale_runs(folders, inputs, roles);
  }
  for (const std::string& setting : line.texts("set")) {
    const std::size_t equals = setting.find('=');
    if (equals == std::string::npos) fail_usage("flag --set is '{}'; give KEY=VALUE", setting);
    set_scale_input(inputs, setting.substr(0, equals), setting.substr(equals + 1), "flag --set");
  }
  constexpr double kMostCores = 1 << 20;
  if (const double cores = line.number("cores", 0, kMostCores); cores > 0) inputs.cores = cores;
  if (line.on("inputs")) {
    fmt::print("{}", to_yaml(inputs));
    return ExitCode::done;
  }
  const double per_rank = line.number("images-per-rank", 0, 1 << 20);
  if (format == "csv")
    fmt::print(
        "ranks,actors,rewards,learners,images,step_seconds,rollout_seconds,straggler_seconds,reward_seconds,"
        "learn_seconds,imbalance_seconds,reduce_seconds,publish_seconds,checkpoint_seconds,checkpoint_steps,"
        "trajectories_per_second,traffic_bytes,limit\n");
  if (format == "table")
    fmt::print("{:>5} {:>15} {:>7} {:>9} {:>9} {:>9} {:>8} {:>9} {:>9} {:>8} {:>8} {:>8} {:>10}  {}\n",
               "ranks", "roles A/R/L", "images", "step s", "rollout s", "straggle", "reward s", "learn s",
               "imbalance", "reduce s", "publish", "save s", "sent MiB", "limit");
  for (const int ranks : numbers_of(line.text("ranks"), "ranks", 1)) {
    ScaleInputs here = inputs;
    if (per_rank > 0) here.images = std::max<std::int64_t>(1, std::llround(per_rank * ranks));
    const ScaleStep step = simulate_step(here, roles_for(line.text("roles"), roles, here, ranks), ranks);
    if (format == "json") {
      print_json(step);
    } else if (format == "csv") {
      fmt::print(
          "{},{},{},{},{},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{},{:.6g},{:.0f},{}"
          "\n",
          step.ranks, step.actors, step.rewards, step.learners, step.images, step.step_seconds,
          step.rollout_seconds, step.straggler_seconds, step.reward_seconds, step.learn_seconds,
          step.imbalance_seconds, step.reduce_seconds, step.publish_seconds, step.checkpoint_seconds,
          step.checkpoint_steps, step.trajectories_per_second, step.traffic_bytes(), step.limit);
    } else {
      const std::string split =
          step.colocated ? "colocated" : fmt::format("{}/{}/{}", step.actors, step.rewards, step.learners);
      fmt::print(
          "{:>5} {:>15} {:>7} {:>9.3f} {:>9.3f} {:>9.3f} {:>8.3f} {:>9.3f} {:>9.3f} {:>8.3f} {:>8.3f} "
          "{:>8.3f} "
          "{:>10.1f}  {}\n",
          step.ranks, split, step.images, step.step_seconds, step.rollout_seconds, step.straggler_seconds,
          step.reward_seconds, step.learn_seconds, step.imbalance_seconds, step.reduce_seconds,
          step.publish_seconds, step.checkpoint_seconds, step.traffic_bytes() / (1 << 20), step.limit);
    }
  }
  return ExitCode::done;
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::scale);
}
