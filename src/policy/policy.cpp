// SPDX-License-Identifier: Apache-2.0
#include "policy/policy.h"

#include <algorithm>

#include "comm/agreement.h"
#include "comm/launcher.h"
#include "core/error.h"
#include "learner/checkpoint_store.h"
#include "model/frozen_parts.h"
#include "ops/backends.h"

namespace biqa {
namespace {

void check_folder(const std::filesystem::path& model) {
  if (!std::filesystem::is_directory(model)) {
    fail("cannot open model {}: no such folder; name a model folder in Hugging Face format", model.string());
  }
}

}  // namespace

Lora read_adapter_for(const std::filesystem::path& model, const std::filesystem::path& adapter) {
  check_folder(model);
  return read_any_adapter(adapter, ModelConfig::load(model));
}

void Policy::open_parts(const PolicyOptions& options) {
  check_folder(options.path);
  const DeviceChoice choice{options.device, options.dtype, options.threads, number_from(kLocalRankVariables),
                            options.vision_attention};
  if (choice.vision_attention != VisionAttentionBy::own) {
    const VisionConfig vision = ModelConfig::load(options.path).vision;
    check_vision_attention(choice, vision.hidden / vision.heads);
  }
  ops = make_ops(choice);
  tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(options.path));
}

void Policy::complete(const PolicyOptions& options, bool tell) {
  const ModelConfig& config = model->config();
  chat = find_chat_ids(*tokenizer,
                       {config.text.vocab, config.vision_start, config.vision_end, config.image_token});
  chat.form = find_chat_template(options.path, tell);
  PreprocessConfig preprocess = PreprocessConfig::load(options.path);
  if (preprocess.patch != config.vision.patch || preprocess.merge != config.vision.merge ||
      preprocess.temporal != config.vision.temporal) {
    fail(
        "preprocessing of {} does not fit its network: patch {}, merge {}, temporal {} instead of {}, {}, "
        "{}; correct the folder",
        options.path.string(), preprocess.patch, preprocess.merge, preprocess.temporal, config.vision.patch,
        config.vision.merge, config.vision.temporal);
  }
  preprocess.limit(options.pixels);
  // The folder's own limits are not checked.
  const bool asked = options.pixels.min > 0 || options.pixels.max > 0;
  if (asked && preprocess.min_pixels > preprocess.max_pixels) {
    fail_usage(
        "min_pixels {} is above max_pixels {} (the limits of the model folder also apply): change "
        "model.min_pixels or model.max_pixels",
        preprocess.min_pixels, preprocess.max_pixels);
  }
  pictures = std::make_unique<PictureEncoder>(*model, preprocess, options.feature_cache_bytes);
}

Policy Policy::open(const PolicyOptions& options) {
  Policy policy;
  policy.open_parts(options);
  policy.model =
      QwenVl::load(options.path, policy.ops, {options.backward, true, nullptr, options.frozen.get()});
  policy.complete(options);
  return policy;
}

Policy Policy::open(const PolicyOptions& options, Communicator& ranks, const std::string& node) {
  Policy policy;
  run_alike(ranks, [&] { policy.open_parts(options); });
  check_own_devices(ranks, node, policy.ops->device_name());
  check_same_devices(ranks, policy.ops->device_type());
  policy.model = load_shared(ranks, node, options.path, policy.ops, options.backward, options.frozen.get());
  run_alike(ranks, [&] { policy.complete(options, ranks.rank() == 0); });
  return policy;
}

std::shared_ptr<const PromptInput> Policy::prompt(const std::optional<std::string>& system,
                                                  std::span<const EncodedPicture> encoded,
                                                  std::string_view user) const {
  return build_prompt(model->config(), *tokenizer, chat, system, encoded, user);
}

}  // namespace biqa
