// SPDX-License-Identifier: Apache-2.0
#include "fuzz/seeds.h"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "data/wire.h"
#include "fuzz/harness.h"
#include "fuzz/tiny_files.h"
#include "io/files.h"
#include "learner/checkpoint_store.h"
#include "model/checkpoint.h"
#include "model/peft.h"
#include "run/records.h"

namespace biqa::fuzz {
namespace {

namespace fs = std::filesystem;
using Seeds = std::map<std::string, std::vector<std::string>>;

std::string with_nul(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (&part == parts.data() ? "" : std::string(1, '\0')) + part;
  return text;
}

/// The first `count` lines that are not longer than a kilobyte.
std::string first_lines(const std::string& text, std::size_t count) {
  std::string lines;
  for (std::size_t begin = 0; begin < text.size() && count > 0;) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    if (end - begin <= 1024) {
      lines += text.substr(begin, end - begin) + "\n";
      --count;
    }
    begin = end + 1;
  }
  return lines;
}

void add_pictures(Seeds& seeds) {
  const std::map<std::string, std::string> harness_of{{".jpg", "jpeg"}, {".png", "png"}, {".webp", "webp"},
                                                      {".tif", "tiff"}, {".bmp", "bmp"}, {".pbm", "pnm"},
                                                      {".pgm", "pnm"},  {".ppm", "pnm"}};
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(fs::path(BIQA_SOURCE_DIR) / "tests/fixtures/images"))
    files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    const auto harness = harness_of.find(file.extension().string());
    if (harness == harness_of.end()) continue;
    const std::string content = read_file(file);
    seeds["image_" + harness->second].push_back(content);
    constexpr std::string_view kExif("Exif\0\0", 6);
    if (const std::size_t at = content.find(kExif); at != std::string::npos)
      seeds["exif"].push_back(content.substr(at, 200));
  }
}

void add_models(Seeds& seeds, const fs::path& folder) {
  const std::string model = "assets/tiny/model/";
  const std::string config = source_file(model + "config.json");
  seeds["model_config"] = {config, with_nul({config, source_file(model + "generation_config.json")})};
  // The same on one level, as older files have it.
  const nlohmann::json nested = nlohmann::json::parse(config);
  nlohmann::json flat = nested["text_config"];
  flat.update(nested);
  flat.erase("text_config");
  seeds["model_config"].push_back(flat.dump());
  for (const char* name : {"preprocessor_config.json", "processor_config.json"})
    seeds["preprocessor_config"].push_back(source_file(model + name));
  const std::string tokenizer = "tests/fixtures/tokenizer/";
  seeds["tokenizer_files"] = {
      source_file(tokenizer + "whole/tokenizer.json"),
      with_nul({source_file(tokenizer + "split/vocab.json"), source_file(tokenizer + "split/merges.txt"),
                source_file(tokenizer + "split/tokenizer_config.json")})};
  seeds["json"] = {config, source_file(model + "tokenizer_config.json"),
                   "[1,-2.5e3,\"\\u00e9\",null,true,{}]"};

  nlohmann::json index{{"metadata", {{"total_size", 0}}}};
  for (const ExpectedTensor& tensor : expected_tensors(tiny_config(), false))
    index["weight_map"][tensor.name] = tiny_shard_of(tensor.name);
  seeds["safetensors_index"] = {index.dump()};

  write_tiny_adapter(folder / "adapter");
  const std::string weights = read_file(folder / "adapter/adapter_model.safetensors");
  seeds["safetensors"] = {
      weights, std::string("\x40\0\0\0\0\0\0\0", 8) +
                   R"({"__metadata__":{"a":"b"},"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}})"};
  seeds["peft_config"] = {read_file(folder / "adapter/adapter_config.json"),
                          R"({"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":"all-linear"})",
                          R"({"peft_type":"LORA","r":8,"rank_pattern":{"layers\\.[0-9]+\\..*":2},)"
                          R"("target_modules":".*\\.(q|k|v|o|gate|up|down)_proj","use_rslora":true})"};
  // Length and data left out.
  seeds["peft_weights"] = {weights.substr(8, weights.find("}}") + 2 - 8)};
  std::string names;
  for (const auto& [key, shape] : read_peft_shapes(folder / "adapter"))
    names += fmt::format("{}\t{} {}\n", key, shape[0], shape[1]);
  seeds["peft_names"] = {names, "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight\t6 2\n",
                         "base_model.model.visual.blocks.0.attn.qkv.lora_A.default.weight\t2 8\n",
                         "base_model.model.model.visual.patch_embed.proj.lora_A.weight\t2 3 2 14 14\n"
                         "base_model.model.lm_head.lora_B.weight\t100 2\n"};
}

void add_sentences(Seeds& seeds) {
  const std::string model = "tests/fixtures/sentence/";
  std::vector<std::string> parts;
  for (const char* name : {"config.json", "vocab.txt", "tokenizer_config.json", "modules.json",
                           "1_Pooling/config.json", "sentence_bert_config.json"})
    parts.push_back(source_file(model + name));
  seeds["sentence_folder"] = {with_nul(parts), with_nul({parts[0], parts[1]})};
  const auto expected = nlohmann::json::parse(source_file(model + "expected.json"));
  for (const auto& text : expected.at("texts")) {
    if (text.get<std::string>().size() <= 1024) seeds["sentence_text"].push_back(text);
  }
  seeds["sentence_text"].push_back(
      "It isn\u2019t blurry, but there's no lack of noise or grain; poor light.");
  seeds["lexicon"] = {source_file("assets/lexicon/quality.txt"), "a +1 b\nnegation no\njudgement -1 c d*\n"};
}

void add_texts(Seeds& seeds) {
  const std::string chat = source_file("assets/tiny/model/chat_template.jinja");
  seeds["chat_template"] = {chat,
                            nlohmann::json({{"chat_template", chat}, {"eos_token", "<|im_end|>"}}).dump()};
  const auto variations = nlohmann::json::parse(source_file("tests/fixtures/chat/templates.json"));
  for (const auto& row : variations.at("templates")) seeds["chat_template"].push_back(row.at("template"));
  for (const char* name : {"configs/quickstart.yaml", "configs/koniq.yaml"}) {
    seeds["yaml"].push_back(source_file(name));
    seeds["configuration"].push_back(source_file(name));
  }
  seeds["yaml"].push_back(
      "a: &x [1, 'two', \"three\\n\"]\nb: *x\nc: |\n  text\n  more\nd: {e: ~, f: >-\n  g}\n");
  seeds["configuration"].push_back(with_nul({"objective: sft\n", "rollout.kv_memory=1.5 GiB"}));
  seeds["configuration"].push_back("base: run.yaml\nrollout: {group_size: 2}\n");
  seeds["configuration"].push_back("roles: [actor: 1, learner: 2-3]\nstage2: {enabled: false}\n");
  seeds["manifest"] = {
      first_lines(source_file("assets/tiny/test.jsonl"), 3),
      first_lines(source_file("assets/tiny/train.jsonl"), 2),
      "{\"id\":\"a\",\"image\":\"a.png\",\"score\":1,\"raw_score\":-3e2,\"set\":\"s\","
      "\"text\":{\"description\":\"d\",\"good\":\"g\",\"bad\":\"b\"},\"completion\":\"c\"}\n\n"};
  seeds["response"] = {
      "<caption>A cat, 3.5 of 5.</caption>\n<reasoning>Soft edges.</reasoning>\n<rating>3.25</rating>",
      "<caption>noise 4/5, 80%</caption><think>4K is sharp</think><answer>{\"rating\": 2.5}</answer>",
      "The 2nd of 1,000 pictures: 3,5,4.0 running relational hopefully"};
  const std::string texts = source_file("tests/fixtures/tokenizer/texts.jsonl");
  std::size_t begin = 0;
  for (int i = 0; i < 40; ++i) {
    const std::size_t end = texts.find('\n', begin);
    const std::string text = nlohmann::json::parse(texts.substr(begin, end - begin))["text"];
    if (text.size() <= 1024) seeds["tokenizer_text"].push_back(text);
    begin = end + 1;
  }
  seeds["tokenizer_text"].push_back(
      with_nul({"You are <|im_end|>", "e\u0301\U0001F600 <|image_pad|> 12\r\n"}));
}

Group tiny_group() {
  Group group;
  group.sample_id = "photo.jpg";
  group.prompt_ids = {5, 6};
  group.image_grid_thw = {{1, 4, 6}};
  group.annotation.score = 3.25;
  Trajectory trajectory;
  trajectory.completion_ids = {9, 8};
  trajectory.behaviour_logp = {-0.5F, -1.0F};
  trajectory.text = "<rating>";
  trajectory.caption = "a";
  trajectory.rating = 4;
  group.members = {Trajectory{}, trajectory};
  return group;
}

/// A line of hdf5_lines.h for each of an adapter's tensors.
std::string adapter_lines(const std::string& folder, const Lora& lora) {
  std::string lines;
  for (const LoraModule& module : lora.layout->modules()) {
    lines += fmt::format("{}{} f {} {} = .5 -.25\n", folder, peft_key(module, 'A'), module.rank, module.in);
    lines += fmt::format("{}{} f {} {} = .125\n", folder, peft_key(module, 'B'), module.out, module.rank);
  }
  return lines;
}

std::string step_lines(const Lora& lora) {
  std::string lines =
      "/@lr f .001\n/@optimizer_steps i 1\n/@lora_rank i 2\n/@lora_alpha f 4\n/@loss t grpo\n/@kl t "
      "k3\n/@beta f .1\n"
      "/@clip_low f .2\n/@clip_high f .2\n/@temperature f 1\n/@beta1 f .9\n/@beta2 f .999\n/@eps f 1e-8\n"
      "/@weight_decay f 0\n/@max_grad_norm f 1\n/@stage2_trained i 0\n";
  const LoraModule& module = lora.layout->modules().front();
  for (const char* part : {"adapter_before/", "adam_m_before/", "adam_v_before/"}) {
    for (const char which : {'A', 'B'})
      lines += fmt::format("{}{} f {} = .5\n", part, peft_key(module, which),
                           which == 'A' ? fmt::format("{} {}", module.rank, module.in)
                                        : fmt::format("{} {}", module.out, module.rank));
  }
  for (const char* member : {"0", "1"}) {
    const std::string path = fmt::format("trajectories/0000{}", member);
    lines += fmt::format(
        "{0}/prompt_ids i 3 = 1 2 3\n{0}/completion_ids i 2 = 4 5\n{0}/mask f 2 = 1\n{0}/behaviour_logp f 2 "
        "= -1\n"
        "{0}@group i 0\n{0}@advantage f .5\n{0}@member i {1}\n",
        path, member);
  }
  return lines;
}

void add_labels(Seeds& seeds) {
  const std::string folder = "tests/fixtures/labels/";
  seeds["table_file"] = {"image_name,MOS,set\r\n\"a, \"\"b\"\".jpg\",3.5,training\r\n",
                         "1600.AWGN.1.png 0.061989\n", "a;b\n1;2\n", "a\tb\n\n1\t2",
                         source_file(folder + "labels.xlsx")};
  for (const char* name : {"plain.mat", "packed.mat", "new.mat"})
    seeds["mat_file"].push_back(source_file(folder + name));
  seeds["predictions"] = {
      "{\"id\":\"a\",\"set\":\"s\",\"score\":3.5,\"rating\":4,\"caption_rating\":null,\"text\":\"t\",\"human_"
      "text\":\"h\","
      "\"caption\":\"c\",\"reasoning\":\"r\",\"repeat\":1,\"reference\":\"I01\",\"type\":\"blur\",\"level\":"
      "2,"
      "\"out_of_scale\":false}\n",
      "{\"id\":1,\"score\":3,\"rating\":null}\n\n{\"id\":2,\"rating\":12,\"level\":\"x\"}"};
}

void add_runs(Seeds& seeds, const fs::path& folder) {
  const std::vector<std::byte> group = serialise(tiny_group());
  seeds["wire"] = {std::string(reinterpret_cast<const char*>(group.data()), group.size())};
  EvalMetrics evaluation;
  evaluation.set = "test";
  seeds["metrics"] = {to_json_line(StepMetrics{}) + "\n" + to_json_line(evaluation) + "\n"};

  LoadedCheckpoint state;
  state.adapter = tiny_adapter();
  state.m.resize(state.adapter.values.size());
  state.v.resize(state.adapter.values.size());
  state.info.best_value = std::nan("");
  write_checkpoint(folder / "step-000000", state);
  seeds["checkpoint_manifest"] = {read_file(folder / "step-000000/manifest.json")};
  const std::string adapter = read_file(folder / "step-000000/adapter.h5");
  // Without its seal the library sees it.
  seeds["hdf5_file"] = {source_file("tests/fixtures/checkpoint/h5py.h5"), adapter,
                        adapter.substr(0, adapter.rfind("\nbiqa-xxh3-64"))};
  seeds["hdf5_adapter"] = {"/@rank i 2\n/@alpha f 4\n/@rslora i 0\n" + adapter_lines("", state.adapter),
                           "/@rank i 2\n/@base_model t x\na/b i 3 = 1 2\nnames t 2\n"};
  const std::size_t size = state.adapter.values.size(), half = size / 2;
  const auto shard = [](std::size_t begin, std::size_t end) {
    return fmt::format("/@begin i {}\n/@end i {}\n/@updates i 3\nm f {}\nv f {}\nmaster f {} = .5\n", begin,
                       end, end - begin, end - begin, end - begin);
  };
  const std::string whole = "/@step i 0\n" + seeds["hdf5_adapter"][0];
  seeds["checkpoint_shards"] = {with_nul({whole, shard(0, size)}),
                                with_nul({whole, shard(0, half), shard(half, size)})};
  seeds["step_dump"] = {step_lines(state.adapter)};
}

}  // namespace

std::map<std::string, std::vector<std::string>> make_seeds() {
  const Folder folder;
  Seeds seeds;
  add_pictures(seeds);
  add_models(seeds, folder.path());
  add_texts(seeds);
  add_sentences(seeds);
  add_labels(seeds);
  add_runs(seeds, folder.path());
  return seeds;
}

}  // namespace biqa::fuzz
