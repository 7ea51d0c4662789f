// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "data/pretokenizer.h"
#include "data/unicode.h"
#include "support/shared_folder.h"

namespace biqa {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;
using Ids = std::vector<std::int64_t>;
using AddedTokens = Tokenizer::AddedTokens;

const std::filesystem::path kFixture = std::filesystem::path(BIQA_SOURCE_DIR) / "tests/fixtures/tokenizer";

std::vector<json> read_lines(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::vector<json> rows;
  for (std::string line; std::getline(file, line);) rows.push_back(json::parse(line));
  EXPECT_FALSE(rows.empty()) << path;
  return rows;
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  EXPECT_TRUE(file.good()) << path;
  return content.str();
}

void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  ASSERT_TRUE(file.good()) << path;
}

/// A folder that goes away with the test.
class Scratch {
 public:
  explicit Scratch(const std::filesystem::path& copy_of = {})
      : path_(std::filesystem::path(::testing::TempDir()) /
              ("biqa_tokenizer_test_" + std::to_string(getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
    if (!copy_of.empty()) std::filesystem::copy(copy_of, path_, std::filesystem::copy_options::recursive);
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

Tokenizer whole() {
  return Tokenizer::load(kFixture / "whole");
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const std::size_t length = first_word_length(text);
    if (length == 0 || length > text.size()) {
      ADD_FAILURE() << "word of " << length << " bytes in " << text.size();
      break;
    }
    words.emplace_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return words;
}

/// The message of the Error that loading throws; empty if it throws none.
std::string load_error(const std::filesystem::path& folder) {
  try {
    Tokenizer::load(folder);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void expect_agreement(const Tokenizer& tokenizer, const std::filesystem::path& encoded,
                      const std::filesystem::path& decoded) {
  for (const json& row : read_lines(encoded)) {
    EXPECT_EQ(tokenizer.encode(row["text"].get<std::string>()), row["ids"].get<Ids>()) << row["text"];
  }
  for (const json& row : read_lines(decoded)) {
    const Ids ids = row["ids"];
    EXPECT_EQ(tokenizer.decode(ids), row["text"].get<std::string>()) << row["ids"];
    EXPECT_EQ(tokenizer.decode(ids, true), row["text_without_special"].get<std::string>()) << row["ids"];
  }
}

TEST(Tokenizer, AgreesWithHuggingFaceFromEitherLayout) {
  for (const char* layout : {"whole", "split"}) {
    SCOPED_TRACE(layout);
    expect_agreement(Tokenizer::load(kFixture / layout), kFixture / "texts.jsonl",
                     kFixture / "decoded.jsonl");
  }
}

TEST(Tokenizer, NormalisesAndSplitsAsHuggingFace) {
  for (const json& row : read_lines(kFixture / "texts.jsonl")) {
    const std::string nfc = to_nfc(row["text"].get<std::string>());
    EXPECT_EQ(nfc, row["nfc"].get<std::string>()) << row["text"];
    EXPECT_EQ(words_of(nfc), row["words"].get<std::vector<std::string>>()) << row["text"];
  }
}

TEST(Tokenizer, AgreesWithEveryGoldenOfTheRealVocabulary) {
  BIQA_REQUIRE_SHARED(shared);
  const Scratch scratch;
  const std::filesystem::path golden = shared / "golden/tokenizer";
  const std::string command =
      "python3 '" + (golden / "expand_tokenizer.py").string() + "' '" + scratch.path().string() + "' --slow";
  if (std::system("python3 -c ''") != 0) GTEST_SKIP() << "no python3 to expand the golden vocabulary with";
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  for (const bool from_one_file : {true, false}) {
    SCOPED_TRACE(from_one_file ? "tokenizer.json" : "vocab.json and merges.txt");
    if (!from_one_file) std::filesystem::remove(scratch.path() / "tokenizer.json");
    const Tokenizer tokenizer = Tokenizer::load(scratch.path());
    EXPECT_EQ(tokenizer.size(), 151665);
    expect_agreement(tokenizer, golden / "encode.jsonl", golden / "decode.jsonl");
  }
}

TEST(Tokenizer, LoadsEveryCheckpointFolderOfTheReference) {
  BIQA_REQUIRE_SHARED(shared);
  int folders = 0;
  for (const auto& entry : std::filesystem::directory_iterator(shared / "golden/models")) {
    EXPECT_EQ(Tokenizer::load(entry.path()).size(), 534) << entry.path();
    ++folders;
  }
  EXPECT_EQ(folders, 5);
  // Its file is one that transformers 5 wrote.
  const Tokenizer tiny = Tokenizer::load(shared / "tiny/model");
  const std::string text = "<rating>2.85</rating> 画像";
  EXPECT_EQ(tiny.decode(tiny.encode(text)), text);
}

TEST(Tokenizer, BytesOfTokensConcatenateToTheText) {
  const Tokenizer tokenizer = whole();
  const std::string text = " the 👍🏽 rating\n<|im_end|>";
  std::string bytes;
  for (const std::int64_t id : tokenizer.encode(text)) bytes += tokenizer.bytes_of(id);
  EXPECT_EQ(bytes, text);
}

TEST(Tokenizer, LooksTokensUpByContentAndId) {
  const Tokenizer tokenizer = whole();
  EXPECT_EQ(tokenizer.size(), 534);
  EXPECT_EQ(tokenizer.id_of("<|im_end|>"), 514);
  EXPECT_EQ(tokenizer.id_of("!"), 0);
  EXPECT_EQ(tokenizer.id_of("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer.bytes_of(tokenizer.id_of("Ġ").value()), " ");
  EXPECT_TRUE(tokenizer.is_special(514));
  EXPECT_FALSE(tokenizer.is_special(tokenizer.id_of("<tool_call>").value()));
  for (const std::int64_t unknown : {std::int64_t{-1}, std::int64_t{534}, std::int64_t{1} << 62}) {
    EXPECT_EQ(tokenizer.bytes_of(unknown), "");
    EXPECT_FALSE(tokenizer.is_special(unknown));
    EXPECT_EQ(tokenizer.decode(Ids{0, unknown, 0}), "!!");
  }
}

TEST(Tokenizer, PlainTextNeverBecomesAnAddedToken) {
  const Tokenizer tokenizer = whole();
  std::string text;
  for (std::int64_t id = 512; id < tokenizer.size(); ++id) text.append("x").append(tokenizer.bytes_of(id));
  const Ids plain = tokenizer.encode(text, AddedTokens::plain_text);
  EXPECT_EQ(tokenizer.decode(plain), text);
  EXPECT_LT(*std::max_element(plain.begin(), plain.end()), 512);
  const Ids recognised = tokenizer.encode(text);
  EXPECT_EQ(std::count_if(recognised.begin(), recognised.end(), [](std::int64_t id) { return id >= 512; }),
            22);
}

struct BytesCase {
  const char* about;
  std::string bytes, repaired;
};

TEST(Tokenizer, RepairsInvalidUtf8) {
  // Expected: bytes.decode("utf-8", errors="replace") of Python, which replaces maximal subparts too.
  const std::vector<BytesCase> cases = {
      {"valid", "a\xC3\xA9\xF0\x9F\x91\x8D", "a\xC3\xA9\xF0\x9F\x91\x8D"},
      {"lone continuation", "a\x80z", "a\uFFFDz"},
      {"cut two-byte character", "\xC3", "\uFFFD"},
      {"cut four-byte character", "\xF0\x9F\x91", "\uFFFD"},
      {"cut, then text", "\xE2\x82z", "\uFFFDz"},
      {"overlong", "\xC0\xAF\xE0\x80\xAF", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"surrogate", "\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
      {"beyond U+10FFFF", "\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"impossible bytes", "\xFE\xFF", "\uFFFD\uFFFD"},
  };
  const Tokenizer tokenizer = whole();
  for (const BytesCase& c : cases) {
    SCOPED_TRACE(c.about);
    EXPECT_EQ(repaired_utf8(c.bytes), c.repaired);
    EXPECT_EQ(is_valid_utf8(c.bytes), c.bytes == c.repaired);
    EXPECT_EQ(tokenizer.encode(c.bytes), tokenizer.encode(c.repaired));
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(c.bytes)), c.repaired);
  }
}

TEST(Tokenizer, LongRunsTakeLinearTime) {
  // Quadratic work on a megabyte would run into the time limit of the test.
  const auto repeated = [](const std::string& piece) {
    std::string text;
    while (text.size() < (std::size_t{1} << 20)) text += piece;
    return text;
  };
  const Tokenizer tokenizer = whole();
  for (const char* piece :
       {"ab", "therating", " ", "\n", " \n", ".", "<", "' ", "字", "<|im_end", "<|im_end|>", "1"}) {
    const std::string text = repeated(piece);
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << piece;
  }
  // Marks that change places: all below (U+0323) come before all above (U+0301).
  const std::string nfc = to_nfc(std::string("q") + repeated("\u0301\u0323"));
  EXPECT_EQ(nfc.rfind("\u0323") + 2, nfc.find("\u0301"));
}

TEST(Tokenizer, ThreadsAgree) {
  const Tokenizer tokenizer = whole();
  const std::vector<json> rows = read_lines(kFixture / "texts.jsonl");
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  threads.reserve(wrong.size());
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (const json& row : rows) {
        if (tokenizer.encode(row["text"].get_ref<const std::string&>()) != row["ids"].get<Ids>()) ++count;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ::testing::Each(0));
}

TEST(Tokenizer, ForgettingWordsChangesNothing) {
  const Tokenizer tokenizer = whole();
  std::string text;
  for (int i = 0; i < 200000; ++i) {
    for (int rest = i; rest > 0; rest /= 26) text += static_cast<char>('a' + rest % 26);
    text += ' ';
  }
  const Ids first = tokenizer.encode(text);
  EXPECT_EQ(tokenizer.encode(text), first);
  EXPECT_EQ(tokenizer.decode(first), text);
}

TEST(Tokenizer, ReadsMergesAsStrings) {
  // The fixture has them as pairs.
  const Scratch scratch(kFixture / "whole");
  json document = json::parse(read_text(scratch.path() / "tokenizer.json"));
  for (json& merge : document["model"]["merges"]) {
    merge = merge[0].get<std::string>() + ' ' + merge[1].get<std::string>();
  }
  write_text(scratch.path() / "tokenizer.json", document.dump());
  expect_agreement(Tokenizer::load(scratch.path()), kFixture / "texts.jsonl", kFixture / "decoded.jsonl");
}

TEST(Tokenizer, FindsNormalisedAddedTokensAfterNormalisation) {
  const Scratch scratch(kFixture / "whole");
  json document = json::parse(read_text(scratch.path() / "tokenizer.json"));
  json token = document["added_tokens"][0];
  token.update({{"id", 534}, {"content", "cafe\u0301"}, {"normalized", true}, {"special", false}});
  document["added_tokens"].push_back(token);
  write_text(scratch.path() / "tokenizer.json", document.dump());
  const Tokenizer tokenizer = Tokenizer::load(scratch.path());
  EXPECT_EQ(tokenizer.encode("caf\u00e9"), Ids{534});
  EXPECT_EQ(tokenizer.encode("cafe\u0301<|im_end|>cafe"), (Ids{534, 514, 66, 64, 69, 68}));
}

struct DamageCase {
  const char* about;
  std::function<void(json&)> damage;  // to the parsed tokenizer.json
  std::vector<std::string> message;   // parts of it
};

TEST(Tokenizer, RefusesADamagedTokenizerJson) {
  const auto set = [](const char* pointer, const json& value) {
    return [pointer, value](json& j) { j[json::json_pointer(pointer)] = value; };
  };
  const auto erase = [](const char* object, const char* key) {
    return [object, key](json& j) { j[json::json_pointer(object)].erase(key); };
  };
  const std::vector<DamageCase> cases = {
      {"no object", [](json& j) { j = json::array(); }, {"not an object"}},
      {"no model", erase("", "model"), {"model"}},
      {"no vocabulary", erase("/model", "vocab"), {"model.vocab"}},
      {"vocabulary a list", set("/model/vocab", json::array()), {"model.vocab"}},
      {"empty vocabulary",
       set("/model/vocab", json::object()),
       {"model.merges element 0", "missing in the vocabulary"}},
      {"id a string", set("/model/vocab/a", "64"), {"model.vocab \"a\"", "\"64\""}},
      {"id a fraction", set("/model/vocab/a", 64.0), {"model.vocab \"a\"", "64.0"}},
      {"id negative", set("/model/vocab/a", -1), {"model.vocab \"a\"", "-1"}},
      {"id enormous",
       set("/model/vocab/a", std::uint64_t{1} << 63),
       {"model.vocab \"a\"", "9223372036854775808"}},
      {"id null", set("/model/vocab/a", nullptr), {"model.vocab \"a\"", "null"}},
      {"id twice", set("/model/vocab/a", 65), {"model.vocab \"b\"", "65", "another token"}},
      {"empty token", set("/model/vocab/", 800), {"model.vocab \"\"", "empty token"}},
      {"byte without token", erase("/model/vocab", "~"), {"\"~\"", "byte 126"}},
      {"no merges", erase("/model", "merges"), {"model.merges"}},
      {"merges an object", set("/model/merges", json::object()), {"model.merges", "a list"}},
      {"merge a number", set("/model/merges/3", 7), {"model.merges element 3", "7"}},
      {"merge of one", set("/model/merges/3", "ab"), {"model.merges element 3", "\"ab\""}},
      {"merge of three", set("/model/merges/3", "a b c"), {"model.merges element 3"}},
      {"merge with an empty side", set("/model/merges/3", " b"), {"model.merges element 3"}},
      {"merge list of three", set("/model/merges/3", {"a", "b", "c"}), {"model.merges element 3"}},
      {"merge list of numbers", set("/model/merges/3", {1, 2}), {"model.merges element 3"}},
      {"merge of an unknown token", set("/model/merges/3", "a qqq"), {"model.merges element 3", "\"qqq\""}},
      {"merge into an unknown token", set("/model/merges/3", "z z"), {"model.merges element 3", "\"zz\""}},
      {"merge twice",
       [](json& j) { j["model"]["merges"][3] = j["model"]["merges"][0]; },
       {"model.merges element 3", "but an earlier merge"}},
      {"no added tokens", erase("", "added_tokens"), {"added_tokens"}},
      {"added tokens an object", set("/added_tokens", json::object()), {"added_tokens", "a list"}},
      {"added token a string", set("/added_tokens/2", "x"), {"added_tokens[2]", "not an object"}},
      {"added token without id", erase("/added_tokens/2", "id"), {"added_tokens[2].id"}},
      {"added token id out of range", set("/added_tokens/2/id", 1LL << 40), {"added_tokens[2].id"}},
      {"added token id taken", set("/added_tokens/2/id", 5), {"added_tokens[2]", "another token"}},
      {"added token id twice", set("/added_tokens/2/id", 512), {"added_tokens[2]", "another token"}},
      {"added token without content", erase("/added_tokens/2", "content"), {"added_tokens[2].content"}},
      {"added token empty", set("/added_tokens/2/content", ""), {"added_tokens[2]", "empty token"}},
      {"added token content twice",
       set("/added_tokens/2/content", "<|im_start|>"),
       {"added_tokens[2]", "513"}},
      {"added token without special", erase("/added_tokens/2", "special"), {"added_tokens[2].special"}},
      {"special a number", set("/added_tokens/2/special", 1), {"added_tokens[2].special"}},
      {"added token that strips", set("/added_tokens/2/lstrip", true), {"added_tokens[2].lstrip"}},
      {"no normaliser", erase("", "normalizer"), {"normalizer"}},
      {"another normaliser", set("/normalizer/type", "NFKC"), {"normalizer.type", "NFKC"}},
      {"another split", set("/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\s+"), {"pattern.Regex"}},
      {"another behaviour", set("/pre_tokenizer/pretokenizers/0/behavior", "Removed"), {"behavior"}},
      {"prefix space", set("/pre_tokenizer/pretokenizers/1/add_prefix_space", true), {"add_prefix_space"}},
      {"no split", set("/pre_tokenizer/pretokenizers", json::array()), {"pre_tokenizer.pretokenizers"}},
      {"another model", set("/model/type", "Unigram"), {"model.type", "Unigram"}},
      {"dropout", set("/model/dropout", 0.1), {"model.dropout"}},
      {"ignore_merges", set("/model/ignore_merges", true), {"model.ignore_merges"}},
      {"byte fallback", set("/model/byte_fallback", true), {"model.byte_fallback"}},
      {"suffix", set("/model/end_of_word_suffix", "</w>"), {"model.end_of_word_suffix"}},
      {"another decoder", set("/decoder/type", "WordPiece"), {"decoder.type"}},
      {"post-processor that adds tokens",
       set("/post_processor",
           {{"type", "TemplateProcessing"},
            {"single", json::parse(R"([{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}])")}}),
       {"post_processor.single"}},
  };
  const json intact = json::parse(read_text(kFixture / "whole/tokenizer.json"));
  const Scratch scratch;
  for (const DamageCase& c : cases) {
    SCOPED_TRACE(c.about);
    json document = intact;
    c.damage(document);
    write_text(scratch.path() / "tokenizer.json", document.dump());
    const std::string message = load_error(scratch.path());
    EXPECT_THAT(message, HasSubstr("tokenizer.json"));
    EXPECT_THAT(message, Not(HasSubstr("\n")));
    for (const std::string& part : c.message) EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(Tokenizer, RefusesTextThatIsNoWholeJson) {
  const std::string intact = read_text(kFixture / "whole/tokenizer.json");
  const Scratch scratch;
  for (const std::string& text : {std::string(), intact.substr(0, intact.size() / 2), intact + "x",
                                  "\xFF" + intact, std::string(1000000, '['), std::string(100, '\0')}) {
    write_text(scratch.path() / "tokenizer.json", text);
    const std::string message = load_error(scratch.path());
    EXPECT_THAT(message, HasSubstr("tokenizer.json")) << text.substr(0, 20);
    EXPECT_THAT(message, Not(HasSubstr("\n")));
  }
}

struct FileCase {
  const char* about;
  const char* file;
  std::function<std::string(std::string)> damage;
  std::vector<std::string> message;
};

TEST(Tokenizer, RefusesDamagedVocabularyFiles) {
  const auto replace = [](const std::string& from, const std::string& to) {
    return [from, to](std::string text) {
      const std::size_t place = text.find(from);
      EXPECT_NE(place, std::string::npos) << from;
      return place == std::string::npos ? text : text.replace(place, from.size(), to);
    };
  };
  const auto half = [](const std::string& text) { return text.substr(0, text.size() / 2); };
  const std::vector<FileCase> cases = {
      {"half of the vocabulary", "vocab.json", half, {}},
      {"id twice", "vocab.json", replace("\"a\": 64", "\"a\": 65"), {"\"b\"", "another token"}},
      {"token twice", "vocab.json", replace("\"a\": 64", "\"b\": 64"), {"\"b\"", "twice"}},
      {"a merge of one", "merges.txt", replace("r e\n", "re\n"), {"line 3", "\"re\""}},
      {"an empty line", "merges.txt", replace("r e\n", "\n"), {"line 3"}},
      {"an unknown token", "merges.txt", replace("r e\n", "r qqq\n"), {"line 3", "\"qqq\""}},
      {"bytes that are no text", "merges.txt", replace("r e\n", "\xFF\xFE e\n"), {"line 3"}},
      {"a merge twice", "merges.txt", replace("r e\n", "i n\n"), {"line 3", "but an earlier merge"}},
      {"half of the configuration", "tokenizer_config.json", half, {}},
      {"no added tokens",
       "tokenizer_config.json",
       replace("added_tokens_decoder", "x"),
       {"added_tokens_decoder"}},
      {"id no number", "tokenizer_config.json", replace("\"513\"", "\"513x\""), {"\"513x\"", "not an id"}},
      {"id out of range", "tokenizer_config.json", replace("\"513\"", "\"99999999999\""), {"not an id"}},
      {"id taken", "tokenizer_config.json", replace("\"513\"", "\"5\""), {"\"5\"", "another token"}},
      {"another class",
       "tokenizer_config.json",
       replace("Qwen2Tokenizer", "GPT2Tokenizer"),
       {"tokenizer_class"}},
  };
  for (const FileCase& c : cases) {
    SCOPED_TRACE(c.about);
    const Scratch scratch(kFixture / "split");
    write_text(scratch.path() / c.file, c.damage(read_text(kFixture / "split" / c.file)));
    const std::string message = load_error(scratch.path());
    EXPECT_THAT(message, HasSubstr(c.file));
    EXPECT_THAT(message, Not(HasSubstr("\n")));
    for (const std::string& part : c.message) EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(Tokenizer, NamesTheMissingFile) {
  const Scratch scratch(kFixture / "split");
  for (const char* file : {"tokenizer_config.json", "merges.txt"}) {
    std::filesystem::remove(scratch.path() / file);
    EXPECT_THAT(load_error(scratch.path()), HasSubstr(file));
  }
  std::filesystem::remove(scratch.path() / "vocab.json");
  EXPECT_THAT(load_error(scratch.path()), HasSubstr("neither tokenizer.json nor vocab.json"));
  EXPECT_THAT(load_error(scratch.path() / "absent"), HasSubstr("absent"));
}

}  // namespace
}  // namespace biqa
