// SPDX-License-Identifier: Apache-2.0
// The meaning of texts as vectors of length 1, from a Hugging Face folder with a network of BERT's shape, such as
// all-MiniLM-L6-v2 (Reimers and Gurevych, "Sentence-BERT", 2019; Wang et al., "MiniLM", 2020).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "ops/text_encoder.h"
#include "semantic/wordpiece.h"

namespace biqa {

class SentenceEncoder {
 public:
  /// Reads config.json, vocab.txt and model.safetensors, and if they are there, tokenizer_config.json, modules.json with
  /// the pooling that it names, and sentence_bert_config.json. Without modules.json the pooling is the mean. Throws Error
  /// naming file and key for another kind of network, an unknown pooling, and missing or misshapen tensors. `threads`: as
  /// in DeviceChoice.
  static SentenceEncoder open(const std::filesystem::path& folder, int threads);

  /// [texts, width()], row by row, each of length 1. A row depends only on its text. Only the first most_tokens() tokens
  /// of a text count.
  std::vector<float> encode(std::span<const std::string_view> texts);

  std::int64_t width() const { return width_; }
  std::int64_t most_tokens() const { return most_tokens_; }
  const WordPiece& tokenizer() const { return tokenizer_; }

 private:
  enum class Pooling : std::uint8_t { mean, first_token };
  struct Parts;  // what open() reads

  explicit SentenceEncoder(Parts parts);
  void pool(std::span<const std::int64_t> boundaries, ConstView states, float* rows) const;

  WordPiece tokenizer_;
  std::unique_ptr<TextEncoder> network_;
  std::int64_t width_ = 0, most_tokens_ = 0;
  Pooling pooling_ = Pooling::mean;
};

/// Cosine of the angle between two vectors of length 1, as encode() gives them.
double cosine(std::span<const float> a, std::span<const float> b);

}  // namespace biqa
