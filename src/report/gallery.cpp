// SPDX-License-Identifier: Apache-2.0
#include "report/gallery.h"

#include <fmt/format.h>

#include <string_view>

#include "core/error.h"
#include "report/answers.h"
#include "report/html.h"
#include "report/thumbnails.h"

namespace biqa {
namespace {

std::string picture_of(const GalleryEntry& entry) {
  try {
    return embedded_picture(entry.file, "Picture " + entry.name);
  } catch (const Error& error) {  // it was rated, and then moved or changed
    return missing_picture(error.what());
  }
}

}  // namespace

std::string gallery_begin(bool caption_only) {
  return page_begin(
             "Rated pictures",
             paragraph("Ratings from 1 (bad) to 5 (excellent), with the model's caption and reasoning.")) +
         answer_legend(false, !caption_only) + "<div class=\"cards\">\n";
}

std::string gallery_card(const GalleryEntry& entry, bool caption_only) {
  AnswerCard card;
  card.title = std::filesystem::path(entry.name).filename().string();
  card.subtitle = fmt::format("{:.2f} s", entry.seconds);
  card.picture = picture_of(entry);
  card.rating = entry.rating;
  card.caption_rating = entry.caption_rating;
  card.has_rating = !caption_only;
  card.has_score = false;
  if (!entry.parse_ok) card.flags.emplace_back("the answer has no rating");
  if (entry.out_of_scale) card.flags.emplace_back("out of scale");
  card.texts = {{"Caption", entry.caption}, {"Reasoning", entry.reasoning}};
  if (card.title != entry.name) card.texts.emplace_back("File", entry.name);
  return answer_card(card);
}

std::string gallery_end(std::int64_t answers, const std::vector<std::string>& problems,
                        const std::string& program) {
  std::string html = "</div>\n";
  if (!problems.empty()) html += "<section><h2>Not rated</h2>\n" + note_list(problems) + "</section>\n";
  return html + page_end(fmt::format("Pictures with an answer: {}. Without a rating: {}. Made by {}", answers,
                                     problems.size(), program));
}

}  // namespace biqa
