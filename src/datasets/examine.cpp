// SPDX-License-Identifier: Apache-2.0
#include "datasets/examine.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <sstream>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "data/manifest.h"
#include "data/unicode.h"
#include "datasets/labels.h"
#include "datasets/perceptual.h"
#include "datasets/pictures.h"
#include "io/files.h"
#include "io/json.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

/// What rows say beside the keys of Sample.
struct OtherKeys {
  std::string split, reference;
  std::optional<std::int64_t> width, height;
};

/// By line. A line with a wrong key has an entry in `faults`.
std::map<std::int64_t, OtherKeys> other_keys(const fs::path& file, std::int64_t& rows,
                                             std::vector<ManifestFault>& faults) {
  std::istringstream lines(read_file(file));
  std::map<std::int64_t, OtherKeys> keys;
  std::int64_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (without_blanks(line).empty()) continue;
    ++rows;
    const std::string where = fmt::format("{}:{}", file.string(), number);
    nlohmann::json row;
    try {
      row = parse_json(line, where);
      if (!row.is_object()) continue;
    } catch (const Error&) {
      continue;  // read_manifest reports it
    }
    try {
      const JsonFields fields(row, where);
      keys[number] = {fields.text("split").value_or(""), fields.label("reference").value_or(""),
                      fields.integer("width", 1), fields.integer("height", 1)};
    } catch (const Error& problem) {
      faults.push_back({number, problem.what()});
    }
  }
  return keys;
}

std::string real_path(const fs::path& file) {
  std::error_code problem;
  const fs::path real = fs::weakly_canonical(file, problem);
  return (problem ? file : real).string();
}

std::int64_t words_in(const std::string& text) {
  std::istringstream words(text);
  std::int64_t count = 0;
  for (std::string word; words >> word;) ++count;
  return count;
}

// ---- overlap ----

/// What is compared of one row.
struct Content {
  std::string id, name;  ///< in lower case; name: of the file
  std::uint64_t digest = 0;
  Impression impression;
  bool readable = false;
};

std::vector<Content> contents_of(const std::vector<Sample>& samples, std::vector<std::string>& unreadable) {
  std::vector<Content> contents(samples.size());
  std::vector<fs::path> files;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    contents[i].id = lower_case(samples[i].id);
    contents[i].name = lower_case(samples[i].image.filename().string());
    files.push_back(samples[i].image);
  }
  const auto see = [&](std::size_t i, const Image& image) {
    Content& content = contents[i];
    const std::array<std::int64_t, 2> sides{image.width, image.height};
    content.digest = digest_of_bytes(std::as_bytes(std::span(image.rgb))) ^
                     digest_of_bytes(std::as_bytes(std::span(sides)));
    content.impression = impression_of(image);
    content.readable = true;
  };
  const std::vector<PictureCheck> checks = check_pictures(files, see);
  for (std::size_t i = 0; i < checks.size(); ++i)
    if (!checks[i].problem.empty())
      unreadable.push_back(fmt::format("{}: {}", samples[i].id, checks[i].problem));
  return contents;
}

/// Finds the rows of one manifest that share a key with a row of the other.
class Pairs {
 public:
  Pairs(const std::vector<Content>& first, const std::vector<Content>& second, bool same)
      : first_(first), second_(second), same_(same) {}

  template <typename Key, typename Mark>
  void add_equal(const Key& key, const Mark& mark) {
    std::unordered_multimap<std::string, std::size_t> rows;
    for (std::size_t j = 0; j < second_.size(); ++j)
      if (const std::string value = key(second_[j]); !value.empty()) rows.emplace(value, j);
    for (std::size_t i = 0; i < first_.size(); ++i) {
      const auto [begin, end] = rows.equal_range(key(first_[i]));
      for (auto row = begin; row != end; ++row)
        if (counts(i, row->second)) mark(pairs_[{i, row->second}]);
    }
  }

  void add_alike() {
    for (std::size_t i = 0; i < first_.size(); ++i) {
      const Content& a = first_[i];
      if (!a.readable || a.impression.flat) continue;
      for (std::size_t j = same_ ? i + 1 : 0; j < second_.size(); ++j) {
        const Content& b = second_[j];
        const int distance = hash_distance(a.impression, b.impression);
        if (distance > kAlikeBits || !b.readable || b.impression.flat || a.digest == b.digest) continue;
        if (correlation_of(a.impression, b.impression) >= kAlikeCorrelation)
          pairs_[{i, j}].distance = distance;
      }
    }
  }

  const std::map<std::pair<std::size_t, std::size_t>, SharedImage>& found() const { return pairs_; }

 private:
  bool counts(std::size_t i, std::size_t j) const { return !same_ || i < j; }

  const std::vector<Content>& first_;
  const std::vector<Content>& second_;
  bool same_;
  std::map<std::pair<std::size_t, std::size_t>, SharedImage> pairs_;
};

}  // namespace

Validation validate_manifest(const fs::path& file) {
  Validation result;
  const auto keys = other_keys(file, result.rows, result.faults);
  std::vector<BadRow> bad;
  std::vector<Sample> samples;
  try {
    samples = read_manifest(file, true, &bad, false);
  } catch (const Error&) {
    if (bad.empty()) throw;  // otherwise every row is bad, and each is listed
  }
  for (const BadRow& row : bad) result.faults.push_back({row.line, row.reason});
  std::vector<fs::path> files;
  std::unordered_map<std::string, const Sample*> first;
  for (const Sample& sample : samples) {
    files.push_back(sample.image);
    const auto [earlier, added] = first.emplace(real_path(sample.image), &sample);
    if (!added) {
      result.faults.push_back(
          {sample.line, fmt::format("cannot use {}:{}: image {} is already in line {}, with the id '{}'; "
                                    "remove one row",
                                    file.string(), sample.line, sample.image.string(), earlier->second->line,
                                    earlier->second->id)});
    }
  }
  const std::vector<PictureCheck> checks = check_pictures(files);
  for (std::size_t i = 0; i < checks.size(); ++i) {
    const std::int64_t line = samples[i].line;
    if (!checks[i].problem.empty()) {
      result.faults.push_back(
          {line, fmt::format("cannot use {}:{}: {}", file.string(), line, checks[i].problem)});
      continue;
    }
    const auto row = keys.find(line);
    if (row == keys.end()) continue;
    const ImageSize size = checks[i].size;
    if (row->second.width.value_or(size.width) == size.width &&
        row->second.height.value_or(size.height) == size.height)
      continue;
    result.faults.push_back(
        {line,
         fmt::format("cannot use {}:{}: image {} has {}x{} pixels, not the row's {}x{}; import the "
                     "set again",
                     file.string(), line, files[i].string(), size.width, size.height,
                     row->second.width.value_or(size.width), row->second.height.value_or(size.height))});
  }
  std::stable_sort(result.faults.begin(), result.faults.end(),
                   [](const ManifestFault& a, const ManifestFault& b) { return a.line < b.line; });
  return result;
}

NumberSummary summary_of(std::vector<double> numbers) {
  NumberSummary summary;
  summary.count = static_cast<std::int64_t>(numbers.size());
  if (numbers.empty()) return summary;
  std::sort(numbers.begin(), numbers.end());
  const std::size_t half = numbers.size() / 2;
  summary.least = numbers.front();
  summary.most = numbers.back();
  summary.median = numbers.size() % 2 == 1 ? numbers[half] : (numbers[half - 1] + numbers[half]) / 2;
  const auto count = static_cast<double>(numbers.size());
  for (const double number : numbers) summary.mean += number / count;
  double square = 0;
  for (const double number : numbers) square += (number - summary.mean) * (number - summary.mean);
  if (numbers.size() > 1) summary.deviation = std::sqrt(square / (count - 1));
  return summary;
}

ManifestStats manifest_stats(const fs::path& file) {
  std::int64_t rows = 0;
  std::vector<ManifestFault> faults;
  const auto keys = other_keys(file, rows, faults);
  const std::vector<Sample> samples = read_manifest(file, false, nullptr, false);
  if (!faults.empty()) throw Error(faults.front().text);
  ManifestStats stats;
  stats.histogram.resize(kScoreBins);
  std::map<std::pair<std::string, std::string>, std::int64_t> groups;
  std::set<std::string> references;
  std::vector<double> scores;
  std::array<std::vector<double>, 3> words;
  for (const Sample& sample : samples) {
    const OtherKeys& other = keys.at(sample.line);
    ++groups[{sample.set, other.split}];
    if (!other.reference.empty()) references.insert(other.reference);
    scores.push_back(sample.score);
    const int bin = std::min(kScoreBins - 1, static_cast<int>((sample.score - 1) * kScoreBins / 4));
    ++stats.histogram[static_cast<std::size_t>(bin)];
    const std::array<const std::string*, 3> parts{&sample.description, &sample.good, &sample.bad};
    for (std::size_t i = 0; i < parts.size(); ++i)
      if (const std::int64_t count = words_in(*parts.at(i)); count > 0)
        words.at(i).push_back(static_cast<double>(count));
  }
  for (const auto& [group, count] : groups) stats.groups.push_back({group.first, group.second, count});
  stats.scores = summary_of(std::move(scores));
  stats.references = static_cast<std::int64_t>(references.size());
  constexpr std::array kParts = {"description", "good", "bad"};
  for (std::size_t i = 0; i < kParts.size(); ++i)
    stats.texts.push_back({kParts.at(i), summary_of(std::move(words.at(i)))});
  return stats;
}

SharedImages shared_images(const fs::path& first, const fs::path& second) {
  std::error_code ignored;
  const bool same = fs::equivalent(first, second, ignored);
  const std::vector<Sample> first_samples = read_manifest(first, false, nullptr, false);
  const std::vector<Sample> second_samples = read_manifest(second, false, nullptr, false);
  SharedImages result;
  result.first_rows = static_cast<std::int64_t>(first_samples.size());
  result.second_rows = static_cast<std::int64_t>(second_samples.size());
  const std::vector<Content> contents = contents_of(first_samples, result.unreadable);
  const std::vector<Content> others = same ? contents : contents_of(second_samples, result.unreadable);
  Pairs pairs(contents, others, same);
  const auto by_name = [](SharedImage& pair) { pair.by_name = true; };
  pairs.add_equal([](const Content& content) { return content.id; }, by_name);
  pairs.add_equal([](const Content& content) { return content.name; }, by_name);
  pairs.add_equal(
      [](const Content& content) {
        return content.readable ? fmt::format("{:016x}", content.digest) : std::string();
      },
      [](SharedImage& pair) { pair.by_pixels = true; });
  pairs.add_alike();
  for (const auto& [place, pair] : pairs.found()) {
    result.pairs.push_back(pair);
    result.pairs.back().first = first_samples[place.first].id;
    result.pairs.back().second = second_samples[place.second].id;
  }
  return result;
}

}  // namespace biqa
