// SPDX-License-Identifier: Apache-2.0
// The texts beside exported weights: what a run folder, a checkpoint alone and a bare adapter file let them say.
#include "report/model_card.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "config/config.h"
#include "io/files.h"
#include "io/yaml.h"
#include "learner/checkpoint_store.h"
#include "model/peft.h"
#include "report/fixture.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using testing::example_config;
using testing::example_evaluation;
using testing::ExampleRun;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kProgram = "biqa 9.9.9";

class ModelCard : public ::testing::Test {
 protected:
  ModelCard() {
    state_.adapter = initial_lora(
        std::make_shared<LoraLayout>(ModelConfig::load(model_), LoraSpec{.rank = 4, .alpha = 8}), 3);
    state_.m.assign(state_.adapter.layout->size(), 0);
    state_.v = state_.m;
    state_.updates = 4;
    state_.info = {4, 4, 32, "", "biqa 1.2.3", "/models/tiny", 0.5, "0123456789abcdef", "fedcba9876543210"};
    run_.seed = 7;
    root_ = testing::write_run(folder_, run_);
    state_.info.config = example_config(run_, folder_.path() / "train.jsonl");
  }
  fs::path checkpoint(std::int64_t step) {
    state_.info.step = step;
    fs::path place = root_ / "checkpoints" / checkpoint_name(step);
    write_checkpoint(place, state_);
    return place;
  }
  AdapterOrigin origin(const fs::path& path, const std::optional<fs::path>& model = std::nullopt) const {
    return read_adapter_origin(find_adapter(path), model);
  }
  std::string card(const AdapterOrigin& origin, PackageKind kind = PackageKind::adapter) const {
    return model_card(kind, origin, state_.adapter, kProgram);
  }
  json record(const AdapterOrigin& origin, PackageKind kind = PackageKind::adapter) const {
    return json::parse(run_json(kind, origin, state_.adapter, kProgram));
  }
  static YamlNode front_matter(const std::string& card) {
    EXPECT_TRUE(card.starts_with("---\n"));
    return parse_yaml(card.substr(4, card.find("\n---\n") - 3), "README.md");
  }
  static std::string front(const std::string& card, const char* key) {
    const YamlNode root = front_matter(card);
    const YamlNode* value = root.find(key);
    return value == nullptr ? "absent" : value->text;
  }
  /// The row of a table with these figures.
  static std::string row_of(const EvalMetrics& e) {
    return fmt::format("| {} | {} | {} | {} | {} | {:.4f} | {:.4f} |", e.set, e.condition, e.decoding, e.n,
                       e.parse_failures, e.plcc, e.srcc);
  }

  const fs::path model_ = fs::path(BIQA_SOURCE_DIR) / "assets/tiny/model";
  LoadedCheckpoint state_;
  ExampleRun run_;
  TemporaryFolder folder_;
  fs::path root_;
};

TEST_F(ModelCard, FrontMatterIsThatOfHuggingFace) {
  const std::string text = card(origin(checkpoint(4)));
  EXPECT_EQ(front(text, "base_model"), "tiny");
  EXPECT_EQ(front(text, "base_model_relation"), "adapter");
  EXPECT_EQ(front(text, "library_name"), "peft");
  EXPECT_EQ(front(text, "license"), "absent");
  EXPECT_THAT(text, HasSubstr("The licence is not recorded"));
  const YamlNode root = front_matter(text);
  std::vector<std::string> tags;
  for (const YamlNode& tag : root.find("tags")->children) tags.push_back(tag.text);
  EXPECT_THAT(tags, ::testing::IsSupersetOf({"image-quality-assessment", "lora"}));

  const std::string merged = card(origin(root_), PackageKind::merged_model);
  EXPECT_EQ(front(merged, "library_name"), "transformers");
  EXPECT_EQ(front(merged, "base_model_relation"), "finetune");
  EXPECT_THAT(merged, AllOf(HasSubstr("merged into its weights"), Not(HasSubstr("PeftModel")),
                            HasSubstr("\nbiqa_score --config config.yaml photo.jpg\n")));
}

TEST_F(ModelCard, TheLicenceIsThatOfTheBaseModelsCard) {
  checkpoint(4);
  const fs::path base = folder_.path() / "base";
  folder_.write("base/README.md", "---\nlicense: other\nlicense_name: \"my: own\"\ntags: [x]\n---\n# Base\n");
  const std::string text = card(origin(root_, base));
  EXPECT_EQ(front(text, "license"), "other");
  EXPECT_EQ(front(text, "license_name"), "my: own");
  EXPECT_EQ(front(text, "base_model"), "base");
  EXPECT_THAT(text, HasSubstr("The licence above is that of the base model's own card"));
  for (const char* card_text :
       {"no front matter\nlicense: mit\n", "---\nlicense: [mit\n---\n", "---\nlicense: mit\n"}) {
    folder_.write("base/README.md", card_text);
    EXPECT_EQ(front(card(origin(root_, base)), "license"), "absent") << card_text;
  }
}

TEST_F(ModelCard, FiguresAreThoseOfTheRun) {
  const AdapterOrigin found = origin(checkpoint(4));
  const std::string text = card(found);
  EXPECT_THAT(text, HasSubstr("This adapter, of step 4:"));
  const json written = record(found);
  ASSERT_EQ(written["evaluation"].size(), 2U);
  std::size_t i = 0;
  for (const char* condition : {"image", "caption"}) {
    const EvalMetrics expected = example_evaluation(run_, 4, condition);
    EXPECT_THAT(text, HasSubstr(row_of(expected)));
    EXPECT_EQ(written["evaluation"][i++], json::parse(to_json_line(expected)));
    EXPECT_THAT(text, Not(HasSubstr(row_of(example_evaluation(run_, 0, condition)))));
  }
  EXPECT_THAT(text, HasSubstr("| – |")) << "the caption has no ROUGE";
  EXPECT_THAT(text,
              HasSubstr("| ROUGE-1 precision (without chance level) | recall (without chance level) | F1 "
                        "(without chance level) |\n"));
}

TEST_F(ModelCard, FiguresOfAnotherStepAreNamedAsSuch) {
  checkpoint(3);
  checkpoint(4);
  const std::string text = card(origin(root_ / "checkpoints/step-000003"));
  EXPECT_THAT(
      text,
      HasSubstr("The adapter of step 3 was not evaluated. This is an earlier one of its run, of step 0:"));
  EXPECT_THAT(text, HasSubstr(row_of(example_evaluation(run_, 0, "image"))));
  EXPECT_THAT(text, Not(HasSubstr(row_of(example_evaluation(run_, 4, "image")))));
  fs::create_directory_symlink("step-000004", root_ / "checkpoints/best");
  const std::string best = card(origin(root_ / "checkpoints/step-000003"));
  EXPECT_THAT(best, HasSubstr(row_of(example_evaluation(run_, 0, "image"))));
  EXPECT_THAT(best, HasSubstr(row_of(example_evaluation(run_, 4, "image"))));
  EXPECT_THAT(best, HasSubstr("of step 4:"));
  EXPECT_EQ(record(origin(root_ / "checkpoints/step-000003"))["best_evaluation"][0]["step"], 4);
}

TEST_F(ModelCard, SaysWhereThereAreNoFigures) {
  const fs::path place = checkpoint(4);
  std::string without;
  for (std::int64_t step = 1; step <= 4; ++step)
    without += to_json_line(testing::example_step(run_, step)) + "\n";
  folder_.write("run/metrics.jsonl", without);
  const std::string text = card(origin(place));
  EXPECT_THAT(text, HasSubstr("The run has recorded no evaluation of this adapter."));
  EXPECT_THAT(text, HasSubstr("Nothing here says how good the ratings are"));
  EXPECT_EQ(record(origin(place))["evaluation"], json::array());

  folder_.write("run/metrics.jsonl", "no JSON\n{}\n");
  ::testing::internal::CaptureStderr();
  EXPECT_THAT(card(origin(place)), HasSubstr("metrics.jsonl cannot be read"));
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("metrics.jsonl:1"));
}

TEST_F(ModelCard, SaysHowItWasTrained) {
  state_.info.config =
      "model: {path: \"/secret/models/tiny\", adapter: \"/secret/warmup/adapter\", min_pixels: 3136, "
      "max_pixels: 12544}\n"
      "prompts: {system: \"Be brief.\", user: \"Say \\\"how good\\\" in ```\", stage2_user: \"It is "
      "{caption}.\"}\n"
      "rollout: {images_per_step: 16, group_size: 8, max_new_tokens: 96}\n"
      "data: {train: \"/secret/koniq10k/train.jsonl\", eval: [\"/secret/spaq/test.jsonl\"], "
      "annotation_fraction: 0.5}\n"
      "rewards: {prediction: 1, reasoning: {0: 0, 100: 1}, reasoning_kind: mix}\n"
      "objective: {loss: dapo, advantage: sum_then_normalise, kl: k3, beta: 0.001}\n"
      "train: {steps: 220, seed: 42}\noptimizer: {lr: 1e-06}\n";
  const std::string text = card(origin(checkpoint(4)));
  for (const char* part : {"| objective | dapo, advantage sum_then_normalise, KL term k3 with weight 0.001 |",
                           "| rewards and weights | prediction 1, reasoning {0: 0, 100: 1} |",
                           "| reasoning reward compares by | mix |",
                           "| training data | koniq10k/train.jsonl |",
                           "| evaluation data | spaq/test.jsonl |",
                           "| share of human texts | 0.5 |",
                           "| steps | 4 of 220, 16 images with 8 completions each |",
                           "| seed | 42 |",
                           "| start adapter | warmup/adapter |",
                           "| trained by | biqa 1.2.3 |",
                           "| written by | biqa 9.9.9 |",
                           "0123456789abcdef",
                           "fedcba9876543210",
                           "rank 4, alpha 8",
                           "min_pixels=3136, max_pixels=12544",
                           "prompt = \"Say \\\"how good\\\" in ```\"",
                           "````python",
                           "\"text\": \"Be brief.\"",
                           "max_new_tokens=96",
                           "It is {caption}.",
                           "- \"dapo\"",
                           "made from | checkpoint step-000004 of the run run |"})
    EXPECT_THAT(text, HasSubstr(part));
  EXPECT_THAT(text, HasSubstr(digest_of(state_.adapter)));
  EXPECT_THAT(text, Not(HasSubstr("/secret")));
  EXPECT_THAT(text, Not(HasSubstr(folder_.path().string())));
  EXPECT_EQ(text, card(origin(root_)));

  state_.info.config = "objective: {loss: sft, beta: 0.1}\nrewards: {prediction: 1}\n";
  const std::string imitation = card(origin(checkpoint(5)));
  EXPECT_THAT(imitation,
              AllOf(HasSubstr("| objective | sft |"), HasSubstr("none: it learned from given texts")));
}

TEST_F(ModelCard, TheRecordHasTheConfigurationThatLoadsAgain) {
  const Config config =
      load_config(BIQA_SOURCE_DIR "/configs/quickstart.yaml",
                  std::vector<std::string>{"rewards.reasoning={0: 0, 100: 0.3}", "train.seed=5",
                                           "prompts.system=\"a: b\"", "optimizer.lr=3e-7"});
  state_.info.config = to_yaml(config);
  const AdapterOrigin found = origin(checkpoint(4));
  const std::string text = run_json(PackageKind::adapter, found, state_.adapter, kProgram);
  const json written = json::parse(text);
  EXPECT_EQ(nlohmann::ordered_json::parse(text).dump(2) + "\n", text);
  const fs::path file = folder_.write("config.json", written["config"].dump(2));
  EXPECT_EQ(to_yaml(load_config(file)), to_yaml(config));
  EXPECT_EQ(written["format"], "biqa-run-1");
  EXPECT_EQ(written["seed"], 5);
  EXPECT_EQ(written["step"], 4);
  EXPECT_EQ(written["trained_by"], "biqa 1.2.3");
  EXPECT_EQ(written["written_by"], kProgram);
  EXPECT_EQ(written["start_adapter"], nullptr);
  EXPECT_EQ(written["source"], "checkpoint step-000004");
  EXPECT_EQ(written["base_model"],
            (json{{"name", "tiny"}, {"path", "/models/tiny"}, {"weights_fingerprint", "0123456789abcdef"}}));
  EXPECT_EQ(written["adapter"]["digest"], digest_of(state_.adapter));
  EXPECT_EQ(written["adapter"]["file_xxh3"], digest_of_file(root_ / "checkpoints/step-000004/adapter.h5"));
  EXPECT_EQ(written["data"]["training_fingerprint"], "fedcba9876543210");
  EXPECT_EQ(written["data"]["train"], config.data.train.string());
  EXPECT_EQ(text, run_json(PackageKind::adapter, origin(root_), state_.adapter, kProgram));
  EXPECT_EQ(record(found, PackageKind::merged_model)["package"], "merged model");
}

TEST_F(ModelCard, TheExportedConfigurationAsksAsTheTraining) {
  const Config config = load_config(
      BIQA_SOURCE_DIR "/configs/quickstart.yaml",
      std::vector<std::string>{
          "prompts.profile=released", "prompts.system=null", "prompts.user=\"a: {b}\\n'c'\"",
          "prompts.stage2_system=\"7\"", "model.adapter=/secret/start", "model.min_pixels=6272",
          "stage2.enabled=false", "rollout.max_new_tokens=77", "rollout.stage2_max_new_tokens=9",
          "stage2.leak_guard=off", "stage2.input=caption+reasoning", "data.train=/secret/train.jsonl"});
  state_.info.config = to_yaml(config);
  state_.info.base_model = "Qwen/Qwen2.5-VL-7B-Instruct";
  const fs::path place = checkpoint(4);
  const AdapterOrigin found = origin(place);
  for (const PackageKind kind : {PackageKind::adapter, PackageKind::merged_model}) {
    const auto texts = package_texts(kind, found, state_.adapter, kProgram);
    ASSERT_TRUE(texts.contains("config.yaml"));
    EXPECT_THAT(texts.at("config.yaml"), Not(HasSubstr("secret")));
    const Config again = load_config(folder_.write("exported/config.yaml", texts.at("config.yaml")));
    EXPECT_EQ(again.prompts.profile, config.prompts.profile);
    EXPECT_EQ(again.prompts.texts.system, config.prompts.texts.system);
    EXPECT_EQ(again.prompts.texts.user, config.prompts.texts.user);
    EXPECT_EQ(again.prompts.texts.stage2_system, config.prompts.texts.stage2_system);
    EXPECT_EQ(again.prompts.texts.stage2_user, config.prompts.texts.stage2_user);
    EXPECT_EQ(again.model.dtype, config.model.dtype);
    EXPECT_EQ(again.model.pixels().min, config.model.pixels().min);
    EXPECT_EQ(again.model.pixels().max, config.model.pixels().max);
    EXPECT_EQ(again.rollout.max_new_tokens, 77);
    EXPECT_EQ(again.rollout.stage2_max_new_tokens, 9);
    EXPECT_EQ(again.stage2.leak_guard, config.stage2.leak_guard);
    EXPECT_EQ(again.stage2.input, config.stage2.input);
    EXPECT_EQ(again.stage2.enabled, config.stage2.enabled);
    EXPECT_EQ(again.model.adapter, fs::path());
    EXPECT_EQ(again.model.path,
              kind == PackageKind::adapter ? config.model.path : folder_.path() / "exported");
  }
  // The folder that the exporting program was given counts, wherever the training found the model.
  const fs::path base = folder_.path() / "base";
  fs::create_directory(base);
  const auto moved = package_texts(PackageKind::adapter, origin(place, base), state_.adapter, kProgram);
  EXPECT_EQ(load_config(folder_.write("moved/config.yaml", moved.at("config.yaml"))).model.path, base);
  EXPECT_THAT(card(found),
              HasSubstr("\nbiqa_score --model Qwen/Qwen2.5-VL-7B-Instruct --adapter . photo.jpg\n"));
}

TEST_F(ModelCard, ACheckpointOutsideItsRunSaysLess) {
  const fs::path place = checkpoint(4), alone = folder_.path() / "alone",
                 aside = root_ / "checkpoints/replaced-step-000004";
  fs::copy(place, alone, fs::copy_options::recursive);
  fs::copy(place, aside, fs::copy_options::recursive);
  for (const fs::path& path : {alone, aside}) {
    const AdapterOrigin found = origin(path);
    EXPECT_EQ(found.run, "") << path;
    EXPECT_TRUE(found.last.empty());
    const std::string text = card(found);
    EXPECT_THAT(text,
                HasSubstr("No figures are known, because the adapter did not lie in the folder of its run."));
    EXPECT_THAT(text, HasSubstr("| seed | 7 |")) << "its manifest has the configuration";
    EXPECT_EQ(record(found)["run"], nullptr);
  }
}

TEST_F(ModelCard, ABareAdapterSaysLeast) {
  state_.info.base_model = "Qwen/Qwen2.5-VL-7B-Instruct";
  write_adapter_h5(folder_.path() / "bare.h5", state_.adapter, state_.info);
  write_peft(folder_.path() / "peft", state_.adapter, "Qwen/Qwen2.5-VL-7B-Instruct");
  for (const char* name : {"bare.h5", "peft"}) {
    const AdapterOrigin found = origin(folder_.path() / name);
    const std::string text = card(found);
    EXPECT_EQ(front(text, "base_model"), "Qwen/Qwen2.5-VL-7B-Instruct") << name;
    EXPECT_THAT(text, AllOf(HasSubstr("How it was trained is not recorded."), HasSubstr("rank 4, alpha 8"),
                            Not(HasSubstr("| seed |")), Not(HasSubstr("| objective |")),
                            Not(HasSubstr("start adapter")), HasSubstr("prompt = \"…\"  # not recorded"),
                            HasSubstr("--adapter . photo.jpg"), Not(HasSubstr("config.yaml"))));
    EXPECT_FALSE(
        package_texts(PackageKind::adapter, found, state_.adapter, kProgram).contains("config.yaml"));
    const json written = record(found);
    EXPECT_EQ(written["config"], nullptr);
    EXPECT_EQ(written["seed"], nullptr);
    EXPECT_EQ(written["trained_by"], nullptr);
    EXPECT_EQ(written["step"], std::string(name) == "peft" ? json() : json(4));
  }
}

TEST_F(ModelCard, TheFinalAdapterHasTheFactsOfItsCheckpoint) {
  checkpoint(4);
  fs::copy_file(root_ / "checkpoints/step-000004/adapter.h5", root_ / "adapter.h5",
                fs::copy_options::overwrite_existing);
  EXPECT_EQ(origin(root_ / "adapter.h5").training_data, "fedcba9876543210");
  EXPECT_THAT(card(origin(root_ / "adapter.h5")), HasSubstr("This adapter, of step 4:"));
  // Another adapter than that of the checkpoint; config.yaml may be that of a later start.
  state_.adapter.values[0] += 1;
  write_adapter_h5(root_ / "adapter.h5", state_.adapter, state_.info);
  EXPECT_EQ(origin(root_ / "adapter.h5").training_data, "");
  EXPECT_EQ(origin(root_ / "adapter.h5").config, "");
  folder_.write("run/curves.svg", "<svg/>");
  EXPECT_EQ(origin(root_ / "adapter.h5").config, file_content(root_ / "config.yaml"));
}

TEST(ModelName, IsThatOfTheHubOrOfTheFolder) {
  const TemporaryFolder folder;
  EXPECT_EQ(model_name("Qwen/Qwen2.5-VL-7B-Instruct"), "Qwen/Qwen2.5-VL-7B-Instruct");
  EXPECT_EQ(model_name("/data/models/Qwen2.5-VL-7B-Instruct/"), "Qwen2.5-VL-7B-Instruct");
  EXPECT_EQ(model_name("../models/base"), "base");
  EXPECT_EQ(model_name("a/b/c"), "c");
  EXPECT_EQ(model_name(folder.path().string()), folder.path().filename().string());
  EXPECT_EQ(model_name(""), "");
}

}  // namespace
}  // namespace biqa
