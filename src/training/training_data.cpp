// SPDX-License-Identifier: Apache-2.0
#include "training/training_data.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "core/error.h"
#include "core/random.h"
#include "io/files.h"
#include "training/run_checks.h"

namespace biqa {
namespace {

/// Removes human texts so that only data.annotation_fraction of them stay.
void keep_annotations(const Config& config, std::vector<Sample>& samples) {
  if (config.data.annotation_fraction >= 1.0) return;
  std::vector<std::size_t> annotated;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    if (!samples[i].human_text().empty()) annotated.push_back(i);
  }
  const auto kept = static_cast<std::size_t>(
      std::llround(config.data.annotation_fraction * static_cast<double>(annotated.size())));
  const auto order =
      random_order(annotated.size(), RandomStream({config.train.seed, hash_text("annotations")}));
  for (std::size_t i = kept; i < order.size(); ++i) {
    Sample& sample = samples[annotated[order[i]]];
    sample.description = sample.good = sample.bad = "";
  }
}

/// Keeps only the first train.eval_images of each set.
void cut_evaluation(const Config& config, TrainingData& data) {
  const auto most = static_cast<std::size_t>(config.train.eval_images);
  for (std::vector<Sample>& set : data.eval) {
    if (most > 0 && set.size() > most) set.resize(most);
  }
}

/// Everything of a row except the path of its image.
std::string text_of(const Sample& sample) {
  std::string text = fmt::format("{}", sample.score);
  for (const std::string* part :
       {&sample.id, &sample.set, &sample.description, &sample.good, &sample.bad, &sample.completion})
    text += '\0' + *part;
  return text + '\n';
}

}  // namespace

std::vector<std::size_t> TrainingData::rows_of_step(std::int64_t step) const {
  CHECK_GT(step, first_step_);
  const auto rows = static_cast<std::int64_t>(train.size());
  const std::int64_t first = cursor_after(step) - images_per_step;
  const auto epoch = static_cast<std::uint64_t>(first / rows);
  const auto order = random_order(train.size(), RandomStream({seed, hash_text("order"), epoch}));
  return {order.begin() + first % rows, order.begin() + first % rows + images_per_step};
}

std::vector<std::size_t> TrainingData::further_rows(std::int64_t step, std::size_t drawn,
                                                    std::size_t count) const {
  const std::vector<std::size_t> used = rows_of_step(step);
  std::vector<std::size_t> others =
      random_order(train.size(), RandomStream({seed, hash_text("refill"), static_cast<std::uint64_t>(step)}));
  std::erase_if(others,
                [&](std::size_t row) { return std::find(used.begin(), used.end(), row) != used.end(); });
  const std::size_t begin = std::min(drawn, others.size()), end = std::min(drawn + count, others.size());
  return {others.begin() + static_cast<std::ptrdiff_t>(begin),
          others.begin() + static_cast<std::ptrdiff_t>(end)};
}

std::int64_t TrainingData::steps_left_in_epoch(std::int64_t cursor) const {
  const auto rows = static_cast<std::int64_t>(train.size());
  return (rows - cursor % rows) / images_per_step;
}

std::int64_t TrainingData::cursor_after(std::int64_t step) const {
  const std::int64_t steps_since = step - first_step_, left = steps_left_in_epoch(first_cursor_);
  if (steps_since <= left) return first_cursor_ + steps_since * images_per_step;
  const auto rows = static_cast<std::int64_t>(train.size());
  const std::int64_t later = steps_since - left - 1, whole = steps_of_whole_epoch();  // steps before this one
  return (first_cursor_ / rows + 1 + later / whole) * rows + (later % whole + 1) * images_per_step;
}

double TrainingData::epochs_after(std::int64_t step) const {
  const auto rows = static_cast<std::int64_t>(train.size());
  const std::int64_t first = std::max<std::int64_t>(cursor_after(step) - images_per_step, 0);
  const std::int64_t seen = steps_of_whole_epoch() * images_per_step;  // in an epoch
  const std::int64_t in_epoch = std::min(first % rows + images_per_step, seen);
  const std::int64_t before = first / rows * seen;  // in whole epochs
  return static_cast<double>(before + in_epoch) / static_cast<double>(seen);
}

void TrainingData::go_on_after(std::int64_t step, std::int64_t cursor) {
  first_step_ = step;
  first_cursor_ = cursor;
  if (epochs == 0) return;
  const std::int64_t epoch = cursor / static_cast<std::int64_t>(train.size());
  steps = step + steps_left_in_epoch(cursor) + (epochs - epoch - 1) * steps_of_whole_epoch();
}

std::string TrainingData::text() const {
  std::string text;
  const auto add = [&](const std::vector<Sample>& samples) {
    for (const Sample& s : samples) {
      text += s.image.string() + '\0' + text_of(s);
    }
    text += '\n';
  };
  add(train);
  for (const std::vector<Sample>& set : eval) add(set);
  return text;
}

std::string TrainingData::fingerprint() const {
  std::string text;
  for (const Sample& s : train) text += text_of(s);
  return fmt::format("{:016x}", digest_of_bytes(std::as_bytes(std::span(text))));
}

std::vector<const std::vector<Sample>*> TrainingData::sets() const {
  std::vector<const std::vector<Sample>*> all{&train};
  for (const std::vector<Sample>& set : eval) all.push_back(&set);
  return all;
}

TrainingData read_training_data(const Config& config, bool tell) {
  require_inputs(config);
  TrainingData data;
  const auto read = [&](const std::filesystem::path& file) {
    std::vector<BadRow> bad;
    std::vector<Sample> rows = read_manifest(file, config.data.skip_bad, &bad, true);
    data.left_out.push_back(bad.size());
    for (const BadRow& row : bad) {
      if (tell) LOG(WARNING) << "a row is left out: " << one_line(row.reason);
    }
    return rows;
  };
  data.train = read(config.data.train);
  for (const auto& file : config.data.eval) data.eval.push_back(read(file));
  // If damaged rows are left out, later rows take their place, so all are checked. Otherwise damage is an Error, and
  // only the rows in use are checked.
  if (!config.data.skip_bad) cut_evaluation(config, data);
  check_training_data(config, data.train);
  return data;
}

namespace {

void warn_of_overlap(const Config& config, const TrainingData& data) {
  for (std::size_t i = 0; i < data.eval.size(); ++i) {
    const Overlap overlap = find_overlap(data.train, data.eval[i]);
    if (overlap.any())
      LOG(WARNING) << one_line(overlap_text(config.data.eval[i], overlap, config.data.train));
  }
}

/// Removes the rows of damaged images from their sets.
void leave_out(const Config& config, const PictureCheck& pictures, bool tell, TrainingData& data) {
  const auto file_of = [&](std::size_t set) {
    return (set == 0 ? config.data.train : config.data.eval[set - 1]).string();
  };
  const auto rows_of = [&](std::size_t set) -> std::vector<Sample>& {
    return set == 0 ? data.train : data.eval[set - 1];
  };
  const std::vector<DamagedPicture>& damaged = pictures.damaged;
  // From the end, so that the indexes of earlier rows stay valid.
  for (auto found = damaged.rbegin(); found != damaged.rend(); ++found) {
    std::vector<Sample>& rows = rows_of(found->set);
    const auto row = rows.begin() + static_cast<std::ptrdiff_t>(found->row);
    const std::string where = fmt::format("{}:{}", file_of(found->set), row->line);
    if (!config.data.skip_bad) {
      fail("cannot use {}: {}, or leave such rows out with data.skip_bad: true", where, found->reason);
    }
    if (tell)
      LOG(WARNING) << "a row is left out: cannot use " << one_line(where) << ": " << one_line(found->reason);
    rows.erase(row);
    ++data.left_out[found->set];
  }
  for (std::size_t set = 0; set < data.left_out.size(); ++set) {
    const std::size_t bad = data.left_out[set], rows = rows_of(set).size();
    if (rows == 0) {
      fail("cannot use manifest {}: none of its images can be read; replace or convert them", file_of(set));
    }
    if (tell && bad > 0)
      LOG(WARNING) << bad << " of " << rows + bad << " rows of " << one_line(file_of(set)) << " are left out";
  }
}

}  // namespace

void settle_training_data(const Config& config, const PictureCheck& pictures, bool tell, TrainingData& data) {
  leave_out(config, pictures, tell, data);
  cut_evaluation(config, data);
  if (tell) warn_of_overlap(config, data);
  if (tell && pictures.checked < pictures.pictures)
    LOG(INFO) << "of " << pictures.pictures << " pictures " << pictures.checked
              << " were decoded so far; damage in the others is found when they are used";
  check_training_data(config, data.train);
  data.images_per_step = config.rollout.images_per_step;
  data.seed = config.train.seed;
  data.steps = config.train.steps;
  if (data.steps == 0) data.epochs = config.train.epochs;
  data.go_on_after(0, 0);
  if (tell) {
    for (const std::string& doubt : text_doubts(config, data.train)) LOG(WARNING) << one_line(doubt);
  }
  keep_annotations(config, data.train);
}

}  // namespace biqa
