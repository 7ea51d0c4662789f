// SPDX-License-Identifier: Apache-2.0
// What a step dump holds suffices to compute the step again, to the bit; and nothing else of it is believed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <variant>

#include "config/config.h"
#include "core/error.h"
#include "learner/adapter_store.h"
#include "policy/policy.h"
#include "support/temporary_folder.h"
#include "training/step_reader.h"
#include "training/step_replay.h"
#include "training/trainer.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const fs::path kModel = fs::path(BIQA_SOURCE_DIR) / "assets/tiny/model";

/// A dump as plain values, to be changed and written again.
struct Values {
  using Attribute = std::variant<std::int64_t, double, std::string>;
  template <typename T>
  using Sets = std::map<std::string, std::pair<std::vector<T>, std::vector<std::int64_t>>>;

  Sets<float> floats;
  Sets<std::int64_t> integers;
  std::map<std::pair<std::string, std::string>, Attribute> attributes;  // (object, name)

  explicit Values(const Hdf5File& file) { read(file, ""); }

  void write(const fs::path& path) const {
    Hdf5Writer out(path);
    for (const auto& [name, set] : floats) out.dataset(name, std::span<const float>(set.first), set.second);
    for (const auto& [name, set] : integers)
      out.dataset(name, std::span<const std::int64_t>(set.first), set.second);
    for (const auto& [key, value] : attributes) {
      std::visit([&, &at = key](const auto& v) { out.attribute(at.first, at.second, v); }, value);
    }
    out.close();
  }
  /// The first dataset whose path holds both parts.
  static std::string find(const auto& sets, const std::string& part, const std::string& end) {
    for (const auto& [name, set] : sets) {
      if (name.find(part) != std::string::npos && name.find(end) != std::string::npos) return name;
    }
    return "";
  }

 private:
  void read(const Hdf5File& file, const std::string& object) {
    const std::string named = object.empty() ? "/" : object;
    for (const std::string& name : file.attributes(named)) {
      Attribute& value = attributes[{named, name}];
      try {
        value = file.attribute_i64(named, name);
      } catch (const Error&) {
        try {
          value = file.attribute_f64(named, name);
        } catch (const Error&) {
          value = file.attribute_text(named, name);
        }
      }
    }
    if (!object.empty() && file.is_dataset(object)) {
      if (object.ends_with("_ids") || object.ends_with("_thw")) {
        auto& set = integers[object];
        set.first = file.read_i64(object, &set.second);
      } else {
        auto& set = floats[object];
        set.first = file.read_f32(object, &set.second);
      }
      return;
    }
    for (const std::string& child : file.children(named))
      read(file, object.empty() ? child : fmt::format("{}/{}", object, child));
  }
};

class StepDumps : public ::testing::Test {
 protected:
  /// Runs two steps of four images and gives the second one's dump.
  fs::path dump(const std::string& name, std::vector<std::string> more) {
    std::vector<std::string> overrides{"train.out=" + (folder_.path() / name).string(),
                                       "train.steps=2",
                                       "train.dump_steps=[1, 2]",
                                       "train.progress=false",
                                       "data.eval=[]",
                                       "rollout.images_per_step=4",
                                       "rollout.group_size=3",
                                       "checkpoint.every=0",
                                       "model.threads=1"};
    overrides.insert(overrides.end(), more.begin(), more.end());
    const Config config = load_config(BIQA_SOURCE_DIR "/configs/quickstart.yaml", overrides);
    const auto world = make_local();
    StopSignals signals;
    EXPECT_EQ(run_training(config, *world, signals), ExitCode::done);
    return folder_.path() / name / "dumps/step-000002.h5";
  }
  static const Policy& policy() {
    static const Policy opened = Policy::open({kModel, DType::f32, "cpu", 1, true});
    return opened;
  }
  /// Everything that the replay writes, compared with the dump.
  void expect_same_bits(const fs::path& dumped) const {
    const fs::path out = folder_.path() / "out.h5";
    replay_step(policy(), dumped, out);
    const Values want{Hdf5File(dumped)}, got{Hdf5File(out)};
    EXPECT_FALSE(got.floats.empty());
    for (const auto& [name, set] : got.floats) {
      ASSERT_EQ(want.floats.count(name), 1U) << name;
      EXPECT_EQ(set, want.floats.at(name)) << name;
    }
    for (const auto& [key, value] : got.attributes) EXPECT_EQ(value, want.attributes.at(key)) << key.second;
    EXPECT_NE(std::get<double>(got.attributes.at({"/", "grad_norm"})), 0.0);
  }

  TemporaryFolder folder_;
};

TEST_F(StepDumps, RepeatScaleSecondStageAndDropout) {
  const fs::path file = dump("run", {"lora.rslora=true", "lora.dropout=0.2", "stage2.train=true"});
  expect_same_bits(file);
  const Hdf5File dumped(file);
  EXPECT_TRUE(dumped.attribute_bool("/", "stage2_trained"));
  EXPECT_TRUE(dumped.attribute_bool("/", "lora_rslora"));
  EXPECT_EQ(dumped.attribute_f64("/", "lora_dropout"), 0.2);
  // A replay of the first stage alone would have another gradient.
  Values without(dumped);
  without.attributes[{"/", "stage2_trained"}] = std::int64_t{0};
  without.write(folder_.path() / "without.h5");
  replay_step(policy(), folder_.path() / "without.h5", folder_.path() / "other.h5");
  EXPECT_NE(Hdf5File(folder_.path() / "other.h5").attribute_f64("/", "grad_norm"),
            dumped.attribute_f64("/", "grad_norm"));
}

TEST_F(StepDumps, RepeatAStartAdapterAndEveryOptionOfTheLoss) {
  dump("start", {});
  const fs::path file = dump(
      "run", {"model.adapter=" + (folder_.path() / "start/adapter").string(), "objective.loss=dr_grpo",
              "objective.ratio_cap=3", "objective.off_policy_mask=0.5", "objective.advantage_scale=batch"});
  expect_same_bits(file);
  const Hdf5File dumped(file);
  EXPECT_TRUE(dumped.exists("reference_adapter"));
  EXPECT_EQ(dumped.attribute_i64("/", "max_new_tokens"), 96);
  EXPECT_EQ(dumped.attribute_f64("/", "ratio_cap"), 3);
  EXPECT_EQ(dumped.attribute_f64("/", "off_policy_mask"), 0.5);
  EXPECT_EQ(dumped.attribute_text("/", "advantage_scale"), "batch");
}

TEST_F(StepDumps, RepeatDroppedGroupsAndCutAnswers) {
  // The format is the only reward, so that many groups are rewarded alike.
  const fs::path file = dump("run", {"objective.loss=dapo", "rollout.max_new_tokens=38",
                                     "rewards.prediction=0", "rewards.consistency=0", "rewards.reasoning=0"});
  expect_same_bits(file);
  const Values values{Hdf5File(file)};
  std::size_t dropped = 0, cut = 0, counted = 0;
  for (const auto& [name, set] : values.floats) {
    if (!name.ends_with("/mask")) continue;
    const std::string at = name.substr(0, name.size() - 5);
    const bool is_dropped = std::get<std::int64_t>(values.attributes.at({at, "dropped"})) != 0;
    const bool is_cut = std::get<std::int64_t>(values.attributes.at({at, "truncated"})) != 0;
    EXPECT_EQ(set.first.front() == 0, is_dropped || is_cut) << at;
    dropped += is_dropped ? 1 : 0;
    cut += is_cut && !is_dropped ? 1 : 0;
    counted += !is_cut && !is_dropped ? 1 : 0;
  }
  EXPECT_GT(dropped, 0U);
  EXPECT_GT(cut, 0U);
  EXPECT_GT(counted, 0U);
}

TEST_F(StepDumps, RepeatAdvantagesOfTokens) {
  const fs::path file = dump("run", {"objective.credit=parts", "stage2.train=true",
                                     "rewards.reasoning={0: 0, 4: 1}", "rewards.format=2"});
  expect_same_bits(file);
  const Hdf5File dumped(file);
  EXPECT_EQ(dumped.attribute_text("/", "credit"), "parts");
  EXPECT_EQ(dumped.attribute_f64("/", "weight_reasoning"), 0.5);
  EXPECT_EQ(dumped.attribute_f64("/", "weight_format"), 2);
  Values without(dumped);
  std::size_t answers = 0, mixed = 0, second = 0;
  for (const std::string& name : dumped.children("trajectories")) {
    const std::string path = "trajectories/" + name;
    const std::vector<float> advantages = dumped.read_f32(path + "/token_advantage");
    EXPECT_EQ(advantages.size(), dumped.read_i64(path + "/completion_ids").size());
    ++answers;
    mixed += advantages.front() != advantages.back() ? 1 : 0;
    second +=
        dumped.has_attribute(path, "stage2_advantage") &&
                dumped.attribute_f64(path, "stage2_advantage") != dumped.attribute_f64(path, "advantage")
            ? 1
            : 0;
    without.floats.erase(path + "/token_advantage");
  }
  EXPECT_EQ(answers, 12U);
  EXPECT_GT(mixed, 0U) << "a caption and a rating with advantages of their own";
  EXPECT_GT(second, 0U);
  // A replay with the trajectories' advantages would have another gradient.
  without.write(folder_.path() / "without.h5");
  replay_step(policy(), folder_.path() / "without.h5", folder_.path() / "other.h5");
  EXPECT_NE(Hdf5File(folder_.path() / "other.h5").attribute_f64("/", "grad_norm"),
            dumped.attribute_f64("/", "grad_norm"));
}

TEST_F(StepDumps, RepeatLearningFromAnswers) {
  std::ifstream source(BIQA_SOURCE_DIR "/assets/tiny/train.jsonl");
  std::string rows, line;
  for (int i = 0; i < 8 && std::getline(source, line); ++i) {
    auto row = nlohmann::json::parse(line);
    row["image"] = std::string(BIQA_SOURCE_DIR "/assets/tiny/") + row["image"].get<std::string>();
    row["completion"] = "<caption>a picture.</caption><reasoning>so it is.</reasoning><rating>3.00</rating>";
    rows += row.dump() + "\n";
  }
  const std::string manifest = folder_.write("answers.jsonl", rows).string();
  expect_same_bits(dump("run", {"objective.loss=sft", "data.train=" + manifest}));
}

// Half a terabyte by its shapes, and nothing in the file.
TEST(StepFactors, ShapesAloneClaimNoMemory) {
  constexpr std::int64_t kWidth = std::int64_t{1} << 18;
  ModelConfig config;
  config.text = {
      .hidden = kWidth, .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = kWidth, .intermediate = kWidth};
  const LoraLayout layout(config, {.rank = kMaxLoraRank});
  const TemporaryFolder folder;
  Hdf5Writer(folder.path() / "empty.h5").close();
  const Hdf5File file(folder.path() / "empty.h5");
  EXPECT_THAT(error_of([&] { read_factors(file, "adapter_before", layout); }), HasSubstr("is missing"));
}

TEST_F(StepDumps, AreNotBelieved) {
  const fs::path good = dump("run", {"objective.credit=parts"});
  const PreprocessConfig& preprocess = policy().pictures->config();
  const ModelConfig& model = policy().model->config();
  ASSERT_NO_THROW(read_step(good, model, preprocess));
  const Values values{Hdf5File(good)};
  const std::string lora_a = Values::find(values.floats, "adapter_before", "lora_A");
  const std::string v = Values::find(values.floats, "adam_v_before", "lora_B");
  const std::string first = "trajectories/00000/";
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const float nan_f = std::numeric_limits<float>::quiet_NaN();
  const auto attribute = [](const std::string& object, const std::string& name,
                            const Values::Attribute& value) {
    return [=](Values& x) { x.attributes[{object, name}] = value; };
  };
  struct Case {
    std::string part;  // that the error names
    std::function<void(Values&)> change;
  };
  std::vector<Case> cases{
      {lora_a,
       [&](Values& x) {
         x.floats[lora_a] = {{1.0F}, {}};
       }},
      {lora_a,
       [&](Values& x) {
         x.floats[lora_a] = {{}, {0, model.text.hidden}};
       }},
      {lora_a,
       [&](Values& x) {
         x.floats[lora_a] = {std::vector<float>(100000, 0.0F), {100000, 1}};
       }},
      {lora_a, [&](Values& x) { x.floats[lora_a].first[3] = nan_f; }},
      {lora_a, attribute(lora_a, "scale", nan)},
      {"adapter_before/extra",
       [&](Values& x) {
         x.floats["adapter_before/extra"] = {{1.0F}, {1}};
       }},
      {"adam_v_before", [&](Values& x) { x.floats[v].first[0] = -1.0F; }},
      {"image_grid_thw",
       [&](Values& x) {
         x.integers[first + "image_grid_thw"].first = {1, 7, 7};
       }},
      {"image_grid_thw",
       [&](Values& x) {
         x.integers[first + "image_grid_thw"].first = {1, 2147483648, 2147483648};
       }},
      {"image_grid_thw",
       [&](Values& x) {
         x.integers[first + "image_grid_thw"].first = {-1, -8, 8};
       }},
      {"image_grid_thw",
       [&](Values& x) {
         x.integers[first + "image_grid_thw"] = {{1, 8, 8}, {3}};
       }},
      {"pixel_values",
       [&](Values& x) {
         x.integers[first + "image_grid_thw"].first = {1, 2, 2};
       }},
      {"pixel_values", [&](Values& x) { x.floats[first + "pixel_values"].first[7] = nan_f; }},
      {"prompt_ids", [&](Values& x) { x.floats.erase(first + "pixel_values"); }},
      {"prompt_ids", [&](Values& x) { x.integers[first + "prompt_ids"].first[0] = model.text.vocab; }},
      {"completion_ids",
       [&](Values& x) {
         x.integers[first + "completion_ids"] = {{}, {0}};
       }},
      {"completion_ids",
       [&](Values& x) {
         x.integers[first + "completion_ids"] = {std::vector<std::int64_t>(5000, 1), {5000}};
       }},
      {"mask", [&](Values& x) { x.floats[first + "mask"].first[0] = nan_f; }},
      {"mask", [&](Values& x) { x.floats[first + "mask"].first[0] = 2; }},
      {"behaviour_logp", [&](Values& x) { x.floats[first + "behaviour_logp"].first[0] = nan_f; }},
      {"advantage", attribute("trajectories/00000", "advantage", nan)},
      {"token_advantage", [&](Values& x) { x.floats[first + "token_advantage"].first[0] = nan_f; }},
      {"token_advantage",
       [&](Values& x) {
         x.floats[first + "token_advantage"] = {{1.0F}, {1}};
       }},
      {"trajectories/00001", [&](Values& x) { x.integers["trajectories/00001/prompt_ids"].first[0] = 1; }},
      {"trajectories", [&](Values& x) {
         std::erase_if(x.floats, [](const auto& e) { return e.first.starts_with("traj"); });
         std::erase_if(x.integers, [](const auto& e) { return e.first.starts_with("traj"); });
         std::erase_if(x.attributes, [](const auto& e) { return e.first.first.starts_with("traj"); });
       }}};
  for (const auto& [name, value] :
       std::vector<std::pair<std::string, Values::Attribute>>{{"lora_rank", std::int64_t{0}},
                                                              {"lora_rank", std::int64_t{1} << 40},
                                                              {"lora_alpha", nan},
                                                              {"optimizer_steps", std::int64_t{-5}},
                                                              {"lr", nan},
                                                              {"lr", -1.0},
                                                              {"temperature", -1.0},
                                                              {"temperature", 0.0},
                                                              {"beta", nan},
                                                              {"beta1", 1.0},
                                                              {"beta2", 2.0},
                                                              {"eps", 0.0},
                                                              {"clip_low", 2.0},
                                                              {"clip_high", -1.0},
                                                              {"ratio_cap", 0.5},
                                                              {"max_grad_norm", nan},
                                                              {"weight_decay", -1.0},
                                                              {"micro_batch_tokens", std::int64_t{0}},
                                                              {"max_new_tokens", std::int64_t{0}},
                                                              {"lora_dropout", 1.0},
                                                              {"loss", std::string("magic")},
                                                              {"kl", std::string("k9")}}) {
    cases.push_back({name, attribute("/", name, value)});
  }
  const fs::path bad = folder_.path() / "bad.h5";
  for (const Case& one : cases) {
    Values changed = values;
    one.change(changed);
    changed.write(bad);
    try {
      read_step(bad, model, preprocess);
      ADD_FAILURE() << "taken in spite of its " << one.part;
    } catch (const Error& problem) {
      EXPECT_EQ(problem.code(), ExitCode::world) << problem.what();
      EXPECT_THAT(problem.what(), HasSubstr(one.part));
      EXPECT_THAT(problem.what(), HasSubstr("bad.h5"));
    }
  }
}

}  // namespace
}  // namespace biqa
