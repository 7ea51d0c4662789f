// SPDX-License-Identifier: Apache-2.0
#include "report/answers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>

#include "data/response.h"
#include "report/chart.h"
#include "report/html.h"

namespace biqa {
namespace {

double value_or_none(const std::optional<double>& value) {
  return value.value_or(std::numeric_limits<double>::quiet_NaN());
}

using Order = std::tuple<double, std::int64_t, const std::string&, std::int64_t>;
Order order_of(const SampleRecord& sample, bool best_first) {
  const double error = answer_error(sample);
  return {best_first ? error : -error, sample.step, sample.id, sample.member};
}

void keep_first(std::map<std::string, SampleRecord>& kept, const SampleRecord& sample, bool best_first) {
  const auto [place, is_new] = kept.try_emplace(sample.id, sample);
  if (!is_new && order_of(sample, best_first) < order_of(place->second, best_first)) place->second = sample;
}

std::vector<SampleRecord> first_of(const std::map<std::string, SampleRecord>& kept, std::size_t count,
                                   bool best_first) {
  std::vector<const SampleRecord*> order;
  order.reserve(kept.size());
  for (const auto& [id, sample] : kept) order.push_back(&sample);
  std::sort(order.begin(), order.end(), [&](const SampleRecord* a, const SampleRecord* b) {
    return order_of(*a, best_first) < order_of(*b, best_first);
  });
  order.resize(std::min(order.size(), count));
  std::vector<SampleRecord> samples;
  samples.reserve(order.size());
  for (const SampleRecord* sample : order) samples.push_back(*sample);
  return samples;
}

}  // namespace

std::string answer_card(const AnswerCard& card) {
  std::string html =
      fmt::format("<article class=\"card\"><div class=\"picture\">{}</div>\n<div><h4>{}{}</h4>\n",
                  card.picture, escaped_html(card.title),
                  card.subtitle.empty() ? "" : fmt::format(" <span>{}</span>", escaped_html(card.subtitle)));
  html += "<p class=\"marks\">";
  if (card.has_score)
    html += fmt::format("<span>human score <b>{}</b></span>", fixed_text(value_or_none(card.score), 2));
  if (card.has_rating)
    html += fmt::format("<span>rating <b>{}</b></span>", fixed_text(value_or_none(card.rating), 2));
  html += fmt::format("<span>from the caption <b>{}</b></span></p>\n",
                      fixed_text(value_or_none(card.caption_rating), 2));
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  html +=
      rating_scale(card.has_score ? value_or_none(card.score) : kNone,
                   card.has_rating ? value_or_none(card.rating) : kNone, value_or_none(card.caption_rating));
  for (const std::string& flag : card.flags)
    html += fmt::format("<span class=\"flag\">{}</span>", escaped_html(flag));
  html += "<dl>";
  for (const auto& [title, text] : card.texts) {
    if (!text.empty())
      html += fmt::format("<dt>{}</dt><dd>{}</dd>\n", escaped_html(title), escaped_html(text));
  }
  return html + "</dl></div></article>\n";
}

std::string answer_legend(bool with_score, bool with_rating) {
  using Sign = LegendEntry::Sign;
  std::vector<LegendEntry> entries;
  if (with_score) entries.push_back({"human score", 3, Sign::hollow});
  if (with_rating) entries.push_back({"rating from the picture", 0, Sign::point});
  entries.push_back({"rating from the caption alone", 1, Sign::point});
  return legend(entries);
}

double answer_error(const SampleRecord& sample) {
  const auto distance = [&](const std::optional<double>& rating) {
    return rating ? std::abs(*rating - sample.score) : kMostRating - kLeastRating;
  };
  return distance(sample.rating) + distance(sample.stage2_rating);
}

ChosenSamples choose_samples(const std::filesystem::path& samples_file, std::size_t count) {
  ChosenSamples chosen;
  read_samples(samples_file, [&](const SampleRecord& sample) {
    chosen.last_step = std::max(chosen.last_step, sample.step);
  });
  const std::int64_t window = std::max<std::int64_t>(1, chosen.last_step / 10);
  chosen.first_step = chosen.last_step - window + 1;
  // At most one answer per picture, so the memory does not grow with the file.
  std::map<std::string, SampleRecord> best, worst;
  read_samples(samples_file, [&](const SampleRecord& sample) {
    if (sample.step < chosen.first_step || sample.step > chosen.last_step) return;
    ++chosen.compared;
    keep_first(best, sample, true);
    keep_first(worst, sample, false);
  });
  chosen.good = first_of(best, count, true);
  for (const SampleRecord& sample : chosen.good) worst.erase(sample.id);
  chosen.bad = first_of(worst, count, false);
  return chosen;
}

}  // namespace biqa
