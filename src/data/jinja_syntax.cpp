// SPDX-License-Identifier: Apache-2.0
#include "data/jinja_syntax.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace biqa {
namespace {

using Expression = JinjaExpression;
using Statement = JinjaStatement;

constexpr std::size_t kMaxBytes = std::size_t{1} << 20;
constexpr int kMaxDepth = 64, kMaxNodes = 2000;
/// Maximum depth of an expression's tree. A chain becomes a deep tree without any brackets, and its evaluation is
/// recursive.
constexpr int kMaxTree = 200;
constexpr std::size_t kMaxName = 200;
constexpr std::string_view kBlank = " \t\n\v\f\r";

/// Text between tags, or the content of a tag.
struct Piece {
  enum class Kind { text, output, tag } kind = Kind::text;
  std::string text;
  int line = 1;
};

/// Splits a template into pieces and removes white space as Jinja does with trim_blocks and lstrip_blocks.
class Cutter {
 public:
  Cutter(std::string text, const std::string& name) : text_(std::move(text)), name_(name) {}

  std::vector<Piece> cut() {
    while (at_ < text_.size()) {
      const std::size_t open = next_opening();
      const bool is_tag = open < text_.size() && text_[open + 1] != '{';
      const char sign = open + 2 < text_.size() ? text_[open + 2] : ' ';
      add_text(open, is_tag, sign);
      if (open >= text_.size()) break;
      cut_tag(open, sign == '-' || sign == '+');
    }
    return std::move(pieces_);
  }

 private:
  std::size_t next_opening() const {
    for (std::size_t i = text_.find('{', at_); i != std::string::npos; i = text_.find('{', i + 1)) {
      if (i + 1 < text_.size() && std::string_view("{%#").find(text_[i + 1]) != std::string_view::npos)
        return i;
    }
    return text_.size();
  }

  void add_text(std::size_t end, bool before_tag, char sign) {
    std::string_view text(text_.data() + at_, end - at_);
    if (end < text_.size() && sign == '-') {
      text = text.substr(0, text.find_last_not_of(kBlank) + 1);
    } else if (before_tag && sign != '+') {
      // White space between the beginning of the line and a tag is removed.
      const std::size_t line = text.rfind('\n') + 1;
      const bool begins = line > 0 || at_ == 0 || text_[at_ - 1] == '\n';
      if (begins && text.find_first_not_of(kBlank, line) == std::string_view::npos)
        text = text.substr(0, line);
    }
    if (!text.empty()) pieces_.push_back({Piece::Kind::text, std::string(text), line_of(at_)});
  }

  void cut_tag(std::size_t open, bool signed_) {
    const char type = text_[open + 1];
    const char last = type == '{' ? '}' : type;
    const std::size_t begin = open + (signed_ ? 3 : 2);
    const std::size_t close = type == '#' ? text_.find("#}", begin) : find_close(begin, last);
    if (close == std::string::npos) {
      fail("cannot read {}:{}: a tag does not end; correct the template", name_, line_of(open));
    }
    const char sign = close > begin ? text_[close - 1] : ' ';
    const bool has_sign = sign == '-' || (sign == '+' && type != '{');
    const std::string inside = text_.substr(begin, close - begin - (has_sign ? 1 : 0));
    if (type != '#')
      pieces_.push_back({type == '{' ? Piece::Kind::output : Piece::Kind::tag, inside, line_of(open)});
    at_ = close + 2;
    if (sign == '-' && has_sign) {
      at_ = std::min(text_.find_first_not_of(kBlank, at_), text_.size());
    } else if (type != '{' && !has_sign && at_ < text_.size() && text_[at_] == '\n') {
      ++at_;
    }
  }

  /// The end of a tag outside of strings and brackets.
  std::size_t find_close(std::size_t from, char last) const {
    int braces = 0;
    char quote = 0;
    for (std::size_t i = from; i + 1 < text_.size(); ++i) {
      const char c = text_[i];
      if (quote != 0) {
        if (c == '\\') ++i;
        if (c == quote) quote = 0;
      } else if (c == '"' || c == '\'') {
        quote = c;
      } else if (braces == 0 && c == last && text_[i + 1] == '}') {
        return i;
      } else if (c == '{') {
        ++braces;
      } else if (c == '}') {
        --braces;
      }
    }
    return std::string::npos;
  }

  /// The line of a position. The position must not be before that of the last call.
  int line_of(std::size_t at) {
    const auto begin = text_.begin();
    line_ += static_cast<int>(std::count(begin + static_cast<std::ptrdiff_t>(counted_),
                                         begin + static_cast<std::ptrdiff_t>(at), '\n'));
    counted_ = at;
    return line_;
  }

  const std::string text_;
  const std::string& name_;
  std::size_t at_ = 0, counted_ = 0;
  int line_ = 1;
  std::vector<Piece> pieces_;
};

struct Token {
  enum class Kind { end, name, number, string, symbol } kind = Kind::end;
  std::string text;
};

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// Reads the content of a tag from left to right.
class TagReader {
 public:
  TagReader(const Piece& piece, const std::string& name) : line_(piece.line), name_(name) { cut(piece.text); }

  [[noreturn]] void refuse(const std::string& what) const {
    fail("cannot read {}:{}: {}; correct the template", name_, line_, in_short(what));
  }
  const Token& look() const { return tokens_[at_]; }
  bool at_end() const { return look().kind == Token::Kind::end; }
  bool sees(std::string_view text) const {
    return (look().kind == Token::Kind::symbol || look().kind == Token::Kind::name) && look().text == text;
  }
  bool takes(std::string_view text) {
    if (!sees(text)) return false;
    ++at_;
    return true;
  }
  void expect(std::string_view text) {
    if (!takes(text)) refuse("'" + std::string(text) + "' is missing near '" + look().text + "'");
  }
  std::string name() {
    if (look().kind != Token::Kind::name) refuse("a name is missing near '" + look().text + "'");
    return tokens_[at_++].text;
  }
  void expect_end() {
    if (!at_end()) refuse("'" + look().text + "' is not supported");
  }

  Expression expression() {
    if (++depth_ > kMaxDepth) refuse("brackets are nested too deeply");
    Expression value = either();
    if (takes("if")) {
      Expression condition = either();
      Expression otherwise = takes("else") ? expression() : undefined();
      value =
          node(Expression::Kind::choice, "", std::move(value), std::move(condition), std::move(otherwise));
    }
    --depth_;
    return value;
  }
  /// An expression without `if`, because in a loop `if` ends the list.
  Expression either() {
    return chain({"or"}, [this] { return chain({"and"}, [this] { return inversion(); }); });
  }

 private:
  Expression undefined() { return node(Expression::Kind::name, ""); }
  /// Moves the parts, because copying the earlier parts of a chain for each link would take quadratic time.
  template <typename... Parts>
  Expression node(Expression::Kind kind, std::string text, Parts... parts) {
    if (++nodes_ > kMaxNodes) refuse("its expression is too long");
    Expression all;
    all.kind = kind;
    all.text = std::move(text);
    all.parts.reserve(sizeof...(parts));
    (adopt(all, all.parts, std::move(parts)), ...);
    return all;
  }
  /// `part` becomes the last of `parts` or `named_values` of `whole`.
  void adopt(Expression& whole, std::vector<Expression>& parts, Expression part) {
    whole.depth = std::max(whole.depth, part.depth + 1);
    if (whole.depth > kMaxTree) refuse("its expression is a chain that is too long");
    parts.push_back(std::move(part));
  }
  Expression literal(decltype(Expression::value) value) {
    Expression expression = node(Expression::Kind::literal, "");
    expression.value = std::move(value);
    return expression;
  }

  void cut(const std::string& text) {
    constexpr std::array<std::string_view, 6> kPairs{"==", "!=", "<=", ">=", "//", "**"};
    for (std::size_t i = 0; i < text.size();) {
      const char c = text[i];
      std::size_t end = i + 1;
      if (kBlank.find(c) != std::string_view::npos) {
        i = end;
        continue;
      }
      if (is_letter(c) || is_digit(c)) {
        const bool number = is_digit(c);
        while (end < text.size() && (is_letter(text[end]) || is_digit(text[end]))) ++end;
        if (end - i > kMaxName) refuse("a name is too long");
        tokens_.push_back({number ? Token::Kind::number : Token::Kind::name, text.substr(i, end - i)});
      } else if (c == '"' || c == '\'') {
        tokens_.push_back({Token::Kind::string, string_from(text, i, end)});
      } else {
        if (std::find(kPairs.begin(), kPairs.end(), std::string_view(text).substr(i, 2)) != kPairs.end())
          ++end;
        tokens_.push_back({Token::Kind::symbol, text.substr(i, end - i)});
      }
      i = end;
    }
    tokens_.push_back({Token::Kind::end, "the end of the tag"});
  }

  std::string string_from(const std::string& text, std::size_t begin, std::size_t& end) const {
    constexpr std::string_view kEscapes = "ntr0abfv", kMeanings{"\n\t\r\0\a\b\f\v", 8};
    std::string value;
    for (end = begin + 1; end < text.size() && text[end] != text[begin]; ++end) {
      if (text[end] != '\\' || end + 1 == text.size()) {
        value += text[end];
        continue;
      }
      const char escaped = text[++end];
      const std::size_t known = kEscapes.find(escaped);
      if (known != std::string_view::npos)
        value += kMeanings[known];
      else if (escaped == '\\' || escaped == '\'' || escaped == '"')
        value += escaped;
      else if (escaped == 'x' || escaped == 'u' || escaped == 'U' || escaped == 'N' || is_digit(escaped))
        refuse("a string has an unsupported escape");
      else
        (value += '\\') += escaped;
    }
    if (end == text.size()) refuse("a string does not end");
    ++end;
    return value;
  }

  template <typename Next>
  Expression chain(std::initializer_list<std::string_view> operators, const Next& next) {
    Expression left = next();
    while (true) {
      const auto* found =
          std::find_if(operators.begin(), operators.end(), [this](std::string_view o) { return sees(o); });
      if (found == operators.end()) return left;
      ++at_;
      Expression right = next();
      left = node(Expression::Kind::binary, std::string(*found), std::move(left), std::move(right));
    }
  }
  Expression inversion() {
    if (++depth_ > kMaxDepth) refuse("'not' is nested too deeply");
    Expression value = takes("not") ? node(Expression::Kind::negation, "", inversion()) : comparison();
    --depth_;
    return value;
  }
  Expression comparison() {
    Expression left = sum();
    bool compared = false;
    while (true) {
      std::string sign;
      for (const char* known : {"==", "!=", "<=", ">=", "<", ">", "in"}) {
        if (sign.empty() && takes(known)) sign = known;
      }
      if (sign.empty() && sees("not") && tokens_[at_ + 1].text == "in") {
        at_ += 2;
        sign = "not in";
      }
      if (sign.empty()) return left;
      if (compared) refuse("a chain of comparisons is not supported");
      compared = true;
      Expression right = sum();
      left = node(Expression::Kind::binary, sign, std::move(left), std::move(right));
    }
  }
  Expression sum() {
    return chain({"+", "-"}, [this] {
      return chain({"~"}, [this] { return chain({"*", "/", "//", "%"}, [this] { return sign(); }); });
    });
  }
  Expression sign() {
    if (++depth_ > kMaxDepth) refuse("signs are nested too deeply");
    Expression value = takes("-")   ? node(Expression::Kind::minus, "", sign())
                       : takes("+") ? sign()
                                    : postfix(primary());
    --depth_;
    return value;
  }

  Expression primary() {
    const Token token = look();
    if (token.kind == Token::Kind::end) refuse("an expression is missing");
    ++at_;
    switch (token.kind) {
      case Token::Kind::string: {
        std::string text = token.text;
        while (look().kind == Token::Kind::string) text += tokens_[at_++].text;
        return literal(text);
      }
      case Token::Kind::number: {
        std::int64_t number = 0;
        const char* const end = token.text.data() + token.text.size();
        const auto [stop, problem] = std::from_chars(token.text.data(), end, number);
        if (problem != std::errc() || stop != end || sees("."))
          refuse("the number " + token.text + " is not understood");
        return literal(number);
      }
      case Token::Kind::name:
        if (token.text == "true" || token.text == "True") return literal(true);
        if (token.text == "false" || token.text == "False") return literal(false);
        if (token.text == "none" || token.text == "None") return literal(nullptr);
        return node(Expression::Kind::name, token.text);
      default:
        return bracket(token.text);
    }
  }
  Expression bracket(const std::string& symbol) {
    if (symbol == "(") {
      Expression inside = expression();
      if (sees(",")) refuse("a tuple is not supported");
      expect(")");
      return inside;
    }
    Expression value = node(symbol == "[" ? Expression::Kind::list : Expression::Kind::map, "");
    if (symbol != "[" && symbol != "{") refuse("'" + symbol + "' is not supported");
    const std::string_view close = symbol == "[" ? "]" : "}";
    while (!takes(close)) {
      adopt(value, value.parts, expression());
      if (symbol == "{") {
        expect(":");
        adopt(value, value.parts, expression());
      }
      if (!sees(close)) expect(",");
    }
    return value;
  }

  Expression postfix(Expression value) {
    while (true) {
      if (takes(".")) {
        value = node(Expression::Kind::attribute, name(), std::move(value));
      } else if (takes("[")) {
        value = subscript(std::move(value));
      } else if (takes("(")) {
        value = node(Expression::Kind::call, "", std::move(value));
        arguments(value);
      } else if (takes("|")) {
        value = node(Expression::Kind::filter, name(), std::move(value));
        if (takes("(")) arguments(value);
      } else if (takes("is")) {
        const bool inverted = takes("not");
        value = node(Expression::Kind::test, name(), std::move(value));
        if (takes("(")) arguments(value);
        if (inverted) value = node(Expression::Kind::negation, "", std::move(value));
      } else {
        return value;
      }
    }
  }
  Expression subscript(Expression value) {
    Expression subscript = node(Expression::Kind::item, "", std::move(value));
    const auto bound = [&] {
      adopt(subscript, subscript.parts, sees(":") || sees("]") ? literal(nullptr) : expression());
    };
    bound();
    while (takes(":")) {
      subscript.kind = Expression::Kind::slice;
      bound();
    }
    expect("]");
    if (subscript.parts.size() > 4) refuse("a slice has too many parts");
    while (subscript.kind == Expression::Kind::slice && subscript.parts.size() < 4)
      subscript.parts.push_back(literal(nullptr));
    return subscript;
  }
  void arguments(Expression& call) {
    while (!takes(")")) {
      if (look().kind == Token::Kind::name && tokens_[at_ + 1].text == "=" &&
          tokens_[at_ + 1].kind == Token::Kind::symbol) {
        call.names.push_back(name());
        expect("=");
        adopt(call, call.named_values, expression());
      } else {
        adopt(call, call.parts, expression());
      }
      if (!sees(")")) expect(",");
    }
  }

  int line_, depth_ = 0, nodes_ = 0;
  const std::string& name_;
  std::vector<Token> tokens_;
  std::size_t at_ = 0;
};

/// Turns pieces into statements.
class Parser {
 public:
  Parser(std::vector<Piece> pieces, const std::string& name) : pieces_(std::move(pieces)), name_(name) {}

  std::vector<Statement> all() {
    std::string ended;
    std::vector<Statement> statements = body({}, ended);
    return statements;
  }

 private:
  /// Reads statements up to a tag that begins with one of `ends`. `ended` receives this word, `end_` the condition of
  /// an elif.
  std::vector<Statement> body(std::initializer_list<std::string_view> ends, std::string& ended) {
    if (++depth_ > kMaxDepth)
      fail("cannot read {}: its tags are nested too deeply; correct the template", name_);
    std::vector<Statement> statements;
    while (at_ < pieces_.size()) {
      const Piece& piece = pieces_[at_++];
      Statement statement;
      statement.line = piece.line;
      if (piece.kind == Piece::Kind::text) {
        statement.text = piece.text;
        statements.push_back(std::move(statement));
        continue;
      }
      TagReader reader(piece, name_);
      if (piece.kind == Piece::Kind::output) {
        statement.kind = Statement::Kind::output;
        statement.expressions.push_back(reader.expression());
        reader.expect_end();
        statements.push_back(std::move(statement));
        continue;
      }
      const std::string word = reader.name();
      if (std::find(ends.begin(), ends.end(), word) != ends.end()) {
        ended = word;
        end_.clear();
        if (word == "elif") end_.push_back(reader.expression());
        reader.expect_end();
        --depth_;
        return statements;
      }
      statements.push_back(tag(word, reader, std::move(statement)));
    }
    if (ends.size() > 0)
      fail("cannot read {}: '{}' is missing at its end; correct the template", name_, *ends.begin());
    --depth_;
    return statements;
  }

  Statement tag(const std::string& word, TagReader& reader, Statement statement) {
    std::string ended;
    if (word == "if") {
      statement.kind = Statement::Kind::condition;
      statement.expressions.push_back(reader.expression());
      reader.expect_end();
      do {
        statement.branches.push_back(body({"endif", "elif", "else"}, ended));
        if (ended == "elif") statement.expressions.push_back(std::move(end_.front()));
      } while (ended == "elif");
      if (ended == "else") statement.branches.push_back(body({"endif"}, ended));
    } else if (word == "for") {
      statement.kind = Statement::Kind::loop;
      do {
        statement.names.push_back(reader.name());
      } while (reader.takes(","));
      reader.expect("in");
      statement.expressions.push_back(reader.either());
      if (reader.takes("if")) statement.expressions.push_back(reader.expression());
      reader.expect_end();
      statement.branches.push_back(body({"endfor", "else"}, ended));
      if (ended == "else") statement.branches.push_back(body({"endfor"}, ended));
    } else if (word == "set") {
      set(reader, statement);
    } else if (word == "generation") {
      reader.expect_end();
      statement.kind = Statement::Kind::block;
      statement.branches.push_back(body({"endgeneration"}, ended));
    } else {
      reader.refuse("the tag '" + word + "' is not supported");
    }
    return statement;
  }

  void set(TagReader& reader, Statement& statement) {
    statement.kind = Statement::Kind::set;
    statement.names.push_back(reader.name());
    if (reader.takes(".")) {
      statement.text = statement.names[0];
      statement.names[0] = reader.name();
    }
    if (reader.takes("=")) {
      statement.expressions.push_back(reader.expression());
      reader.expect_end();
      return;
    }
    reader.expect_end();
    std::string ended;
    statement.branches.push_back(body({"endset"}, ended));
  }

  std::vector<Piece> pieces_;
  const std::string& name_;
  std::size_t at_ = 0;
  int depth_ = 0;
  std::vector<Expression> end_;
};

/// Replaces line ends of every kind by "\n" and removes one at the end.
std::string with_plain_line_ends(const std::string& text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    plain += text[i] == '\r' ? '\n' : text[i];
  }
  if (plain.ends_with('\n')) plain.pop_back();
  return plain;
}

}  // namespace

std::string in_short(std::string text) {
  constexpr std::size_t kMost = 500;
  if (text.size() <= kMost) return text;
  std::size_t end = kMost;
  while (end > kMost - 4 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return text.erase(end) + "[...]";
}

std::vector<JinjaStatement> parse_jinja(const std::string& text, const std::string& name) {
  if (text.size() > kMaxBytes)
    fail("cannot read {}: it is larger than {} bytes; correct the template", name, kMaxBytes);
  return Parser(Cutter(with_plain_line_ends(text), name).cut(), name).all();
}

}  // namespace biqa
