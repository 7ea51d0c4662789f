// SPDX-License-Identifier: Apache-2.0
// Options of sampling, with their defaults. The configuration takes its defaults from here.
#pragma once

#include <cstdint>

#include "data/prompts.h"
#include "ops/decoder.h"

namespace biqa {

struct SamplingParameters {
  float temperature = SampleRequest{}.temperature;
  std::int32_t top_k = SampleRequest{}.top_k;
  float top_p = SampleRequest{}.top_p;
  bool greedy = SampleRequest{}.greedy;
  std::int64_t max_new_tokens = 1024;
  bool ignore_end = false;  ///< always generate max_new_tokens (benchmarks)
};

struct EngineOptions {
  std::int64_t kv_bytes = std::int64_t{4} << 30;
  std::int64_t prefill_rows = 2048;  ///< maximum of prompt tokens per iteration (one prompt always fits)
};

struct RolloutOptions {
  std::int64_t group_size = 4;
  SamplingParameters sampling;
  std::int64_t stage2_max_new_tokens = 64;
  PromptTexts prompts;
  bool stage2 = true;
  bool stage2_with_reasoning = false;  ///< {caption} is replaced by caption and reasoning
  bool strip_ratings = true;           ///< leak guard: the caption loses numbers that look like a rating
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  std::int64_t policy_version = 0;
  std::uint64_t adapter_digest = 0;
};

}  // namespace biqa
