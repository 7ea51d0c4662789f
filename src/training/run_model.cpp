// SPDX-License-Identifier: Apache-2.0
#include "training/run_model.h"

#include <glog/logging.h>

#include <utility>

#include "core/error.h"
#include "model/frozen_parts.h"

namespace biqa {
namespace {

/// model.adapter determines rank, alpha and targets. They are written into the configuration, because config.yaml
/// records what is trained.
void follow_adapter(Config& config, const LoraSpec& given, bool first) {
  LoraSpec& asked = config.lora;
  if (first && (asked.rank != given.rank || asked.alpha != given.alpha || asked.rslora != given.rslora ||
                asked.targets != given.targets))
    LOG(WARNING) << "lora.rank, lora.alpha, lora.rslora or lora.targets differ from model.adapter "
                 << config.model.adapter.string() << "; the run uses those of the adapter: rank "
                 << given.rank << ", alpha " << given.alpha << ", " << given.targets.size() << " projections";
  const double dropout = asked.dropout;
  asked = given;
  asked.dropout = dropout;
}

}  // namespace

StartParts read_start_parts(const Config& config, const std::optional<FoundCheckpoint>& found) {
  StartParts parts;
  const std::filesystem::path &model = config.model.path, &start = config.model.adapter;
  if (!start.empty()) parts.given = read_adapter_for(model, start);
  if (parts.given) parts.frozen = parts.given->frozen;
  if (!found) return parts;
  Lora then;  // read on every rank, because any rank may read weights
  if (found->frozen) then = read_adapter_for(model, found->path);
  if (parts.given && !same_parts(*parts.given, then)) {
    fail(
        "cannot resume from {}: its adapter differs from model.adapter {} on modules that are not trained; "
        "set model.adapter to the adapter with which this run began",
        found->path.string(), start.string());
  }
  parts.frozen = then.frozen;
  return parts;
}

Policy open_run_policy(Config& config, Communicator& world, int threads, bool backward,
                       const std::shared_ptr<const FrozenParts>& frozen) {
  PolicyOptions options{config.model.path, config.model.dtype, config.model.device,
                        threads,           backward,           config.model.pixels()};
  options.frozen = frozen;
  options.vision_attention = config.model.vision_attention;
  Policy policy = Policy::open(options, world);
  const PreprocessConfig& used = policy.pictures->config();
  if (used.min_pixels <= used.max_pixels) {
    config.model.min_pixels = used.min_pixels;
    config.model.max_pixels = used.max_pixels;
  }
  return policy;
}

StartAdapter make_start_adapter(Config& config, StartParts parts, const Policy& policy, bool first) {
  const ModelConfig& model = policy.model->config();
  StartAdapter start;
  if (!parts.given) {
    start.adapter = initial_lora(std::make_shared<LoraLayout>(model, config.lora), config.train.seed);
    start.adapter.frozen = std::move(parts.frozen);
    return start;
  }
  start.adapter = *std::move(parts.given);
  if (start.adapter.layout->size() == 0) {
    fail(
        "cannot train model.adapter {}: it changes only modules that are not trained; merge it into the "
        "model first (biqa_ckpt merge) and train the merged model",
        config.model.adapter.string());
  }
  follow_adapter(config, start.adapter.layout->spec(), first);
  start.reference = pack_adapter(*policy.model, start.adapter);
  if (first && !config.train.dump_steps.empty()) start.dumped_reference = start.adapter;
  return start;
}

}  // namespace biqa
