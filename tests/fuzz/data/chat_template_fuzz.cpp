// SPDX-License-Identifier: Apache-2.0
// A model folder's chat template, as a file of its own and, where the input looks like JSON, inside one.
#include "data/chat_template.h"

#include <glog/logging.h>

#include <algorithm>
#include <memory>

#include "fuzz/harness.h"

namespace biqa::fuzz {
namespace {

void check_template(const ChatTemplate& chat) {
  using Part = ChatTemplate::Part;
  for (const bool system : {false, true}) {
    for (const std::size_t images : {0, 1, 2}) {
      std::vector<Part> parts;
      if (!accepted([&] { parts = chat.parts(system, images); })) continue;
      const auto count = [&](Part::Kind kind) {
        return std::count_if(parts.begin(), parts.end(), [&](const Part& part) { return part.kind == kind; });
      };
      CHECK_EQ(count(Part::Kind::system), system ? 1 : 0);
      CHECK_EQ(count(Part::Kind::user), 1);
    }
  }
}

void run(std::string_view input) {
  static const Folder folder;
  const char* name = input.starts_with("{\"") ? "tokenizer_config.json" : "chat_template.jinja";
  folder.write(name, input);
  std::shared_ptr<const ChatTemplate> chat;
  accepted([&] { chat = ChatTemplate::find(folder.path()); });
  folder.remove(name);
  if (chat != nullptr) check_template(*chat);
}

const Registered kRegistered("chat_template", run);

}  // namespace
}  // namespace biqa::fuzz
