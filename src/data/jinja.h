// SPDX-License-Identifier: Apache-2.0
// The part of the Jinja language that chat templates use, rendered as transformers renders it (trim_blocks,
// lstrip_blocks): texts, if, for, set, namespaces, the usual operators, tests, filters and methods of strings. What it
// does not know is an Error, in a branch that is not taken only where it cannot even be read. Total: any text gives an
// answer or an Error, in bounded time.
#pragma once

#include <memory>
#include <string>

#include "io/json.h"

namespace biqa {

class JinjaTemplate {
 public:
  /// Reads at most 1 MiB; `name` is what errors call it. Throws Error with name and line.
  JinjaTemplate(const std::string& text, std::string name);
  ~JinjaTemplate();
  JinjaTemplate(JinjaTemplate&&) noexcept;
  JinjaTemplate& operator=(JinjaTemplate&&) noexcept;
  JinjaTemplate(const JinjaTemplate&) = delete;
  JinjaTemplate& operator=(const JinjaTemplate&) = delete;

  /// The text for these variables, an object. Throws Error where the template asks for something unknown, for what
  /// depends on the date, or refuses (raise_exception).
  std::string render(const nlohmann::json& variables) const;

  struct Program;

 private:
  std::unique_ptr<const Program> program_;
};

}  // namespace biqa
