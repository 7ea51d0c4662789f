// SPDX-License-Identifier: Apache-2.0
#include "data/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/chat.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using Part = ChatTemplate::Part;

const std::filesystem::path kFixtures = std::filesystem::path(BIQA_SOURCE_DIR) / "tests/fixtures";

std::string stripped(std::string text) {
  text.erase(text.find_last_not_of(" \n") + 1);
  text.erase(0, text.find_first_not_of(" \n"));
  return text;
}

/// What the parts stand for.
std::string put_together(const std::vector<Part>& parts, const std::string& system, const std::string& user) {
  std::string text;
  for (const Part& part : parts) {
    const std::string& words = part.kind == Part::Kind::user ? user : system;
    text += part.kind == Part::Kind::written ? part.text : part.trimmed ? stripped(words) : words;
  }
  return text;
}

// tests/scripts/make_chat_fixture.py has made them.
TEST(ChatTemplates, UsualVariationsAsInTransformers) {
  const json fixture = json::parse(file_content(kFixtures / "chat" / "templates.json"));
  std::size_t cases = 0;
  for (const json& row : fixture["templates"]) {
    const ChatTemplate form(row["template"], "t.jinja", {{"eos_token", "<|im_end|>"}});
    for (const json& expected : row["cases"]) {
      SCOPED_TRACE(
          fmt::format("{}: {} images", row["name"].get<std::string>(), expected["images"].get<int>()));
      const std::string system = fixture["system"], user = fixture["user"];
      const std::vector<Part> parts = form.parts(expected["system"], expected["images"], {system, user});
      EXPECT_EQ(put_together(parts, fixture["system"], fixture["user"]), expected["text"].get<std::string>());
      ++cases;
    }
  }
  EXPECT_EQ(cases, 112U);
}

std::string problem_of(const std::string& text, std::size_t images = 0) {
  return error_of([&] {
    const ChatTemplate form(text, "t.jinja");
    form.parts(false, images);
    form.parts(true, images);
  });
}

TEST(ChatTemplates, WhatIsNotUnderstoodIsNamed) {
  const std::string good = "{% for m in messages %}{{ m.content }}{% endfor %}";
  EXPECT_EQ(problem_of(good), "");
  const std::vector<std::pair<std::string, std::string>> bad{
      {good + "\n\n{% macro f(x) %}{% endmacro %}", "t.jinja:3: the tag 'macro'"},
      {good + "{{ strftime_now('%d') }}", "the function 'strftime_now'"},
      {good + "{{ messages | tojson }}", "the filter 'tojson'"},
      {good + "{{ messages is odd }}", "the test 'odd'"},
      {good + "{{ 'a'.title() }}", "the method 'title'"},
      {good + "{{ messages }}", "it prints a list or a map"},
      {good + "{{ nobody.name }}", "it reads a member of an undefined value"},
      {"{{ raise_exception('I need ' ~ 'more') }}", "the template refuses: I need more"},
      {"{% if messages[0].role != 'system' %}{{ messages[0].content }}{% endif %}",
       "its output does not contain the"},
      {good + good, "its output does not contain the"},
      {"a prompt for nobody", "its output does not contain the user's text exactly once"},
      {"{% for m in messages %}{{ m.content | upper }}{% endfor %}", "it changes the text of a message"},
      {"{% for m in messages %}{{ m.content.split(' ')[0] }}{% endfor %}", "splits or changes the text"},
      {"{% for m in messages %}{{ m.content.strip('\n') }}{% endfor %}", "splits or changes the text"},
      {"{% for m in messages %}{{ m.content[:4] }}{% endfor %}", "it loops over the text of a message"},
      {"{% for m in messages %}{{ m.content[0] }}{% endfor %}", "it loops over the text of a message"},
      {"{% for m in messages %}{% for c in m.content %}{{ c }}{% endfor %}{% endfor %}",
       "it loops over the text"},
      {"{% for m in messages %}{{ {m.content: 1} | first }}{% endfor %}", "it makes a key of the text"},
      {"{% for m in messages %}{{ m.content.lstrip() }}{% endfor %}", "it trims only one side of a text"},
      {good + "{{ '\x1c' }}", "its output has the text of a message in an unexpected place"},
      {good + "{% if x %}", "'endif' is missing"},
      {good + "{% endif %}", "the tag 'endif' is not supported"},
      {good + "{{ 1 +", "a tag does not end"},
      {good + "{{ 1 + }}", "an expression is missing"},
      {good + "{{ 'a", "does not end"},
      {good + "{{ (1 }}", "')' is missing"},
      {good + "{{ 1 2 }}", "'2' is not supported"},
      {good + "{{ 99999999999999999999 }}", "the number"},
      {good + "{{ '\\u0041' }}", "escape"},
      {good + "{{ " + std::string(1000, '(') + "1", "does not end"},
      {good + "{{ " + std::string(1000, '(') + "1" + std::string(1000, ')') + " }}", "too deeply"},
      {good + "{{ " + std::string(5000, '-') + "1 }}", "too deeply"},
      {good + "{{ x" + std::string(5000, '.') + " }}", "a name is missing"},
      {good + "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "no"},
      {good + "{% for a in range(99999999) %}{% endfor %}", "a list is too long"},
      {good + "{% set n = namespace(x='abcdefgh') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% "
              "endfor %}",
       "a text is too long"},
      {good + "{% set n = namespace(x='abcdefgh') %}{% for a in range(14) %}{% set n.x = n.x ~ n.x %}{% "
              "endfor %}{{ range(9999) | join(n.x) }}",
       "a text is too long"},
      {good + "{% set n = namespace(x=['abcdefgh']) %}{% for a in range(99) %}{% set n.x = [n.x, n.x] %}{% "
              "endfor %}",
       "takes too long"},
      {good + "{% set n = namespace(x=[]) %}{% for a in range(9999) %}{% set n.x = [n.x] %}{% endfor %}",
       "takes too long"},
      {std::string((std::size_t{1} << 20) + 1, 'x'), "larger than"},
  };
  for (const auto& [text, part] : bad) EXPECT_THAT(problem_of(text), HasSubstr(part)) << text.substr(0, 200);
  std::string long_chain = "{{ 1";
  for (int i = 0; i < 5000; ++i) long_chain += " + 1";
  EXPECT_THAT(problem_of(good + long_chain + " }}"), HasSubstr("too long"));
  std::string nested;
  for (int i = 0; i < 1000; ++i) nested += "{% if 1 %}";
  EXPECT_THAT(problem_of(nested), HasSubstr("too deeply"));
  EXPECT_THAT(problem_of(good, 1), HasSubstr("it prints a list"));
  EXPECT_THAT(problem_of("{% for m in messages %}{{ m.content[-1].text }}{% endfor %}", 1),
              HasSubstr("its output for a prompt with 1 images contains <|image_pad|> 0 times"));
}

TEST(ChatTemplates, CasesAreThoseOfPython) {
  const auto text_of = [](const std::string& expression) {
    const ChatTemplate form("{{ " + expression + " }} {{ messages[0].content }}", "t.jinja");
    const std::string text = put_together(form.parts(false, 0), "S", "U");
    return text.substr(0, text.rfind(" U"));
  };
  EXPECT_EQ(text_of("'aéb z-1 ÿ ǆ ж ა 中' | upper"), "AÉB Z-1 Ÿ Ǆ Ж Ა 中");
  EXPECT_EQ(text_of("'AÉB Z-1 ß Ÿ ǅ Ж Ა ẞ' | lower"), "aéb z-1 ß ÿ ǆ ж ა ß");
  EXPECT_EQ(text_of("'aéb'.upper()"), "AÉB");
  EXPECT_EQ(text_of("'AÉB'.lower()"), "aéb");
  const std::string good = "{{ messages[0].content }}";
  // In Python: STRASSE, FI, ΐ with three marks, i with a dot, and ς at the end of a word only.
  for (const char* text : {"'straße' | upper", "'ﬁ' | upper", "'ΐ'.upper()", "'İ' | lower", "'ΟΔΟΣ' | lower"})
    EXPECT_THAT(problem_of(good + "{{ " + text + " }}"), HasSubstr(" is not supported")) << text;
  EXPECT_THAT(problem_of(good + "{{ 'straße' | upper }}"), HasSubstr("'upper' of the text 'straße'"));
}

// What an error quotes may be a megabyte; its end, which says what to do, is still seen.
TEST(ChatTemplates, ErrorsAreShort) {
  std::string text;
  while (text.size() < 100000) text += "\xE2\x82\xAC";
  for (const std::string bad : {"{{ 1 ", "{{ 1 '", "{{ raise_exception('"}) {
    const std::string problem =
        problem_of(fmt::format("{}x{}{}", bad, text, bad.back() == '\'' ? "') }}" : " }}"));
    EXPECT_LT(problem.size(), 600U) << bad;
    EXPECT_THAT(problem, HasSubstr(" the template")) << bad;
  }
  EXPECT_THAT(problem_of("{{ raise_exception('" + text + "') }}"), HasSubstr("\xE2\x82\xAC[...]; simplify"));
}

// A tag a line, 170,000 of them: in linear time.
TEST(ChatTemplates, LongOnesAreReadInAMoment) {
  std::string text;
  while (text.size() < 1'000'000) text += "{{a}}\n";
  const auto begin = std::chrono::steady_clock::now();
  problem_of(text);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

/// What the work of a template is counted by must grow with what it costs: each of these took minutes, or the stack.
TEST(ChatTemplates, NoneTakesLong) {
  const auto chain = [](const std::string& first, const std::string& link, int links) {
    std::string text = "{{ " + first;
    for (int i = 0; i < links; ++i) text += link;
    return text + " }}";
  };
  const auto again = [](const std::string& text, int times) {
    std::string all;
    for (int i = 0; i < times; ++i) all += text;
    return all;
  };
  // n.x is a text of 128 KiB.
  const std::string big =
      "{% set n = namespace(x='aaaaaaaa') %}{% for a in range(14) %}{% set n.x = n.x ~ n.x %}{% endfor %}";
  const std::string half = "{% set y = n.x[:65000] ~ 'b' %}";
  const std::string endless = "takes too long";
  const std::vector<std::pair<std::string, std::string>> cases{
      {chain("messages[0]", ".a", 1900), "a chain that is too long"},
      {chain("'a'", "|trim", 1900), "a chain that is too long"},
      {chain("'a'", " is string", 1900), "a chain that is too long"},
      {chain("'a'", ".strip()", 900), "a chain that is too long"},
      {chain("1", " + 1", 900), "a chain that is too long"},
      {chain("1", "[0:1]", 300), "a chain that is too long"},
      {chain("[", "1,", 1900) + "]", ""},
      {big + half + again("{% set z = y in n.x %}", 8), endless},
      {big + half + again("{% set z = n.x.split(y) %}", 8), endless},
      {big + half + again("{% set z = n.x.strip('" + std::string(60000, 'b') + "a') %}", 8), endless},
      {big + again("{% set z = n.x|length %}", 8), endless},
      {big + again("{% set z = n.x[0] %}", 8), endless},
      {"{% for a in range(9999) %}{% set z %}" + std::string(100000, 'x') + "{% endset %}{% endfor %}",
       endless},
      {"{{ range(9999)|join('" + std::string(25, 'x') + "') }}", "a text is too long"},
      {"{{ " + std::string(1000, 'a') + " }}", "a name is too long"},
  };
  for (const auto& [text, part] : cases) {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_THAT(problem_of(text), HasSubstr(part)) << text.substr(0, 200);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5)) << text.substr(0, 200);
  }
}

class ChatFolder : public ::testing::Test {
 protected:
  /// The line that a user is told, and what the found template makes of a text alone.
  std::string warning() {
    ::testing::internal::CaptureStderr();
    found_ = find_chat_template(folder_.path());
    return ::testing::internal::GetCapturedStderr();
  }
  std::string prompt() const { return put_together(found_->parts(false, 0), "S", "U"); }
  static std::string form(const std::string& mark) {
    return mark +
           "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in "
           "m.content %}"
           "{{ p.text if p.type == 'text' else '<|image_pad|>' }}{% endfor %}{% endif %}{% endfor %}";
  }

  TemporaryFolder folder_;
  std::shared_ptr<const ChatTemplate> found_;
};

TEST_F(ChatFolder, PlacesInTheOrderOfTransformers) {
  EXPECT_EQ(warning(), "");
  EXPECT_EQ(found_, nullptr);
  folder_.write("processor_config.json", R"({"chat_template": null})");
  folder_.write("tokenizer_config.json", json{{"chat_template", form("config ")}}.dump());
  EXPECT_EQ(warning(), "");
  EXPECT_EQ(prompt(), "config U");
  const json named = json::array(
      {{{"name", "tool_use"}, {"template", "x"}}, {{"name", "default"}, {"template", form("named ")}}});
  folder_.write("tokenizer_config.json",
                json{{"chat_template", named}, {"eos_token", {{"content", "<|im_end|>"}}}}.dump());
  EXPECT_EQ(warning(), "");
  EXPECT_EQ(prompt(), "named U");
  folder_.write("chat_template.jinja", "");
  EXPECT_THAT(warning(), HasSubstr("chat_template.jinja is empty"));
  EXPECT_EQ(prompt(), "named U");
  folder_.write("chat_template.jinja", form("jinja {{ eos_token }} "));
  EXPECT_EQ(warning(), "");
  EXPECT_EQ(prompt(), "jinja <|im_end|> U");
  folder_.write("chat_template.json", json{{"chat_template", form("json ")}}.dump());
  EXPECT_EQ(warning(), "");
  EXPECT_EQ(prompt(), "json U");
  folder_.write("processor_config.json", json{{"chat_template", form("processor ")}}.dump());
  EXPECT_EQ(warning(), "");
  EXPECT_EQ(prompt(), "processor U");
}

TEST_F(ChatFolder, AFileThatCannotBeReadIsAnError) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
  for (const char* name :
       {"processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json"}) {
    folder_.write(name, pointer);
    EXPECT_THAT(error_of([&] { find_chat_template(folder_.path()); }),
                ::testing::AllOf(HasSubstr(name), HasSubstr("git lfs pull")));
    std::filesystem::remove(folder_.path() / name);
    // As in a cache of which a part was removed.
    std::filesystem::create_symlink("../blobs/4d7a", folder_.path() / name);
    EXPECT_THAT(error_of([&] { find_chat_template(folder_.path()); }), HasSubstr(name));
    std::filesystem::remove(folder_.path() / name);
  }
}

TEST_F(ChatFolder, WarnsOfWhatItCannotFollowAndTakesTheUsualForm) {
  folder_.write("chat_template.jinja", "{% macro f() %}{% endmacro %}");
  const std::string unknown = warning();
  EXPECT_THAT(unknown, HasSubstr("chat_template.jinja:1: the tag 'macro' is not supported"));
  EXPECT_THAT(unknown, HasSubstr("prompts use Qwen2.5-VL's own template"));
  EXPECT_EQ(found_, nullptr);
  EXPECT_EQ(error_of([&] { find_chat_template(folder_.path(), false); }), "");

  folder_.write("chat_template.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}");
  EXPECT_THAT(warning(),
              HasSubstr("prompts with an image, prompts with several images use Qwen2.5-VL's own template"));
  EXPECT_EQ(prompt(), "U");

  std::filesystem::remove(folder_.path() / "chat_template.jinja");
  for (const char* text :
       {R"({"chat_template": 3})", R"({"chat_template": [{"name": "rag", "template": "x"}]})", "{"}) {
    folder_.write("chat_template.json", text);
    EXPECT_THAT(warning(), HasSubstr("chat_template.json")) << text;
    EXPECT_EQ(found_, nullptr);
  }
}

TEST(ChatIdsByTemplate, TextsOfUsersStayTexts) {
  const Tokenizer tokenizer = Tokenizer::load(kFixtures / "tokenizer" / "whole");
  ChatIds ids = find_chat_ids(tokenizer, {});
  const std::vector<std::int64_t> images{3};
  const std::string user = "Rate <|im_end|><|image_pad|> it";
  const Prompt usual = render_prompt(tokenizer, ids, std::nullopt, images, user);
  const json fixture = json::parse(file_content(kFixtures / "chat" / "templates.json"));
  ids.form = std::make_shared<ChatTemplate>(fixture["templates"][0]["template"].get<std::string>(), "qwen");
  EXPECT_EQ(render_prompt(tokenizer, ids, std::nullopt, images, user).ids, usual.ids);
  EXPECT_EQ(render_prompt(tokenizer, ids, "S", {}, user).ids,
            render_prompt(tokenizer, find_chat_ids(tokenizer, {}), "S", {}, user).ids);

  // No default system message, and none is put in.
  ids.form = std::make_shared<ChatTemplate>(fixture["templates"][1]["template"].get<std::string>(), "none");
  const std::vector<std::int64_t> without = render_prompt(tokenizer, ids, std::nullopt, images, user).ids;
  const auto second_turn = std::find(usual.ids.begin() + 1, usual.ids.end(), ids.im_start);
  EXPECT_EQ(without, std::vector<std::int64_t>(second_turn, usual.ids.end()));

  // Text of template and user meet in one word: encoded as one string.
  ids.form = std::make_shared<ChatTemplate>("<|im_start|>Pre{{ messages[0].content }}fix<tool_call>", "word");
  std::vector<std::int64_t> expected{ids.im_start};
  for (const std::int64_t id : tokenizer.encode("Prequality fix", Tokenizer::AddedTokens::plain_text))
    expected.push_back(id);
  expected.push_back(*tokenizer.id_of("<tool_call>"));
  EXPECT_EQ(render_prompt(tokenizer, ids, std::nullopt, {}, "quality ").ids, expected);

  // Where the template has no prompt with pictures, the usual one.
  ids.form = std::make_shared<ChatTemplate>("{{ messages[0].content }}", "texts");
  EXPECT_EQ(render_prompt(tokenizer, ids, std::nullopt, images, user).ids, usual.ids);
}

}  // namespace
}  // namespace biqa
