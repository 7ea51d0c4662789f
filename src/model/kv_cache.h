// SPDX-License-Identifier: Apache-2.0
// Manages the pages of keys and values with reference counts. fork() shares the full pages of a prompt among the
// members of a group and copies only the last, partly filled page. The backend defines the layout of a page.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ops/ops.h"

namespace biqa {

/// The pages of one sequence and the number of tokens in them. Return them to their KvCache with release().
struct KvSequence {
  std::vector<std::int32_t> pages;
  std::int64_t length = 0;
};

class KvCache {
 public:
  /// A cache of `pages` pages for each of `stored_layers` layers. Training stores one layer at a time in the same
  /// pages; a rollout stores all layers. The decoder must outlive the cache.
  KvCache(Decoder& decoder, const KvLayout& layout, std::int64_t pages, std::int64_t stored_layers);

  /// Makes room for `tokens` more. Returns false and changes nothing if there are not enough free pages.
  [[nodiscard]] bool extend(KvSequence& sequence, std::int64_t tokens);
  /// Makes `child` a sequence with the same content. Returns false and changes nothing if there is no page for the
  /// copy.
  [[nodiscard]] bool fork(const KvSequence& parent, KvSequence& child);
  /// As fork(), but the partly filled page is a new one whose content the caller must write.
  [[nodiscard]] bool fork_to_write(const KvSequence& parent, KvSequence& child);
  /// Makes `child` the first `tokens` tokens of `parent`, which must fill whole pages. It takes no page.
  void share(const KvSequence& parent, std::int64_t tokens, KvSequence& child);
  void release(KvSequence& sequence);

  /// The place of a sequence's token `index`, which is packed row `row`.
  KvWrite place(const KvSequence& sequence, std::int64_t index, std::int64_t row) const {
    return {static_cast<std::int32_t>(row), sequence.pages[static_cast<std::size_t>(index / page_tokens_)],
            static_cast<std::int32_t>(index % page_tokens_)};
  }
  /// The first token of the page that contains token `index`.
  std::int64_t page_start(std::int64_t index) const { return index / page_tokens_ * page_tokens_; }
  KvStore& store() { return *store_; }
  std::int64_t free_pages() const { return static_cast<std::int64_t>(free_.size()); }
  std::int64_t pages() const { return pages_; }

  /// Number of pages for `tokens` tokens.
  static std::int64_t pages_for(std::int64_t tokens, const KvLayout& layout) {
    return (tokens + layout.page_tokens - 1) / layout.page_tokens;
  }
  std::int64_t pages_for(std::int64_t tokens) const { return (tokens + page_tokens_ - 1) / page_tokens_; }

 private:
  bool fork(const KvSequence& parent, KvSequence& child, bool copy);
  std::int32_t take();
  void give(std::int32_t page);

  Decoder& decoder_;
  std::int64_t page_tokens_, pages_;
  std::unique_ptr<KvStore> store_;
  std::vector<std::int32_t> free_;
  std::vector<std::int32_t> references_;
};

}  // namespace biqa
