// SPDX-License-Identifier: Apache-2.0
// The part of the Jinja language that chat templates use, rendered as in transformers (trim_blocks, lstrip_blocks):
// texts, if, for, set, namespaces, the usual operators, tests, filters and string methods. Anything else is an Error.
// In a branch that is not taken it is an Error only if it cannot be parsed. Any input gives a text or an Error in
// bounded time.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "io/json.h"

namespace biqa {

/// A text that stands in the variables by a mark, between two edges, so that it can be told from what a template writes.
/// What a template asks of such a text (is it empty, does it contain, begin with, equal …) is answered for the words; what
/// it writes has the mark, with the edges that it has not trimmed. Taking such a text apart is an Error.
struct JinjaMark {
  static constexpr char kBegin = '\x01', kEnd = '\x02';  ///< around its name; no text of a template has these
  static constexpr char kEdge = '\x1c';                  ///< a blank to trim(), and rare
  std::string_view name, words;

  std::string core() const { return kBegin + std::string(name) + kEnd; }
  std::string text() const { return kEdge + core() + kEdge; }
};

class JinjaTemplate {
 public:
  /// Parses at most 1 MiB. Throws Error with `name` and line.
  JinjaTemplate(const std::string& text, std::string name);
  ~JinjaTemplate();
  JinjaTemplate(JinjaTemplate&&) noexcept;
  JinjaTemplate& operator=(JinjaTemplate&&) noexcept;
  JinjaTemplate(const JinjaTemplate&) = delete;
  JinjaTemplate& operator=(const JinjaTemplate&) = delete;

  /// The text for these variables, an object whose keys keep their order, as in Python. Throws Error where the template asks for something unknown, for what
  /// depends on the date, or refuses (raise_exception).
  std::string render(const nlohmann::ordered_json& variables, std::span<const JinjaMark> marks = {}) const;

  struct Program;

 private:
  std::unique_ptr<const Program> program_;
};

}  // namespace biqa
