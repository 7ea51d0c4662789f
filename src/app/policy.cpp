// SPDX-License-Identifier: Apache-2.0
#include "app/policy.h"

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "core/error.h"

namespace biqa {
namespace {

std::shared_ptr<Ops> open_backend(const PolicyOptions& options) {
  if (options.device == "cuda") {
    fail("cannot use device cuda: the CUDA backend does not run the whole network yet; use device cpu");
  }
  if (options.device != "cpu") fail_usage("unknown device {}: must be cpu or cuda", options.device);
  return make_cpu_ops(options.dtype, options.threads);
}

}  // namespace

int threads_per_rank(int configured, int ranks) {
  if (configured > 0) return configured;
  const auto from_environment = [](const char* name) {
    const char* text = std::getenv(name);
    return text == nullptr ? 0 : std::atoi(text);
  };
  int local = from_environment("OMPI_COMM_WORLD_LOCAL_SIZE");
  if (local <= 0) local = ranks;
  const int asked = from_environment("OMP_NUM_THREADS");
  const int cores = asked > 0 ? asked : static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, cores / local);
}

Policy Policy::open(const PolicyOptions& options) {
  Policy policy;
  if (!std::filesystem::is_directory(options.path)) {
    fail("cannot open model {}: no such folder; name a checkpoint folder in Hugging Face format",
         options.path.string());
  }
  policy.ops = open_backend(options);
  policy.tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(options.path));
  policy.model = QwenVl::load(options.path, policy.ops, {options.backward, true});
  const ModelConfig& config = policy.model->config();
  policy.chat = find_chat_ids(
      *policy.tokenizer, {config.text.vocab, config.vision_start, config.vision_end, config.image_token});
  PreprocessConfig preprocess = PreprocessConfig::load(options.path);
  if (preprocess.patch != config.vision.patch || preprocess.merge != config.vision.merge ||
      preprocess.temporal != config.vision.temporal) {
    fail(
        "preprocessing of {} does not fit its network: patch {}, merge {}, temporal {} against {}, {}, {}; "
        "mend the folder",
        options.path.string(), preprocess.patch, preprocess.merge, preprocess.temporal, config.vision.patch,
        config.vision.merge, config.vision.temporal);
  }
  if (options.max_pixels > 0) preprocess.max_pixels = std::min(preprocess.max_pixels, options.max_pixels);
  if (options.min_pixels > 0) preprocess.min_pixels = std::max(preprocess.min_pixels, options.min_pixels);
  if (preprocess.min_pixels > preprocess.max_pixels) {
    fail_usage(
        "min_pixels {} is above max_pixels {} (the checkpoint's own limits count too): change "
        "model.min_pixels or "
        "model.max_pixels",
        preprocess.min_pixels, preprocess.max_pixels);
  }
  policy.pictures = std::make_unique<PictureEncoder>(*policy.model, preprocess, options.feature_cache_bytes);
  return policy;
}

std::shared_ptr<const PromptInput> Policy::prompt(const std::optional<std::string>& system,
                                                  std::span<const EncodedPicture> encoded,
                                                  std::string_view user) const {
  return build_prompt(model->config(), *tokenizer, chat, system, encoded, user);
}

}  // namespace biqa
