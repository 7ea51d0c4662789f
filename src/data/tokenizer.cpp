// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "data/byte_pair.h"
#include "data/pretokenizer.h"
#include "data/unicode.h"
#include "io/files.h"
#include "io/json.h"

namespace biqa {
namespace {

using nlohmann::json;

/// Limits the size of tables if an id is damaged; Qwen2.5 has 151,665 tokens.
constexpr std::int64_t kMaxTokens = std::int64_t{1} << 20;
constexpr std::size_t kMaxMerges = kMaxTokens;
constexpr const char* kRemedy = "copy the tokenizer's files from the original checkpoint again";

/// GPT-2's byte alphabet: the printable characters of Latin-1 stand for their own byte, the characters from
/// U+0100 on for the other bytes in increasing order. letters[byte] is a code point, bytes[code point] a byte or -1.
struct ByteAlphabet {
  std::array<char32_t, 256> letters{};
  std::array<int, 256 + 68> bytes{};
};

ByteAlphabet make_byte_alphabet() {
  ByteAlphabet alphabet;
  alphabet.bytes.fill(-1);
  char32_t next = 256;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const char32_t letter = printable ? static_cast<char32_t>(byte) : next++;
    alphabet.letters[byte] = letter;
    alphabet.bytes[letter] = static_cast<int>(byte);
  }
  return alphabet;
}

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet = make_byte_alphabet();
  return alphabet;
}

/// The UTF-8 form of a letter of the byte alphabet.
std::string utf8_of_letter(char32_t letter) {
  if (letter < 0x80) return {static_cast<char>(letter)};
  return {static_cast<char>(0xC0 | letter >> 6), static_cast<char>(0x80 | (letter & 0x3F))};
}

/// The bytes that a token's spelling decodes to. A spelling with a character outside the byte alphabet is kept as it
/// is, as in Hugging Face's ByteLevel decoder.
std::string bytes_of_spelling(std::string_view spelling) {
  std::string bytes;
  for (std::size_t position = 0; position < spelling.size();) {
    const CodePoint letter = code_point_at(spelling, position);
    position += letter.length;
    const auto& table = byte_alphabet().bytes;
    if (letter.value >= table.size() || table[letter.value] < 0) return std::string(spelling);
    bytes += static_cast<char>(table[letter.value]);
  }
  return bytes;
}

/// Finds added tokens in a text: the leftmost, and of those that begin there the longest.
class AddedTokenFinder {
 public:
  struct Match {
    std::size_t begin, end;
    std::int64_t id;
  };

  void add(const std::string& spelling, std::int64_t id) {
    ids_.emplace(spelling, id);
    auto& lengths = lengths_[static_cast<unsigned char>(spelling[0])];
    const auto place = std::lower_bound(lengths.begin(), lengths.end(), spelling.size(), std::greater<>());
    if (place == lengths.end() || *place != spelling.size()) lengths.insert(place, spelling.size());
  }

  std::optional<Match> find(std::string_view text, std::size_t from) const {
    for (std::size_t begin = from; begin < text.size(); ++begin) {
      for (const std::size_t length : lengths_[static_cast<unsigned char>(text[begin])]) {
        if (length > text.size() - begin) continue;
        const auto found = ids_.find(text.substr(begin, length));
        if (found != ids_.end()) return Match{begin, begin + length, found->second};
      }
    }
    return std::nullopt;
  }

  /// Appends the ids of all matches to `ids` and calls `rest` for each stretch between them.
  template <typename Rest>
  void split(std::string_view text, std::vector<std::int64_t>& ids, const Rest& rest) const {
    std::size_t done = 0;
    while (const std::optional<Match> match = find(text, done)) {
      rest(text.substr(done, match->begin - done));
      ids.push_back(match->id);
      done = match->end;
    }
    rest(text.substr(done));
  }

 private:
  std::array<std::vector<std::size_t>, 256> lengths_;  // by first byte, longest first
  StringMap<std::int64_t> ids_;
};

}  // namespace

struct Tokenizer::Tables {
  std::vector<std::string> bytes;  // by id; empty: no such token
  std::vector<bool> special;       // by id
  StringMap<std::int32_t> ids;     // by spelling
  AddedTokenFinder raw_tokens;     // looked for in the text as it came
  AddedTokenFinder nfc_tokens;     // looked for after normalisation
  std::optional<BytePairEncoder> encoder;

  void append_words(std::string_view nfc, std::vector<std::int64_t>& out) const {
    while (!nfc.empty()) {
      const std::size_t length = first_word_length(nfc);
      encoder->append(nfc.substr(0, length), out);
      nfc.remove_prefix(length);
    }
  }

  // Reading the files. `where` is the file, `field` the place in it.

  /// `name` composes the token's name for an error message. Composing it for all 151,643 tokens would cost more than
  /// reading.
  template <typename Name>
  void add_token(const std::string& where, const Name& name, const std::string& spelling, std::int64_t id) {
    if (spelling.empty()) fail("cannot read {}: {} is an empty token; {}", where, name(), kRemedy);
    const auto row = static_cast<std::size_t>(id);
    if (row >= bytes.size()) {
      bytes.resize(row + 1);
      special.resize(row + 1);
    }
    if (!bytes[row].empty()) {
      fail("cannot read {}: {} has id {}, which another token has; {}", where, name(), id, kRemedy);
    }
    bytes[row] = bytes_of_spelling(spelling);
    ids.emplace(spelling, static_cast<std::int32_t>(id));
  }

  void read_vocabulary(const json& vocabulary, const std::string& where, const std::string& field) {
    if (!vocabulary.is_object())
      fail("cannot read {}: {}is not an object of tokens; {}", where, field, kRemedy);
    ids.reserve(vocabulary.size());
    for (const auto& [spelling, id] : vocabulary.items()) {
      const auto name = [&, &token = spelling] { return field + shown(json(token)); };
      if (!id.is_number_integer() || id < 0 || id >= kMaxTokens) {
        fail("cannot read {}: {} is {}, not an id from 0 to {}; {}", where, name(), shown(id), kMaxTokens - 1,
             kRemedy);
      }
      add_token(where, name, spelling, id.get<std::int64_t>());
    }
  }

  struct MergeSource {
    std::string_view left, right;
    std::size_t number;  // of its line or list element
  };

  void read_merges(const std::vector<MergeSource>& merges, const std::string& where, const char* unit) {
    if (merges.size() > kMaxMerges) {
      fail("cannot read {}: it has more than {} merges; {}", where, kMaxMerges, kRemedy);
    }
    MergeTable table(merges.size());
    std::string joined;
    for (const MergeSource& merge : merges) {
      const auto find = [&](std::string_view spelling) {
        const auto found = ids.find(spelling);
        if (found == ids.end()) {
          fail("cannot read {}: {} {} needs the token {}, which is missing in the vocabulary; {}", where,
               unit, merge.number, shown(json(spelling)), kRemedy);
        }
        return found->second;
      };
      const auto rank = static_cast<std::int32_t>(&merge - merges.data());
      const std::int32_t left = find(merge.left);
      const std::int32_t right = find(merge.right);
      joined.assign(merge.left).append(merge.right);
      if (!table.add(left, right, {rank, find(joined)})) {
        fail("cannot read {}: {} {} joins {} and {}, but an earlier merge already joins them; {}", where,
             unit, merge.number, shown(json(merge.left)), shown(json(merge.right)), kRemedy);
      }
    }
    std::array<std::int32_t, 256> byte_ids;
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::string letter = utf8_of_letter(byte_alphabet().letters[byte]);
      const auto found = ids.find(letter);
      if (found == ids.end()) {
        fail("cannot read {}: the vocabulary has no {}, the token of byte {}; {}", where, shown(json(letter)),
             byte, kRemedy);
      }
      byte_ids[byte] = found->second;
    }
    encoder.emplace(byte_ids, std::move(table));
  }

  void read_added_token(const JsonFields& fields, const std::string& field, std::int64_t id) {
    const auto flag = [&](const char* key) {
      const std::optional<bool> value = fields.boolean(key);
      if (!value) fields.missing(key);
      return *value;
    };
    for (const char* key : {"single_word", "lstrip", "rstrip"}) {
      if (flag(key)) fields.refuse(key, "false, as in every tokenizer of Qwen2.5");
    }
    const std::optional<std::string> content = fields.text("content");
    if (!content) fields.missing("content");
    // A vocabulary may list its added tokens too.
    const auto listed = ids.find(*content);
    if (listed == ids.end()) {
      add_token(
          fields.where(), [&] { return field; }, *content, id);
    } else if (listed->second != id) {
      fail("cannot read {}: {} gives {} the id {}, but it has the id {} already; {}", fields.where(), field,
           shown(json(*content)), id, listed->second, kRemedy);
    }
    special[static_cast<std::size_t>(id)] = flag("special");
    if (flag("normalized")) {
      nfc_tokens.add(to_nfc(*content), id);
    } else {
      raw_tokens.add(*content, id);
    }
  }

  void read_tokenizer_json(const std::filesystem::path& path);
  void read_vocabulary_and_merges(const std::filesystem::path& directory);
};

namespace {

/// Throws unless the field is one of `allowed`, where null also stands for an absent field.
void require_one_of(const JsonFields& fields, const std::string& key, const std::vector<json>& allowed) {
  const json* value = fields.find(key);
  const json actual = value != nullptr ? *value : json();
  if (std::find(allowed.begin(), allowed.end(), actual) != allowed.end()) return;
  std::string expected;
  for (const json& one : allowed) expected += (expected.empty() ? "" : " or ") + one.dump();
  fields.refuse(key, expected + ", as in Qwen2's tokenizer");
}

JsonFields required_object(const JsonFields& fields, const std::string& key) {
  const std::optional<JsonFields> object = fields.object(key);
  if (!object) fields.missing(key);
  return *object;
}

const json& required_array(const JsonFields& fields, const char* key) {
  const json* array = fields.find(key);
  if (array == nullptr) fields.missing(key);
  if (!array->is_array()) fields.refuse(key, "a list");
  return *array;
}

/// Checks all fields of tokenizer.json that influence ids, except the tables themselves.
void check_pipeline(const JsonFields& root, const JsonFields& model) {
  require_one_of(required_object(root, "normalizer"), "type", {"NFC"});
  const JsonFields pretokenizer = required_object(root, "pre_tokenizer");
  require_one_of(pretokenizer, "type", {"Sequence"});
  const json& steps = required_array(pretokenizer, "pretokenizers");
  if (steps.size() != 2) pretokenizer.refuse("pretokenizers", "a Split and a ByteLevel step");
  const JsonFields split(steps[0], root.where(), "pre_tokenizer.pretokenizers[0].");
  require_one_of(split, "type", {"Split"});
  require_one_of(required_object(split, "pattern"), "Regex", {kQwen2Split});
  require_one_of(split, "behavior", {"Isolated"});
  require_one_of(split, "invert", {false});
  const JsonFields level(steps[1], root.where(), "pre_tokenizer.pretokenizers[1].");
  require_one_of(level, "type", {"ByteLevel"});
  require_one_of(level, "add_prefix_space", {false});
  require_one_of(level, "use_regex", {false});
  require_one_of(required_object(root, "decoder"), "type", {"ByteLevel"});
  if (const auto post_processor = root.object("post_processor")) {
    require_one_of(*post_processor, "type", {"ByteLevel", "TemplateProcessing"});
    if (post_processor->text("type") == "TemplateProcessing") {
      const json& single = required_array(*post_processor, "single");
      if (single.size() != 1 || !single[0].contains("Sequence")) {
        post_processor->refuse("single",
                               "the text alone: Qwen2's tokenizer puts no token before or after it");
      }
    }
  }
  require_one_of(model, "type", {"BPE", nullptr});
  require_one_of(model, "dropout", {nullptr});
  require_one_of(model, "unk_token", {nullptr});
  require_one_of(model, "continuing_subword_prefix", {nullptr, ""});
  require_one_of(model, "end_of_word_suffix", {nullptr, ""});
  require_one_of(model, "byte_fallback", {nullptr, false});
  require_one_of(model, "ignore_merges", {nullptr, false});
}

/// "a b" as {a, b}; nullopt unless there is exactly one space with something on both sides.
std::optional<std::pair<std::string_view, std::string_view>> split_merge(std::string_view merge) {
  const std::size_t space = merge.find(' ');
  if (space == 0 || space == std::string_view::npos || space + 1 == merge.size()) return std::nullopt;
  if (merge.find(' ', space + 1) != std::string_view::npos) return std::nullopt;
  return std::pair(merge.substr(0, space), merge.substr(space + 1));
}

}  // namespace

void Tokenizer::Tables::read_tokenizer_json(const std::filesystem::path& path) {
  const std::string where = path.string();
  const json document = read_json(path);
  const JsonFields root(document, where);
  const JsonFields model = required_object(root, "model");
  check_pipeline(root, model);

  const json* vocabulary = model.find("vocab");
  if (vocabulary == nullptr) model.missing("vocab");
  read_vocabulary(*vocabulary, where, "model.vocab ");

  std::vector<MergeSource> merges;
  for (const json& merge : required_array(model, "merges")) {
    const std::size_t number = merges.size();
    std::optional<std::pair<std::string_view, std::string_view>> parts;
    if (merge.is_string()) {
      parts = split_merge(merge.get_ref<const std::string&>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      parts.emplace(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
    }
    if (!parts) {
      fail("cannot read {}: model.merges element {} is {}, neither \"a b\" nor [\"a\", \"b\"]; {}", where,
           number, shown(merge), kRemedy);
    }
    merges.push_back({parts->first, parts->second, number});
  }
  read_merges(merges, where, "model.merges element");

  const json& added = required_array(root, "added_tokens");
  for (std::size_t i = 0; i < added.size(); ++i) {
    const std::string field = fmt::format("added_tokens[{}]", i);
    const JsonFields fields(added[i], where, field + ".");
    const std::optional<std::int64_t> id = fields.integer("id", 0, kMaxTokens - 1);
    if (!id) fields.missing("id");
    read_added_token(fields, field, *id);
  }
}

void Tokenizer::Tables::read_vocabulary_and_merges(const std::filesystem::path& directory) {
  const std::filesystem::path vocabulary = directory / "vocab.json";
  read_vocabulary(read_json(vocabulary), vocabulary.string(), "");

  const std::filesystem::path merges_path = directory / "merges.txt";
  const std::string text = read_file(merges_path);
  std::vector<MergeSource> merges;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text.size() && merges.size() <= kMaxMerges; ++number) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (number == 0 && line.starts_with("#version")) continue;
    const auto parts = split_merge(line);
    if (!parts) {
      fail("cannot read {}: line {} is {}, not two tokens with a space between; {}", merges_path.string(),
           number + 1, shown(json(repaired_utf8(line))), kRemedy);
    }
    merges.push_back({parts->first, parts->second, number + 1});
  }
  read_merges(merges, merges_path.string(), "line");

  const std::filesystem::path config_path = directory / "tokenizer_config.json";
  const json document = read_json(config_path);
  const JsonFields config(document, config_path.string());
  // These files do not contain the split expression. The class of the tokenizer determines it.
  require_one_of(config, "tokenizer_class", {"Qwen2Tokenizer", "Qwen2TokenizerFast"});
  require_one_of(config, "add_prefix_space", {nullptr, false});
  const json* added = config.find("added_tokens_decoder");
  if (added == nullptr) config.missing("added_tokens_decoder");
  if (!added->is_object()) config.refuse("added_tokens_decoder", "an object of ids");
  for (const auto& [key, token] : added->items()) {
    std::int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    const std::string field = fmt::format("added_tokens_decoder {}", shown(json(key)));
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= kMaxTokens) {
      fail("cannot read {}: {} is not an id from 0 to {}; {}", config_path.string(), field, kMaxTokens - 1,
           kRemedy);
    }
    read_added_token(JsonFields(token, config_path.string(), field + "."), field, id);
  }
}

Tokenizer::Tokenizer(std::shared_ptr<const Tables> tables) : tables_(std::move(tables)) {}

Tokenizer Tokenizer::load(const std::filesystem::path& directory) {
  auto tables = std::make_shared<Tables>();
  const std::filesystem::path whole = directory / "tokenizer.json";
  if (std::filesystem::exists(whole)) {
    tables->read_tokenizer_json(whole);
  } else if (std::filesystem::exists(directory / "vocab.json")) {
    tables->read_vocabulary_and_merges(directory);
  } else {
    fail(
        "tokenizer {}: neither tokenizer.json nor vocab.json is there; name the folder of a Qwen2.5-VL "
        "checkpoint",
        directory.string());
  }
  return Tokenizer(std::move(tables));
}

std::vector<std::int64_t> Tokenizer::encode(std::string_view utf8, AddedTokens added) const {
  std::string repaired;
  if (!is_valid_utf8(utf8)) {
    repaired = repaired_utf8(utf8);
    utf8 = repaired;
  }
  std::vector<std::int64_t> ids;
  if (added == AddedTokens::plain_text) {
    tables_->append_words(to_nfc(utf8), ids);
    return ids;
  }
  tables_->raw_tokens.split(utf8, ids, [&](std::string_view text) {
    tables_->nfc_tokens.split(to_nfc(text), ids,
                              [&](std::string_view nfc) { tables_->append_words(nfc, ids); });
  });
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int64_t> ids, bool skip_special) const {
  std::string bytes;
  for (const std::int64_t id : ids) {
    if (!skip_special || !is_special(id)) bytes += bytes_of(id);
  }
  return repaired_utf8(bytes);
}

std::string Tokenizer::bytes_of(std::int64_t id) const {
  return id >= 0 && id < size() ? tables_->bytes[static_cast<std::size_t>(id)] : std::string();
}

std::optional<std::int64_t> Tokenizer::id_of(std::string_view token) const {
  const auto found = tables_->ids.find(token);
  return found == tables_->ids.end() ? std::nullopt : std::optional<std::int64_t>(found->second);
}

std::int64_t Tokenizer::size() const {
  return static_cast<std::int64_t>(tables_->bytes.size());
}

bool Tokenizer::is_special(std::int64_t id) const {
  return id >= 0 && id < size() && tables_->special[static_cast<std::size_t>(id)];
}

}  // namespace biqa
