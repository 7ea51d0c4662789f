// SPDX-License-Identifier: Apache-2.0
// Continuous batching: every iteration runs the decoder once on one token of each running sequence and the prompts of
// newly admitted requests. The result of a sequence never depends on the other sequences in the batch.
//
// If the backend's calls return before their work has finished, the engine starts a pass before it has seen the tokens
// of the previous pass. So the device need not wait for the host. A sequence that has ended is noticed one pass late;
// its last row is then computed in vain.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "actor/options.h"
#include "core/random.h"
#include "model/qwen_vl.h"

namespace biqa {

/// A prompt with several members, each with its own random stream. The prompt is prefilled once.
struct GenerateRequest {
  std::shared_ptr<const PromptInput> prompt;
  std::vector<RandomStream> streams;  ///< one per member; token i uses draw i
  SamplingParameters sampling;
  std::uint64_t tag = 0;  ///< set by the caller and returned in Generated
  bool urgent = false;    ///< is placed before the waiting requests
  /// The prompt is text and probably begins as other prompts do. While anything runs, the engine keeps the keys and values of
  /// this beginning, in whole pages, and computes them once.
  bool shares_beginning = false;
};

/// A finished completion.
struct Generated {
  std::uint64_t tag = 0;
  std::size_t member = 0;
  std::vector<std::int64_t> ids;  ///< including the end token, if any
  std::vector<float> logp;        ///< at the sampling temperature, full softmax
  std::vector<float> entropy;
  bool ended = false;  ///< by an end token, not by the length limit
};

struct EngineStatistics {
  std::int64_t prompt_tokens = 0, generated_tokens = 0, iterations = 0;
  std::int64_t shared_prompt_tokens = 0;  ///< of `prompt_tokens`: taken from the kept beginning, not computed
  double prefill_seconds = 0, decode_seconds = 0;  ///< an iteration that carries a prompt counts as prefill
};

class Engine {
 public:
  using Options = EngineOptions;
  Engine(const QwenVl& model, Options options);

  void set_adapter(std::shared_ptr<const PackedAdapter> adapter) { adapter_ = std::move(adapter); }
  /// The reason why a request can never run: it needs more positions than the model has, or more pages than the cache.
  /// Empty if it can run. The request is a prompt of `prompt` tokens with `members` completions of `new_tokens` tokens
  /// each.
  static std::string obstacle(const ModelConfig& config, const KvLayout& layout, std::int64_t kv_bytes,
                              std::int64_t prompt, std::int64_t members, std::int64_t new_tokens);
  /// Number of pages for such a request.
  static std::int64_t pages_needed(const KvLayout& layout, std::int64_t prompt, std::int64_t members,
                                   std::int64_t new_tokens);
  std::string obstacle(const GenerateRequest& request) const;
  /// Adds a request to the queue. Throws Error if it can never run.
  void submit(GenerateRequest request);
  /// Runs until no request is waiting or running. `done` receives each finished completion. `before_each` is called
  /// before every iteration, and once more when no request is left. Both may submit requests. With `idle` no request is
  /// waiting or running, so `before_each` may block.
  void run(const std::function<void(Generated&&)>& done,
           const std::function<void(bool idle)>& before_each = {});
  const EngineStatistics& statistics() const { return statistics_; }
  void reset_statistics() { statistics_ = {}; }

 private:
  struct Running {
    KvSequence cache;
    std::int64_t length = 0;  ///< tokens in the cache
    std::int32_t next_position = 0;
    SamplingParameters sampling;
    RandomStream stream;
    Generated result;
    std::int64_t drawn = 0;      ///< tokens asked for; those of the last pass may not be in `result` yet
    std::int64_t last_pick = 0;  ///< of the last pass
    bool finished = false;
  };
  /// A pass whose tokens the device may still be computing.
  struct Pass {
    std::unique_ptr<SampledTokens> tokens;
    std::vector<std::shared_ptr<Running>> rows;  ///< one per token
  };
  struct Admitted {
    GenerateRequest request;
    KvSequence cache;
    std::int64_t cached = 0;  ///< tokens of the prompt that are computed already
  };
  /// The kept beginning that prompts share, in whole pages.
  struct Beginning {
    std::vector<std::int64_t> ids;
    KvSequence cache;
  };
  std::int64_t pages_needed(const GenerateRequest& request) const;
  void make_room();
  std::vector<Admitted> admit();
  /// Gives an admitted prompt the pages of the kept beginning up to the first token that differs. The kept beginning
  /// becomes as short as this part.
  void take_beginning(Admitted& admitted);
  /// Keeps the whole pages of a computed prompt with `shares_beginning`, if no beginning is kept yet.
  void keep_beginning(const Admitted& admitted);
  /// Turns the members of an admitted prompt into running sequences.
  void start_members(Admitted& admitted);
  /// The iteration's rows and picks: one token of each running sequence, then the admitted prompts. All members of a
  /// prompt use its last hidden state.
  BatchBuilder pack(const std::vector<Admitted>& admitted);
  /// Starts a pass over what is running and admitted. Then settles the pass before it, and this one if it is ready.
  void iterate(const std::function<void(Generated&&)>& done);
  Pass start_pass(std::vector<Admitted>& admitted);
  /// Waits for the pass and gives its tokens to the sequences. A sequence may have ended in the pass before; its token is
  /// dropped. Appends the completions that are finished.
  void settle(Pass pass, std::vector<Generated>& finished);
  bool accept(Running& running, const SampledToken& token) const;
  static SampleRequest next_draw(const Running& running);

  const QwenVl& model_;
  Options options_;
  std::shared_ptr<const PackedAdapter> adapter_;
  std::vector<std::int64_t> suppressed_;
  KvLayout layout_;
  std::unique_ptr<KvCache> cache_;
  std::optional<Beginning> beginning_;
  std::deque<GenerateRequest> waiting_;
  std::vector<std::shared_ptr<Running>> running_;  // all that get another token
  std::optional<Pass> pending_;                    // the last pass, unless it is settled
  EngineStatistics statistics_;
};

}  // namespace biqa
