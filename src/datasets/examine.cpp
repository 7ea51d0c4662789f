// SPDX-License-Identifier: Apache-2.0
#include "datasets/examine.h"

#include <algorithm>
#include <array>
#include <atomic>
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
#include "core/processors.h"
#include "core/threads.h"
#include "data/manifest.h"
#include "data/unicode.h"
#include "datasets/labels.h"
#include "datasets/perceptual.h"
#include "datasets/pictures.h"
#include "io/files.h"
#include "io/json.h"
#include "io/json_lines.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

std::string real_path(const fs::path& file) {
  std::error_code problem;
  const fs::path real = fs::weakly_canonical(file, problem);
  return (problem ? file : real).string();
}

/// What a row says, as far as it can be used.
struct RowKeys {
  std::int64_t line = 0;
  std::string id, image, split, reference;
  std::optional<std::int64_t> width, height;
};

/// Reads the keys of one row one by one, so that each fault is found.
class RowChecker {
 public:
  RowChecker(const fs::path& file, std::int64_t line, std::vector<ManifestFault>& faults)
      : where_(fmt::format("{}:{}", file.string(), line)), line_(line), faults_(faults) {}

  RowKeys check(std::string_view text) {
    RowKeys row;
    row.line = line_;
    nlohmann::json object;
    std::optional<JsonFields> fields;
    attempt([&] {
      object = parse_json(text, where_);
      fields.emplace(object, where_);
    });
    if (!fields) return row;
    row.id = needed_text(*fields, "id");
    row.image = needed_text(*fields, "image");
    attempt([&] {
      const std::optional<double> score = fields->number("score");
      if (!score) fields->missing("score");
      if (!(*score >= 1 && *score <= 5))
        fields->refuse("score", "a number from 1 to 5 (map the set's own scale to that)");
    });
    attempt([&] { fields->number("raw_score"); });
    attempt([&] {
      if (fields->number("std").value_or(0) < 0) fields->refuse("std", "a number from 0 on");
    });
    for (const char* key : {"set", "completion"}) attempt([&] { fields->text(key); });
    for (const char* key : {"type", "level"}) attempt([&] { fields->label(key); });
    attempt([&] { row.split = fields->text("split").value_or(""); });
    attempt([&] { row.reference = fields->label("reference").value_or(""); });
    attempt([&] { row.width = fields->integer("width", 1); });
    attempt([&] { row.height = fields->integer("height", 1); });
    attempt([&] { check_text(*fields); });
    note_unknown(object, kKeys, "");
    return row;
  }

  const std::vector<std::string>& unknown() const { return unknown_; }

 private:
  using Keys = std::vector<std::string>;

  template <typename Check>
  void attempt(const Check& check) {
    try {
      check();
    } catch (const Error& problem) {
      faults_.push_back({line_, problem.what()});
    }
  }

  std::string needed_text(const JsonFields& fields, const char* key) {
    std::string text;
    attempt([&] {
      const std::optional<std::string> value = fields.text(key);
      if (!value) fields.missing(key);
      if (without_blanks(*value).empty()) fields.refuse(key, "text that is not blank");
      text = *value;
    });
    return text;
  }

  void check_text(const JsonFields& fields) {
    const std::optional<JsonFields> text = fields.object("text");
    if (!text) return;
    const nlohmann::json& object = *fields.find("text");
    for (const auto& [key, value] : object.items()) attempt([&, &name = key] { text->text(name); });
    note_unknown(object, kParts, "text.");
  }

  void note_unknown(const nlohmann::json& object, const Keys& known, const std::string& prefix) {
    for (const auto& [key, value] : object.items())
      if (std::find(known.begin(), known.end(), key) == known.end()) unknown_.push_back(prefix + key);
  }

  inline static const Keys kKeys{"id",   "image", "score", "raw_score", "set",    "split", "reference",
                                 "type", "level", "std",   "width",     "height", "text",  "completion"};
  inline static const Keys kParts{"description", "good", "bad"};

  std::string where_;
  std::int64_t line_;
  std::vector<ManifestFault>& faults_;
  std::vector<std::string> unknown_;
};

/// Checks every row but for its image.
std::vector<RowKeys> checked_rows(const fs::path& file, Validation& result) {
  std::vector<RowKeys> rows;
  std::map<std::string, std::size_t> place_of_key;
  for_each_json_line(read_file(file), [&](std::int64_t number, std::string_view line) {
    RowChecker checker(file, number, result.faults);
    rows.push_back(checker.check(line));
    for (const std::string& key : checker.unknown()) {
      const auto [place, is_new] = place_of_key.try_emplace(key, result.unknown.size());
      if (is_new) result.unknown.push_back({key, 0, number});
      ++result.unknown[place->second].rows;
    }
  });
  result.rows = static_cast<std::int64_t>(rows.size());
  return rows;
}

/// A repeated id, and an image file with two ids.
void check_repeated(const fs::path& file, const std::vector<RowKeys>& rows,
                    std::vector<ManifestFault>& faults) {
  std::unordered_map<std::string, const RowKeys*> row_of_id, row_of_image;
  for (const RowKeys& row : rows) {
    if (row.id.empty()) continue;
    if (const auto [earlier, is_new] = row_of_id.emplace(row.id, &row); !is_new) {
      faults.push_back(
          {row.line, fmt::format("cannot use {}:{}: id '{}' is already in line {}; remove one row or "
                                 "give it another id",
                                 file.string(), row.line, row.id, earlier->second->line)});
    }
    if (row.image.empty()) continue;
    const fs::path image = file.parent_path() / row.image;
    const auto [earlier, is_new] = row_of_image.emplace(real_path(image), &row);
    if (is_new || earlier->second->id == row.id) continue;
    faults.push_back(
        {row.line,
         fmt::format("cannot use {}:{}: image {} is already in line {}, with the id '{}'; "
                     "remove one row",
                     file.string(), row.line, image.string(), earlier->second->line, earlier->second->id)});
  }
}

/// Decodes the images.
void check_images(const fs::path& file, const std::vector<RowKeys>& rows,
                  std::vector<ManifestFault>& faults) {
  std::vector<fs::path> files;
  std::vector<const RowKeys*> row_of;
  for (const RowKeys& row : rows) {
    if (row.image.empty()) continue;
    files.push_back(file.parent_path() / row.image);
    row_of.push_back(&row);
  }
  const std::vector<PictureCheck> checks = check_pictures(files);
  for (std::size_t i = 0; i < checks.size(); ++i) {
    const RowKeys& row = *row_of[i];
    const ImageSize size = checks[i].size;
    if (!checks[i].problem.empty()) {
      faults.push_back(
          {row.line, fmt::format("cannot use {}:{}: {}", file.string(), row.line, checks[i].problem)});
      continue;
    }
    const std::int64_t width = row.width.value_or(size.width), height = row.height.value_or(size.height);
    if (width == size.width && height == size.height) continue;
    faults.push_back(
        {row.line,
         fmt::format("cannot use {}:{}: image {} has {}x{} pixels, not the row's {}x{}; "
                     "import the set again",
                     file.string(), row.line, files[i].string(), size.width, size.height, width, height)});
  }
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
  std::uint32_t id_number = 0,
                name_number = 0;  ///< of id and file name in lower case: equal ones have one number
  std::uint64_t digest = 0;       ///< of the pixels
  Impression impression;
  bool readable = false;
};

/// A number for each different text.
class Numbering {
 public:
  std::uint32_t of(const std::string& text) {
    return numbers_.try_emplace(text, static_cast<std::uint32_t>(numbers_.size())).first->second;
  }

 private:
  std::unordered_map<std::string, std::uint32_t> numbers_;
};

std::vector<Content> contents_of(const std::vector<Sample>& samples, Numbering& ids, Numbering& names,
                                 std::vector<std::string>& unreadable) {
  std::vector<Content> contents(samples.size());
  std::vector<fs::path> files;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    contents[i].id_number = ids.of(lower_case(samples[i].id));
    contents[i].name_number = names.of(lower_case(samples[i].image.filename().string()));
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

/// Two rows, by their places in the manifests, and what they share.
struct Pair {
  std::size_t first = 0, second = 0;
  bool by_name = false, by_pixels = false;
  int distance = -1;  ///< -1: not alike
};

/// Nothing if the rows share nothing.
std::optional<Pair> compared(const Content& a, const Content& b) {
  Pair pair;
  pair.by_name = a.id_number == b.id_number || a.name_number == b.name_number;
  if (a.readable && b.readable) {
    pair.by_pixels = a.digest == b.digest;
    const int distance = hash_distance(a.impression, b.impression);
    const bool may_be_alike =
        !pair.by_pixels && distance <= kAlikeBits && !a.impression.flat && !b.impression.flat;
    if (may_be_alike && correlation_of(a.impression, b.impression) >= kAlikeCorrelation)
      pair.distance = distance;
  }
  if (!pair.by_name && !pair.by_pixels && pair.distance < 0) return std::nullopt;
  return pair;
}

/// The pairs of some rows of the first manifest, or their numbers.
struct FoundPairs {
  std::vector<Pair> pairs;
  std::int64_t all = 0, by_name = 0, by_pixels = 0, alike = 0;

  void add(const Pair& pair, std::size_t most) {
    ++all;
    by_name += pair.by_name ? 1 : 0;
    by_pixels += pair.by_pixels ? 1 : 0;
    alike += pair.distance >= 0 ? 1 : 0;
    if (pairs.size() < most) pairs.push_back(pair);
  }
  void append(const FoundPairs& more, std::size_t most) {
    all += more.all;
    by_name += more.by_name;
    by_pixels += more.by_pixels;
    alike += more.alike;
    for (const Pair& pair : more.pairs)
      if (pairs.size() < most) pairs.push_back(pair);
  }
};

/// Compares the rows of the first manifest in blocks. The threads share the rows of a block, and its pairs are joined in
/// their order. So few pairs are in memory, and they do not depend on the threads.
FoundPairs find_pairs(const std::vector<Content>& first, const std::vector<Content>& second, bool same,
                      std::size_t most, std::int64_t threads) {
  constexpr std::size_t kBlock = 256;
  FoundPairs found;
  for (std::size_t begin = 0; begin < first.size(); begin += kBlock) {
    std::vector<FoundPairs> of_row(std::min(kBlock, first.size() - begin));
    const std::size_t wanted = most - found.pairs.size();
    std::atomic<std::size_t> next{0};
    on_threads(std::min<std::int64_t>(threads, static_cast<std::int64_t>(of_row.size())), [&](std::int64_t) {
      for (std::size_t row = next++; row < of_row.size(); row = next++) {
        const std::size_t i = begin + row;
        for (std::size_t j = same ? i + 1 : 0; j < second.size(); ++j) {
          std::optional<Pair> pair = compared(first[i], second[j]);
          if (!pair) continue;
          pair->first = i;
          pair->second = j;
          of_row[row].add(*pair, wanted);
        }
      }
    });
    for (const FoundPairs& row : of_row) found.append(row, most);
  }
  return found;
}

}  // namespace

Validation validate_manifest(const fs::path& file) {
  Validation result;
  const std::vector<RowKeys> rows = checked_rows(file, result);
  check_repeated(file, rows, result.faults);
  // What read_manifest refuses must not pass, also where a later version of it refuses more.
  std::set<std::int64_t> faulty;
  for (const ManifestFault& fault : result.faults) faulty.insert(fault.line);
  std::vector<BadRow> bad;
  try {
    read_manifest(file, true, &bad, false);
  } catch (const Error&) {
    if (bad.empty()) throw;  // otherwise every row is bad, and each is listed
  }
  for (const BadRow& row : bad)
    if (!faulty.contains(row.line)) result.faults.push_back({row.line, row.reason});
  check_images(file, rows, result.faults);
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
  Validation checked;
  std::map<std::int64_t, RowKeys> keys;
  const std::vector<Sample> samples = read_manifest(file, false, nullptr, false);
  for (RowKeys& row : checked_rows(file, checked)) keys[row.line] = std::move(row);
  if (!checked.faults.empty()) throw Error(checked.faults.front().text);
  ManifestStats stats;
  stats.histogram.resize(kScoreBins);
  std::map<std::pair<std::string, std::string>, std::int64_t> groups;
  std::set<std::string> references;
  std::vector<double> scores;
  std::array<std::vector<double>, 3> words;
  for (const Sample& sample : samples) {
    const RowKeys& other = keys.at(sample.line);
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

SharedImages shared_images(const fs::path& first, const fs::path& second, std::size_t most_pairs,
                           std::int64_t threads) {
  std::error_code ignored;
  const bool same = fs::equivalent(first, second, ignored);
  const std::vector<Sample> first_samples = read_manifest(first, false, nullptr, false);
  const std::vector<Sample> second_samples = read_manifest(second, false, nullptr, false);
  SharedImages result;
  result.first_rows = static_cast<std::int64_t>(first_samples.size());
  result.second_rows = static_cast<std::int64_t>(second_samples.size());
  Numbering ids, names;
  const std::vector<Content> contents = contents_of(first_samples, ids, names, result.unreadable);
  const std::vector<Content> others =
      same ? contents : contents_of(second_samples, ids, names, result.unreadable);
  const FoundPairs found =
      find_pairs(contents, others, same, most_pairs, threads > 0 ? threads : usable_processors());
  result.all_pairs = found.all;
  result.by_name = found.by_name;
  result.by_pixels = found.by_pixels;
  result.alike = found.alike;
  for (const Pair& pair : found.pairs) {
    result.pairs.push_back({first_samples[pair.first].id, second_samples[pair.second].id, pair.by_name,
                            pair.by_pixels, pair.distance < 0 ? std::nullopt : std::optional(pair.distance)});
  }
  return result;
}

}  // namespace biqa
