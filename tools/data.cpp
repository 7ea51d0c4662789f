// SPDX-License-Identifier: Apache-2.0
// biqa_data: turns data sets into manifests, and examines manifests.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/program.h"
#include "datasets/examine.h"
#include "datasets/import.h"
#include "datasets/synth.h"

namespace biqa {
namespace {

const ProgramInfo kInfo{
    "biqa_data",
    "turn data sets into manifests, examine manifests, make a set of known severity",
    "COMMAND …\n\n"
    "  import SET --root DIR --out FILE     read a data set as its authors publish it; write a manifest.\n"
    "                                       SET: koniq10k, spaq, livewild, kadid10k, pipal, csiq,\n"
    "                                       agiqa3k, tid2013, flive, deqa, q-reasoning, csv, pyiqa\n"
    "  validate FILE                        check every row and decode every image of a manifest. Exit code\n"
    "                                       0: no fault; 3: faults, which are listed\n"
    "  stats FILE                           print counts, scores and lengths of texts\n"
    "  overlap A B                          find images that two manifests share: by name, by decoded "
    "pixels,\n"
    "                                       or alike; A twice: repeated images of one manifest\n"
    "  synth --photos DIR --out DIR         distort photographs; write images and a manifest",
    "biqa_data import koniq10k --root KonIQ-10k --split train --out koniq_train.jsonl",
    {{"root", "DIR", "import: folder of the data set", ""},
     {"labels", "FILE", "import: label file; without it the set's own is looked for below --root", ""},
     {"images", "FOLDER",
      "import: folder of the images, below --root or anywhere else; without it the set's own", ""},
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
     {"photos", "DIR", "synth: folder of photographs", ""},
     {"n", "N", "synth: number of images", "100"},
     {"seed", "N", "synth: the same seed gives the same images", "0"},
     {"side", "N", "synth: side of the square crop of a photograph, pixels; 0: the whole photograph", "512"},
     {"out", "PATH", "import: manifest to write; synth: folder to write", ""},
     {"format", "FORMAT", "validate, stats, overlap: table or json", "table"}}};

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
  if (options.splits.empty()) fail_usage("flag --split is empty; name a split, or leave the flag out");
  options.scale = line.text("scale");
  options.columns = parse_columns(line.text("columns"));
  if (line.has("expect-size")) options.expected = parse_picture_size(line.text("expect-size"));
  options.with_tutorial = line.on("with-tutorial");
  options.skip_bad = line.on("skip-bad");
  options.check_images = !line.on("no-check-images");
  return import_data_set(options).left_out.empty() ? ExitCode::done : ExitCode::partial;
}

using Json = nlohmann::ordered_json;

bool wants_json(const CommandLine& line) {
  return line.choice("format", {"table", "json"}) == "json";
}

void print_json(const Json& document) {
  fmt::print("{}\n", document.dump(2, ' ', false, Json::error_handler_t::replace));
}

ExitCode validate(const CommandLine& line) {
  const std::string file = arguments(line, 1, "one manifest").front();
  const bool json = wants_json(line);
  const Validation result = validate_manifest(file);
  if (json) {
    Json faults = Json::array();
    for (const ManifestFault& fault : result.faults)
      faults.push_back({{"line", fault.line}, {"fault", fault.text}});
    print_json({{"rows", result.rows}, {"faults", faults}});
  } else {
    for (const ManifestFault& fault : result.faults) fmt::print("{}\n", fault.text);
    fmt::print("{} rows, {} faults\n", result.rows, result.faults.size());
  }
  return result.faults.empty() ? ExitCode::done : ExitCode::partial;
}

Json json_of(const NumberSummary& summary) {
  return {{"n", summary.count},   {"min", summary.least}, {"median", summary.median},
          {"mean", summary.mean}, {"max", summary.most},  {"deviation", summary.deviation}};
}

void print_stats_json(const ManifestStats& stats) {
  Json groups = Json::array();
  for (const GroupCount& group : stats.groups)
    groups.push_back({{"set", group.set}, {"split", group.split}, {"rows", group.rows}});
  Json texts = Json::object();
  for (const ManifestStats::Text& text : stats.texts) texts[text.part] = json_of(text.words);
  print_json({{"groups", groups},
              {"scores", json_of(stats.scores)},
              {"histogram", stats.histogram},
              {"references", stats.references},
              {"words", texts}});
}

void print_stats(const ManifestStats& stats) {
  fmt::print("{:<20} {:<8} {:>8}\n", "set", "split", "rows");
  for (const GroupCount& group : stats.groups)
    fmt::print("{:<20} {:<8} {:>8}\n", group.set, group.split, group.rows);
  if (stats.references > 0) fmt::print("\n{} reference images\n", stats.references);
  fmt::print("\n{:<12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9}\n", "", "n", "min", "median", "mean", "max",
             "deviation");
  const auto print_line = [](const std::string& name, const NumberSummary& s) {
    fmt::print("{:<12} {:>8} {:>8.2f} {:>8.2f} {:>8.2f} {:>8.2f} {:>9.2f}\n", name, s.count, s.least,
               s.median, s.mean, s.most, s.deviation);
  };
  print_line("score", stats.scores);
  for (const ManifestStats::Text& text : stats.texts)
    if (text.words.count > 0) print_line(text.part, text.words);
  const bool has_texts = std::any_of(stats.texts.begin(), stats.texts.end(),
                                     [](const ManifestStats::Text& text) { return text.words.count > 0; });
  if (has_texts) fmt::print("(texts: number of words)\n");
  fmt::print("\n");
  constexpr std::int64_t kWidth = 50;
  const std::int64_t most = *std::max_element(stats.histogram.begin(), stats.histogram.end());
  for (int bin = 0; bin < kScoreBins; ++bin) {
    const std::int64_t count = stats.histogram[static_cast<std::size_t>(bin)];
    const std::int64_t length = (count * kWidth + most - 1) / most;  // at least one mark for one row
    fmt::print("{:.2f}..{:.2f} {:>7} {}\n", 1 + bin * 4.0 / kScoreBins, 1 + (bin + 1) * 4.0 / kScoreBins,
               count, std::string(static_cast<std::size_t>(length), '#'));
  }
}

ExitCode stats(const CommandLine& line) {
  const std::string file = arguments(line, 1, "one manifest").front();
  const bool json = wants_json(line);
  const ManifestStats result = manifest_stats(file);
  json ? print_stats_json(result) : print_stats(result);
  return ExitCode::done;
}

ExitCode overlap(const CommandLine& line) {
  const std::vector<std::string> files = arguments(line, 2, "two manifests");
  const bool json = wants_json(line);
  const SharedImages result = shared_images(files[0], files[1]);
  for (const std::string& problem : result.unreadable) say("error: {}\n", one_line(problem));
  Json pairs = Json::array();
  std::int64_t names = 0, pixels = 0, alike = 0;
  for (const SharedImage& pair : result.pairs) {
    std::vector<std::string> by;
    if (pair.by_name) by.emplace_back("name");
    if (pair.by_pixels) by.emplace_back("pixels");
    if (pair.distance) by.emplace_back("alike");
    names += pair.by_name ? 1 : 0;
    pixels += pair.by_pixels ? 1 : 0;
    alike += pair.distance ? 1 : 0;
    if (json) {
      pairs.push_back({{"first", pair.first},
                       {"second", pair.second},
                       {"by", by},
                       {"distance", pair.distance ? Json(*pair.distance) : Json()}});
    } else {
      fmt::print("{} | {} | {}{}\n", one_line(pair.first), one_line(pair.second), fmt::join(by, ", "),
                 pair.distance ? fmt::format(" ({} of 64 bits differ)", *pair.distance) : "");
    }
  }
  if (json) {
    print_json({{"first_rows", result.first_rows}, {"second_rows", result.second_rows}, {"pairs", pairs}});
  } else {
    fmt::print("{} and {} rows; pairs: {} by name, {} by pixels, {} alike\n", result.first_rows,
               result.second_rows, names, pixels, alike);
  }
  return result.unreadable.empty() ? ExitCode::done : ExitCode::partial;
}

ExitCode synth(const CommandLine& line) {
  arguments(line, 0, "no arguments");
  SynthOptions options;
  options.photos = needed(line, "photos");
  options.out = needed(line, "out");
  options.count = line.integer("n", 1, 1'000'000);
  options.seed = static_cast<std::uint64_t>(line.integer("seed", 0, std::int64_t{1} << 62));
  options.side = line.integer("side", 0, 1 << 16);
  make_synthetic_set(options);
  say("synth: wrote {} images and manifest.jsonl to {}\n", options.count, options.out.string());
  return ExitCode::done;
}

struct Command {
  const char* name;
  std::function<ExitCode(const CommandLine&)> run;
};

ExitCode run(const CommandLine& line) {
  const std::vector<Command> commands{
      {"import", import}, {"validate", validate}, {"stats", stats}, {"overlap", overlap}, {"synth", synth}};
  std::vector<std::string> names;
  for (const Command& command : commands) {
    if (!line.positional().empty() && line.positional().front() == command.name) return command.run(line);
    names.emplace_back(command.name);
  }
  if (line.positional().empty()) fail_usage("no command is given; give one of {}", fmt::join(names, ", "));
  fail_usage("'{}' is not a command; give one of {}", line.positional().front(), fmt::join(names, ", "));
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::run);
}
