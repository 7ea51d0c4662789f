// SPDX-License-Identifier: Apache-2.0
#include "evaluation/model_evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "evaluation/image_source.h"
#include "io/files.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ImageKey = std::pair<std::string, std::string>;  // set and id

constexpr int kTag = 1;
constexpr char kUnreadable = '!';

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::string joined(const std::vector<Prediction>& predictions) {
  std::string text;
  for (const Prediction& p : predictions) text += to_json_line(p) + "\n";
  return text;
}

/// Collects on the first rank what all ranks send: an image's row, then its predictions or what is wrong with it.
class Collector {
 public:
  Collector(const ModelEvaluation& evaluation, const std::vector<Sample>& samples,
            EvaluationProgress* progress)
      : evaluation_(evaluation), progress_(progress), answers_(samples.size()) {
    if (progress_ == nullptr) return;
    std::map<ImageKey, std::size_t> row_of;
    for (std::size_t row = 0; row < samples.size(); ++row) row_of[{samples[row].set, samples[row].id}] = row;
    // By repeat: after two runs that were killed, the file may have a repeat twice.
    std::vector<std::map<std::int64_t, const Prediction*>> found(samples.size());
    for (const Prediction& p : progress_->earlier()) {
      if (const auto row = row_of.find({p.set, p.id}); row != row_of.end())
        found[row->second][p.repeat.value_or(0)] = &p;
    }
    for (std::size_t row = 0; row < samples.size(); ++row) {
      if (static_cast<std::int64_t>(found[row].size()) != evaluation.options.group_size) continue;
      for (const auto& [repeat, prediction] : found[row]) answers_[row].push_back(*prediction);
      ++images_;
    }
  }

  std::vector<std::size_t> missing() const {
    std::vector<std::size_t> rows;
    for (std::size_t row = 0; row < answers_.size(); ++row) {
      if (answers_[row].empty()) rows.push_back(row);
    }
    return rows;
  }

  void take(std::string_view message) {
    if (message.empty()) {
      ++ended_;
      return;
    }
    const std::vector<std::string_view> lines = lines_of(message);
    const auto row = static_cast<std::size_t>(std::stoull(std::string(lines.at(0))));
    ++images_;
    if (lines.size() > 1 && lines[1].starts_with(kUnreadable)) {
      unreadable_.push_back({row, std::string(lines[1].substr(1))});
    } else {
      // Read from their lines, so that the report is that of the file, also where bytes are not UTF-8.
      for (std::size_t i = 1; i < lines.size(); ++i)
        answers_.at(row).push_back(parse_prediction(lines[i], "a prediction of another rank"));
      if (progress_ != nullptr) progress_->add(answers_[row]);
    }
    if (evaluation_.told) evaluation_.told(images_);
  }

  void poll() {
    while (const std::optional<Message> message = evaluation_.world.try_receive(kAnyRank, kTag))
      take(*message);
  }
  void wait_for_all() {
    while (ended_ < evaluation_.world.size())
      take(evaluation_.world.receive(kAnyRank, kTag, "an evaluated image"));
  }

  ModelPredictions result() {
    ModelPredictions result;
    for (std::vector<Prediction>& answers : answers_)
      std::move(answers.begin(), answers.end(), std::back_inserter(result.predictions));
    std::sort(unreadable_.begin(), unreadable_.end(),
              [](const UnreadableImage& a, const UnreadableImage& b) { return a.row < b.row; });
    result.unreadable = std::move(unreadable_);
    result.images = images_;
    return result;
  }

 private:
  void take(const Message& message) {
    const auto* text = reinterpret_cast<const char*>(message.bytes.data());
    take(std::string_view(text, message.bytes.size()));
  }

  const ModelEvaluation& evaluation_;
  EvaluationProgress* progress_;
  std::vector<std::vector<Prediction>> answers_;  // by row
  std::vector<UnreadableImage> unreadable_;
  std::size_t images_ = 0;
  int ended_ = 0;
};

/// The first rank's rows on every rank.
std::vector<std::size_t> shared_rows(Communicator& world, const std::vector<std::size_t>& rows) {
  std::vector<std::byte> bytes(rows.size() * sizeof(std::size_t));
  std::copy_n(std::as_bytes(std::span(rows)).begin(), bytes.size(), bytes.begin());
  world.broadcast_bytes(bytes, 0);
  std::vector<std::size_t> shared(bytes.size() / sizeof(std::size_t));
  std::copy(bytes.begin(), bytes.end(), std::as_writable_bytes(std::span(shared)).begin());
  return shared;
}

std::vector<Prediction> predictions_of(const Group& group, const Sample& sample,
                                       const RolloutOptions& options) {
  std::vector<Prediction> predictions;
  for (const Trajectory& answer : group.members) {
    Prediction p = prediction_of(group, answer, options.prompts.profile, sample.set, options.stage2);
    p.reference = sample.reference;
    p.type = sample.type;
    p.level = sample.level;
    if (!options.sampling.greedy) p.repeat = answer.member;
    predictions.push_back(std::move(p));
  }
  return predictions;
}

}  // namespace

EvaluationProgress::EvaluationProgress(const fs::path& target, std::uint64_t settings)
    : file_(target.string() + ".part") {
  const std::string head = fmt::format("{{\"evaluation\": \"{:016x}\"}}\n", settings);
  std::string content;
  if (fs::exists(file_)) content = read_file(file_, std::size_t{4} << 30);
  // A crash of the machine may leave an incomplete last line.
  content.resize(content.rfind('\n') == std::string::npos ? 0 : content.rfind('\n') + 1);
  if (!content.empty() && !content.starts_with(head)) {
    fail(
        "cannot resume from {}: it belongs to an evaluation with other settings or data; remove it, or give "
        "another --predictions",
        file_.string());
  }
  const std::vector<std::string_view> lines = lines_of(content);
  for (std::size_t i = 1; i < lines.size(); ++i)
    earlier_.push_back(parse_prediction(lines[i], fmt::format("{}:{}", file_.string(), i + 1)));
  write_file_atomically(file_, content.empty() ? head : content);
  log_.emplace(file_);
}

void EvaluationProgress::add(const std::vector<Prediction>& predictions) {
  log_->append(joined(predictions));
}

void EvaluationProgress::remove() const {
  std::error_code ignored;
  fs::remove(file_, ignored);
}

ModelPredictions ModelEvaluation::run(const std::vector<Sample>& samples,
                                      EvaluationProgress* progress) const {
  std::optional<Collector> collector;
  if (world.rank() == 0) collector.emplace(*this, samples, progress);
  const std::vector<std::size_t> left =
      shared_rows(world, collector ? collector->missing() : std::vector<std::size_t>{});
  std::vector<std::size_t> own;
  for (auto i = static_cast<std::size_t>(world.rank()); i < left.size();
       i += static_cast<std::size_t>(world.size()))
    own.push_back(left[i]);
  const auto deliver = [&](const std::string& message) {
    if (collector)
      collector->take(message);
    else
      world.send(0, kTag, bytes_of(message));
  };
  const auto tick = [&] {
    world.progress();
    if (collector) collector->poll();
  };
  const auto report_unreadable = [&](std::size_t row, const std::string& message) {
    deliver(fmt::format("{}\n{}{}", row, kUnreadable, message));
  };
  ImageSource source({pictures, signals, tick, report_unreadable}, samples, std::move(own), batch);
  rollout.run(source, options, [&](Group&& group) {
    const auto row = static_cast<std::size_t>(group.sample_index);
    deliver(fmt::format("{}\n{}", row, joined(predictions_of(group, samples[row], options))));
  });
  deliver("");
  if (!collector) {
    world.flush();
    return {};
  }
  collector->wait_for_all();
  return collector->result();
}

void require_unique_images(const std::vector<Sample>& samples) {
  std::set<ImageKey> seen;
  for (const Sample& sample : samples) {
    if (!seen.insert({sample.set, sample.id}).second) {
      fail_usage(
          "cannot evaluate the manifests together: set {} has the id '{}' twice; give each manifest once, or "
          "give the sets different names",
          sample.set, sample.id);
    }
  }
}

}  // namespace biqa
