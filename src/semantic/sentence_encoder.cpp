// SPDX-License-Identifier: Apache-2.0
#include "semantic/sentence_encoder.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/finite.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

// Far larger than in any real model, and small enough that no product of sizes overflows 64 bits.
constexpr std::int64_t kMaxWidth = std::int64_t{1} << 16;
constexpr std::int64_t kMaxLayers = std::int64_t{1} << 10;
constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 24;
constexpr std::int64_t kMaxPositions = std::int64_t{1} << 20;
constexpr double kDefaultEpsilon = 1e-12;
/// Tokens that encode() gives to the network at once. Limits the memory of the activations.
constexpr std::size_t kTokensAtOnce = 2048;
/// At least this long a vector before it is divided by its length, as in sentence-transformers.
constexpr double kLeastLength = 1e-12;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// config.json of a BertModel.
struct NetworkConfig {
  TextEncoderShape shape;
  std::int64_t layers = 0, vocabulary = 0, positions = 0, types = 0;
};

NetworkConfig read_config(const fs::path& folder) {
  const fs::path file = folder / "config.json";
  const nlohmann::json json = read_json(file);
  const JsonFields fields(json, file.string());
  if (const auto type = fields.text("model_type"); !type || *type != "bert")
    fields.refuse("model_type",
                  "\"bert\": sentence similarity needs a network of BERT's shape, such as all-MiniLM-L6-v2");
  if (fields.text("hidden_act").value_or("gelu") != "gelu")
    fields.refuse("hidden_act", "\"gelu\" (other activations are not supported)");
  if (fields.text("position_embedding_type").value_or("absolute") != "absolute")
    fields.refuse("position_embedding_type", "\"absolute\" (relative positions are not supported)");
  const auto size = [&](const char* key, std::int64_t most) {
    const auto value = fields.integer(key, 1, most);
    if (!value) fields.missing(key);
    return *value;
  };
  NetworkConfig config;
  config.shape.hidden = size("hidden_size", kMaxWidth);
  config.shape.intermediate = size("intermediate_size", kMaxWidth);
  config.shape.heads = size("num_attention_heads", kMaxWidth);
  if (config.shape.hidden % config.shape.heads != 0)
    fields.refuse("num_attention_heads", fmt::format("a divisor of hidden_size, {}", config.shape.hidden));
  const double epsilon = fields.number("layer_norm_eps").value_or(kDefaultEpsilon);
  if (!(epsilon > 0 && epsilon < 1)) fields.refuse("layer_norm_eps", "a number between 0 and 1");
  config.shape.epsilon = static_cast<float>(epsilon);
  config.layers = size("num_hidden_layers", kMaxLayers);
  config.vocabulary = size("vocab_size", kMaxVocabulary);
  config.positions = size("max_position_embeddings", kMaxPositions);
  if (config.positions < 2) fields.refuse("max_position_embeddings", "at least 2");
  config.types = size("type_vocab_size", kMaxWidth);
  return config;
}

/// The tensors of model.safetensors under their names in a BertModel.
class Weights {
 public:
  explicit Weights(const fs::path& folder) : file_(open(folder)) {
    constexpr const char* kFirst = "embeddings.word_embeddings.weight";
    if (!file_.has(kFirst) && file_.has(std::string("bert.") + kFirst)) prefix_ = "bert.";
  }
  Tensor read(const std::string& name, std::int64_t rows, std::int64_t columns) const {
    const StoredTensor& stored = find(name, {rows, columns});
    Tensor values(DType::f32, rows, columns, "sentence encoder");
    copy(stored, values.view());
    return values;
  }
  Tensor vector(const std::string& name, std::int64_t size) const {
    const StoredTensor& stored = find(name, {size});
    Tensor values(DType::f32, 1, size, "sentence encoder");
    copy(stored, values.view());
    return values;
  }
  TextEncoderWeights::Norm norm(const std::string& name, std::int64_t size) const {
    return {vector(name + ".weight", size), vector(name + ".bias", size)};
  }
  /// The parts of the linear layer, one below the other; each has `out` rows.
  TextEncoderWeights::Linear linear(const std::vector<std::string>& names, std::int64_t out,
                                    std::int64_t in) const {
    // All parts are checked before memory is taken for them.
    std::vector<const StoredTensor*> weights, biases;
    for (const std::string& name : names) {
      weights.push_back(&find(name + ".weight", {out, in}));
      biases.push_back(&find(name + ".bias", {out}));
    }
    const auto parts = static_cast<std::int64_t>(names.size());
    TextEncoderWeights::Linear linear{Tensor(DType::f32, parts * out, in, "sentence encoder"),
                                      Tensor(DType::f32, 1, parts * out, "sentence encoder")};
    for (std::int64_t i = 0; i < parts; ++i) {
      copy(*weights[static_cast<std::size_t>(i)], linear.weight.view().row_range(i * out, out));
      copy(*biases[static_cast<std::size_t>(i)], linear.bias.view().column_range(i * out, out));
    }
    return linear;
  }

 private:
  static Safetensors open(const fs::path& folder) {
    const fs::path file = folder / "model.safetensors";
    if (!is_there(file) && is_there(folder / "pytorch_model.bin")) {
      fail(
          "cannot read the weights of {}: there is only pytorch_model.bin, which can hold any program; "
          "convert it "
          "once with transformers: AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER, "
          "safe_serialization=True)",
          folder.string());
    }
    return Safetensors::open(file);
  }
  /// Throws Error unless there is a tensor of this shape.
  const StoredTensor& find(const std::string& name, const std::vector<std::int64_t>& shape) const {
    const StoredTensor& stored = file_.at(prefix_ + name);
    if (!stored.is_float() || stored.shape != shape) {
      fail(
          "cannot use tensor {} of {}: it is {} [{}], but config.json says F32, BF16 or F16 [{}]; fetch the "
          "folder again",
          stored.name, stored.file, name_of(stored.type), fmt::join(stored.shape, ", "),
          fmt::join(shape, ", "));
    }
    return stored;
  }
  static void copy(const StoredTensor& stored, View target) {
    const std::span<float> values = target.span<float>();
    stored.copy_to(values);
    if (!all_finite(values))
      fail("cannot use tensor {} of {}: it has values that are not finite; fetch the folder again",
           stored.name, stored.file);
  }

  Safetensors file_;
  std::string prefix_;
};

TextEncoderWeights read_weights(const fs::path& folder, const NetworkConfig& config) {
  const Weights file(folder);
  const std::int64_t hidden = config.shape.hidden, wide = config.shape.intermediate;
  TextEncoderWeights weights;
  weights.words = file.read("embeddings.word_embeddings.weight", config.vocabulary, hidden);
  weights.positions = file.read("embeddings.position_embeddings.weight", config.positions, hidden);
  const Tensor types = file.read("embeddings.token_type_embeddings.weight", config.types, hidden);
  weights.type = Tensor(DType::f32, 1, hidden, "sentence encoder");
  std::copy_n(types.row<float>(0), hidden, weights.type.row<float>(0));
  weights.embedding_norm = file.norm("embeddings.LayerNorm", hidden);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const std::string layer = fmt::format("encoder.layer.{}.", i);
    const std::string self = layer + "attention.self.";
    weights.layers.push_back({file.linear({self + "query", self + "key", self + "value"}, hidden, hidden),
                              file.linear({layer + "attention.output.dense"}, hidden, hidden),
                              file.norm(layer + "attention.output.LayerNorm", hidden),
                              file.linear({layer + "intermediate.dense"}, wide, hidden),
                              file.linear({layer + "output.dense"}, hidden, wide),
                              file.norm(layer + "output.LayerNorm", hidden)});
  }
  return weights;
}

/// The folder of the pooling in modules.json; empty without that file or without a pooling.
fs::path pooling_folder(const fs::path& folder) {
  const fs::path file = folder / "modules.json";
  if (!is_there(file)) return {};
  const nlohmann::json json = read_json(file);
  if (!json.is_array())
    fail("cannot use {}: it is not a list of modules; fetch the folder again", file.string());
  fs::path pooling;
  for (const nlohmann::json& module : json) {
    const JsonFields fields(module, file.string());
    const std::string type = fields.text("type").value_or("");
    const std::string kind = type.substr(type.find_last_of('.') + 1);
    const fs::path path = fields.text("path").value_or("");
    if (kind == "Pooling") {
      if (path.is_absolute() || path.empty() || *path.begin() == "..")
        fields.refuse("path", "a folder inside the model folder");
      pooling = folder / path;
    } else if (kind != "Transformer" && kind != "Normalize") {
      fields.refuse("type", "a Transformer, a Pooling or a Normalize (other modules are not supported)");
    } else if (kind == "Transformer" && !path.empty()) {
      fields.refuse("path", "\"\": config.json and the weights must lie in the folder itself");
    }
  }
  return pooling;
}

/// Whether the vector of a text is that of its first token. Otherwise it is the mean over its tokens.
bool pools_first_token(const fs::path& folder) {
  const fs::path pooling = pooling_folder(folder);
  if (pooling.empty()) return false;
  const fs::path file = pooling / "config.json";
  const nlohmann::json json = read_json(file);
  const JsonFields fields(json, file.string());
  for (const auto& [key, value] : json.items()) {
    const bool supported = key == "pooling_mode_mean_tokens" || key == "pooling_mode_cls_token";
    if (key.starts_with("pooling_mode_") && !supported && fields.boolean(key).value_or(false))
      fields.refuse(key, "false: only the mean over tokens or the first token (cls) is supported");
  }
  const bool mean = fields.boolean("pooling_mode_mean_tokens").value_or(false);
  const bool first = fields.boolean("pooling_mode_cls_token").value_or(false);
  if (mean == first)
    fail(
        "cannot read {}: pooling_mode_mean_tokens and pooling_mode_cls_token are both {}; set exactly one of "
        "them to true",
        file.string(), mean);
  return first;
}

/// The most tokens of a text: the least of what the files say.
std::int64_t token_limit(const fs::path& folder, const NetworkConfig& config, const WordPiece& tokenizer) {
  std::int64_t limit = config.positions;
  if (tokenizer.model_max_length() > 0) limit = std::min(limit, tokenizer.model_max_length());
  const fs::path file = folder / "sentence_bert_config.json";
  if (!is_there(file)) return limit;
  const nlohmann::json json = read_json(file);
  const JsonFields fields(json, file.string());
  return std::min(limit, fields.integer("max_seq_length", 2, kMaxPositions).value_or(limit));
}

}  // namespace

struct SentenceEncoder::Parts {
  WordPiece tokenizer;
  std::unique_ptr<TextEncoder> network;
  std::int64_t width = 0, most_tokens = 0;
  Pooling pooling = Pooling::mean;
};

SentenceEncoder::SentenceEncoder(Parts parts)
    : tokenizer_(std::move(parts.tokenizer)),
      network_(std::move(parts.network)),
      width_(parts.width),
      most_tokens_(parts.most_tokens),
      pooling_(parts.pooling) {}

SentenceEncoder SentenceEncoder::open(const fs::path& folder, int threads) {
  if (!fs::is_directory(folder))
    fail("cannot read the sentence encoder {}: it is not a folder; give a model folder of Hugging Face",
         folder.string());
  const NetworkConfig config = read_config(folder);
  WordPiece tokenizer = WordPiece::open(folder, config.vocabulary);
  const std::int64_t limit = token_limit(folder, config, tokenizer);
  const Pooling pooling = pools_first_token(folder) ? Pooling::first_token : Pooling::mean;
  return SentenceEncoder({std::move(tokenizer),
                          make_text_encoder(config.shape, read_weights(folder, config), threads),
                          config.shape.hidden, limit, pooling});
}

std::vector<float> SentenceEncoder::encode(std::span<const std::string_view> texts) {
  std::vector<float> vectors(texts.size() * static_cast<std::size_t>(width_));
  float* row = vectors.data();
  std::vector<std::int64_t> ids, boundaries{0};
  const auto run = [&] {
    Tensor states(DType::f32, static_cast<std::int64_t>(ids.size()), width_, "sentence encoder");
    network_->encode(ids, boundaries, states.view());
    pool(boundaries, states.view(), row);
    row += static_cast<std::int64_t>(boundaries.size() - 1) * width_;
    ids.clear();
    boundaries = {0};
  };
  for (const std::string_view text : texts) {
    const std::vector<std::int64_t> own = tokenizer_.encode(text, static_cast<std::size_t>(most_tokens_));
    if (!ids.empty() && ids.size() + own.size() > kTokensAtOnce) run();
    ids.insert(ids.end(), own.begin(), own.end());
    boundaries.push_back(static_cast<std::int64_t>(ids.size()));
  }
  if (!ids.empty()) run();
  return vectors;
}

void SentenceEncoder::pool(std::span<const std::int64_t> boundaries, ConstView states, float* rows) const {
  std::vector<double> sums(static_cast<std::size_t>(width_));
  for (std::size_t text = 0; text + 1 < boundaries.size(); ++text, rows += width_) {
    std::fill(sums.begin(), sums.end(), 0.0);
    const std::int64_t end = pooling_ == Pooling::mean ? boundaries[text + 1] : boundaries[text] + 1;
    for (std::int64_t r = boundaries[text]; r < end; ++r) {
      const float* state = states.row<float>(r);
      for (std::size_t c = 0; c < sums.size(); ++c) sums[c] += static_cast<double>(state[c]);
    }
    // The mean has the direction of the sum.
    double squares = 0;
    for (const double sum : sums) squares += sum * sum;
    const double length = std::max(std::sqrt(squares), kLeastLength);
    for (std::size_t c = 0; c < sums.size(); ++c) rows[c] = static_cast<float>(sums[c] / length);
  }
}

double cosine(std::span<const float> a, std::span<const float> b) {
  CHECK_EQ(a.size(), b.size());
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return std::clamp(sum, -1.0, 1.0);
}

}  // namespace biqa
