// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

namespace biqa {

KvCache::KvCache(Decoder& decoder, const KvLayout& layout, std::int64_t pages, std::int64_t stored_layers)
    : decoder_(decoder),
      page_tokens_(layout.page_tokens),
      pages_(pages),
      store_(decoder.make_kv(pages, stored_layers)),
      references_(static_cast<std::size_t>(pages), 0) {
  for (std::int64_t page = pages; page-- > 0;) free_.push_back(static_cast<std::int32_t>(page));
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

bool KvCache::fork(const KvSequence& parent, KvSequence& child) {
  return fork(parent, child, true);
}

bool KvCache::fork_to_write(const KvSequence& parent, KvSequence& child) {
  return fork(parent, child, false);
}

void KvCache::share(const KvSequence& parent, std::int64_t tokens, KvSequence& child) {
  CHECK(child.pages.empty());
  CHECK(tokens % page_tokens_ == 0 && tokens <= parent.length) << tokens;
  child.length = tokens;
  child.pages.assign(parent.pages.begin(),
                     parent.pages.begin() + static_cast<std::ptrdiff_t>(tokens / page_tokens_));
  for (const std::int32_t page : child.pages) ++references_[static_cast<std::size_t>(page)];
}

bool KvCache::fork(const KvSequence& parent, KvSequence& child, bool copy) {
  const std::int64_t shared = page_start(parent.length);
  const bool partial = parent.length != shared;
  if (partial && free_.empty()) return false;
  share(parent, shared, child);
  if (!partial) return true;
  const auto full = child.pages.size();
  child.length = parent.length;
  child.pages.push_back(take());
  if (copy) decoder_.copy_page(*store_, parent.pages[full], child.pages[full]);
  return true;
}

void KvCache::release(KvSequence& sequence) {
  for (const std::int32_t page : sequence.pages) give(page);
  sequence = {};
}

}  // namespace biqa
