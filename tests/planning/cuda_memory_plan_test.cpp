// SPDX-License-Identifier: Apache-2.0
// The plan of a GPU's memory against what the CUDA backend allocates by label, in the emulator.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "comm/communicator.h"
#include "core/error.h"
#include "cuda_emulation/emulator.h"
#include "model/model_sizes.h"
#include "ops/cuda/attention_tiles.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda_sizes.h"
#include "planning/memory_plan.h"
#include "support/network_runs.h"
#include "tensor/device_use.h"

namespace biqa {
namespace {

using testing::random_adapter;
using testing::text_prompt;
using testing::TinyModel;

constexpr std::int64_t kPrompt = 70, kGroup = 3, kNewTokens = 9, kImages = 2;
constexpr std::int64_t kGroupRows = kPrompt + kGroup * (kNewTokens - 1);

std::int64_t part(const MemoryParts& parts, const std::string& name) {
  for (const auto& [found, bytes] : parts) {
    if (found == name) return bytes;
  }
  ADD_FAILURE() << "no part " << name;
  return 0;
}
std::int64_t now_of(const std::string& label) {
  return static_cast<std::int64_t>(device_memory_report()[label].now);
}
/// Bytes by label at their most, for messages.
std::string peaks_text() {
  std::string text;
  for (const auto& [label, use] : device_memory_report())
    text += label + " " + std::to_string(use.peak) + "\n";
  return text;
}
/// The most that a piece of work holds above what is there before it.
template <typename Work>
std::int64_t peak_above(const Work& work) {
  restart_memory_peaks();
  const std::size_t before = device_memory_total().now;
  work();
  return static_cast<std::int64_t>(device_memory_total().peak - before);
}

MemoryInputs inputs_of(const QwenVl& model, bool recompute) {
  MemoryInputs in;
  in.model = model.config();
  in.device = "cuda";
  in.dtype = model.ops().compute_type();
  in.lora = {.rank = 4, .alpha = 8};
  in.own_reference = true;
  in.recompute = recompute;
  in.kv_limit = std::int64_t{1} << 30;
  in.prompt = kPrompt;
  in.group = kGroup;
  in.new_tokens = kNewTokens;
  in.images = in.learner_images = kImages;
  in.micro_batch_tokens = kImages * kGroupRows;
  return in;
}
CudaDecoderSizes sizes(const QwenVl& model) {
  const LoraLayout adapter(model.config(), {.rank = 4, .alpha = 8});
  return {decoder_shape(model.config().text), model.ops().compute_type(), adapter.modules()};
}

class CudaMemoryPlan : public ::testing::TestWithParam<testing::ModelSetting> {
 protected:
  std::unique_ptr<QwenVl> load(VisionAttentionBy attention = VisionAttentionBy::own) const {
    return QwenVl::load(files_.path(), std::make_shared<cuda::CudaOps>(GetParam().type, 0, attention),
                        {true, true});
  }
  static constexpr std::int64_t kPatches = 8 * 12;
  struct Bytes {
    std::int64_t most, planned;
  };
  /// What a picture takes, and what is planned for it.
  Bytes pictures(VisionAttentionBy attention) const {
    const auto model = load(attention);
    const VisionConfig& v = model->config().vision;
    const std::vector<float> pixels = testing::random_values(kPatches * TinyModel::kPatchValues, 2, 3);
    const ImagePatches image{{1, 8, 12}, pixels};
    return {peak_above([&] { model->encode_images(std::span(&image, 1)); }),
            cuda_vision_bytes({v.hidden, cuda_vision_width(v.intermediate, GetParam().type), v.heads,
                               v.merge * v.merge, v.channels * v.temporal * v.patch * v.patch, v.out_hidden},
                              GetParam().type, attention, kPatches)};
  }
  TinyModel files_{GetParam().tied};
};
INSTANTIATE_TEST_SUITE_P(Settings, CudaMemoryPlan, ::testing::ValuesIn(testing::kModelSettings));

TEST_P(CudaMemoryPlan, WeightsAndAdaptersAreExact) {
  const auto before = now_of("weights");
  const auto model = load();
  ModelConfig padded = model->config();
  padded.vision.intermediate = cuda_vision_width(padded.vision.intermediate, GetParam().type);
  EXPECT_EQ(now_of("weights") - before, backend_weight_bytes(padded, GetParam().type));
  std::shared_ptr<const PackedAdapter> packed;
  const std::int64_t held = now_of("adapter");
  const std::int64_t most =
      peak_above([&] { packed = pack_adapter(*model, random_adapter(model->config(), 3)); });
  EXPECT_EQ(now_of("adapter") - held, sizes(*model).adapter());
  EXPECT_EQ(most, sizes(*model).adapter() + sizes(*model).packing());
}

TEST_P(CudaMemoryPlan, Pictures) {
  const auto [most, planned] = pictures(VisionAttentionBy::own);
  EXPECT_LE(most, planned);
  // Only the tables of segments are bounded, by a segment for each cell.
  constexpr std::int64_t kCells = kPatches / 4;
  const std::int64_t tiles = 2 * (kPatches / cuda::kTilePairs + kCells) * sizeof(cuda::QueryTile);
  const std::int64_t rows = 2 * kPatches * sizeof(cuda::QueryRange);
  EXPECT_LE(planned - most, std::max(tiles, rows) + 3 * 16) << "and a gap before each of three tables";
}

TEST_P(CudaMemoryPlan, PicturesWithAttentionByCudnn) {
  if (GetParam().type != DType::bf16) GTEST_SKIP() << "cuDNN's attention is only used in bf16";
  const auto [most, planned] = pictures(VisionAttentionBy::cudnn);
  EXPECT_LE(most, planned);
  EXPECT_LE(planned - most, 3 * 16) << "a gap before each of three tables";
}

/// Both groups are prefilled together; every completion has the full length.
TEST_P(CudaMemoryPlan, RolloutAndItsCache) {
  const auto model = load();
  const MemoryPlan plan = plan_memory(inputs_of(*model, false));
  const auto adapter = pack_adapter(*model, random_adapter(model->config(), 3));
  std::int64_t cache = 0;
  const std::int64_t most = peak_above([&] {
    Engine engine(*model, {});
    engine.set_adapter(adapter);
    for (std::uint64_t tag = 0; tag < kImages; ++tag) {
      GenerateRequest request;
      request.prompt = std::make_shared<PromptInput>(text_prompt(model->config(), kPrompt, tag));
      request.tag = tag;
      for (std::uint64_t m = 0; m < kGroup; ++m) request.streams.push_back(RandomStream{7, tag, m});
      request.sampling.max_new_tokens = kNewTokens;
      request.sampling.ignore_end = true;
      engine.submit(request);
    }
    engine.run([](Generated&&) {});
    cache = now_of("kv_cache");
  });
  EXPECT_EQ(cache, part(plan.held, "KV cache"));
  // The first iteration is the largest. Its tables are bounded, the rest is exact.
  BatchSize batch;
  batch.rows = kImages * kPrompt;
  batch.outputs = kImages;
  batch.picks = kImages * kGroup;
  batch.sequences = kImages;
  batch.pages = kImages * 2;
  const std::int64_t states =
      kImages * model->config().text.hidden * static_cast<std::int64_t>(size_of(GetParam().type));
  const CudaDecoderSizes of = sizes(*model);
  const std::int64_t iteration =
      of.plan(batch) + states + std::max(of.forward(batch), of.sample(batch.picks));
  EXPECT_LE(most - cache, iteration);
  EXPECT_LE(iteration - (most - cache), of.plan(batch));
  EXPECT_LT(of.plan(batch), iteration / 4) << "so the test says something";
  // The plan lets the prompts of the next groups run beside all members.
  EXPECT_LE(iteration, part(plan.passing, "rollout"));
}

/// Runs an update and compares its peak, which it returns, with the plan. `images` of `in` are in one micro-batch.
std::int64_t check_learning(const QwenVl& model, const MemoryInputs& in) {
  const MemoryPlan plan = plan_memory(in);
  const auto world = make_local();
  LearnerOptions options;
  options.objective.beta = 0.05;
  options.longest_allowed = kNewTokens;
  options.recompute_layers = in.recompute;
  options.dropout = in.dropout ? 0.1 : 0;
  options.micro_batch_tokens = in.micro_batch_tokens;
  const auto reference = pack_adapter(model, random_adapter(model.config(), 5));
  const std::int64_t state = now_of("learner");
  Learner learner(model, random_adapter(model.config(), 4), reference, *world, options);
  EXPECT_EQ(now_of("learner") - state, part(plan.held, "gradient, optimizer's shard"));
  const std::int64_t images = in.learner_images;
  std::vector<LearnerGroup> groups;
  std::vector<std::vector<std::int64_t>> ids;
  const std::vector<float> behaviour(kNewTokens, -4.0F);
  for (std::int64_t i = 0; i < images * kGroup; ++i)
    ids.push_back(testing::random_ids(kNewTokens, static_cast<std::uint64_t>(i)));
  for (std::uint64_t g = 0; g < static_cast<std::uint64_t>(images); ++g) {
    LearnerGroup& group = groups.emplace_back();
    group.prompt = std::make_shared<PromptInput>(text_prompt(model.config(), kPrompt, g));
    for (std::uint64_t m = 0; m < kGroup; ++m)
      group.sequences.push_back({ids[g * kGroup + m], behaviour, {}, m == 1 ? -0.7 : 1.0, m});
  }
  const std::int64_t most = peak_above([&] { learner.update(groups, 1e-3); });
  const CudaDecoderSizes of = sizes(model);
  const std::int64_t planned = of.adapter() + part(plan.passing, "learning (a micro-batch)");
  EXPECT_LE(most, planned);
  // The tables of the plan are bounded, the rest is exact.
  BatchSize batch;
  batch.rows = images * kGroupRows;
  batch.outputs = images * (1 + kGroup * (kNewTokens - 1));
  batch.picks = images * kGroup * kNewTokens;
  batch.sequences = images * (1 + kGroup);
  batch.pages = images * (2 + kGroup * 2);
  batch.training = true;
  batch.dropout = in.dropout;
  const std::int64_t bounded = of.plan(batch);
  EXPECT_LE(planned - most, bounded) << peaks_text();
  EXPECT_LT(bounded, planned / 4) << "so the test says something";
  return most;
}

TEST_P(CudaMemoryPlan, LearningWithAndWithoutRecomputation) {
  const auto model = load();
  MemoryInputs in = inputs_of(*model, false);
  in.dropout = true;
  const std::int64_t kept = check_learning(*model, in);
  in.recompute = true;
  EXPECT_LT(check_learning(*model, in), kept);
}

/// The stand-in of the device says how much is free, as cudaMemGetInfo does.
TEST_P(CudaMemoryPlan, ARunThatDoesNotFitIsRefused) {
  const auto model = load();
  const MemoryPlan plan = plan_memory(inputs_of(*model, false));
  const auto needed = static_cast<std::size_t>(plan.peak() - kCudaContextBytes);
  const std::size_t used = device_memory_total().now;
  const auto facts = [&](std::size_t limit) {
    emulation::set_memory_limit(limit);
    const cuda::Device device = cuda::selected_device();
    return DeviceFacts{device.name, device.total_bytes, device.free_bytes};
  };
  EXPECT_EQ(facts(needed + used).free_bytes, static_cast<std::int64_t>(needed));
  EXPECT_NO_THROW(require_gpu_memory(plan, facts(needed + used), files_.path()));
  EXPECT_THROW(require_gpu_memory(plan, facts(needed + used - 1), files_.path()), Error);
  emulation::set_memory_limit(std::size_t{16} << 30);
}

TEST(GpuMemory, AnErrorSaysWhatIsNeededWhatIsThereAndWhatToLower) {
  constexpr std::int64_t kGiB = std::int64_t{1} << 30;
  const MemoryPlan plan{{},
                        {{"CUDA context, kernels (assumed)", kCudaContextBytes},
                         {"weights", 16 * kGiB},
                         {"KV cache", 4 * kGiB}},
                        {{"rollout", kGiB}, {"learning (a micro-batch)", 7 * kGiB}}};
  const auto error = [&](std::int64_t free) {
    try {
      require_gpu_memory(plan, {"emulated device", 32 * kGiB, free}, "models/big");
    } catch (const Error& refused) {
      return std::string(refused.what());
    }
    return std::string();
  };
  EXPECT_EQ(error(27 * kGiB), "");
  for (const char* text :
       {"models/big", "emulated device", "27.00 GiB", "weights 16.00 GiB", "KV cache 4.00 GiB",
        "learning (a micro-batch) 7.00 GiB", "26.99 GiB of its 32.00 GiB are free", "rollout.kv_memory",
        "objective.micro_batch_tokens", "objective.recompute_layers"})
    EXPECT_NE(error(27 * kGiB - 10 * 1024 * 1024).find(text), std::string::npos) << text;
  const std::string several = error(15 * kGiB);
  EXPECT_NE(several.find("alone need 16.00 GiB"), std::string::npos) << several;
  EXPECT_NE(several.find("cannot split a model over several GPUs yet"), std::string::npos) << several;
}

TEST(GpuMemory, APlannedCardThatIsTooSmall) {
  constexpr std::int64_t kGiB = std::int64_t{1} << 30;
  const MemoryPlan plan{{},
                        {{"CUDA context, kernels (assumed)", kCudaContextBytes}, {"weights", 30 * kGiB}},
                        {{"learning (a micro-batch)", 12 * kGiB}}};
  EXPECT_FALSE(planned_shortage(plan, "NVIDIA L40S", "models/big"));
  EXPECT_FALSE(planned_shortage(plan, "a card of tomorrow", "models/big"));
  const auto lower = planned_shortage(plan, "A100-PCIE-40GB", "models/big");
  ASSERT_TRUE(lower);
  EXPECT_FALSE(lower->several);
  for (const char* text : {"up to 42.00 GiB", "39.00 GiB of its 40.00 GiB", "objective.micro_batch_tokens"})
    EXPECT_NE(lower->text.find(text), std::string::npos) << lower->text;
  const auto several = planned_shortage(plan, "RTX 4090", "models/big");
  ASSERT_TRUE(several);
  EXPECT_TRUE(several->several);
  EXPECT_NE(several->text.find("cannot split a model over several GPUs yet"), std::string::npos)
      << several->text;
}

}  // namespace
}  // namespace biqa
