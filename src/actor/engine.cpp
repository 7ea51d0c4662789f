// SPDX-License-Identifier: Apache-2.0
#include "actor/engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/error.h"

namespace biqa {

Engine::Engine(const QwenVl& model, Options options)
    : model_(model), options_(options), layout_(model.ops().kv_layout(head_shape(model.config().text))) {
  const ModelConfig& config = model.config();
  // A sampled image token would be mistaken for an image when the text is used in a prompt.
  for (const std::int64_t id :
       {config.vision_start, config.vision_end, config.vision_pad, config.image_token, config.video_token}) {
    if (id >= 0 && id < config.text.vocab) suppressed_.push_back(id);
  }
}

std::int64_t Engine::pages_needed(const GenerateRequest& request) const {
  return pages_needed(layout_, request.prompt->tokens(), static_cast<std::int64_t>(request.streams.size()),
                      request.sampling.max_new_tokens);
}

std::int64_t Engine::pages_needed(const KvLayout& layout, std::int64_t prompt, std::int64_t members,
                                  std::int64_t new_tokens) {
  return KvCache::pages_for(prompt, layout) +
         members * (KvCache::pages_for(prompt + new_tokens, layout) - prompt / layout.page_tokens);
}

std::string Engine::obstacle(const ModelConfig& config, const KvLayout& layout, std::int64_t kv_bytes,
                             std::int64_t prompt, std::int64_t members, std::int64_t new_tokens) {
  if (config.text.max_position > 0 && prompt + new_tokens > config.text.max_position) {
    return fmt::format(
        "prompt of {} tokens with {} new tokens is longer than the model's {} positions: shorten the prompt, "
        "or lower max_pixels or max_new_tokens",
        prompt, new_tokens, config.text.max_position);
  }
  const std::int64_t needed =
      pages_needed(layout, prompt, members, new_tokens) * layout.page_bytes * config.text.layers;
  if (needed > kv_bytes) {
    return fmt::format(
        "prompt of {} tokens with {} completions of {} new tokens needs {} bytes of KV cache, but "
        "rollout.kv_memory allows {}; raise it, or lower group_size or max_new_tokens",
        prompt, members, new_tokens, needed, kv_bytes);
  }
  return {};
}

std::string Engine::obstacle(const GenerateRequest& request) const {
  return obstacle(model_.config(), layout_, options_.kv_bytes, request.prompt->tokens(),
                  static_cast<std::int64_t>(request.streams.size()), request.sampling.max_new_tokens);
}

void Engine::submit(GenerateRequest request) {
  CHECK(!request.prompt->ids.empty() && !request.streams.empty() && request.sampling.max_new_tokens > 0);
  CHECK(!request.shares_beginning || request.prompt->features.empty());
  if (const std::string why = obstacle(request); !why.empty()) fail("{}", why);
  if (request.urgent)
    waiting_.push_front(std::move(request));
  else
    waiting_.push_back(std::move(request));
}

void Engine::make_room() {
  // The next requests may need its pages, or have another adapter.
  if (beginning_) cache_->release(beginning_->cache);
  beginning_.reset();
  std::int64_t wanted = 0;
  for (const GenerateRequest& request : waiting_) wanted += pages_needed(request);
  const std::int64_t layers = model_.config().text.layers;
  const std::int64_t allowed = options_.kv_bytes / (layout_.page_bytes * layers);
  wanted = std::min(wanted, allowed);
  if (cache_ != nullptr && cache_->pages() >= wanted) return;
  cache_.reset();
  cache_ = std::make_unique<KvCache>(model_.make_cache(wanted, layers));
}

std::vector<Engine::Admitted> Engine::admit() {
  // Without running sequences the cache is empty. So a cache for all waiting requests, within the limit, may replace
  // it.
  if (running_.empty()) make_room();
  std::vector<Admitted> admitted;
  std::int64_t rows = 0;
  while (!waiting_.empty()) {
    GenerateRequest& request = waiting_.front();
    const std::int64_t prompt = request.prompt->tokens();
    if (!admitted.empty() && rows + prompt > options_.prefill_rows) break;
    // The members' pages are taken after the prefill; until then they are only counted.
    std::int64_t promised = 0;
    for (const Admitted& other : admitted)
      promised += pages_needed(other.request) - cache_->pages_for(other.request.prompt->tokens());
    if (pages_needed(request) + promised > cache_->free_pages()) break;
    Admitted next{std::move(request), {}};
    waiting_.pop_front();
    if (next.request.shares_beginning) take_beginning(next);
    CHECK(cache_->extend(next.cache, prompt - next.cached));
    rows += prompt - next.cached;
    admitted.push_back(std::move(next));
  }
  return admitted;
}

void Engine::take_beginning(Admitted& admitted) {
  if (!beginning_) return;
  const std::vector<std::int64_t>& ids = admitted.request.prompt->ids;
  // The last token is computed always, because the first new token comes from its hidden state.
  const auto last = ids.end() - 1;
  const auto agreed = std::mismatch(ids.begin(), last, beginning_->ids.begin(), beginning_->ids.end()).first;
  const std::int64_t shared = cache_->page_start(agreed - ids.begin());
  cache_->share(beginning_->cache, shared, admitted.cache);
  admitted.cached = shared;
  if (shared == beginning_->cache.length) return;
  KvSequence kept;
  cache_->share(beginning_->cache, shared, kept);
  cache_->release(beginning_->cache);
  beginning_->cache = std::move(kept);
  beginning_->ids.resize(static_cast<std::size_t>(shared));
}

void Engine::keep_beginning(const Admitted& admitted) {
  if (beginning_ || !admitted.request.shares_beginning) return;
  const std::vector<std::int64_t>& ids = admitted.request.prompt->ids;
  const std::int64_t whole = cache_->page_start(admitted.request.prompt->tokens());
  beginning_.emplace();
  beginning_->ids.assign(ids.begin(), ids.begin() + whole);
  cache_->share(admitted.cache, whole, beginning_->cache);
}

SampleRequest Engine::next_draw(const Running& running) {
  const SamplingParameters& s = running.sampling;
  return {s.temperature, s.top_k, s.top_p, s.greedy,
          running.stream.uniform(static_cast<std::uint64_t>(running.drawn))};
}

bool Engine::accept(Running& running, const SampledToken& token) const {
  running.result.ids.push_back(token.id);
  running.result.logp.push_back(token.logp);
  running.result.entropy.push_back(token.entropy);
  const auto& ends = model_.config().end_tokens;
  running.result.ended =
      !running.sampling.ignore_end && std::find(ends.begin(), ends.end(), token.id) != ends.end();
  return running.result.ended ||
         static_cast<std::int64_t>(running.result.ids.size()) == running.sampling.max_new_tokens;
}

BatchBuilder Engine::pack(const std::vector<Admitted>& admitted) {
  BatchBuilder builder(*cache_);
  for (const auto& running : running_) {
    const std::int32_t position = running->next_position++;
    const std::int64_t cached = running->length++;
    const auto known = static_cast<std::int64_t>(running->result.ids.size());
    if (known < running->drawn) {
      builder.pick(
          builder.add_sampled(*pending_->tokens, running->last_pick, position, cached, running->cache));
    } else {
      const std::int64_t id = running->result.ids.back();
      builder.pick(builder.add_tokens(std::span(&id, 1), position, cached, running->cache));
    }
  }
  for (const Admitted& a : admitted) {
    const std::int64_t tokens = a.request.prompt->tokens();
    const std::int64_t output =
        builder.add_prompt(*a.request.prompt, a.cached, tokens - a.cached, a.cache, 1);
    for (std::size_t m = 0; m < a.request.streams.size(); ++m) builder.pick(output);
    statistics_.prompt_tokens += tokens;
    statistics_.shared_prompt_tokens += a.cached;
  }
  return builder;
}

void Engine::start_members(Admitted& admitted) {
  const PromptInput& prompt = *admitted.request.prompt;
  for (std::size_t m = 0; m < admitted.request.streams.size(); ++m) {
    auto member = std::make_shared<Running>(Running{{},
                                                    prompt.tokens(),
                                                    prompt.next_position,
                                                    admitted.request.sampling,
                                                    admitted.request.streams[m],
                                                    {}});
    member->result.tag = admitted.request.tag;
    member->result.member = m;
    CHECK(cache_->fork(admitted.cache, member->cache));
    CHECK(cache_->extend(member->cache, member->sampling.max_new_tokens));
    running_.push_back(std::move(member));
  }
  keep_beginning(admitted);
  cache_->release(admitted.cache);
}

Engine::Pass Engine::start_pass(std::vector<Admitted>& admitted) {
  Ops& ops = model_.ops();
  Decoder& decoder = model_.decoder();
  const std::unique_ptr<BatchPlan> plan = decoder.plan(pack(admitted).batch());
  Tensor hidden =
      ops.memory().allocate(ops.compute_type(), plan->outputs, model_.config().text.hidden, "activations");
  decoder.forward(*plan, cache_->store(), adapter_.get(), hidden.view(), {});
  for (Admitted& a : admitted) start_members(a);
  std::vector<SampleRequest> draws;
  draws.reserve(running_.size());
  for (const auto& running : running_) {
    running->last_pick = static_cast<std::int64_t>(draws.size());
    draws.push_back(next_draw(*running));
    ++running->drawn;
  }
  Pass pass{decoder.sample(*plan, hidden.view(), draws, suppressed_), running_};
  ++statistics_.iterations;
  // The limit is known before the tokens are.
  std::erase_if(running_, [](const auto& r) { return r->drawn == r->sampling.max_new_tokens; });
  return pass;
}

void Engine::settle(Pass pass, std::vector<Generated>& finished) {
  const std::span<const SampledToken> tokens = pass.tokens->wait();
  for (std::size_t i = 0; i < pass.rows.size(); ++i) {
    Running& running = *pass.rows[i];
    if (running.finished) continue;
    ++statistics_.generated_tokens;
    if (!accept(running, tokens[i])) continue;
    running.finished = true;
    cache_->release(running.cache);
    finished.push_back(std::move(running.result));
  }
  std::erase_if(running_, [](const auto& running) { return running->finished; });
}

void Engine::iterate(const std::function<void(Generated&&)>& done) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<Generated> finished;
  const auto settle_pending = [&] {
    Pass pass = std::move(*pending_);
    pending_.reset();
    settle(std::move(pass), finished);
  };
  // Without a sequence to go on with, its tokens are all that is left to wait for, and their cache may then be replaced.
  if (pending_ && (running_.empty() || pending_->tokens->ready())) settle_pending();
  std::vector<Admitted> admitted = admit();
  if (!running_.empty() || !admitted.empty()) {
    Pass pass = start_pass(admitted);
    if (pending_) settle_pending();
    pending_ = std::move(pass);
    if (pending_->tokens->ready()) settle_pending();
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  (admitted.empty() ? statistics_.decode_seconds : statistics_.prefill_seconds) += seconds;
  for (Generated& result : finished) done(std::move(result));
}

void Engine::run(const std::function<void(Generated&&)>& done, const std::function<void(bool)>& before_each) {
  const auto idle = [this] { return waiting_.empty() && running_.empty() && !pending_; };
  for (;;) {
    if (before_each) before_each(idle());
    if (idle()) return;
    iterate(done);
  }
}

}  // namespace biqa
