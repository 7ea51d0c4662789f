// SPDX-License-Identifier: Apache-2.0
#include "datasets/labels.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <string_view>
#include <system_error>

#include "core/error.h"
#include "datasets/data_set.h"

namespace biqa {

namespace fs = std::filesystem;

fs::path named_label_file(const LabelRequest& request) {
  std::error_code ignored;
  if (fs::exists(*request.labels, ignored)) return *request.labels;
  if (fs::path below = request.root / *request.labels; fs::exists(below, ignored)) return below;
  fail("cannot read labels {}: no such file; correct --labels", request.labels->string());
}

void no_label_file(const LabelRequest& request, const std::vector<std::string>& names) {
  fail(
      "cannot find the labels of {} in {}: none of {} is there; correct --root, or name the file with "
      "--labels",
      request.set.title, request.root.string(), fmt::join(names, ", "));
}

std::string canonical_split(const std::string& word) {
  struct Word {
    std::string_view word, split;
  };
  constexpr std::array kWords = {Word{"train", "train"}, Word{"training", "train"}, Word{"0", "train"},
                                 Word{"val", "val"},     Word{"valid", "val"},      Word{"validation", "val"},
                                 Word{"1", "val"},       Word{"test", "test"},      Word{"testing", "test"},
                                 Word{"2", "test"}};
  const std::string lower = lower_case(word);
  const auto* const found =
      std::find_if(kWords.begin(), kWords.end(), [&](const Word& w) { return w.word == lower; });
  return found == kWords.end() ? word : std::string(found->split);
}

std::optional<double> number_in(const std::string& text) {
  std::string_view digits = text;
  if (digits.starts_with('+')) digits.remove_prefix(1);
  double number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size() || !std::isfinite(number))
    return std::nullopt;
  return number;
}

std::optional<std::int64_t> level_in(const std::string& text) {
  constexpr double kMost = 1e6;
  const std::optional<double> number = number_in(text);
  if (!number || *number < 0 || *number > kMost || *number != std::floor(*number)) return std::nullopt;
  return static_cast<std::int64_t>(*number);
}

std::string lower_case(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

std::string with_commas(std::int64_t number) {
  std::string text = fmt::format("{}", number);
  for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > (number < 0 ? 1 : 0); at -= 3)
    text.insert(static_cast<std::size_t>(at), ",");
  return text;
}

}  // namespace biqa
