// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

namespace biqa {
namespace {
HeadShape head_shape(const ModelConfig& config) {
  return {config.text.heads, config.text.kv_heads, config.text.head_dim};
}
}  // namespace

KvCache::KvCache(const ModelConfig& config, DType type, std::int64_t pages, std::int64_t stored_layers)
    : shape_(head_shape(config)),
      type_(type),
      pages_(pages),
      stored_layers_(stored_layers),
      page_elements_(kv_page_elements(shape_)),
      storage_(type, stored_layers, pages * page_elements_, "kv_cache"),
      references_(static_cast<std::size_t>(pages), 0) {
  storage_.zero();  // touched now: later there might be no memory left
  for (std::int64_t page = pages; page-- > 0;) free_.push_back(static_cast<std::int32_t>(page));
}

std::int64_t KvCache::page_bytes(const ModelConfig& config, DType type, std::int64_t stored_layers) {
  return stored_layers * kv_page_elements(head_shape(config)) * static_cast<std::int64_t>(size_of(type));
}

std::int32_t KvCache::take() {
  const std::int32_t page = free_.back();
  free_.pop_back();
  references_[static_cast<std::size_t>(page)] = 1;
  return page;
}

void KvCache::give(std::int32_t page) {
  std::int32_t& count = references_[static_cast<std::size_t>(page)];
  CHECK_GT(count, 0) << "page " << page << " released twice";
  if (--count == 0) free_.push_back(page);
}

bool KvCache::extend(KvSequence& sequence, std::int64_t tokens) {
  const std::int64_t wanted =
      pages_for(sequence.length + tokens) - static_cast<std::int64_t>(sequence.pages.size());
  if (wanted > free_pages()) return false;
  for (std::int64_t i = 0; i < wanted; ++i) sequence.pages.push_back(take());
  sequence.length += tokens;
  return true;
}

bool KvCache::fork(const KvSequence& parent, KvSequence& child, Ops* copy) {
  CHECK(child.pages.empty());
  const auto full = static_cast<std::size_t>(parent.length / kPageTokens);
  const bool partial = parent.length % kPageTokens != 0;
  if (partial && free_.empty()) return false;
  child.length = parent.length;
  child.pages.assign(parent.pages.begin(), parent.pages.begin() + static_cast<std::ptrdiff_t>(full));
  for (const std::int32_t page : child.pages) ++references_[static_cast<std::size_t>(page)];
  if (!partial) return true;
  child.pages.push_back(take());
  if (copy != nullptr) {
    for (std::int64_t l = 0; l < stored_layers_; ++l)
      copy->copy_page(layer(l), parent.pages[full], child.pages[full]);
  }
  return true;
}

void KvCache::release(KvSequence& sequence) {
  for (const std::int32_t page : sequence.pages) give(page);
  sequence = {};
}

KvPages KvCache::layer(std::int64_t index) {
  const View row = storage_.view().row_range(index % stored_layers_, 1);
  return {row.data(), type_, page_elements_};
}

}  // namespace biqa
