// SPDX-License-Identifier: Apache-2.0
// Qwen2's tokenizer: byte-level BPE with a fixed split into words, NFC, and added tokens. Ids equal those of
// Hugging Face's `tokenizers` for the same files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace biqa {

/// An immutable tokenizer. Copies share their tables. Several threads may call any member at once.
class Tokenizer {
 public:
  /// Whether the text of an added token ("<|im_end|>", "<tool_call>", …) stands for that token or is plain text.
  enum class AddedTokens { recognise, plain_text };

  /// Reads `tokenizer.json`, or without it `vocab.json`, `merges.txt` and `tokenizer_config.json`. Throws Error naming
  /// file and field if something is damaged or the pipeline is not Qwen2's. Normaliser, split expression, decoder and
  /// options of the BPE model are all compared.
  static Tokenizer load(const std::filesystem::path& directory);

  /// The ids of `utf8`, without any token added before or after. Each maximal invalid sequence counts as one U+FFFD.
  std::vector<std::int64_t> encode(std::string_view utf8, AddedTokens added = AddedTokens::recognise) const;

  /// The text of `ids`, always valid UTF-8. Bytes that do not decode become U+FFFD, as in Hugging Face's decoder.
  /// Unknown ids (padding rows of the embedding, negative numbers) are skipped. With `skip_special`, added tokens that
  /// the file marks as `special` are skipped too.
  std::string decode(std::span<const std::int64_t> ids, bool skip_special = false) const;

  /// The bytes that one token adds to a text, possibly only part of a character. Empty for an unknown id.
  std::string bytes_of(std::int64_t id) const;

  /// The id of a token by its spelling in the file: an added token ("<|im_end|>") or an ordinary token in the byte
  /// alphabet ("Ġthe" is " the").
  std::optional<std::int64_t> id_of(std::string_view token) const;

  /// The largest id plus one. The model may have more rows (padding), never fewer.
  std::int64_t size() const;

  /// Whether `id` is an added token that `decode(…, true)` leaves out.
  bool is_special(std::int64_t id) const;

 private:
  struct Tables;
  explicit Tokenizer(std::shared_ptr<const Tables> tables);

  std::shared_ptr<const Tables> tables_;
};

}  // namespace biqa
