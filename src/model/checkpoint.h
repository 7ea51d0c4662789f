// SPDX-License-Identifier: Apache-2.0
// A Qwen2.5-VL checkpoint folder in Hugging Face format: model.safetensors, or shards with an index. Tensors
// stay mapped in their files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "model/config.h"

namespace biqa {

/// A tensor that a model of this configuration must have.
struct ExpectedTensor {
  std::string name;
  std::vector<std::int64_t> shape;
};
/// All tensors under their canonical names, which are those of the original releases: `visual.…`,
/// `model.embed_tokens.weight`, `model.layers.{i}.…`, `model.norm.weight`, and with `with_head` `lm_head.weight`.
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config, bool with_head);

/// The canonical name of a tensor stored as `model.visual.…`, `model.language_model.…`, `language_model.…` or
/// already canonical.
std::string canonical_name(const std::string& stored);

class Checkpoint {
 public:
  /// Maps the folder's files and checks that they contain exactly the tensors of `config`, with the right shapes and
  /// type F32, BF16 or F16. Throws Error naming file and tensor.
  static Checkpoint open(const std::filesystem::path& directory, const ModelConfig& config);

  /// A tensor by its canonical name. The configuration must have it (CHECK).
  const StoredTensor& tensor(const std::string& name) const;
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }
  /// Whether the output head is the embedding; then there is no tensor "lm_head.weight". If the configuration is tied
  /// but the file has a head that differs from the embedding, the model is untied, with a warning.
  bool tied() const { return tied_; }
  /// Canonical names, sorted.
  std::vector<std::string> names() const;
  /// The safetensors files, in the order of their names.
  std::vector<std::filesystem::path> files() const;
  /// A digest (16 hex digits) of name, type, shape and first 4 KiB of every tensor. It does not cover the whole
  /// content, because that would have to be read.
  std::string fingerprint() const;
  /// Gives the memory of a tensor's bytes back to the system. The tensor stays readable.
  void release(const StoredTensor& tensor) const;
  /// Bytes of all tensors.
  std::size_t bytes() const;

 private:
  std::vector<Safetensors> files_;
  std::map<std::string, StoredTensor> tensors_;
  bool tied_ = false;
};

}  // namespace biqa
