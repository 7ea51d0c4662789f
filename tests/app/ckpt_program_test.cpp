// SPDX-License-Identifier: Apache-2.0
// biqa_ckpt as people run it: every command on what the test wrote, and what it says about the world's faults.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/random.h"
#include "io/safetensors.h"
#include "learner/checkpoint_store.h"
#include "model/peft.h"
#include "support/run_program.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kTensor = "base_model.model.model.language_model.layers.1.mlp.up_proj.lora_B.weight";

class CkptProgram : public ::testing::Test {
 protected:
  CkptProgram() : config_(ModelConfig::load(model_)) {
    state_.adapter.layout = std::make_shared<LoraLayout>(config_, LoraSpec{.rank = 4, .alpha = 8});
    const RandomStream random{5, 6};
    const auto fill = [&](std::vector<float>& values, double size, std::uint64_t offset) {
      values.resize(state_.adapter.layout->size());
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>(size * (2 * random.uniform(offset + i) - 1));
    };
    fill(state_.adapter.values, 0.1, 0);
    fill(state_.m, 1e-3, 1U << 24);
    fill(state_.v, 1e-6, 1U << 25);
    state_.updates = 9;
    state_.info = {3,
                   4,
                   72,
                   "train: {seed: 3}\nlora: {rank: 4}\n",
                   "a build",
                   "some/model",
                   0.25,
                   "0123456789abcdef",
                   "fedcba9876543210"};
  }
  void SetUp() override {
    if (!fs::exists(program()))
      GTEST_SKIP() << program() << " is not built: build biqa_ckpt_program to run this";
  }

  static std::string program() { return (fs::path(BIQA_BIN_DIR) / "biqa_ckpt").string(); }
  testing::ProgramOutcome run(std::vector<std::string> words) const {
    words.insert(words.begin(), program());
    return testing::run_program(folder_.path(), std::move(words));
  }
  /// It succeeds; what it printed.
  std::string output(const std::vector<std::string>& words) const {
    const testing::ProgramOutcome outcome = run(words);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.out;
  }
  json output_json(std::vector<std::string> words) const {
    words.insert(words.end(), {"--format", "json"});
    return json::parse(output(words));
  }
  void expect_error(const std::vector<std::string>& words, int code, const std::string& part) const {
    const testing::ProgramOutcome outcome = run(words);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(part));
    std::istringstream lines(outcome.err);
    std::size_t errors = 0;
    for (std::string line; std::getline(lines, line);) errors += line.starts_with("error: ") ? 1 : 0;
    EXPECT_EQ(errors, 1U) << outcome.err;
    EXPECT_THAT(outcome.err, Not(HasSubstr("unexpected failure")));
    EXPECT_THAT(outcome.err, Not(HasSubstr("Check failure")));
  }

  std::string at(const std::string& name) const { return (folder_.path() / name).string(); }
  /// A run of two checkpoints with a final adapter; gives its path.
  std::string write_run() {
    for (const std::int64_t step : {2, 3}) {
      state_.info.step = step;
      write_checkpoint(at(fmt::format("run/checkpoints/step-{:06}", step)), state_);
    }
    fs::create_directory_symlink("step-000003", at("run/checkpoints/latest"));
    write_adapter_h5(at("run/adapter.h5"), state_.adapter, state_.info);
    return at("run");
  }

  const fs::path model_ = fs::path(BIQA_SOURCE_DIR) / "assets/tiny/model";
  ModelConfig config_;
  LoadedCheckpoint state_;
  TemporaryFolder folder_;
};

TEST_F(CkptProgram, Inspect) {
  const std::string run_folder = write_run();
  for (const std::string& path :
       {run_folder, run_folder + "/checkpoints", run_folder + "/checkpoints/latest",
        run_folder + "/checkpoints/latest/", run_folder + "/checkpoints/step-000003"}) {
    SCOPED_TRACE(path);
    const json seen = output_json({"inspect", path});
    EXPECT_THAT(seen["path"].get<std::string>(), HasSubstr("step-000003"));
    EXPECT_EQ(seen["step"], 3);
    EXPECT_EQ(seen["version"], 4);
    EXPECT_EQ(seen["base_model"], "some/model");
    EXPECT_EQ(seen["config"], state_.info.config);
    EXPECT_EQ(seen["digest"], digest_of(state_.adapter));
    EXPECT_EQ(seen["optimizer"]["updates"], 9);
    EXPECT_EQ(seen["tensors"].size(), 2 * state_.adapter.layout->modules().size());
    EXPECT_EQ(seen["shards"][0]["end"], state_.adapter.layout->size());
  }
  const json seen = output_json({"inspect", run_folder});
  const LoraModule& module = *state_.adapter.layout->find(1, Projection::up);
  for (const json& tensor : seen["tensors"]) {
    if (tensor["name"] != kTensor) continue;
    double sum = 0, squares = 0;
    const auto count = static_cast<std::size_t>(module.out * module.rank);
    for (std::size_t i = 0; i < count; ++i) {
      sum += state_.adapter.b(module)[i];
      squares += std::pow(state_.adapter.b(module)[i], 2);
    }
    EXPECT_NEAR(tensor["mean"], sum / static_cast<double>(count), 1e-12);
    EXPECT_NEAR(tensor["norm"], std::sqrt(squares), 1e-12);
    EXPECT_EQ(tensor["shape"], (json{module.out, module.rank}));
    EXPECT_EQ(tensor["dtype"], "f32");
  }
  const std::string table = output({"inspect", run_folder});
  for (const char* part : {kTensor, "step         3, version 4", "optimizer-00000-of-00001.h5", "some/model",
                           "a build", "lora: {rank: 4}"})
    EXPECT_THAT(table, HasSubstr(part));
  const std::string csv = output({"inspect", run_folder, "--format", "csv"});
  EXPECT_EQ(static_cast<std::size_t>(std::count(csv.begin(), csv.end(), '\n')), 1 + seen["tensors"].size());
  EXPECT_EQ(output_json({"inspect", at("run/adapter.h5")})["kind"], "adapter.h5");
}

TEST_F(CkptProgram, InspectOneTensor) {
  const std::string run_folder = write_run();
  const json seen = output_json({"inspect", run_folder, "--tensor", kTensor, "--first", "3"});
  const LoraModule& module = *state_.adapter.layout->find(1, Projection::up);
  const float* values = state_.adapter.b(module);
  EXPECT_EQ(seen["values"]["first"], (json{values[0], values[1], values[2]}));
  EXPECT_EQ(seen["m"]["first"][0], state_.m[module.b_offset]);
  EXPECT_EQ(seen["v"]["first"][0], state_.v[module.b_offset]);
  std::size_t counted = 0;
  for (const json& bin : seen["values"]["histogram"]) counted += bin.get<std::size_t>();
  EXPECT_EQ(counted, static_cast<std::size_t>(module.out * module.rank));
  EXPECT_THAT(output({"inspect", run_folder, "--tensor", kTensor}), HasSubstr("####"));
  expect_error({"inspect", run_folder, "--tensor", "absent"}, 2, "absent");
}

TEST_F(CkptProgram, Verify) {
  const std::string run_folder = write_run();
  EXPECT_EQ(output_json({"verify", run_folder}).size(), 3U);
  EXPECT_EQ(output_json({"verify", run_folder + "/checkpoints/latest"})[0]["whole"], true);
  const std::string damaged = run_folder + "/checkpoints/step-000003";
  fs::resize_file(damaged + "/optimizer-00000-of-00001.h5", 1000);
  expect_error({"verify", damaged}, 1, "optimizer-00000-of-00001.h5 has 1000 bytes");
  expect_error({"verify", run_folder + "/checkpoints"}, 1, "1 of 2");
  expect_error({"verify", run_folder}, 1, "1 of 3");
  EXPECT_THAT(run({"verify", run_folder}).out,
              HasSubstr("whole    " + run_folder + "/checkpoints/step-000002"));
  // What is whole still serves, with a warning.
  const testing::ProgramOutcome older = run({"inspect", run_folder});
  EXPECT_THAT(older.out, HasSubstr("step         2"));
  EXPECT_THAT(older.err, HasSubstr("step-000003"));
  expect_error({"inspect", damaged}, 1, "optimizer-00000-of-00001.h5");
  expect_error({"inspect", run_folder + "/checkpoints/step-000002/optimizer-00000-of-00001.h5"}, 1,
               "an optimizer shard without an adapter");
  fs::remove_all(damaged);
  expect_error({"verify", run_folder}, 1, "latest");
  fs::remove(at("run/checkpoints/latest"));
  fs::create_directory_symlink("step-000003", at("run/checkpoints/best"));
  expect_error({"verify", run_folder}, 1, "best");
}

TEST_F(CkptProgram, VerifyNoticesBitFlipsEverywhere) {
  const std::string run_folder = write_run();
  const RandomStream random{8, 9};
  std::uint64_t draw = 0;
  for (const char* name : {"adapter.h5", "optimizer-00000-of-00001.h5", "manifest.json"}) {
    const fs::path file = fs::path(run_folder) / "checkpoints/step-000003" / name;
    const std::string whole = file_content(file);
    for (int i = 0; i < 4; ++i) {
      std::string damaged = whole;
      char& byte = damaged[random.word(draw++) % whole.size()];
      byte = static_cast<char>(static_cast<unsigned char>(byte) ^ (1U << (random.word(draw++) % 8)));
      std::ofstream(file, std::ios::binary) << damaged;
      expect_error({"verify", run_folder + "/checkpoints/latest"}, 1, name);
    }
    std::ofstream(file, std::ios::binary) << whole;
  }
  EXPECT_EQ(run({"verify", run_folder}).code, 0);
}

TEST_F(CkptProgram, Diff) {
  const std::string run_folder = write_run();
  const std::string first = run_folder + "/checkpoints/step-000002",
                    second = run_folder + "/checkpoints/step-000003";
  json seen = output_json({"diff", second, second});
  EXPECT_EQ(seen["equal"], true);
  seen = output_json({"diff", first, second});
  EXPECT_EQ(seen["equal"], false);
  EXPECT_EQ(seen["fields"], (json{{"step", {"2", "3"}}}));

  const LoraModule& module = *state_.adapter.layout->find(1, Projection::up);
  const float before = state_.adapter.values[module.b_offset + 5];
  state_.adapter.values[module.b_offset + 5] = before + 0.5F;
  state_.info.config += "more: 1\n";
  write_checkpoint(at("changed"), state_);
  seen = output_json({"diff", second, at("changed")});
  EXPECT_EQ(seen["config"]["b"], (json{"more: 1"}));
  std::size_t different = 0;
  for (const json& tensor : seen["tensors"]) {
    if (tensor["equal"] == true) continue;
    ++different;
    EXPECT_EQ(tensor["name"], kTensor);
    EXPECT_EQ(tensor["differing"], 1);
    EXPECT_NEAR(tensor["largest"], 0.5, 1e-6);
    EXPECT_NEAR(tensor["largest_relative"], 0.5 / std::max(std::abs(before), std::abs(before + 0.5F)), 1e-6);
  }
  EXPECT_EQ(different, 1U);
  const std::string table = output({"diff", second, at("changed")});
  EXPECT_THAT(table, HasSubstr("> more: 1"));
  EXPECT_THAT(table, HasSubstr("\ndifferent: 1 of "));

  Lora other;
  other.layout = std::make_shared<LoraLayout>(config_, LoraSpec{.rank = 2, .targets = {Projection::q}});
  other.values.assign(other.layout->size(), 0.5F);
  write_adapter_h5(at("other.h5"), other, {});
  const std::string shapes = output({"diff", second, at("other.h5")});
  EXPECT_THAT(shapes, HasSubstr("4x128 | 2x128"));
  EXPECT_THAT(shapes, HasSubstr("absent"));
}

TEST_F(CkptProgram, ExportAndImportGiveTheSameAdapter) {
  const std::string run_folder = write_run();
  output({"export", run_folder, "--peft", at("peft")});
  const Lora exported = read_peft(at("peft"), config_);
  EXPECT_EQ(*exported.layout, *state_.adapter.layout);
  EXPECT_EQ(exported.values, state_.adapter.values);
  EXPECT_EQ(read_peft_base_model(at("peft")), "some/model");

  EXPECT_THAT(file_content(at("peft/README.md")), HasSubstr("| seed | 3 |"));
  EXPECT_EQ(json::parse(file_content(at("peft/run.json")))["adapter"]["digest"], digest_of(state_.adapter));
  EXPECT_THAT(file_content(at("peft/config.yaml")), HasSubstr("biqa_score and biqa_eval read this file"));

  // With the model, one expression names what is adapted; both mean the same.
  output({"export", run_folder, "--peft", at("with_model"), "--model", model_.string()});
  EXPECT_EQ(read_peft(at("with_model"), config_).values, state_.adapter.values);
  EXPECT_TRUE(json::parse(file_content(at("with_model/adapter_config.json")))["target_modules"].is_string());
  EXPECT_TRUE(json::parse(file_content(at("peft/adapter_config.json")))["target_modules"].is_array());

  output({"import", "--peft", at("peft"), "--out", at("imported")});
  output({"import", "--peft", at("with_model"), "--out", at("imported.h5"), "--model", model_.string()});
  for (const std::string path : {"imported", "imported.h5"}) {
    const Lora lora = read_any_adapter(at(path), config_);
    EXPECT_EQ(*lora.layout, *state_.adapter.layout);
    EXPECT_EQ(lora.values, state_.adapter.values);
  }
  const LoadedCheckpoint loaded = CheckpointStore::load(at("imported"), config_);
  EXPECT_EQ(loaded.info.step, 0);
  EXPECT_EQ(loaded.updates, 0);
  EXPECT_EQ(loaded.info.base_model, "some/model");
  EXPECT_TRUE(std::all_of(loaded.m.begin(), loaded.m.end(), [](float value) { return value == 0; }));
  EXPECT_EQ(output_json({"diff", run_folder + "/checkpoints/latest", at("peft")})["equal"], true);
  // A run may have any name.
  fs::rename(run_folder, at("step-size"));
  EXPECT_EQ(output_json({"verify", at("step-size")})[0]["whole"], true);
  fs::rename(at("step-size"), run_folder);

  // Nothing that is there is replaced.
  const std::string written = file_content(at("imported.h5"));
  expect_error({"import", "--peft", at("peft"), "--out", at("imported")}, 1, "imported");
  expect_error({"import", "--peft", at("peft"), "--out", at("imported.h5")}, 1, "it already exists");
  EXPECT_EQ(file_content(at("imported.h5")), written);
  expect_error({"export", run_folder, "--peft", at("peft")}, 1, "it already exists");
}

TEST_F(CkptProgram, PartsOnFrozenModulesGoThroughEveryCommand) {
  state_.adapter.frozen = testing::random_frozen_parts(config_, 3, "visual");
  const std::string run_folder = write_run();
  const std::string digest = digest_of(state_.adapter);
  for (const json& one : output_json({"verify", run_folder})) EXPECT_EQ(one["whole"], true);
  const json seen = output_json({"inspect", run_folder});
  EXPECT_EQ(seen["digest"], digest);
  EXPECT_EQ(seen["tensors"].size(),
            2 * (state_.adapter.layout->modules().size() + state_.adapter.frozen->parts.size()));
  EXPECT_EQ(seen["values"], state_.adapter.layout->size());
  const std::string key = "base_model.model.model.visual.blocks.0.mlp.gate_proj.lora_A.weight";
  const json one = output_json({"inspect", run_folder, "--tensor", key, "--first", "2"});
  const FrozenPart& part = *state_.adapter.frozen->find("visual.blocks.0.mlp.gate_proj");
  EXPECT_EQ(one["values"]["first"], (json{part.a[0], part.a[1]}));
  EXPECT_FALSE(one.contains("m"));
  EXPECT_THAT(output({"inspect", run_folder}),
              HasSubstr("of the tensors are on modules that are not trained"));

  output({"export", run_folder, "--peft", at("peft")});
  output({"export", run_folder, "--peft", at("with_model"), "--model", model_.string()});
  output({"import", "--peft", at("peft"), "--out", at("imported")});
  output({"import", "--peft", at("with_model"), "--out", at("imported.h5"), "--model", model_.string()});
  EXPECT_EQ(digest_of(read_peft(at("peft"), config_)), digest);
  for (const char* path : {"peft", "with_model", "imported", "imported.h5"}) {
    EXPECT_EQ(output_json({"inspect", at(path)})["digest"], digest) << path;
    EXPECT_EQ(output_json({"verify", at(path)})[0]["whole"], true) << path;
  }
  EXPECT_EQ(output_json({"diff", run_folder, at("peft")})["equal"], true);

  LoadedCheckpoint other = state_;
  FrozenParts parts = *state_.adapter.frozen;
  parts.parts[2].b[1] += 1;
  other.adapter.frozen = std::make_shared<FrozenParts>(std::move(parts));
  write_adapter_h5(at("other.h5"), other.adapter, state_.info);
  const json difference = output_json({"diff", at("run/adapter.h5"), at("other.h5")});
  EXPECT_EQ(difference["equal"], false);
  std::vector<std::string> names;
  for (const json& tensor : difference["tensors"]) {
    if (tensor["equal"] == false) names.push_back(tensor["name"]);
  }
  EXPECT_EQ(names, std::vector<std::string>{peft_key(state_.adapter.frozen->parts[2].module, 'B')});

  output({"merge", run_folder, "--model", model_.string(), "--out", at("merged")});
  const Safetensors before = Safetensors::open(model_ / "model.safetensors");
  const Safetensors after = Safetensors::open(at("merged/model.safetensors"));
  std::size_t changed = 0;
  for (const StoredTensor& tensor : before.tensors()) {
    const auto bytes = after.at(tensor.name).bytes;
    changed += std::equal(tensor.bytes.begin(), tensor.bytes.end(), bytes.begin()) ? 0 : 1;
  }
  EXPECT_EQ(changed, state_.adapter.layout->modules().size() + state_.adapter.frozen->parts.size());
}

TEST_F(CkptProgram, AdaptersWithRanksOfTheirOwnAndFewerLayers) {
  std::vector<LoraModule> modules(2);
  modules[0].layer = modules[1].layer = 1;
  modules[1].projection = Projection::down;
  modules[0].rank = 3;
  modules[1].rank = 5;
  modules[0].scale = 2.0F;
  modules[1].scale = 0.7F;
  Lora lora;
  lora.layout = std::make_shared<LoraLayout>(
      config_, LoraSpec{.rank = 3, .alpha = 6, .targets = {Projection::q, Projection::down}}, modules);
  lora.values.assign(lora.layout->size(), 0.25F);
  write_adapter_h5(at("adapter.h5"), lora, {});
  output({"export", at("adapter.h5"), "--peft", at("peft")});
  output({"import", "--peft", at("peft"), "--out", at("again.h5")});
  const Lora again = read_any_adapter(at("again.h5"), config_);
  EXPECT_EQ(*again.layout, *lora.layout);
  EXPECT_EQ(again.values, lora.values);
}

TEST_F(CkptProgram, Merge) {
  const std::string run_folder = write_run();
  output({"merge", run_folder, "--model", model_.string(), "--out", at("merged")});
  EXPECT_THAT(file_content(at("merged/README.md")), HasSubstr("library_name: transformers"));
  EXPECT_EQ(json::parse(file_content(at("merged/run.json")))["package"], "merged model");
  const Safetensors before = Safetensors::open(model_ / "model.safetensors");
  const Safetensors after = Safetensors::open(at("merged/model.safetensors"));
  ASSERT_EQ(before.tensors().size(), after.tensors().size());
  std::size_t changed = 0;
  for (const StoredTensor& tensor : before.tensors()) {
    const StoredTensor& other = after.at(tensor.name);
    EXPECT_EQ(tensor.type, other.type);
    EXPECT_EQ(tensor.shape, other.shape);
    changed += std::equal(tensor.bytes.begin(), tensor.bytes.end(), other.bytes.begin()) ? 0 : 1;
  }
  EXPECT_EQ(changed, state_.adapter.layout->modules().size());
  for (const char* name :
       {"config.json", "tokenizer.json", "preprocessor_config.json", "chat_template.jinja"})
    EXPECT_EQ(file_content(at("merged") / fs::path(name)), file_content(model_ / name));
  expect_error({"merge", run_folder, "--model", model_.string(), "--out", at("merged")}, 1, at("merged"));
  expect_error({"merge", run_folder, "--model", at("absent"), "--out", at("other")}, 1, at("absent"));
  EXPECT_FALSE(fs::exists(at("other")));
}

TEST_F(CkptProgram, AdapterForAnotherModel) {
  ModelConfig other = config_;
  other.text.hidden *= 2;
  state_.adapter = initial_lora(std::make_shared<LoraLayout>(other, LoraSpec{}), 1);
  state_.m.assign(state_.adapter.values.size(), 0);
  state_.v = state_.m;
  write_checkpoint(at("step-000003"), state_);
  // Without the model nothing is wrong with it.
  output({"inspect", at("step-000003")});
  expect_error({"merge", at("step-000003"), "--model", model_.string(), "--out", at("merged")}, 1,
               "another model");
  expect_error({"export", at("step-000003"), "--model", model_.string(), "--peft", at("peft")}, 1,
               "another model");
  EXPECT_FALSE(fs::exists(at("merged")));
  EXPECT_FALSE(fs::exists(at("peft")));
}

TEST_F(CkptProgram, WrongUsage) {
  expect_error({}, 2, "no command");
  expect_error({"inspekt", "x"}, 2, "inspekt");
  expect_error({"inspect"}, 2, "1 path");
  expect_error({"diff", "a"}, 2, "2 paths");
  expect_error({"verify", "a", "b"}, 2, "1 path");
  expect_error({"export", "a"}, 2, "--peft");
  expect_error({"merge", "a", "--model", "b"}, 2, "--out");
  expect_error({"verify", "a", "--peft", "b"}, 2, "has no effect");
  expect_error({"inspect", "a", "--format", "xml"}, 2, "xml");
  EXPECT_THAT(output({"--help"}), HasSubstr("merge PATH --model DIR --out DIR"));
}

TEST_F(CkptProgram, NothingThere) {
  fs::create_directory(at("empty"));
  fs::create_directories(at("run/checkpoints"));
  folder_.write("text.h5", "not HDF5");
  for (const char* command : {"inspect", "verify"}) {
    expect_error({command, at("absent")}, 1, at("absent"));
    expect_error({command, at("empty")}, 1, at("empty"));
    expect_error({command, at("run")}, 1, at("run"));
    expect_error({command, at("text.h5")}, 1, "text.h5");
  }
  expect_error({"import", "--peft", at("empty"), "--out", at("x")}, 1, at("empty"));
}

}  // namespace
}  // namespace biqa
