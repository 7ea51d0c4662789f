// SPDX-License-Identifier: Apache-2.0
// Keys and values in pages of 16 tokens with reference counts: fork() shares the full pages of a prompt
// between the members of a group and copies only the last, partly filled one.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"
#include "ops/ops.h"

namespace biqa {

/// The pages of one sequence and how many tokens they hold. Owned by a KvCache; give back with release().
struct KvSequence {
  std::vector<std::int32_t> pages;
  std::int64_t length = 0;
};

class KvCache {
 public:
  /// Room for `pages` pages of each of `stored_layers` layers. Training stores one layer and overwrites it
  /// layer by layer; a rollout stores them all.
  KvCache(const ModelConfig& config, DType type, std::int64_t pages, std::int64_t stored_layers);

  /// Makes room for `tokens` more; false, changing nothing, when the pages do not suffice.
  [[nodiscard]] bool extend(KvSequence& sequence, std::int64_t tokens);
  /// A second sequence with the same content. False, changing nothing, when there is no page for the copy.
  /// Without `copy` the partly filled page gets a fresh one whose content the caller writes.
  [[nodiscard]] bool fork(const KvSequence& parent, KvSequence& child, Ops* copy);
  void release(KvSequence& sequence);

  KvPages layer(std::int64_t index);
  DType type() const { return type_; }
  std::int64_t free_pages() const { return static_cast<std::int64_t>(free_.size()); }
  std::int64_t pages() const { return pages_; }
  const HeadShape& shape() const { return shape_; }
  static std::int64_t pages_for(std::int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }
  /// Bytes of one page over all stored layers.
  static std::int64_t page_bytes(const ModelConfig& config, DType type, std::int64_t stored_layers);

 private:
  std::int32_t take();
  void give(std::int32_t page);

  HeadShape shape_;
  DType type_;
  std::int64_t pages_, stored_layers_, page_elements_;
  Tensor storage_;  // [stored_layers, pages · page_elements]
  std::vector<std::int32_t> free_;
  std::vector<std::int32_t> references_;
};

}  // namespace biqa
