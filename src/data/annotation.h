// SPDX-License-Identifier: Apache-2.0
// Human annotation of an image: the fields of a manifest row that rewards and evaluations use. Samples, groups,
// messages between ranks and step dumps carry these fields as one value.
#pragma once

#include <string>
#include <type_traits>

namespace biqa {

struct Annotation {
  double score = 0;        ///< human score on 1..5
  std::string human_text;  ///< empty if there is none
};

/// Calls visit(name, field) for each field, in the order of messages; the names are those of step dumps.
template <typename Fields, typename Visit>
requires std::is_same_v<std::remove_const_t<Fields>, Annotation>
void for_each_field(Fields& annotation, Visit&& visit) {
  visit("score", annotation.score);
  visit("human_text", annotation.human_text);
}

}  // namespace biqa
