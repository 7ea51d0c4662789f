// SPDX-License-Identifier: Apache-2.0
// The part of the Jinja language that chat templates use, rendered as in transformers (trim_blocks, lstrip_blocks):
// texts, if, for, set, namespaces, the usual operators, tests, filters and string methods. Anything else is an Error.
// In a branch that is not taken, an unsupported construct is an Error only if it cannot be parsed. Any input gives a
// text or an Error in bounded time.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "io/json.h"

namespace biqa {

/// Marks the place of a text in the output of a template. The variables have text() instead of the text: the mark
/// between two edge characters. If the template tests the text, for example whether it is empty or begins with a word,
/// the test uses the real words. The output contains the mark, and each edge character that the template has not
/// trimmed. Splitting such a text is an Error.
struct JinjaMark {
  static constexpr char kBegin = '\x01', kEnd = '\x02';  ///< around the name; templates never contain these
  static constexpr char kEdge = '\x1c';  ///< an edge; trim() removes it, and texts rarely contain it
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

  /// Renders the template with these variables: an object whose keys keep their order, as in Python. Throws Error if
  /// the template uses something unsupported or the date, or calls raise_exception.
  std::string render(const nlohmann::ordered_json& variables, std::span<const JinjaMark> marks = {}) const;

  struct Program;

 private:
  std::unique_ptr<const Program> program_;
};

}  // namespace biqa
