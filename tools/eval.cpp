// SPDX-License-Identifier: Apache-2.0
// biqa_eval: how well ratings agree with human scores, for predictions of a model or of a file.
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "actor/engine.h"
#include "app/model_flags.h"
#include "app/program.h"
#include "app/ranks.h"
#include "comm/agreement.h"
#include "comm/rank_processors.h"
#include "core/processors.h"
#include "evaluation/comparison.h"
#include "evaluation/model_evaluation.h"
#include "evaluation/report.h"
#include "evaluation/report_text.h"
#include "io/files.h"
#include "model/checkpoint.h"
#include "model/frozen_parts.h"
#include "semantic/polarity.h"
#include "semantic/sentence_encoder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

const ProgramInfo kInfo{
    "biqa_eval",
    "evaluate ratings and texts against human scores and human texts",
    "[--model DIR] [--adapter PATH] --data FILE.jsonl… | --from-predictions FILE.jsonl | --compare A.jsonl "
    "B.jsonl",
    "mpirun -np 2 biqa_eval --adapter runs/quickstart --data assets/tiny/test.jsonl --predictions out.jsonl",
    with_model_flags(
        {{"data", "FILE…", "manifest to evaluate; without it those of the configuration's data.eval", ""},
         {"from-predictions", "FILE",
          "evaluate this file of predictions instead of a model (docs/evaluation.md)", ""},
         {"compare", "A.jsonl B.jsonl",
          "compare two files of predictions on the rows that both have: paired bootstrap and sign test", ""},
         {"predictions", "OUT.jsonl",
          "write the predictions; a run that was stopped goes on from OUT.jsonl.part", ""},
         {"conditions", "LIST",
          "image, caption or image,caption: ratings from the image, from the caption alone, or both",
          "image,caption"},
         {"by", "FIELD…", "also print the correlations of each type, level or reference", ""},
         {"repeats", "K", "answers per image; more than 1 are sampled, with seed 0 unless --seed is given",
          "1"},
         {"skip-bad", "", "leave bad rows of the manifests out and list them", "false"},
         {"batch", "N", "images per rank at a time; the predictions do not depend on it", "16"}},
        {{"like-pyiqa", "OUT.csv",
          "also write the correlations as a table like those of pyiqa's benchmark; a second column per set "
          "keeps sign and all digits",
          ""},
         {"judge-file", "OUT.jsonl",
          "also write each answer with the human text of its image and with that of another image, for an "
          "outside judge",
          ""},
         {"similarity-model", "DIR",
          "folder of a sentence encoder, such as all-MiniLM-L6-v2, for the similarity of texts", ""},
         {"lexicon", "FILE", "terms of quality for the polarity of texts, instead of the built-in ones", ""},
         {"draws", "N", "draws of the bootstrap, for the intervals", std::to_string(kBootstrapDraws)},
         {"bootstrap-seed", "N", "seed of these draws and of the chance levels", "0"},
         {"format", "FORMAT", "table, csv or json (one document)", "table"}}),
    true};

const std::vector<std::string> kOutputFlags{"predictions", "like-pyiqa", "judge-file"};

StopSignals signals;

extern "C" void on_stop(int /*signal*/) {
  signals.stop = true;
}

/// The parts of "a,b", each one of `allowed` and given once.
std::vector<std::string> list_of(const CommandLine& line, const std::string& flag,
                                 const std::vector<std::string>& allowed) {
  const std::string value = line.text(flag);
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= value.size();) {
    const std::size_t end = std::min(value.find(',', begin), value.size());
    const std::string part = value.substr(begin, end - begin);
    begin = end + 1;
    if (std::find(allowed.begin(), allowed.end(), part) == allowed.end() ||
        std::find(parts.begin(), parts.end(), part) != parts.end()) {
      fail_usage("flag --{} is '{}'; it must be a list of {}, each at most once, e.g. {}", flag, value,
                 fmt::join(allowed, " and "), fmt::join(allowed, ","));
    }
    parts.push_back(part);
  }
  return parts;
}

ReportOptions report_options(const CommandLine& line) {
  ReportOptions options;
  const std::vector<std::string> asked = list_of(line, "conditions", options.conditions);
  std::erase_if(options.conditions, [&](const std::string& condition) {
    return std::find(asked.begin(), asked.end(), condition) == asked.end();
  });
  options.by = line.texts("by");
  for (const std::string& field : options.by) {
    if (field != "type" && field != "level" && field != "reference")
      fail_usage("flag --by is '{}'; it must be one of type, level, reference", field);
  }
  options.draws = static_cast<std::size_t>(line.integer("draws", 1, 1000000));
  options.seed = static_cast<std::uint64_t>(line.integer("bootstrap-seed", 0, std::int64_t{1} << 62));
  return options;
}

/// Reads what the flags name for the figures of meaning, and borrows it to the options.
class MeaningFiles {
 public:
  void open(const CommandLine& line, int threads, ReportOptions& options) {
    if (line.has("lexicon")) {
      lexicon_ = Lexicon::open(line.text("lexicon"));
      options.meaning.lexicon = &*lexicon_;
    }
    if (line.has("similarity-model")) {
      encoder_.emplace(SentenceEncoder::open(line.text("similarity-model"), threads));
      options.meaning.encoder = &*encoder_;
    }
  }

 private:
  std::optional<Lexicon> lexicon_;
  std::optional<SentenceEncoder> encoder_;
};

/// Refuses a report without any figure that was asked for, and warns of groups that no row belongs to.
void check_report(const Report& report, const std::vector<Prediction>& predictions,
                  const ReportOptions& options, const CommandLine& line) {
  if (!predictions.empty() && report.without_score == static_cast<std::int64_t>(predictions.size()))
    fail("cannot evaluate {}: no row has a score; give each row the human score of its image as `score`",
         line.has("from-predictions") ? line.text("from-predictions") : "the predictions");
  for (const std::string& condition : options.conditions) {
    const bool found = std::any_of(report.rows.begin(), report.rows.end(),
                                   [&](const ReportRow& row) { return row.condition == condition; });
    if (!found && line.has("conditions"))
      fail("cannot evaluate the condition {}: no row has ratings for it; see docs/evaluation.md", condition);
  }
  for (const std::string& field : options.by) {
    const bool found = std::any_of(report.groups.begin(), report.groups.end(),
                                   [&](const ReportGroup& group) { return group.by == field; });
    if (!found) say("warning: no row has the field {}, so --by finds no groups\n", field);
  }
}

void warn_of_scores(const std::vector<Prediction>& predictions, const std::string& file) {
  if (const std::string outside = scores_outside_scale(predictions, file); !outside.empty())
    say("warning: {}\n", outside);
}

/// Prints the report and writes the other files that flags ask for.
void give_report(const CommandLine& line, const std::vector<Prediction>& predictions,
                 const ReportOptions& options) {
  const Report report = report_of(predictions, options);
  if (report.without_score > 0)
    say("warning: {} predictions have no score and are left out\n", report.without_score);
  if (report.without_text > 0)
    say("warning: {} predictions have `human_text` but not `text`; they are left out of the figures of "
        "texts\n",
        report.without_text);
  if (line.has("from-predictions")) warn_of_scores(predictions, line.text("from-predictions"));
  check_report(report, predictions, options, line);
  const std::string format = line.text("format");
  fmt::print("{}", format == "json"  ? report_json(report)
                   : format == "csv" ? report_csv(report)
                                     : report_table(report));
  flush_output();
  if (line.has("like-pyiqa")) write_file_atomically(line.text("like-pyiqa"), like_pyiqa(report));
  if (line.has("judge-file"))
    write_file_atomically(line.text("judge-file"), judge_rows(predictions, options.seed));
}

void compare(const CommandLine& line, const ReportOptions& options) {
  const std::string a = line.text("compare"), b = line.positional().front();
  const std::vector<Prediction> rows_a = read_predictions(a, kCommonSet),
                                rows_b = read_predictions(b, kCommonSet);
  for (const auto& [file, predictions] : {std::pair(&a, &rows_a), std::pair(&b, &rows_b)}) {
    const auto without =
        std::count_if(predictions->begin(), predictions->end(), [](const Prediction& p) { return !p.score; });
    if (without > 0) say("warning: rows of {} without a score are left out: {}\n", *file, without);
    warn_of_scores(*predictions, *file);
  }
  const std::vector<ComparisonRow> rows = compare_predictions(rows_a, rows_b, options);
  if (rows.empty())
    fail(
        "cannot compare {} and {}: they have no set in common with the same decoding; give two files about "
        "the same data, with the same names in the column set",
        a, b);
  if (std::all_of(rows.begin(), rows.end(), [](const ComparisonRow& row) { return row.n == 0; }))
    fail(
        "cannot compare {} and {}: no row (set, id, repeat) has a rating in both; give two files about the "
        "same data",
        a, b);
  const std::string format = line.text("format");
  fmt::print("{}", format == "json"  ? comparison_json(rows, a, b)
                   : format == "csv" ? comparison_csv(rows)
                                     : comparison_table(rows, a, b));
  flush_output();
}

/// The images of all manifests. `bad`: rows that were left out.
std::vector<Sample> read_data(const CommandLine& line, const std::optional<Config>& config,
                              std::vector<BadRow>& bad) {
  std::vector<fs::path> files;
  for (const std::string& file : line.texts("data")) files.emplace_back(file);
  if (!files.empty()) files.insert(files.end(), line.positional().begin(), line.positional().end());
  if (files.empty() && config) files = config->data.eval;
  refuse_overwriting(line, kOutputFlags, files);
  if (files.empty())
    fail_usage(
        "flag --data is missing: name a manifest, or a file of predictions with --from-predictions; see "
        "biqa_eval --help");
  const bool skip_bad = line.on("skip-bad") || (config && config->data.skip_bad);
  std::vector<Sample> samples;
  std::map<std::string, fs::path> file_of_set;
  for (const fs::path& file : files) {
    std::vector<Sample> read = read_manifest(file, skip_bad, &bad);
    for (const Sample& sample : read) {
      const auto [earlier, is_new] = file_of_set.try_emplace(sample.set, file);
      if (is_new || earlier->second == file) continue;
      say("warning: {} and {} both have images of a set {}, which are evaluated together\n",
          earlier->second.string(), file.string(), sample.set);
      earlier->second = file;
    }
    std::move(read.begin(), read.end(), std::back_inserter(samples));
  }
  require_unique_images(samples);
  return samples;
}

/// Everything that decides what a model answers.
struct Answering {
  std::optional<Config> config;
  PolicyOptions model;
  RolloutOptions options;
  std::optional<Lora> adapter;
  std::vector<Sample> samples;
  std::vector<BadRow> bad;
  std::size_t batch = 0;  ///< images per rank at a time
  int threads = 0;        ///< asked for; 0: no wish
};

Answering read_inputs(const CommandLine& line, const ReportOptions& report) {
  Answering inputs;
  inputs.config = find_config(line);
  inputs.model = policy_options(line, inputs.config, usable_processors());
  inputs.options = rollout_options(line, inputs.config);
  inputs.options.group_size = line.integer("repeats", 1, 1000);
  inputs.batch = static_cast<std::size_t>(line.integer("batch", 1, 4096));
  inputs.threads = static_cast<int>(line.integer("threads", 0, 1024));
  const bool has_caption = !inputs.options.prompts.profile.caption_tag.empty();
  const bool asks_caption = report.conditions.back() == "caption";
  if (asks_caption && !has_caption && line.has("conditions"))
    fail_usage("flag --conditions is '{}': the answers of this prompt profile have no caption; give image",
               line.text("conditions"));
  inputs.options.stage2 = asks_caption && has_caption;
  if (inputs.options.group_size > 1) {
    if (line.on("greedy"))
      fail_usage("flags --greedy and --repeats exclude each other: greedy answers do not differ");
    inputs.options.sampling.greedy = false;
  }
  inputs.samples = read_data(line, inputs.config, inputs.bad);
  inputs.adapter = read_adapter(line, inputs.config, inputs.model);
  return inputs;
}

/// Digest of everything that the predictions depend on, for a run that continues an earlier one.
std::uint64_t settings_digest(const Answering& inputs, const Policy& policy) {
  const RolloutOptions& o = inputs.options;
  const PreprocessConfig& pixels = policy.pictures->config();
  std::string text = fmt::format(
      "{} {} {} {} {} {} {} {} {} {} {} {} {} {}\n", fs::absolute(inputs.model.path).string(),
      Checkpoint::open(inputs.model.path, policy.model->config()).fingerprint(),
      inputs.adapter ? digest_of(*inputs.adapter) : "none",
      inputs.adapter ? digest_of(inputs.adapter->frozen.get()) : 0, inputs.model.dtype == DType::bf16,
      pixels.min_pixels, pixels.max_pixels, o.group_size, o.sampling.greedy, o.sampling.max_new_tokens,
      o.stage2_max_new_tokens, o.stage2, o.stage2_with_reasoning, o.strip_ratings);
  const PromptTexts& prompts = o.prompts;
  for (const std::string& part :
       {prompts.profile.caption_tag, prompts.profile.reasoning_tag, prompts.profile.rating_tag,
        std::to_string(static_cast<int>(prompts.profile.json_rating)), prompts.system.value_or("none"),
        prompts.user, prompts.stage2_system.value_or("none"), prompts.stage2_user, std::to_string(o.seed)})
    text += part + '\0';
  for (const Sample& s : inputs.samples) {
    std::error_code unknown;
    for (const std::string& part :
         {s.set, s.id, s.image.string(), fmt::format("{}", s.score), s.human_text(), s.reference, s.type,
          s.level, std::to_string(fs::file_size(s.image, unknown))})
      text += part + '\0';
    text += '\n';
  }
  return digest_of_bytes(std::as_bytes(std::span(text)));
}

/// Every tenth of the images, on standard error.
std::function<void(std::size_t)> progress_teller(std::size_t images) {
  return [images, told = std::size_t{0}](std::size_t done) mutable {
    const std::size_t tenth = done * 10 / images;
    if (tenth <= told) return;
    told = tenth;
    say("{} of {} images\n", done, images);
  };
}

void tell_losses(const Answering& inputs, const ModelPredictions& answers) {
  for (const BadRow& row : inputs.bad) say("error: {}\n", row.reason);
  for (const UnreadableImage& image : answers.unreadable) say("error: {}\n", image.message);
  if (const std::size_t lost = inputs.bad.size() + answers.unreadable.size(); lost > 0)
    say("{} of {} images could not be evaluated\n", lost, inputs.samples.size() + inputs.bad.size());
}

/// What the first rank does with the answers.
ExitCode conclude(const CommandLine& line, const ReportOptions& report, const Answering& inputs,
                  const ModelPredictions& answers, EvaluationProgress* progress) {
  if (answers.images < inputs.samples.size()) {
    say("stopped after {} of {} images{}\n", answers.images, inputs.samples.size(),
        progress != nullptr ? "; the same command goes on" : "; without --predictions nothing is kept");
    return ExitCode::stopped;
  }
  if (progress != nullptr) {
    std::string content;
    for (const Prediction& p : answers.predictions) content += to_json_line(p) + "\n";
    write_file_atomically(line.text("predictions"), content);
    progress->remove();
  }
  give_report(line, answers.predictions, report);
  tell_losses(inputs, answers);
  return inputs.bad.empty() && answers.unreadable.empty() ? ExitCode::done : ExitCode::partial;
}

ExitCode evaluate_model(const CommandLine& line, ReportOptions report, MpiRuntime& mpi) {
  Communicator& world = mpi.world();
  mpi.watch();
  const bool first = world.rank() == 0;
  Answering inputs;
  run_alike(world, [&] { inputs = read_inputs(line, report); });
  inputs.model.threads = threads_for(share_processors(world), inputs.threads);
  MeaningFiles meaning;
  run_alike(world, [&] {
    if (first) meaning.open(line, inputs.model.threads, report);
  });
  const Policy policy = Policy::open(inputs.model, world);
  fit_to_model(line, inputs.config, policy, inputs.options);
  const std::uint64_t settings = settings_digest(inputs, policy);
  check_agreement(world, "other images, settings or weights", settings);
  Engine engine(*policy.model, {});
  if (inputs.adapter) engine.set_adapter(pack_adapter(*policy.model, *inputs.adapter));
  Rollout rollout(*policy.model, *policy.tokenizer, policy.chat, engine);
  std::optional<EvaluationProgress> progress;
  if (first && line.has("predictions")) progress.emplace(line.text("predictions"), settings);
  if (first && !progress)
    say("note: without --predictions OUT.jsonl, nothing is kept if this evaluation is stopped\n");
  EvaluationProgress* kept = progress ? &*progress : nullptr;
  const ModelEvaluation evaluation{world,
                                   signals,
                                   *policy.pictures,
                                   rollout,
                                   inputs.options,
                                   inputs.batch,
                                   progress_teller(inputs.samples.size())};
  const ModelPredictions answers = evaluation.run(inputs.samples, kept);
  const ExitCode own = first ? conclude(line, report, inputs, answers, kept) : ExitCode::done;
  return static_cast<ExitCode>(static_cast<int>(world.all_reduce_max(static_cast<double>(own))));
}

/// The way that the flags choose; exactly one.
void check_mode(const CommandLine& line) {
  for (const std::string& flag : kOutputFlags) {
    const fs::path folder = fs::path(line.text(flag)).parent_path();
    if (line.has(flag) && !folder.empty() && !fs::is_directory(folder))
      fail("cannot write {}: there is no folder {}; create it or name another", line.text(flag),
           folder.string());
  }
  std::vector<fs::path> inputs(line.positional().begin(), line.positional().end());
  for (const char* flag : {"data", "from-predictions", "config", "lexicon"})
    for (const std::string& file : line.texts(flag)) inputs.emplace_back(file);
  refuse_overwriting(line, kOutputFlags, inputs);
  const bool compares = line.has("compare"), reads = line.has("from-predictions");
  if (compares && line.positional().size() != 1)
    fail_usage("flag --compare needs two files: --compare A.jsonl B.jsonl");
  if (!line.positional().empty() && !line.has("data") && !compares)
    fail_usage("argument '{}' belongs to no flag; see biqa_eval --help", line.positional().front());
  if (!compares && !reads) return;
  const std::string mode = compares ? "compare" : "from-predictions";
  std::vector<std::string> others{"data",        "model",   "adapter",  "config",
                                  "predictions", "repeats", "skip-bad", "batch"};
  for (const FlagInfo& flag : with_model_flags({}, {})) others.push_back(flag.name);
  if (compares)
    others.insert(others.end(),
                  {"from-predictions", "by", "like-pyiqa", "judge-file", "similarity-model", "lexicon"});
  for (const std::string& flag : others) {
    if (line.has(flag))
      fail_usage("flags --{} and --{} exclude each other; see biqa_eval --help", mode, flag);
  }
}

ExitCode evaluate(const CommandLine& line) {
  line.choice("format", {"table", "csv", "json"});
  const ReportOptions options = report_options(line);
  check_mode(line);
  return run_on_ranks([&](MpiRuntime& mpi) {
    const bool compares = line.has("compare");
    if (!compares && !line.has("from-predictions")) return evaluate_model(line, options, mpi);
    if (mpi.world().rank() != 0) return ExitCode::done;
    for (const int signal : {SIGINT, SIGTERM, SIGUSR2})
      listen_to(signal, SIG_DFL);  // there is nothing to save
    if (compares) {
      compare(line, options);
    } else {
      ReportOptions report = options;
      MeaningFiles meaning;
      meaning.open(line, 0, report);
      give_report(line, read_predictions(line.text("from-predictions")), report);
    }
    return ExitCode::done;
  });
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  biqa::limit_spinning(argv);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR2}) biqa::listen_to(signal, biqa::on_stop);
  for (const int signal : {SIGPIPE, SIGXFSZ}) biqa::listen_to(signal, SIG_IGN);
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::evaluate);
}
