// SPDX-License-Identifier: Apache-2.0
// The questions of the reasoning reward about the meaning of texts. The layer above answers them, because an answer may
// need a model.
#pragma once

#include <optional>
#include <string_view>

namespace biqa {

class TextJudge {
 public:
  TextJudge() = default;
  virtual ~TextJudge() = default;
  TextJudge(const TextJudge&) = delete;
  TextJudge& operator=(const TextJudge&) = delete;

  /// In 0 … 1: how much closer in meaning `text` is to the human text of its image than to those of other images. 1: the
  /// same meaning; 0: no closer than by chance.
  virtual double similarity(std::string_view human_text, std::string_view text) = 0;
  /// In 0 … 1: agreement on what is good and bad about the image. Nothing if the human text says nothing about that.
  virtual std::optional<double> polarity(std::string_view human_text, std::string_view text) = 0;
};

}  // namespace biqa
