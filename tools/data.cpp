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
#include "datasets/data_set.h"
#include "datasets/examine.h"
#include "datasets/import.h"
#include "datasets/synth.h"
#include "io/json.h"

namespace biqa {
namespace {

const ProgramInfo kInfo{
    "biqa_data",
    "turn data sets into manifests, examine manifests, distort photographs with known severity",
    "COMMAND …\n\n"
    "  import SET --root DIR --out FILE     read a data set as its authors publish it; write a manifest.\n"
    "                                       SET: koniq10k, spaq, livewild, kadid10k, pipal, csiq,\n"
    "                                       agiqa3k, tid2013, flive, deqa, q-reasoning, csv, pyiqa\n"
    "  validate FILE                        check every row and decode every image of a manifest. Exit code\n"
    "                                       0: no fault; 3: faults, which are listed\n"
    "  stats FILE                           print counts, scores and lengths of texts\n"
    "  overlap A B                          find pairs of images in two manifests that have equal names or\n"
    "                                       equal pixels, or are alike; A A: repeated images of one "
    "manifest\n"
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
      "import csv, pyiqa: ROLE=NAME pairs, separated by commas; roles: image, score, std, split, reference, "
      "type, "
      "level, "
      "description, good, bad",
      ""},
     {"name", "NAME",
      "import csv, pyiqa: name of the set in the rows and in tables of results; without it the label file's "
      "name without extension",
      ""},
     {"sheet", "NAME", "import: sheet of an xlsx workbook, if several have the columns", ""},
     {"expect-size", "WxH", "import: size that every image must have, pixels", ""},
     {"with-tutorial", "", "import livewild: keep the seven tutorial images", "false"},
     {"skip-bad", "", "import: leave bad rows out and list them; the exit code is then 3", "false"},
     {"no-check-images", "", "import: do not look at the images, which may be missing", "false"},
     {"photos", "DIR", "synth: folder of photographs", ""},
     {"n", "N", "synth: number of images", "100"},
     {"seed", "N", "synth: the same seed gives the same images", "0"},
     {"side", "N", "synth: side of the square crop of a photograph, pixels; 0: the whole photograph", "512"},
     {"out", "PATH", "import: manifest to write; synth: folder to write", ""},
     {"pairs", "N", "overlap: pairs to list; the others are counted", std::to_string(kSharedPairs)},
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

/// Throws Error (usage) naming a flag that the command, or the import of this set, does not use.
void refuse_other_flags(const CommandLine& line, const std::string& what,
                        const std::vector<std::string>& used) {
  for (const FlagInfo& flag : kInfo.flags) {
    if (line.has(flag.name) && std::find(used.begin(), used.end(), flag.name) == used.end())
      fail_usage("flag --{} has no effect on {}; leave it out, see {} --help", flag.name, what, kInfo.name);
  }
}

void refuse_other_flags_of_import(const CommandLine& line, const DataSet& set) {
  std::vector<std::string> used{"root",  "labels",   "images",          "split", "scale",
                                "sheet", "skip-bad", "no-check-images", "out"};
  if (set.is_own_table()) used.insert(used.end(), {"columns", "name"});
  if (set.tutorial_images > 0) used.emplace_back("with-tutorial");
  if (!line.on("no-check-images")) used.emplace_back("expect-size");
  refuse_other_flags(line,
                     line.has("expect-size") && line.on("no-check-images")
                         ? "images that are not checked (--no-check-images)"
                         : "import " + set.name,
                     used);
}

ExitCode import(const CommandLine& line) {
  ImportOptions options;
  options.set = arguments(line, 1, "one data set").front();
  refuse_other_flags_of_import(line, find_data_set(options.set));
  options.root = needed(line, "root");
  options.out = needed(line, "out");
  if (line.has("labels")) options.labels = line.text("labels");
  options.images = line.text("images");
  options.splits = words_of(line.text("split"));
  if (options.splits.empty()) fail_usage("flag --split is empty; name a split, or leave the flag out");
  options.scale = line.text("scale");
  options.columns = parse_columns(line.text("columns"));
  options.sheet = line.text("sheet");
  if (line.has("sheet") && options.sheet.empty())
    fail_usage("flag --sheet is empty; name a sheet, or leave the flag out");
  options.name = line.text("name");
  if (line.has("name") && options.name.empty())
    fail_usage("flag --name is empty; name the set, or leave the flag out");
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
  fmt::print("{}\n", json_text(document, 2));
}

ExitCode validate(const CommandLine& line) {
  const std::string file = arguments(line, 1, "one manifest").front();
  refuse_other_flags(line, "validate", {"format"});
  const bool json = wants_json(line);
  const Validation result = validate_manifest(file);
  if (json) {
    Json faults = Json::array();
    for (const ManifestFault& fault : result.faults)
      faults.push_back({{"line", fault.line}, {"fault", fault.text}});
    Json unknown = Json::array();
    for (const UnknownKey& key : result.unknown)
      unknown.push_back({{"key", key.key}, {"rows", key.rows}, {"line", key.line}});
    print_json({{"rows", result.rows}, {"faults", faults}, {"unknown_keys", unknown}});
  } else {
    for (const ManifestFault& fault : result.faults) fmt::print("{}\n", fault.text);
    for (const UnknownKey& key : result.unknown)
      fmt::print("note: no program reads the key '{}', which {} rows have, the first in line {}\n",
                 one_line(key.key), key.rows, key.line);
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
    fmt::print("{:<20} {:<8} {:>8}\n", one_line(group.set), one_line(group.split), group.rows);
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
  refuse_other_flags(line, "stats", {"format"});
  const bool json = wants_json(line);
  const ManifestStats result = manifest_stats(file);
  json ? print_stats_json(result) : print_stats(result);
  return ExitCode::done;
}

ExitCode overlap(const CommandLine& line) {
  const std::vector<std::string> files = arguments(line, 2, "two manifests");
  refuse_other_flags(line, "overlap", {"format", "pairs"});
  const bool json = wants_json(line);
  const SharedImages result =
      shared_images(files[0], files[1], static_cast<std::size_t>(line.integer("pairs", 0, 10'000'000)));
  for (const std::string& problem : result.unreadable) say("error: {}\n", problem);
  const std::int64_t rest = result.all_pairs - static_cast<std::int64_t>(result.pairs.size());
  Json pairs = Json::array();
  for (const SharedImage& pair : result.pairs) {
    std::vector<std::string> by;
    if (pair.by_name) by.emplace_back("name");
    if (pair.by_pixels) by.emplace_back("pixels");
    if (pair.distance) by.emplace_back("alike");
    if (json) {
      pairs.push_back({{"first", pair.first},
                       {"second", pair.second},
                       {"by", by},
                       {"distance", pair.distance ? Json(*pair.distance) : Json()}});
    } else {
      fmt::print("{} | {} | {}{}\n", one_line(pair.first), one_line(pair.second), fmt::join(by, ", "),
                 pair.distance ? fmt::format(" ({} of 64 hash bits differ)", *pair.distance) : "");
    }
  }
  if (json) {
    print_json({{"first_rows", result.first_rows},
                {"second_rows", result.second_rows},
                {"pairs", pairs},
                {"not_listed", rest},
                {"by_name", result.by_name},
                {"by_pixels", result.by_pixels},
                {"alike", result.alike}});
  } else {
    if (rest > 0) fmt::print("and {} more pairs (--pairs lists more)\n", rest);
    fmt::print("{} and {} rows; pairs: {} by name, {} by pixels, {} alike\n", result.first_rows,
               result.second_rows, result.by_name, result.by_pixels, result.alike);
  }
  return result.unreadable.empty() ? ExitCode::done : ExitCode::partial;
}

ExitCode synth(const CommandLine& line) {
  arguments(line, 0, "no arguments");
  refuse_other_flags(line, "synth", {"photos", "out", "n", "seed", "side"});
  SynthOptions options;
  options.photos = needed(line, "photos");
  options.out = needed(line, "out");
  options.count = line.integer("n", 1, 1'000'000);
  options.seed = static_cast<std::uint64_t>(line.integer("seed", 0, std::int64_t{1} << 62));
  options.side = line.integer("side", 0, 1 << 16);
  const SynthResult result = make_synthetic_set(options);
  for (const std::string& problem : result.unreadable) say("error: {}\n", problem);
  say("synth: wrote {} images and manifest.jsonl to {}\n", result.images, options.out.string());
  if (result.unreadable.empty()) return ExitCode::done;
  say("synth: left out {} of {} images, whose photographs cannot be read\n", options.count - result.images,
      options.count);
  return ExitCode::partial;
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
