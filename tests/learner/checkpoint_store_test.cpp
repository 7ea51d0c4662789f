// SPDX-License-Identifier: Apache-2.0
// Checkpoints come back to the bit on any number of learners, and whatever happens to their files is noticed.
#include "learner/checkpoint_store.h"
#include "learner/checkpoint_writer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/random.h"
#include "io/files.h"
#include "io/hdf5.h"
#include "learner/adapter_store.h"
#include "learner/checkpoint_tools.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TinyModel;

std::size_t count_from(const char* variable, std::size_t fallback) {
  const char* text = std::getenv(variable);
  return text == nullptr ? fallback : static_cast<std::size_t>(std::strtoull(text, nullptr, 10));
}

class CheckpointStoreTest : public ::testing::Test {
 protected:
  CheckpointStoreTest()
      : model_(testing::load(files_, DType::f32)), start_(testing::random_adapter(model_->config(), 4)) {
    state_.adapter = start_;
    const std::size_t size = start_.layout->size();
    state_.adapter.values = testing::random_values(size, 0.2, 11);
    state_.m = testing::random_values(size, 1e-3, 12);
    state_.v = testing::random_values(size, 1e-5, 13);
    state_.updates = 17;
  }

  /// Runs `body` with a learner of each rank.
  void with_learners(int learners, const std::function<void(Learner&, Communicator&)>& body) const {
    const auto world = make_thread_world(learners, Seconds(60));
    std::vector<std::thread> threads;
    threads.reserve(static_cast<std::size_t>(learners));
    for (int rank = 0; rank < learners; ++rank) {
      threads.emplace_back([&, rank] {
        Communicator& own = *world[static_cast<std::size_t>(rank)];
        Learner learner(*model_, start_, nullptr, own, {});
        body(learner, own);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  static CheckpointInfo info_of(std::int64_t step, double best = std::nan("")) {
    return {step,
            step + 1,
            24 * step,
            "train: {seed: 3}\n# \"manifest_digest\": \"0\"\n",
            "a build",
            "models/tiny",
            best,
            "0123456789abcdef",
            "fedcba9876543210"};
  }
  fs::path root() const { return folder_.path() / "checkpoints"; }
  /// Saves `state_` from so many learners and gives the folder.
  fs::path save(int learners, std::int64_t step, std::int64_t keep = 0, double best = std::nan("")) const {
    with_learners(learners, [&](Learner& learner, Communicator& own) {
      learner.restore(state_.adapter.values, state_.m, state_.v, state_.updates);
      save_checkpoint(root(), keep, learner, own, info_of(step, best));
    });
    return root() / fmt::format("step-{:06}", step);
  }

  static nlohmann::json manifest_of(const fs::path& folder) {
    return nlohmann::json::parse(file_content(folder / "manifest.json"));
  }
  /// Rewrites the manifest as format 1, which has no digest of itself, so that the rest of the checks is reached.
  static void rewrite_manifest(const fs::path& folder, const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json manifest = manifest_of(folder);
    manifest["format"] = "biqa-checkpoint-1";
    manifest.erase("manifest_digest");
    change(manifest);
    std::ofstream(folder / "manifest.json", std::ios::binary) << manifest.dump(2) << "\n";
  }
  /// Loading and verifying both refuse the folder, with `part` in the message.
  void expect_refused(const fs::path& folder, const std::string& part) const {
    EXPECT_THAT(error_of([&] { CheckpointStore::verify(folder); }), HasSubstr(part));
    EXPECT_THAT(error_of([&] { CheckpointStore::load(folder, model_->config()); }), HasSubstr(part));
  }

  TinyModel files_;
  std::unique_ptr<QwenVl> model_;
  Lora start_;
  LoadedCheckpoint state_;
  TemporaryFolder folder_;
};

TEST_F(CheckpointStoreTest, SavedOnAnyNumberOfLearnersLoadedOnAny) {
  const std::vector<int> counts{1, 2, 3, 5, 8};
  std::string table = "saved \\ loaded";
  for (const int count : counts) table += fmt::format(" {:>3}", count);
  for (const int saved : counts) {
    const fs::path folder = save(saved, saved);
    table += fmt::format("\n{:>14}", saved);
    for (const int loaded : counts) {
      const LoadedCheckpoint found = CheckpointStore::load(folder, model_->config());
      std::vector<int> same(static_cast<std::size_t>(loaded), 0);
      with_learners(loaded, [&](Learner& learner, Communicator& own) {
        learner.restore(found.adapter.values, found.m, found.v, found.updates);
        std::vector<float> m, v;
        learner.collect_moments(m, v);
        same[static_cast<std::size_t>(own.rank())] = learner.adapter().values == state_.adapter.values &&
                                                     m == state_.m && v == state_.v &&
                                                     learner.updates() == 17;
      });
      const bool all = std::count(same.begin(), same.end(), 1) == loaded;
      EXPECT_TRUE(all) << saved << " to " << loaded;
      table += all ? "   =" : "   X";
    }
  }
  std::cout << table << "\n";
}

TEST_F(CheckpointStoreTest, BringsBackWhatWasSaved) {
  const fs::path folder = save(3, 120, 0, 0.5);
  const LoadedCheckpoint found = CheckpointStore::load(folder, model_->config());
  EXPECT_EQ(found.info.step, 120);
  EXPECT_EQ(found.info.version, 121);
  EXPECT_EQ(found.info.data_cursor, 2880);
  EXPECT_EQ(found.info.base_weights, "0123456789abcdef");
  EXPECT_EQ(found.info.training_data, "fedcba9876543210");
  EXPECT_EQ(found.info.config, info_of(0).config);
  EXPECT_EQ(found.info.build, "a build");
  EXPECT_EQ(found.info.base_model, "models/tiny");
  EXPECT_EQ(found.info.best_value, 0.5);
  EXPECT_EQ(*found.adapter.layout, *start_.layout);
  EXPECT_EQ(fs::read_symlink(root() / "latest"), "step-000120");
  EXPECT_EQ(read_any_adapter(folder, model_->config()).values, state_.adapter.values);
}

TEST_F(CheckpointStoreTest, OfARunTheNewestWholeAdapterIsRead) {
  const fs::path run = folder_.path() / "run";
  LoadedCheckpoint state;
  state.adapter = start_;
  state.m.assign(start_.values.size(), 0);
  state.v.assign(start_.values.size(), 0);
  for (const std::int64_t step : {1, 2, 3}) {
    state.info = info_of(step);
    state.info.step = step;
    state.adapter.values.front() = static_cast<float>(step);
    write_checkpoint(run / "checkpoints" / checkpoint_name(step), state);
  }
  const auto read = [&](const fs::path& path) {
    return read_any_adapter(path, model_->config()).values.front();
  };
  // Only the adapter is wanted.
  fs::remove(run / "checkpoints/step-000003/optimizer-00000-of-00001.h5");
  EXPECT_EQ(read(run), 3);
  EXPECT_EQ(read(run / "checkpoints"), 3);
  EXPECT_EQ(find_adapter_alone(run).path.filename(), "step-000003");
  EXPECT_EQ(find_adapter(run).path.filename(), "step-000002");
  fs::remove(run / "checkpoints/step-000003/adapter.h5");
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(read(run), 2);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("step-000003: file adapter.h5 is missing"));
  EXPECT_THAT(error_of([&] { read(run / "checkpoints/step-000003"); }), HasSubstr("adapter.h5 is missing"));
  for (const char* name : {"step-000002", "step-000001"})
    fs::remove(run / "checkpoints" / name / "adapter.h5");
  EXPECT_THAT(error_of([&] { read(run); }), HasSubstr("all of its checkpoints have a damaged adapter.h5"));
}

TEST_F(CheckpointStoreTest, PartsOnFrozenModulesAreKept) {
  const ModelConfig& config = model_->config();
  start_.frozen = testing::random_frozen_parts(config, 3);
  state_.adapter.frozen = start_.frozen;
  const fs::path folder = save(3, 7);
  EXPECT_EQ(CheckpointStore::find_damage(folder), std::vector<std::string>());
  for (const Lora& found :
       {CheckpointStore::load(folder, config).adapter, read_any_adapter(folder, config)}) {
    EXPECT_EQ(digest_of(found), digest_of(state_.adapter));
    EXPECT_TRUE(same_parts(found, start_));
  }
  // Only these.
  Lora alone;
  alone.layout = std::make_shared<LoraLayout>(config, LoraSpec{}, std::vector<LoraModule>());
  alone.frozen = start_.frozen;
  write_adapter_h5(folder_.path() / "alone.h5", alone, info_of(0));
  const Lora found = read_any_adapter(folder_.path() / "alone.h5", config);
  EXPECT_EQ(found.layout->size(), 0U);
  EXPECT_TRUE(same_parts(found, alone));
  LoadedCheckpoint whole;
  whole.adapter = alone;
  write_checkpoint(folder_.path() / "alone", whole);
  EXPECT_TRUE(same_parts(CheckpointStore::load(folder_.path() / "alone", config).adapter, alone));
}

TEST_F(CheckpointStoreTest, WhatIsNoPartOfAnAdapterIsNamedAndIgnored) {
  const ModelConfig config = model_->config();
  const fs::path file = folder_.path() / "adapter.h5";
  const auto write = [&](const std::string& name) {
    Hdf5Writer out(file);
    out.attribute("/", "rank", start_.layout->spec().rank);
    out.attribute("/", "alpha", start_.layout->spec().alpha);
    write_adapter(out, "", start_);
    out.group("notes\nof somebody");
    out.dataset(name, std::vector<std::string>{"text"});
    out.close();
  };
  write("remarks");
  ::testing::internal::CaptureStderr();
  const Lora found = read_any_adapter(file, config);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              HasSubstr(file.string() +
                        ": notes\\nof somebody (and 1 more) is not part of an adapter and is ignored"));
  EXPECT_EQ(found.values, start_.values);
  write("base_model.model.remarks");
  EXPECT_THAT(error_of([&] { read_any_adapter(file, config); }),
              HasSubstr("base_model.model.remarks belongs to no module of the model"));
}

TEST_F(CheckpointStoreTest, PartsOnFrozenModulesOfAnotherModelAreRefused) {
  ModelConfig config = model_->config();
  start_.frozen = testing::random_frozen_parts(config, 3);
  const fs::path file = folder_.path() / "adapter.h5";
  write_adapter_h5(file, start_, info_of(0));
  config.vision.depth -= 1;
  EXPECT_THAT(
      error_of([&] { read_any_adapter(file, config); }),
      ::testing::AllOf(HasSubstr("visual.blocks.2."), HasSubstr("belongs to no module of the model")));
  config = model_->config();
  config.vision.intermediate += 1;
  EXPECT_THAT(error_of([&] { read_any_adapter(file, config); }), HasSubstr("the model needs ["));
  {
    Hdf5Writer out(file);
    out.attribute("/", "rank", 2);
    out.attribute("/", "alpha", 4.0);
    const FrozenPart& part = start_.frozen->parts[1];
    out.dataset(peft_key(part.module, 'A'), std::span<const float>(part.a), part.shape('A'));
    out.attribute(peft_key(part.module, 'A'), "scale", 1.0);
    out.close();
  }
  EXPECT_THAT(error_of([&] { read_any_adapter(file, model_->config()); }),
              ::testing::AllOf(HasSubstr("lora_B.weight"), HasSubstr("is missing")));
}

TEST_F(CheckpointStoreTest, WritesAWholeCheckpointFromOnePlace) {
  const fs::path folder = folder_.path() / "whole";
  state_.info = info_of(4);
  write_checkpoint(folder, state_);
  const fs::path saved = save(1, 4);
  // The same files, so to the byte.
  for (const char* name : {"adapter.h5", "optimizer-00000-of-00001.h5", "manifest.json"})
    EXPECT_EQ(file_content(folder / name), file_content(saved / name)) << name;
  EXPECT_THAT(error_of([&] { write_checkpoint(folder, state_); }), HasSubstr(folder.string()));
}

TEST_F(CheckpointStoreTest, KeepsTheNewestAndTheBest) {
  save(1, 1, 2);
  point_best_checkpoint(root(), 1);
  for (std::int64_t step = 2; step <= 5; ++step) save(1, step, 2);
  std::vector<std::string> names;
  for (const fs::path& folder : CheckpointStore(root()).newest_first())
    names.push_back(folder.filename().string());
  EXPECT_EQ(names, (std::vector<std::string>{"step-000005", "step-000004", "step-000001"}));
}

TEST_F(CheckpointStoreTest, FallsBackToTheOneBefore) {
  save(2, 1);
  const fs::path newest = save(2, 2);
  fs::resize_file(newest / "optimizer-00001-of-00002.h5", 100);
  const auto found = CheckpointStore(root()).load_newest(model_->config());
  ASSERT_TRUE(found);
  EXPECT_EQ(found->info.step, 1);
}

// ---- damage ----

/// The long form is tests/chaos/bit_flips.sh.
TEST_F(CheckpointStoreTest, EveryBitFlipAndTruncationIsRefusedByName) {
  const std::size_t flips = count_from("BIQA_BIT_FLIPS", 200), cuts = count_from("BIQA_TRUNCATIONS", 40);
  const fs::path folder = save(3, 7);
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  ASSERT_EQ(paths.size(), 5U);
  std::vector<std::string> contents;
  contents.reserve(paths.size());
  for (const fs::path& path : paths) contents.push_back(file_content(path));

  const RandomStream random({hash_text("bit flips"), count_from("BIQA_SEED", 1)});
  std::uint64_t draw = 0;
  const auto below = [&](std::size_t limit) { return static_cast<std::size_t>(random.word(draw++) % limit); };
  std::size_t accepted = 0;
  const auto check = [&](std::size_t file, const std::string& damaged, const std::string& what) {
    std::ofstream(paths[file], std::ios::binary) << damaged;
    const std::string name = paths[file].filename().string();
    const std::string verify = error_of([&] { CheckpointStore::verify(folder); });
    const std::string load = error_of([&] { CheckpointStore::load(folder, model_->config()); });
    if (verify.find(name) == std::string::npos || load.find(name) == std::string::npos) {
      ++accepted;
      ADD_FAILURE() << what << " of " << name << ": verify says '" << verify << "', load '" << load << "'";
    }
    std::ofstream(paths[file], std::ios::binary) << contents[file];
  };
  // Every file gets its share, however small it is.
  for (std::size_t i = 0; i < flips; ++i) {
    const std::size_t file = i % paths.size(), place = below(contents[file].size()), bit = below(8);
    std::string damaged = contents[file];
    damaged[place] = static_cast<char>(static_cast<unsigned char>(damaged[place]) ^ (1U << bit));
    check(file, damaged, fmt::format("bit {} of byte {}", bit, place));
  }
  for (std::size_t i = 0; i < cuts; ++i) {
    const std::size_t file = i % paths.size(), length = below(contents[file].size());
    check(file, contents[file].substr(0, length), fmt::format("cutting to {} bytes", length));
  }
  EXPECT_NO_THROW(CheckpointStore::verify(folder));
  std::cout << fmt::format("bit flips: {} flips and {} truncations in {} files, {} refused by name, {} not\n",
                           flips, cuts, paths.size(), flips + cuts - accepted, accepted);
}

TEST_F(CheckpointStoreTest, EveryByteOfTheManifestCounts) {
  const fs::path folder = save(1, 7);
  const std::string whole = file_content(folder / "manifest.json");
  // Each byte is hit, at another bit than its neighbours.
  for (std::size_t bit = 0; bit < whole.size() * 8; bit += 7) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(static_cast<unsigned char>(damaged[bit / 8]) ^ (1U << (bit % 8)));
    std::ofstream(folder / "manifest.json", std::ios::binary) << damaged;
    ASSERT_THAT(error_of([&] { read_checkpoint_manifest(folder); }), HasSubstr("manifest.json")) << bit;
  }
}

TEST_F(CheckpointStoreTest, BitFlipsInAnAdapterAlone) {
  // Without a manifest it is the file's seal that tells.
  const fs::path file = folder_.path() / "adapter.h5";
  write_adapter_h5(file, state_.adapter, info_of(1));
  const std::string whole = file_content(file);
  constexpr std::size_t kSeal = 31;
  const RandomStream random{3, 4};
  for (std::uint64_t i = 0; i < 400; ++i) {
    // The last ones hit the seal itself. One in its opening word leaves a file without a seal, and that is whole.
    const std::size_t place = i < 300 ? random.word(2 * i) % whole.size() : whole.size() - 1 - i % kSeal;
    std::string damaged = whole;
    damaged[place] =
        static_cast<char>(static_cast<unsigned char>(damaged[place]) ^ (1U << (random.word(2 * i + 1) % 8)));
    std::ofstream(file, std::ios::binary) << damaged;
    const std::string problem = error_of(
        [&] { EXPECT_EQ(read_any_adapter(file, model_->config()).values, state_.adapter.values) << place; });
    if (place < whole.size() - kSeal || !problem.empty()) {
      EXPECT_THAT(problem, HasSubstr("adapter.h5")) << place;
      EXPECT_THAT(problem, HasSubstr("digest")) << place;
    }
  }
  std::ofstream(file, std::ios::binary) << whole;
  EXPECT_EQ(read_any_adapter(file, model_->config()).values, state_.adapter.values);
}

TEST_F(CheckpointStoreTest, AnAdapterOfADamagedCheckpointIsRefused) {
  const fs::path folder = save(1, 7);
  const fs::path file = folder / "adapter.h5";
  fs::resize_file(file, fs::file_size(file) - 1);
  EXPECT_THAT(error_of([&] { read_any_adapter(folder, model_->config()); }), HasSubstr("adapter.h5"));
}

TEST(Adapters, ShapesAloneClaimNoMemory) {
  constexpr std::int64_t kWidth = std::int64_t{1} << 18;
  ModelConfig config;
  config.text = {
      .hidden = kWidth, .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = kWidth, .intermediate = kWidth};
  // tests/fixtures/checkpoint/make_h5py_fixture.py has made it.
  const fs::path claims = BIQA_SOURCE_DIR "/tests/fixtures/checkpoint/claims.h5";
  EXPECT_THAT(error_of([&] { read_any_adapter(claims, config); }), HasSubstr("it was never written"));
}

TEST_F(CheckpointStoreTest, MissingFiles) {
  for (const std::string name : {"adapter.h5", "manifest.json", "optimizer-00000-of-00003.h5",
                                 "optimizer-00001-of-00003.h5", "optimizer-00002-of-00003.h5"}) {
    SCOPED_TRACE(name);
    fs::remove_all(root());
    const fs::path folder = save(3, 7);
    fs::remove(folder / name);
    expect_refused(folder, name + (name == "manifest.json" ? " is missing" : ""));
    // A folder in a file's place is no file.
    fs::create_directory(folder / name);
    expect_refused(folder, name);
  }
}

TEST_F(CheckpointStoreTest, AllDamageIsNamed) {
  const fs::path folder = save(3, 7);
  fs::remove(folder / "optimizer-00001-of-00003.h5");
  fs::resize_file(folder / "adapter.h5", 99);
  const std::vector<std::string> damage = CheckpointStore::find_damage(folder);
  ASSERT_EQ(damage.size(), 2U);
  EXPECT_THAT(damage[0], HasSubstr("adapter.h5 has 99 bytes"));
  EXPECT_THAT(damage[1], HasSubstr("optimizer-00001-of-00003.h5 is missing"));
}

TEST_F(CheckpointStoreTest, FormatOneIsStillRead) {
  const fs::path folder = save(2, 7);
  rewrite_manifest(folder, [](nlohmann::json&) {});
  EXPECT_EQ(CheckpointStore::load(folder, model_->config()).adapter.values, state_.adapter.values);
  // One that carries a digest nevertheless has to keep it.
  rewrite_manifest(folder,
                   [](nlohmann::json& manifest) { manifest["manifest_digest"] = std::string(16, 'a'); });
  expect_refused(folder, "manifest.json is damaged");
}

TEST_F(CheckpointStoreTest, ManifestsThatMakeNoSense) {
  const fs::path folder = save(2, 7);
  const std::string whole = file_content(folder / "manifest.json");
  const std::vector<std::pair<std::string, std::function<void(nlohmann::json&)>>> changes{
      {"format", [](nlohmann::json& m) { m["format"] = "biqa-checkpoint-9"; }},
      {"format", [](nlohmann::json& m) { m.erase("format"); }},
      {"files", [](nlohmann::json& m) { m.erase("files"); }},
      {"files",
       [](nlohmann::json& m) {
         m["files"] = {{"a", 1}};
       }},
      {"adapter.h5", [](nlohmann::json& m) { m["files"] = nlohmann::json::array(); }},
      {"files[0]", [](nlohmann::json& m) { m["files"][0] = "adapter.h5"; }},
      {"name", [](nlohmann::json& m) { m["files"][0]["name"] = "../adapter.h5"; }},
      {"name", [](nlohmann::json& m) { m["files"][0]["name"] = ""; }},
      {"name", [](nlohmann::json& m) { m["files"][0].erase("name"); }},
      {"xxh3", [](nlohmann::json& m) { m["files"][0].erase("xxh3"); }},
      {"bytes", [](nlohmann::json& m) { m["files"][0]["bytes"] = -5; }},
      {"bytes", [](nlohmann::json& m) { m["files"][0]["bytes"] = "many"; }},
      {"step", [](nlohmann::json& m) { m["step"] = "seven"; }},
      {"step", [](nlohmann::json& m) { m["step"] = -5; }},
      {"step", [](nlohmann::json& m) { m["step"] = std::int64_t{1} << 62; }},
      {"step", [](nlohmann::json& m) { m.erase("step"); }},
      {"step 8", [](nlohmann::json& m) { m["step"] = 8; }},
      {"version", [](nlohmann::json& m) { m["version"] = -3; }},
      {"data_cursor", [](nlohmann::json& m) { m["data_cursor"] = -1; }},
      {"adapter.h5", [](nlohmann::json& m) { m["files"].erase(0); }},
      {"best_value", [](nlohmann::json& m) {
         m["best_value"] = {1, 2};
       }}};
  for (const auto& [part, change] : changes) {
    std::ofstream(folder / "manifest.json", std::ios::binary) << whole;
    rewrite_manifest(folder, change);
    expect_refused(folder, part);
  }
  for (const std::string text : {"", "{", "[]", "null", "\xff\xfe"}) {
    std::ofstream(folder / "manifest.json", std::ios::binary) << text;
    expect_refused(folder, "manifest.json");
  }
}

TEST_F(CheckpointStoreTest, GapsBetweenShards) {
  const fs::path folder = save(3, 7);
  const std::string whole = file_content(folder / "manifest.json");
  const std::string second = "optimizer-00001-of-00003.h5";
  rewrite_manifest(folder, [](nlohmann::json& manifest) { manifest["files"].erase(2); });
  expect_refused(folder, "lists 2 shards");
  rewrite_manifest(folder, [](nlohmann::json& manifest) {
    while (manifest["files"].size() > 1) manifest["files"].erase(1);
  });
  expect_refused(folder, "no optimizer shard");

  // A shard that is whole by its digest, but covers something else.
  const Hdf5File original(folder / second);
  const std::vector<float> m = original.read_f32("m"), v = original.read_f32("v");
  const std::int64_t begin = original.attribute_i64("/", "begin"), end = original.attribute_i64("/", "end");
  const auto replace_second = [&](std::int64_t from, std::int64_t to, std::int64_t count,
                                  std::int64_t updates) {
    Hdf5Writer out(folder / second);
    out.attribute("/", "begin", from);
    out.attribute("/", "end", to);
    out.attribute("/", "updates", updates);
    const auto part = std::span(m).first(static_cast<std::size_t>(count));
    for (const char* name : {"m", "v", "master"}) out.dataset(name, part, {count});
    out.close();
    std::ofstream(folder / "manifest.json", std::ios::binary) << whole;
    rewrite_manifest(folder, [&](nlohmann::json& manifest) {
      for (auto& file : manifest["files"]) {
        if (file["name"] != second) continue;
        file["bytes"] = fs::file_size(folder / second);
        file["xxh3"] = digest_of_file(folder / second);
      }
    });
  };
  const std::int64_t size = end - begin;
  replace_second(begin + 1, end, size - 1, 17);
  expect_refused(folder, second + " covers");
  replace_second(begin, end - 1, size - 1, 17);
  expect_refused(folder, "optimizer-00002-of-00003.h5 covers");
  replace_second(begin, end, size - 1, 17);
  expect_refused(folder, fmt::format("m of shard {}", second));
  replace_second(begin, begin - 1, 0, 17);
  expect_refused(folder, second + " covers");
  replace_second(begin, end, size, 18);
  expect_refused(folder, second + " is from update 18");
  replace_second(begin, end, size, 17);
  EXPECT_NO_THROW(CheckpointStore::verify(folder));
}

}  // namespace
}  // namespace biqa
