// SPDX-License-Identifier: Apache-2.0
// biqa_ckpt: inspects, verifies and compares checkpoints and adapters, converts them from and to PEFT, and merges them
// into a model's files.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "app/program.h"
#include "core/csv.h"
#include "io/files.h"
#include "io/json.h"
#include "learner/checkpoint_tools.h"
#include "model/merge.h"
#include "policy/version.h"
#include "report/model_card.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

const ProgramInfo kInfo{
    "biqa_ckpt",
    "inspect, verify and compare checkpoints and adapters, convert them from and to PEFT, merge them into a "
    "model",
    "COMMAND …\n\n"
    "  inspect PATH                         print tensors, shards, optimizer state, configuration and "
    "origin\n"
    "  inspect PATH --tensor NAME           print statistics, first values and a histogram of one tensor\n"
    "  verify PATH                          check all files; for a run or its checkpoints/, all "
    "checkpoints.\n"
    "                                       Exit code 0: no damage; 1: damage, which is listed\n"
    "  diff A B                             compare tensor by tensor. The last line, or \"equal\" in JSON,\n"
    "                                       says whether they are equal; the exit code is 0 either way\n"
    "  export PATH --peft DIR               write a folder that PEFT loads, with three more files: "
    "README.md\n"
    "                                       (a model card), run.json (training, figures and digests) and\n"
    "                                       config.yaml (prompts and limits for biqa_score and biqa_eval)\n"
    "  import --peft DIR --out PATH         read a PEFT folder; write an adapter file if PATH ends in .h5,\n"
    "                                       otherwise a checkpoint folder of step 0\n"
    "  merge PATH --model DIR --out DIR     write the model with the adapter merged in, for transformers,\n"
    "                                       with the same three more files\n\n"
    "PATH, A and B: a checkpoint folder, `latest`, a run (its newest undamaged checkpoint), an adapter.h5, a "
    "PEFT folder",
    "biqa_ckpt inspect runs/quickstart",
    {{"tensor", "NAME", "inspect: only this tensor (its PEFT key)", ""},
     {"first", "N", "inspect --tensor: number of first values to print", "8"},
     {"peft", "DIR", "export: folder to write; import: folder to read", ""},
     {"model", "DIR",
      "merge: the model; export, import: the model that the adapter must fit, recorded as its base model",
      ""},
     {"out", "PATH", "import, merge: what to write", ""},
     {"format", "FORMAT", "inspect, diff, verify: table, csv or json", "table"}}};

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return shape.empty() ? "absent" : fmt::format("{}", fmt::join(shape, "x"));
}
Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

Json json_of(const ValueStatistics& s) {
  return {{"count", s.count},       {"mean", number(s.mean)}, {"deviation", number(s.deviation)},
          {"norm", number(s.norm)}, {"min", number(s.least)}, {"max", number(s.most)},
          {"zeros", s.zeros}};
}
std::string text_of(const ValueStatistics& s) {
  return fmt::format("{:>12.4e} {:>11.4e} {:>11.4e} {:>12.4e} {:>12.4e}", s.mean, s.deviation, s.norm,
                     s.least, s.most);
}
constexpr const char* kStatisticsHead = "        mean   deviation        norm          min          max";

// ---- inspect ----

void print_state_json(const AdapterState& state) {
  const LoadedCheckpoint& content = state.content;
  const LoraSpec& spec = content.adapter.layout->spec();
  Json json{{"path", state.place.path.string()},
            {"kind", name_of(state.place.kind)},
            {"step", content.info.step},
            {"version", content.info.version},
            {"data_cursor", content.info.data_cursor},
            {"base_model", content.info.base_model},
            {"build", content.info.build},
            {"best_value", number(content.info.best_value)},
            {"digest", digest_of(content.adapter)},
            {"rank", spec.rank},
            {"alpha", spec.alpha},
            {"rslora", spec.rslora},
            {"values", content.adapter.layout->size()}};
  json["tensors"] = Json::array();
  for (const AdapterState::Tensor& tensor : state.tensors) {
    Json row{{"name", tensor.name},
             {"dtype", tensor.type},
             {"shape", tensor.shape},
             {"scale", tensor.scale},
             {"offset", tensor.frozen == nullptr ? Json(tensor.offset) : Json()},
             {"frozen", tensor.frozen != nullptr}};
    row.update(json_of(statistics_of(state.values(tensor))));
    json["tensors"].push_back(std::move(row));
  }
  if (state.place.kind == AdapterKind::checkpoint) {
    json["shards"] = Json::array();
    for (const AdapterState::Shard& shard : state.shards) {
      json["shards"].push_back({{"file", shard.file},
                                {"begin", shard.begin},
                                {"end", shard.end},
                                {"updates", shard.updates},
                                {"bytes", shard.bytes}});
    }
    json["optimizer"] = {{"updates", content.updates},
                         {"m", json_of(statistics_of(content.m))},
                         {"v", json_of(statistics_of(content.v))}};
    json["config"] = content.info.config;
  }
  fmt::print("{}\n", json_text(json, 2));
}

void print_state_csv(const AdapterState& state) {
  fmt::print("tensor,dtype,shape,scale,offset,count,mean,deviation,norm,min,max,zeros\n");
  for (const AdapterState::Tensor& tensor : state.tensors) {
    const ValueStatistics s = statistics_of(state.values(tensor));
    fmt::print("{},{},{},{},{},{},{},{},{},{},{},{}\n", tensor.name, tensor.type, shape_text(tensor.shape),
               tensor.scale, tensor.frozen == nullptr ? fmt::to_string(tensor.offset) : "", s.count, s.mean,
               s.deviation, s.norm, s.least, s.most, s.zeros);
  }
}

void print_state_table(const AdapterState& state) {
  const LoadedCheckpoint& content = state.content;
  const CheckpointInfo& info = content.info;
  const LoraSpec& spec = content.adapter.layout->spec();
  const bool checkpoint = state.place.kind == AdapterKind::checkpoint;
  fmt::print("{:<12} {} ({})\n", "path", state.place.path.string(), name_of(state.place.kind));
  if (state.place.kind != AdapterKind::peft)
    fmt::print("{:<12} {}, version {}\n", "step", info.step, info.version);
  if (checkpoint)
    fmt::print("{:<12} {} updates, data cursor {}\n", "so far", content.updates, info.data_cursor);
  fmt::print("{:<12} {}\n", "base model", info.base_model.empty() ? "unknown" : info.base_model);
  if (checkpoint) {
    fmt::print("{:<12} {}\n", "build", info.build);
    fmt::print("{:<12} {}\n", "best value",
               std::isfinite(info.best_value) ? fmt::format("{:.4f}", info.best_value)
                                              : "not evaluated before it was saved");
  }
  fmt::print("{:<12} rank {}, alpha {}{}, {} tensors, {} values, digest {}\n", "adapter", spec.rank,
             spec.alpha, spec.rslora ? ", rank-stabilised" : "", state.tensors.size(),
             content.adapter.layout->size(), digest_of(content.adapter));
  const auto frozen =
      std::count_if(state.tensors.begin(), state.tensors.end(),
                    [](const AdapterState::Tensor& tensor) { return tensor.frozen != nullptr; });
  if (frozen > 0)
    fmt::print("{:<12} {} of the tensors are on modules that are not trained: merged while loading\n",
               "frozen", frozen);
  fmt::print("\n");
  std::size_t width = 6;
  for (const AdapterState::Tensor& tensor : state.tensors) width = std::max(width, tensor.name.size());
  fmt::print("{:<{}}  dtype {:>12} {:>6} {}\n", "tensor", width, "shape", "scale", kStatisticsHead);
  for (const AdapterState::Tensor& tensor : state.tensors) {
    fmt::print("{:<{}}  {:<5} {:>12} {:>6.3g} {}\n", tensor.name, width, tensor.type,
               shape_text(tensor.shape), tensor.scale, text_of(statistics_of(state.values(tensor))));
  }
  if (!checkpoint) return;
  fmt::print("\n{:<31} {:>12} {:>12} {:>12} {:>8} {:>12}\n", "shard", "begin", "end", "values", "updates",
             "bytes");
  for (const AdapterState::Shard& shard : state.shards) {
    fmt::print("{:<31} {:>12} {:>12} {:>12} {:>8} {:>12}\n", shard.file, shard.begin, shard.end,
               shard.end - shard.begin, shard.updates, shard.bytes);
  }
  fmt::print("\n{:<9} {}\n", "moments", kStatisticsHead);
  fmt::print("{:<9} {}\n", "m", text_of(statistics_of(content.m)));
  fmt::print("{:<9} {}\n", "v", text_of(statistics_of(content.v)));
  fmt::print("\nconfiguration\n{}{}", info.config,
             info.config.empty() || info.config.back() != '\n' ? "\n" : "");
}

/// One tensor: its values and, in a checkpoint, its moments.
struct Part {
  std::string name;
  std::span<const float> values;
  ValueStatistics statistics;
  std::vector<std::size_t> histogram;
};
constexpr std::size_t kBins = 16;

double edge(const ValueStatistics& s, std::size_t bin) {
  return s.least + (s.most - s.least) * static_cast<double>(bin) / static_cast<double>(kBins);
}

void print_tensor(const AdapterState& state, const std::string& name, std::size_t first,
                  const std::string& format) {
  const auto tensor = std::find_if(state.tensors.begin(), state.tensors.end(),
                                   [&](const AdapterState::Tensor& one) { return one.name == name; });
  if (tensor == state.tensors.end()) {
    fail_usage("flag --tensor {}: {} has no such tensor; its first tensor is {}", name,
               state.place.path.string(), state.tensors.front().name);
  }
  std::vector<Part> parts{{"values", state.values(*tensor), {}, {}}};
  if (state.place.kind == AdapterKind::checkpoint && tensor->frozen == nullptr) {
    parts.push_back({"m", std::span(state.content.m).subspan(tensor->offset, tensor->count), {}, {}});
    parts.push_back({"v", std::span(state.content.v).subspan(tensor->offset, tensor->count), {}, {}});
  }
  for (Part& part : parts) {
    part.statistics = statistics_of(part.values);
    part.histogram = histogram_of(part.values, part.statistics.least, part.statistics.most, kBins);
  }
  if (format == "json") {
    Json json{{"name", name}, {"dtype", tensor->type}, {"shape", tensor->shape}, {"scale", tensor->scale}};
    for (const Part& part : parts) {
      Json entry = json_of(part.statistics);
      entry["first"] =
          std::vector(part.values.begin(),
                      part.values.begin() + static_cast<std::ptrdiff_t>(std::min(first, part.values.size())));
      entry["histogram"] = part.histogram;
      json[part.name] = std::move(entry);
    }
    fmt::print("{}\n", json_text(json, 2));
    return;
  }
  if (format == "csv") {
    fmt::print("part,from,to,count\n");
    for (const Part& part : parts) {
      for (std::size_t bin = 0; bin < kBins; ++bin) {
        fmt::print("{},{},{},{}\n", part.name, edge(part.statistics, bin), edge(part.statistics, bin + 1),
                   part.histogram[bin]);
      }
    }
    return;
  }
  fmt::print("{}\n{} {}, scale {}, of {}\n", name, tensor->type, shape_text(tensor->shape), tensor->scale,
             state.place.path.string());
  for (const Part& part : parts) {
    fmt::print("\n{:<9} {}\n{:<9} {}, {} of {} are zero\n", part.name, kStatisticsHead, "",
               text_of(part.statistics), part.statistics.zeros, part.statistics.count);
    std::string line = "first    ";
    for (std::size_t i = 0; i < std::min(first, part.values.size()); ++i)
      line += fmt::format(" {:.6g}", part.values[i]);
    fmt::print("{}\n", line);
    const std::size_t most = *std::max_element(part.histogram.begin(), part.histogram.end());
    for (std::size_t bin = 0; bin < kBins; ++bin) {
      constexpr std::size_t kLongest = 48;
      // A bin that has something shows it.
      const std::size_t bar = (part.histogram[bin] * kLongest + most - 1) / std::max<std::size_t>(1, most);
      fmt::print("{:>12.4e} … {:>11.4e} {:>10} {}\n", edge(part.statistics, bin),
                 edge(part.statistics, bin + 1), part.histogram[bin], std::string(bar, '#'));
    }
  }
}

ExitCode inspect(const CommandLine& line, const std::string& path) {
  const std::string format = line.choice("format", {"table", "csv", "json"});
  const auto first = static_cast<std::size_t>(line.integer("first", 0, 1 << 20));
  const AdapterState state = read_adapter_state(find_adapter(path));
  if (line.has("tensor"))
    print_tensor(state, line.text("tensor"), first, format);
  else if (format == "json")
    print_state_json(state);
  else if (format == "csv")
    print_state_csv(state);
  else
    print_state_table(state);
  return ExitCode::done;
}

// ---- verify ----

ExitCode verify(const CommandLine& line, const std::string& path) {
  const std::string format = line.choice("format", {"table", "csv", "json"});
  const std::vector<Verdict> verdicts = verify_path(path);
  std::vector<std::string> damaged;
  Json json = Json::array();
  if (format == "csv") fmt::print("path,whole,damage\n");
  for (const Verdict& verdict : verdicts) {
    const bool whole = verdict.damage.empty();
    if (!whole) damaged.push_back(verdict.damage.front());
    if (format == "json") {
      json.push_back({{"path", verdict.path.string()}, {"whole", whole}, {"damage", verdict.damage}});
    } else if (format == "csv") {
      fmt::print("{},{},{}\n", csv_quoted(verdict.path.string()), whole,
                 csv_quoted(fmt::format("{}", fmt::join(verdict.damage, " | "))));
    } else {
      fmt::print("{:<8} {}\n", whole ? "whole" : "damaged", verdict.path.string());
      for (const std::string& damage : verdict.damage) fmt::print("         {}\n", damage);
    }
  }
  if (format == "json") fmt::print("{}\n", json_text(json, 2));
  if (damaged.empty()) return ExitCode::done;
  // A failing program leaves without its exit handlers.
  std::fflush(stdout);
  if (verdicts.size() == 1) throw Error(damaged.front());
  fail("{} of {} in {} are damaged, first: {}", damaged.size(), verdicts.size(), path, damaged.front());
}

// ---- diff ----

std::string verdict_text(const AdapterDifference& difference) {
  if (difference.equal()) return fmt::format("equal: {} tensors to the bit", difference.tensors.size());
  double largest = 0;
  for (const TensorDifference& tensor : difference.tensors) largest = std::max(largest, tensor.largest);
  return fmt::format("different: {} of {} tensors, largest difference {:.4e}; {} other properties differ",
                     difference.different_tensors(), difference.tensors.size(), largest,
                     difference.fields.size());
}

void print_difference_table(const AdapterDifference& difference) {
  for (const FieldDifference& field : difference.fields)
    fmt::print("{:<12} {} | {}\n", field.name, field.a, field.b);
  for (const std::string& text : difference.config_a) fmt::print("  < {}\n", text);
  for (const std::string& text : difference.config_b) fmt::print("  > {}\n", text);
  std::size_t width = 6;
  for (const TensorDifference& tensor : difference.tensors) {
    if (!tensor.equal) width = std::max(width, tensor.name.size());
  }
  if (difference.different_tensors() > 0)
    fmt::print("{:<{}} {:>12} {:>12} {:>12} {:>12}\n", "tensor", width, "shape", "differing", "largest",
               "relative");
  for (const TensorDifference& tensor : difference.tensors) {
    if (tensor.equal) continue;
    if (tensor.shape_a != tensor.shape_b) {
      fmt::print("{:<{}} {:>12} {} | {}\n", tensor.name, width, "shapes", shape_text(tensor.shape_a),
                 shape_text(tensor.shape_b));
    } else {
      fmt::print("{:<{}} {:>12} {:>12} {:>12.4e} {:>12.4e}\n", tensor.name, width, shape_text(tensor.shape_a),
                 tensor.differing, tensor.largest, tensor.largest_relative);
    }
  }
  fmt::print("{}\n", verdict_text(difference));
}

ExitCode diff(const CommandLine& line, const std::string& left, const std::string& right) {
  const std::string format = line.choice("format", {"table", "csv", "json"});
  const AdapterState a = read_adapter_state(find_adapter(left)), b = read_adapter_state(find_adapter(right));
  const AdapterDifference difference = compare_adapters(a, b);
  if (format == "table") {
    print_difference_table(difference);
    return ExitCode::done;
  }
  if (format == "csv") {
    fmt::print("tensor,shape_a,shape_b,equal,differing,largest,largest_relative\n");
    for (const TensorDifference& t : difference.tensors) {
      fmt::print("{},{},{},{},{},{},{}\n", t.name, shape_text(t.shape_a), shape_text(t.shape_b), t.equal,
                 t.differing, t.largest, t.largest_relative);
    }
    return ExitCode::done;
  }
  Json json{{"a", a.place.path.string()},
            {"b", b.place.path.string()},
            {"equal", difference.equal()},
            {"fields", Json::object()},
            {"tensors", Json::array()}};
  for (const FieldDifference& field : difference.fields) json["fields"][field.name] = {field.a, field.b};
  json["config"] = {{"a", difference.config_a}, {"b", difference.config_b}};
  for (const TensorDifference& t : difference.tensors) {
    json["tensors"].push_back({{"name", t.name},
                               {"shape_a", t.shape_a},
                               {"shape_b", t.shape_b},
                               {"equal", t.equal},
                               {"differing", t.differing},
                               {"largest", number(t.largest)},
                               {"largest_relative", number(t.largest_relative)}});
  }
  fmt::print("{}\n", json_text(json, 2));
  return ExitCode::done;
}

// ---- export, import, merge ----

std::optional<fs::path> model_of(const CommandLine& line) {
  return line.has("model") ? std::optional<fs::path>(line.text("model")) : std::nullopt;
}

ExitCode export_adapter(const CommandLine& line, const std::string& path) {
  const AdapterPlace place = find_adapter_alone(path);
  const std::optional<fs::path> model = model_of(line);
  const Lora lora = read_placed_adapter(place, model);
  export_peft(place, lora, model, line.text("peft"),
              package_texts(PackageKind::adapter, read_adapter_origin(place, model), lora, version_text()));
  fmt::print("{} of {} exported as a PEFT adapter with a model card (README.md) to {}\n", name_of(place.kind),
             place.path.string(), line.text("peft"));
  return ExitCode::done;
}

ExitCode import_adapter(const CommandLine& line) {
  import_peft(line.text("peft"), model_of(line), line.text("out"), version_text());
  fmt::print("PEFT adapter of {} imported to {}\n", line.text("peft"), line.text("out"));
  return ExitCode::done;
}

ExitCode merge(const CommandLine& line, const std::string& path) {
  const fs::path model = line.text("model");
  const AdapterPlace place = find_adapter_alone(path);
  const Lora lora = read_placed_adapter(place, model);
  const MergeReport report = write_merged_model(
      model, lora, line.text("out"),
      package_texts(PackageKind::merged_model, read_adapter_origin(place, model), lora, version_text()));
  fmt::print("{} of {} merged into {}: {} tensors merged, {} copied, {} files, {:.1f} MB in {}\n",
             name_of(place.kind), place.path.string(), model.string(), report.merged, report.copied,
             report.files, static_cast<double>(report.bytes) * 1e-6, line.text("out"));
  return ExitCode::done;
}

ExitCode run(const CommandLine& line) {
  struct Command {
    std::size_t paths;
    std::set<std::string> needed, allowed;
  };
  static const std::map<std::string, Command> kCommands{{"inspect", {1, {}, {"tensor", "first", "format"}}},
                                                        {"verify", {1, {}, {"format"}}},
                                                        {"diff", {2, {}, {"format"}}},
                                                        {"export", {1, {"peft"}, {"model"}}},
                                                        {"import", {0, {"peft", "out"}, {"model"}}},
                                                        {"merge", {1, {"model", "out"}, {}}}};
  const std::vector<std::string>& words = line.positional();
  if (words.empty()) fail_usage("no command is given: see biqa_ckpt --help");
  const auto found = kCommands.find(words[0]);
  if (found == kCommands.end()) {
    std::vector<std::string> names;
    names.reserve(kCommands.size());
    for (const auto& [name, ignored] : kCommands) names.push_back(name);
    fail_usage("unknown command {}: it is one of {}", words[0], fmt::join(names, ", "));
  }
  const Command& command = found->second;
  if (words.size() != command.paths + 1) {
    fail_usage("{} takes {} path{}, not {}: see biqa_ckpt --help", words[0], command.paths,
               command.paths == 1 ? "" : "s", words.size() - 1);
  }
  for (const FlagInfo& flag : kInfo.flags) {
    if (command.needed.count(flag.name) != 0 && (!line.has(flag.name) || line.text(flag.name).empty()))
      fail_usage("{} needs --{} {}: see biqa_ckpt --help", words[0], flag.name, flag.value);
    if (line.has(flag.name) && command.needed.count(flag.name) == 0 && command.allowed.count(flag.name) == 0)
      fail_usage("flag --{} has no effect on {}: remove it; see biqa_ckpt --help", flag.name, words[0]);
  }
  if (words[0] == "inspect") return inspect(line, words[1]);
  if (words[0] == "verify") return verify(line, words[1]);
  if (words[0] == "diff") return diff(line, words[1], words[2]);
  if (words[0] == "export") return export_adapter(line, words[1]);
  if (words[0] == "import") return import_adapter(line);
  return merge(line, words[1]);
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::run);
}
