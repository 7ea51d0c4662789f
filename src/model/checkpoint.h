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

/// A tensor that a configuration asks for.
struct ExpectedTensor {
  std::string name;
  std::vector<std::int64_t> shape;
};
/// All of them under their canonical names, those of the original releases: `visual.…`,
/// `model.embed_tokens.weight`, `model.layers.{i}.…`, `model.norm.weight`, and `lm_head.weight` with `with_head`.
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config, bool with_head);

/// The canonical name of a tensor stored as `model.visual.…`, `model.language_model.…`, `language_model.…` or
/// already canonical.
std::string canonical_name(const std::string& stored);

class Checkpoint {
 public:
  /// Maps the folder's files and checks that exactly the tensors of `config` are there, each with its shape
  /// and a type of F32, BF16 or F16. Throws Error naming file and tensor.
  static Checkpoint open(const std::filesystem::path& directory, const ModelConfig& config);

  /// By canonical name. Asking for a tensor that the configuration does not have is a mistake of ours (CHECK).
  const StoredTensor& tensor(const std::string& name) const;
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }
  /// The output head is the embedding. There is no tensor "lm_head.weight" then. A tied configuration whose
  /// file holds a head that differs from the embedding is untied, with a warning.
  bool tied() const { return tied_; }
  /// Canonical names, sorted.
  std::vector<std::string> names() const;
  /// The safetensors files, in the order of their names.
  std::vector<std::filesystem::path> files() const;
  /// Tells these weights from others, 16 hex digits: name, type, shape and first 4 KiB of every tensor. Not the whole
  /// content, which would have to be read.
  std::string fingerprint() const;
  /// Bytes of all tensors.
  std::size_t bytes() const;

 private:
  std::vector<Safetensors> files_;
  std::map<std::string, StoredTensor> tensors_;
  bool tied_ = false;
};

}  // namespace biqa
