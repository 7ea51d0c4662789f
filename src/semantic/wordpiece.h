// SPDX-License-Identifier: Apache-2.0
// BERT's tokenizer: basic tokenization, then WordPiece (Devlin et al., 2018). It gives the ids of BertTokenizerFast of
// transformers, except for some characters that are newer than its tables of Unicode: with libutf8proc 2.8 and tokenizers
// 0.22, 568 of 1,112,063 characters, all of scripts and marks that no text about images uses.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace biqa {

class WordPiece {
 public:
  /// Reads vocab.txt (one token a line; the line number from 0 is the id) and, if there, tokenizer_config.json of a
  /// model folder. Throws Error naming the file for a vocabulary without the special tokens, with a token twice, or with
  /// another number of tokens than `vocabulary`, and for a tokenizer of another kind.
  static WordPiece open(const std::filesystem::path& folder, std::int64_t vocabulary);

  /// Ids of [CLS] text [SEP]; of a longer text, the first `most` - 1 ids and [SEP]. `most` is at least 2 (CHECK). Bytes
  /// that are not UTF-8 count as U+FFFD.
  std::vector<std::int64_t> encode(std::string_view text, std::size_t most) const;

  /// The most tokens of a text by tokenizer_config.json; 0: not stated.
  std::int64_t model_max_length() const { return model_max_length_; }

 private:
  void add_text(std::string_view text, std::vector<std::int64_t>& ids) const;
  void add_word(std::string_view word, std::vector<std::int64_t>& ids) const;
  /// The special token with which `text` begins; empty: none.
  std::string_view special_at(std::string_view text) const;

  std::unordered_map<std::string, std::int64_t> ids_;
  bool lower_case_ = true, strip_accents_ = true, split_cjk_ = true;
  std::int64_t model_max_length_ = 0;
  std::int64_t unknown_ = 0, first_ = 0, last_ = 0;  // [UNK], [CLS], [SEP]
};

}  // namespace biqa
