// SPDX-License-Identifier: Apache-2.0
// biqa_random_model: a checkpoint of random weights in a chosen size, to measure speed and memory without a download.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/program.h"
#include "core/error.h"
#include "core/random.h"
#include "io/files.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/checkpoint.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

const ProgramInfo kInfo{
    "biqa_random_model",
    "write a checkpoint of random bf16 weights in a chosen size, to measure speed and memory",
    "--size SIZE --out DIR [--like DIR]",
    "biqa_random_model --size 3B --out build/random-3B",
    {{"size", "SIZE", "41M, 427M, 3B, 7B, or tiny: the sizes of the model of --like", "7B"},
     {"out", "DIR", "folder of the new checkpoint; must not exist", ""},
     {"like", "DIR", "checkpoint that gives tokenizer and all other settings", "assets/tiny/model"},
     {"layers", "N", "layers of the language model; 0: as published", "0"},
     {"image-tokens", "N", "every image is enlarged to at least N tokens; 0: as in --like", "0"}}};

/// What config.json says of a size. 3B and 7B are published; 41M and 427M are those of docs/measurements.md.
struct ModelSize {
  const char* name;
  std::int64_t hidden, intermediate, layers, heads, kv_heads, vocab;
  bool tied;
  struct {
    std::int64_t hidden, intermediate, depth, heads;
  } vision;
};
constexpr ModelSize kSizes[] = {{"41M", 512, 1536, 8, 8, 2, 8192, false, {256, 704, 8, 4}},
                                {"427M", 1024, 2816, 24, 16, 4, 32768, false, {640, 1728, 16, 10}},
                                {"3B", 2048, 11008, 36, 16, 2, 151936, true, {1280, 3420, 32, 16}},
                                {"7B", 3584, 18944, 28, 28, 4, 152064, false, {1280, 3420, 32, 16}}};

void set_sizes(nlohmann::json& config, const ModelSize& size) {
  config["tie_word_embeddings"] = size.tied;
  nlohmann::json& text = config.at("text_config");
  text.erase("layer_types");
  text["hidden_size"] = size.hidden;
  text["intermediate_size"] = size.intermediate;
  text["num_hidden_layers"] = size.layers;
  text["num_attention_heads"] = size.heads;
  text["num_key_value_heads"] = size.kv_heads;
  text["vocab_size"] = size.vocab;
  text["tie_word_embeddings"] = size.tied;
  text["max_position_embeddings"] = 128000;
  // Of the frequencies of a head, a quarter is for time, the rest for height and width.
  const std::int64_t frequencies = size.hidden / size.heads / 2;
  const std::int64_t side = frequencies * 3 / 8;
  text["rope_parameters"] = {
      {"rope_type", "default"}, {"rope_theta", 1e6}, {"mrope_section", {frequencies - 2 * side, side, side}}};
  nlohmann::json& vision = config.at("vision_config");
  vision["depth"] = size.vision.depth;
  // Every fourth or eighth of the blocks attends to the whole image.
  nlohmann::json whole = nlohmann::json::array();
  const std::int64_t apart = std::max<std::int64_t>(size.vision.depth / 4, 4);
  for (std::int64_t block = apart - 1; block < size.vision.depth; block += apart) whole.push_back(block);
  vision["fullatt_block_indexes"] = whole;
  vision["hidden_size"] = size.vision.hidden;
  vision["intermediate_size"] = size.vision.intermediate;
  vision["num_heads"] = size.vision.heads;
  vision["out_hidden_size"] = size.hidden;
  vision["window_size"] = 112;
}

void enlarge_images(nlohmann::json& preprocessor, std::int64_t tokens) {
  const std::int64_t side =
      preprocessor.at("patch_size").get<std::int64_t>() * preprocessor.at("merge_size").get<std::int64_t>();
  const std::int64_t least = tokens * side * side;
  const std::int64_t most = least + least / 4;
  preprocessor["min_pixels"] = least;
  preprocessor["max_pixels"] = most;
  preprocessor["size"] = {{"shortest_edge", least}, {"longest_edge", most}};
}

std::int64_t elements_of(const ExpectedTensor& tensor) {
  std::int64_t count = 1;
  for (const std::int64_t extent : tensor.shape) count *= extent;
  return count;
}

/// Normal values with a deviation of 0.02, as models are initialised. Every matrix takes a part of these, at an offset of
/// its own.
class RandomWeights {
 public:
  explicit RandomWeights(std::int64_t largest)
      : values_(static_cast<std::size_t>(largest + kOffsets)), ones_(1 << 17, to_bf16(1.0F)) {
    constexpr double kTurn = 6.283185307179586;
    const RandomStream stream({1});
    // A table of normal values, drawn from by a counter: billions of draws would take minutes.
    std::vector<Bf16> normal(std::size_t{1} << 16);
    for (std::size_t i = 0; i < normal.size(); ++i) {
      const double radius = std::sqrt(-2 * std::log(1 - stream.uniform(2 * i)));
      normal[i] = to_bf16(static_cast<float>(0.02 * radius * std::cos(kTurn * stream.uniform(2 * i + 1))));
    }
    std::uint64_t state = 1;
    for (Bf16& value : values_) {
      state = state * 6364136223846793005U + 1442695040888963407U;
      value = normal[state >> 48];
    }
  }

  NamedTensor tensor(const ExpectedTensor& expected) const {
    const auto count = static_cast<std::size_t>(elements_of(expected));
    const bool norm = expected.shape.size() == 1 && expected.name.ends_with("weight");
    const std::span<const Bf16> from =
        norm ? std::span(ones_) : std::span(values_).subspan(hash_text(expected.name) % kOffsets);
    return {expected.name, StoredType::bf16, expected.shape, std::as_bytes(from.first(count))};
  }

 private:
  static constexpr std::int64_t kOffsets = 1 << 16;
  std::vector<Bf16> values_, ones_;
};

ExitCode write_model(const CommandLine& line) {
  if (!line.has("out"))
    fail_usage("flag --out is missing: name the folder to write; see biqa_random_model --help");
  const fs::path like = line.text("like"), out = line.text("out");
  if (fs::exists(out)) fail("cannot write {}: it exists; name another folder", out.string());
  nlohmann::json config = read_json(like / "config.json");
  const std::string name = line.choice("size", {"tiny", "41M", "427M", "3B", "7B"});
  for (const ModelSize& size : kSizes) {
    if (name == size.name) set_sizes(config, size);
  }
  if (const std::int64_t layers = line.integer("layers", 0, 1000); layers > 0)
    config.at("text_config")["num_hidden_layers"] = layers;

  AtomicFolder folder(out);
  for (const auto& entry : fs::directory_iterator(like)) {
    const std::string file = entry.path().filename().string();
    if (file.find(".safetensors") == std::string::npos && entry.is_regular_file())
      fs::copy_file(entry.path(), folder.path() / file);
  }
  write_file_atomically(folder.path() / "config.json", config.dump(2) + "\n");
  if (const std::int64_t tokens = line.integer("image-tokens", 0, 1 << 14); tokens > 0) {
    nlohmann::json preprocessor = read_json(like / "preprocessor_config.json");
    enlarge_images(preprocessor, tokens);
    write_file_atomically(folder.path() / "preprocessor_config.json", preprocessor.dump(2) + "\n");
    fs::remove(folder.path() / "processor_config.json");  // would come first
  }
  const ModelConfig model = ModelConfig::load(folder.path());
  const std::vector<ExpectedTensor> expected = expected_tensors(model, !model.text.tied);
  std::int64_t largest = 0;
  for (const ExpectedTensor& tensor : expected) largest = std::max(largest, elements_of(tensor));
  const RandomWeights weights(largest);
  std::vector<NamedTensor> tensors;
  tensors.reserve(expected.size());
  for (const ExpectedTensor& tensor : expected) tensors.push_back(weights.tensor(tensor));
  write_safetensors(folder.path() / "model.safetensors", tensors);
  folder.commit();
  fmt::print("{}: {} parameters\n", out.string(), model.total_parameters());
  return ExitCode::done;
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::write_model);
}
