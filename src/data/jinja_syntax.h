// SPDX-License-Identifier: Apache-2.0
// A Jinja template as a syntax tree. Private to data/jinja*.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "data/jinja.h"

namespace biqa {

/// An expression. jinja.cpp evaluates it.
struct JinjaExpression {
  enum class Kind {
    literal,    ///< value
    name,       ///< text
    list,       ///< parts
    map,        ///< parts: key, value, key, value, …
    attribute,  ///< parts[0].text
    item,       ///< parts[0][parts[1]]
    slice,      ///< parts[0][parts[1]:parts[2]:parts[3]]; absent bounds are null literals
    call,       ///< parts[0](parts[1…], named = …)
    filter,     ///< parts[0] | text(parts[1…])
    test,       ///< parts[0] is text(parts[1…])
    negation,   ///< not parts[0]
    minus,      ///< -parts[0]
    binary,     ///< parts[0] text parts[1]
    choice,     ///< parts[0] if parts[1] else parts[2]
  };
  Kind kind = Kind::literal;
  std::string text;
  std::variant<std::nullptr_t, bool, std::int64_t, std::string> value;
  std::vector<JinjaExpression> parts;
  std::vector<std::string> names;             ///< of named arguments
  std::vector<JinjaExpression> named_values;  ///< values of the named arguments
  int depth = 1;                              ///< depth of the tree, including this node
};

struct JinjaStatement {
  enum class Kind {
    text,       ///< text
    output,     ///< expressions[0]
    condition,  ///< expressions and their branches; one more branch than expressions: the last is "else"
    loop,       ///< for names in expressions[0] (if expressions[1]): branches[0], else branches[1]
    set,        ///< names[0] (of namespace text, unless empty) = expressions[0], or the text of branches[0]
    block,      ///< branches[0] as it is
  };
  Kind kind = Kind::text;
  int line = 1;
  std::string text;
  std::vector<std::string> names;
  std::vector<JinjaExpression> expressions;
  std::vector<std::vector<JinjaStatement>> branches;
};

struct JinjaTemplate::Program {
  std::string name;
  std::vector<JinjaStatement> statements;
};

/// A text for an error message; long quoted parts are shortened.
std::string in_short(std::string text);

/// Throws Error with name and line.
std::vector<JinjaStatement> parse_jinja(const std::string& text, const std::string& name);

}  // namespace biqa
