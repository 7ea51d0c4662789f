// SPDX-License-Identifier: Apache-2.0
#include "semantic/polarity.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <utility>

#include "core/error.h"
#include "data/unicode.h"
#include "io/files.h"
#include "semantic/built_in_lexicon.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxLexicon = std::size_t{1} << 20;
/// A negation reaches this many words ahead, a judgement this many words in either direction.
constexpr std::size_t kNegationReach = 3, kJudgementReach = 4;
/// An item of this text ends a clause.
const std::string kClauseEnd = ".";

bool is_apostrophe(char32_t c) {
  return c == '\'' || c == 0x2019;
}
bool ends_clause(char32_t c) {
  constexpr std::u32string_view kEnds = U".,;:!?()[]{}<>|/\n\u2013\u2014\u2026\u3001\u3002";
  return kEnds.find(c) != std::u32string_view::npos;
}

/// Words in lower case, and kClauseEnd between clauses. Apostrophes inside a word are part of it.
std::vector<std::string> items_of(std::string_view text) {
  const std::string lower = lower_each(repaired_utf8(text));
  std::vector<std::string> items;
  std::string word;
  const auto finish = [&] {
    while (word.ends_with('\'')) word.pop_back();
    if (!word.empty()) items.push_back(std::move(word));
    word.clear();
  };
  for (std::size_t at = 0; at < lower.size();) {
    const CodePoint next = code_point_at(lower, at);
    const CharClass kind = char_class(next.value);
    if (kind == CharClass::letter || kind == CharClass::number) {
      word += lower.substr(at, next.length);
    } else if (is_apostrophe(next.value) && !word.empty()) {
      word += '\'';
    } else {
      finish();
      if (ends_clause(next.value)) items.push_back(kClauseEnd);
    }
    at += next.length;
  }
  finish();
  return items;
}

std::vector<std::string_view> fields_of(std::string_view line) {
  std::vector<std::string_view> fields;
  for (std::size_t at = 0; at < line.size();) {
    const std::size_t end = std::min(line.find_first_of(" \t\r", at), line.size());
    if (end > at) fields.push_back(line.substr(at, end - at));
    at = end + 1;
  }
  return fields;
}

int sign_of(int sum) {
  return sum > 0 ? 1 : sum < 0 ? -1 : 0;
}

}  // namespace

Lexicon Lexicon::parse(std::string_view text, const std::string& file) {
  Lexicon lexicon;
  std::int64_t number = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    lexicon.add(text.substr(at, end - at), fmt::format("{}:{}", file, ++number));
    at = end + 1;
  }
  if (lexicon.aspects_.empty())
    fail("cannot use the lexicon {}: it has no aspects; write lines such as `sharpness +1 sharp`", file);
  return lexicon;
}

Lexicon Lexicon::open(const fs::path& file) {
  return parse(read_file(file, kMaxLexicon), file.string());
}

const Lexicon& Lexicon::built_in() {
  static const Lexicon lexicon = parse(kBuiltInLexicon, "assets/lexicon/quality.txt");
  return lexicon;
}

void Lexicon::add(std::string_view line, const std::string& where) {
  std::vector<std::string_view> fields = fields_of(line);
  if (fields.empty() || fields.front().starts_with('#')) return;
  const auto refuse = [&](const char* why) {
    fail(
        "cannot use the lexicon line {}: {}; write for example `sharpness -1 out of focus` or `negation not`",
        where, why);
  };
  Entry entry;
  const std::string name(fields.front());
  const bool is_judgement = name == "judgement";
  if (name == "negation") {
    entry.kind = Kind::negation;
  } else if (name == "absence") {
    entry.kind = Kind::absence;
  } else if (name == "clause") {
    entry.kind = Kind::clause;
  } else {
    if (fields.size() < 2) refuse("the sign is missing");
    if (fields[1] != "+1" && fields[1] != "-1" && (fields[1] != "0" || is_judgement))
      refuse(is_judgement ? "the sign of a judgement is neither +1 nor -1"
                          : "the sign is neither +1, -1 nor 0");
    entry.kind = is_judgement ? Kind::judgement : Kind::aspect;
    entry.sign = fields[1] == "+1" ? 1 : fields[1] == "-1" ? -1 : 0;
    fields.erase(fields.begin());
  }
  fields.erase(fields.begin());
  if (fields.empty()) refuse("the term is missing");
  for (const std::string_view field : fields) {
    const bool begins = field.ends_with('*');
    const std::vector<std::string> words = items_of(field.substr(0, field.size() - (begins ? 1 : 0)));
    if (words.size() != 1 || words.front() == kClauseEnd)
      refuse("a term is made of words, which may end in * and have no other marks");
    entry.words.push_back({words.front(), begins});
  }
  if (entry.kind == Kind::aspect) {
    const auto place = std::find(aspects_.begin(), aspects_.end(), name);
    entry.aspect = static_cast<std::size_t>(place - aspects_.begin());
    if (place == aspects_.end()) aspects_.push_back(name);
  }
  entries_.push_back(std::move(entry));
}

/// The entry with the most words that stands at `at`; nullptr: none.
const Lexicon::Entry* Lexicon::find(const std::vector<std::string>& items, std::size_t at) const {
  const auto stands = [&](const Entry& entry) {
    if (entry.words.size() > items.size() - at) return false;
    for (std::size_t i = 0; i < entry.words.size(); ++i) {
      const Word& word = entry.words[i];
      const std::string& item = items[at + i];
      if (word.begins ? !item.starts_with(word.text) : item != word.text) return false;
    }
    return true;
  };
  const Entry* best = nullptr;
  for (const Entry& entry : entries_) {
    if ((best == nullptr || entry.words.size() > best->words.size()) && stands(entry)) best = &entry;
  }
  return best;
}

/// Reads a text clause by clause.
struct Lexicon::Reader {
  struct Place {
    std::size_t begin = 0, end = 0;  ///< items
    std::size_t aspect = 0;
    int sign = 0;
  };
  std::vector<int> sums, counts;         // of each aspect
  std::vector<Place> names, judgements;  // of the clause
  bool turned = false;                   // by a negation
  bool absent = false;                   // by an absence
  std::size_t reach = 0;                 // first item that the negation does not reach

  explicit Reader(std::size_t aspects) : sums(aspects), counts(aspects) {}

  void mention(std::size_t aspect, int sign) {
    sums[aspect] += sign;
    ++counts[aspect];
  }
  /// Each judgement belongs to the nearest name of an aspect; of two equally near, to the one after it.
  void end_clause() {
    for (const Place& judgement : judgements) {
      const Place* nearest = nullptr;
      std::size_t least = kJudgementReach + 1;
      for (const Place& name : names) {
        const bool after = name.begin >= judgement.end;
        const std::size_t distance = after ? name.begin - judgement.end + 1 : judgement.begin - name.end + 1;
        if (distance < least ||
            (distance == least && after && nearest != nullptr && nearest->end <= judgement.begin)) {
          least = distance;
          nearest = &name;
        }
      }
      if (nearest != nullptr) mention(nearest->aspect, judgement.sign);
    }
    names.clear();
    judgements.clear();
    forget_negation();
  }
  void forget_negation() {
    turned = absent = false;
    reach = 0;
  }
  void negate(std::size_t begin, std::size_t end, bool absence) {
    if (begin >= reach) turned = false;  // an earlier negation does not reach this one
    turned = !turned;
    absent = absence;
    reach = end + kNegationReach;
  }
  /// `joined`: the next word is "or", so that a negation goes on.
  void read(const Entry& entry, std::size_t begin, std::size_t end, bool joined) {
    const bool reached = begin < reach;
    const int sign = reached && turned ? -entry.sign : entry.sign;
    if (entry.kind == Kind::judgement) {
      judgements.push_back({begin, end, 0, sign});
    } else if (entry.sign != 0) {
      mention(entry.aspect, sign);
    } else {
      names.push_back({begin, end, entry.aspect, 0});
      if (!reached || !absent) return;
      mention(entry.aspect, turned ? -1 : 1);
    }
    if (joined)
      reach = end + kNegationReach;
    else
      forget_negation();
  }
};

AspectSigns Lexicon::signs_of(std::string_view text) const {
  const std::vector<std::string> items = items_of(text);
  Reader reader(aspects_.size());
  for (std::size_t at = 0; at < items.size();) {
    const Entry* entry = items[at] == kClauseEnd ? nullptr : find(items, at);
    const std::size_t end = at + (entry == nullptr ? 1 : entry->words.size());
    if (items[at] == kClauseEnd || (entry != nullptr && entry->kind == Kind::clause)) {
      reader.end_clause();
    } else if (entry != nullptr && (entry->kind == Kind::negation || entry->kind == Kind::absence)) {
      reader.negate(at, end, entry->kind == Kind::absence);
    } else if (entry != nullptr) {
      reader.read(*entry, at, end, end < items.size() && (items[end] == "or" || items[end] == "nor"));
    }
    at = end;
  }
  reader.end_clause();
  AspectSigns signs(aspects_.size());
  for (std::size_t i = 0; i < signs.size(); ++i) {
    if (reader.counts[i] > 0) signs[i] = sign_of(reader.sums[i]);
  }
  return signs;
}

double polarity_agreement(const AspectSigns& a, const AspectSigns& b) {
  CHECK_EQ(a.size(), b.size());
  double matches = 0, both = 0, one = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] && b[i]) {
      both += 1;
      const int distance = std::abs(*a[i] - *b[i]);
      matches += 1 - 0.5 * distance;
    } else if (a[i] || b[i]) {
      one += 1;
    }
  }
  if (both + one == 0) return std::numeric_limits<double>::quiet_NaN();
  return matches / (both + one / 2);
}

bool mentions_any(const AspectSigns& signs) {
  return std::any_of(signs.begin(), signs.end(),
                     [](const std::optional<int>& sign) { return sign.has_value(); });
}

}  // namespace biqa
