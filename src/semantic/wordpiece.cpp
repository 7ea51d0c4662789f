// SPDX-License-Identifier: Apache-2.0
#include "semantic/wordpiece.h"

#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "data/unicode.h"
#include "io/files.h"
#include "io/json.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 5> kSpecial{"[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"};
constexpr std::string_view kContinued = "##";
/// Words of more characters are unknown.
constexpr std::size_t kLongestWord = 100;
/// Some tokenizers state 1e30 for "no limit".
constexpr std::int64_t kNoLimit = std::int64_t{1} << 30;

/// Ideographs, each of which is a word of its own (the list of BERT's tokenizer).
bool is_ideograph(char32_t c) {
  struct Range {
    char32_t first, last;
  };
  constexpr std::array<Range, 8> kRanges{{{0x4E00, 0x9FFF},
                                          {0x3400, 0x4DBF},
                                          {0x20000, 0x2A6DF},
                                          {0x2A700, 0x2B73F},
                                          {0x2B740, 0x2B81F},
                                          {0x2B920, 0x2CEAF},
                                          {0xF900, 0xFAFF},
                                          {0x2F800, 0x2FA1F}}};
  return std::any_of(kRanges.begin(), kRanges.end(),
                     [c](const Range& range) { return c >= range.first && c <= range.last; });
}

bool is_blank(char32_t c) {
  return char_class(c) == CharClass::space;
}

/// ASCII characters that are no letters or digits count as punctuation, also $ and ^, which Unicode calls symbols.
bool is_mark(char32_t c) {
  if (c < 0x80)
    return (c > 0x20 && c < 0x30) || (c > 0x39 && c < 0x41) || (c > 0x5A && c < 0x61) ||
           (c > 0x7A && c < 0x7F);
  return is_punctuation(c);
}

/// Without controls; every blank is a space; spaces around ideographs if `split_cjk`.
std::string cleaned(std::string_view valid, bool split_cjk) {
  std::string out;
  out.reserve(valid.size());
  for (std::size_t at = 0; at < valid.size();) {
    const CodePoint next = code_point_at(valid, at);
    const std::string_view bytes = valid.substr(at, next.length);
    at += next.length;
    const bool tab_or_line = next.value == '\t' || next.value == '\n' || next.value == '\r';
    if (next.value == 0xFFFD || (is_control(next.value) && !tab_or_line)) continue;
    if (is_blank(next.value)) {
      out += ' ';
    } else if (split_cjk && is_ideograph(next.value)) {
      out += ' ';
      out += bytes;
      out += ' ';
    } else {
      out += bytes;
    }
  }
  return out;
}

std::size_t characters(std::string_view valid) {
  return static_cast<std::size_t>(std::count_if(
      valid.begin(), valid.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

struct Settings {
  bool lower_case = true, strip_accents = true, split_cjk = true;
  std::int64_t model_max_length = 0;
};

Settings read_settings(const fs::path& folder) {
  Settings settings;
  const fs::path file = folder / "tokenizer_config.json";
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return settings;
  const nlohmann::json json = read_json(file);
  const JsonFields fields(json, file.string());
  if (const auto kind = fields.text("tokenizer_class");
      kind && *kind != "BertTokenizer" && *kind != "BertTokenizerFast") {
    fields.refuse("tokenizer_class", "\"BertTokenizer\": only WordPiece tokenizers are supported");
  }
  settings.lower_case = fields.boolean("do_lower_case").value_or(true);
  settings.strip_accents = fields.boolean("strip_accents").value_or(settings.lower_case);
  settings.split_cjk = fields.boolean("tokenize_chinese_chars").value_or(true);
  const double limit = fields.number("model_max_length").value_or(0);
  if (limit >= 2 && limit < static_cast<double>(kNoLimit))
    settings.model_max_length = static_cast<std::int64_t>(limit);
  return settings;
}

}  // namespace

WordPiece WordPiece::open(const fs::path& folder, std::int64_t vocabulary) {
  WordPiece tokenizer;
  const Settings settings = read_settings(folder);
  tokenizer.lower_case_ = settings.lower_case;
  tokenizer.strip_accents_ = settings.strip_accents;
  tokenizer.split_cjk_ = settings.split_cjk;
  tokenizer.model_max_length_ = settings.model_max_length;
  const fs::path file = folder / "vocab.txt";
  const std::string text = read_file(file);
  std::int64_t id = 0;
  for (std::size_t begin = 0; begin < text.size(); ++id) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string token = text.substr(begin, end - begin);
    if (token.ends_with('\r')) token.pop_back();
    begin = end + 1;
    if (const auto [place, is_new] = tokenizer.ids_.try_emplace(std::move(token), id); !is_new)
      fail("cannot use {}: lines {} and {} are the same token; fetch the file again", file.string(),
           place->second + 1, id + 1);
  }
  if (id != vocabulary)
    fail("cannot use {}: it has {} tokens, but the model has {}; fetch the folder again", file.string(), id,
         vocabulary);
  const auto id_of = [&](const char* token) {
    const auto found = tokenizer.ids_.find(token);
    if (found == tokenizer.ids_.end())
      fail("cannot use {}: the token {} is missing; give the vocabulary of a BERT", file.string(), token);
    return found->second;
  };
  tokenizer.unknown_ = id_of("[UNK]");
  tokenizer.first_ = id_of("[CLS]");
  tokenizer.last_ = id_of("[SEP]");
  return tokenizer;
}

std::vector<std::int64_t> WordPiece::encode(std::string_view text, std::size_t most) const {
  CHECK_GE(most, 2U);
  const std::string valid = repaired_utf8(text);
  std::vector<std::int64_t> ids{first_};
  // A special token that is written out stands for itself, as in transformers.
  std::size_t begin = 0;
  for (std::size_t at = 0; at < valid.size() && ids.size() < most;) {
    const std::string_view special = special_at(std::string_view(valid).substr(at));
    if (special.empty()) {
      ++at;
      continue;
    }
    add_text(std::string_view(valid).substr(begin, at - begin), ids);
    ids.push_back(ids_.at(std::string(special)));
    at += special.size();
    begin = at;
  }
  if (ids.size() < most) add_text(std::string_view(valid).substr(begin), ids);
  ids.resize(std::min(ids.size(), most - 1));
  ids.push_back(last_);
  return ids;
}

std::string_view WordPiece::special_at(std::string_view text) const {
  if (!text.starts_with('[')) return {};
  for (const std::string_view token : kSpecial) {
    if (text.starts_with(token) && ids_.count(std::string(token)) != 0) return token;
  }
  return {};
}

void WordPiece::add_text(std::string_view text, std::vector<std::int64_t>& ids) const {
  std::string plain = cleaned(text, split_cjk_);
  if (strip_accents_) plain = without_accents(plain);
  if (lower_case_) plain = lower_each(plain);
  const std::string_view all = plain;
  std::size_t begin = 0;
  const auto finish = [&](std::size_t end) {
    if (end > begin) add_word(all.substr(begin, end - begin), ids);
  };
  for (std::size_t at = 0; at < all.size();) {
    const CodePoint next = code_point_at(all, at);
    const bool blank = is_blank(next.value);
    if (blank || is_mark(next.value)) {
      finish(at);
      if (!blank) add_word(all.substr(at, next.length), ids);
      begin = at + next.length;
    }
    at += next.length;
  }
  finish(all.size());
}

/// The longest token that begins the word, then the longest that continues it, and so on.
void WordPiece::add_word(std::string_view word, std::vector<std::int64_t>& ids) const {
  const std::size_t before = ids.size();
  if (characters(word) > kLongestWord) {
    ids.push_back(unknown_);
    return;
  }
  std::string candidate;
  for (std::size_t begin = 0; begin < word.size();) {
    std::size_t end = word.size();
    auto found = ids_.end();
    for (; end > begin; --end) {
      if (end < word.size() && (static_cast<unsigned char>(word[end]) & 0xC0U) == 0x80U) continue;
      candidate = begin > 0 ? kContinued : std::string_view();
      candidate += word.substr(begin, end - begin);
      found = ids_.find(candidate);
      if (found != ids_.end()) break;
    }
    if (found == ids_.end()) {
      ids.resize(before);
      ids.push_back(unknown_);
      return;
    }
    ids.push_back(found->second);
    begin = end;
  }
}

}  // namespace biqa
