// SPDX-License-Identifier: Apache-2.0
// biqa_data: turns data sets into manifests, and examines manifests.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <functional>
#include <string>
#include <vector>

#include "app/program.h"
#include "datasets/import.h"

namespace biqa {
namespace {

const ProgramInfo kInfo{
    "biqa_data",
    "turn data sets into manifests",
    "COMMAND …\n\n"
    "  import SET --root DIR --out FILE     read a data set as its authors publish it; write a manifest.\n"
    "                                       SET: koniq10k, spaq, livewild, kadid10k, pipal, csiq,\n"
    "                                       agiqa3k, tid2013, flive, deqa, q-reasoning, csv, pyiqa",
    "biqa_data import koniq10k --root KonIQ-10k --split train --out koniq_train.jsonl",
    {{"root", "DIR", "import: folder of the data set", ""},
     {"labels", "FILE", "import: label file; without it the set's own is looked for below --root", ""},
     {"images", "FOLDER", "import: folder of the images below --root; without it the set's own", ""},
     {"split", "NAMES",
      "import: train, val, test, all, or the set's own words (pipal: deqa), separated by commas", "all"},
     {"scale", "SCALE", "import: koniq10k: zscore or raw; csv: range of the scores, WORST..BEST", ""},
     {"columns", "PAIRS",
      "import: ROLE=NAME pairs, separated by commas; roles: image, score, std, split, reference, type, "
      "level, "
      "description, good, bad",
      ""},
     {"expect-size", "WxH", "import: size that every image must have, pixels", ""},
     {"with-tutorial", "", "import livewild: keep the seven tutorial images", "false"},
     {"skip-bad", "", "import: leave bad rows out and list them; the exit code is then 3", "false"},
     {"no-check-images", "", "import: do not look at the images, which may be missing", "false"},
     {"out", "PATH", "import: manifest to write", ""}}};

/// Throws Error (usage) if a flag that the command needs is missing.
std::string needed(const CommandLine& line, const std::string& flag) {
  if (line.text(flag).empty()) fail_usage("flag --{} is missing; see {} --help", flag, kInfo.name);
  return line.text(flag);
}

/// The arguments behind the command. Throws Error (usage) if there is another number of them.
std::vector<std::string> arguments(const CommandLine& line, std::size_t count, const std::string& what) {
  std::vector<std::string> words(line.positional().begin() + 1, line.positional().end());
  if (words.size() == count) return words;
  fail_usage("{} takes {}, but {} are given; see {} --help", line.positional().front(), what, words.size(),
             kInfo.name);
}

ExitCode import(const CommandLine& line) {
  ImportOptions options;
  options.set = arguments(line, 1, "one data set").front();
  find_data_set(options.set);
  options.root = needed(line, "root");
  options.out = needed(line, "out");
  if (line.has("labels")) options.labels = line.text("labels");
  options.images = line.text("images");
  options.splits = words_of(line.text("split"));
  options.scale = line.text("scale");
  options.columns = parse_columns(line.text("columns"));
  if (line.has("expect-size")) options.expected = parse_picture_size(line.text("expect-size"));
  options.with_tutorial = line.on("with-tutorial");
  options.skip_bad = line.on("skip-bad");
  options.check_images = !line.on("no-check-images");
  return import_data_set(options).left_out.empty() ? ExitCode::done : ExitCode::partial;
}

struct Command {
  const char* name;
  std::function<ExitCode(const CommandLine&)> run;
};

ExitCode run(const CommandLine& line) {
  const std::vector<Command> commands{{"import", import}};
  std::vector<std::string> names;
  for (const Command& command : commands) {
    if (!line.positional().empty() && line.positional().front() == command.name) return command.run(line);
    names.emplace_back(command.name);
  }
  fail_usage("{} is not a command; give one of {}",
             line.positional().empty() ? "nothing" : fmt::format("'{}'", line.positional().front()),
             fmt::join(names, ", "));
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::run);
}
