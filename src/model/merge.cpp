// SPDX-License-Identifier: Apache-2.0
#include "model/merge.h"

#include <glog/logging.h>

#include <cstring>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "core/error.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/frozen_parts.h"
#include "model/low_rank.h"

namespace biqa {
namespace fs = std::filesystem;
namespace {

constexpr const char* kIndexFile = "model.safetensors.index.json";

// "base_model.model.model.language_model.layers.3.mlp.up_proj.lora_A.weight" adapts
// "model.layers.3.mlp.up_proj.weight".
std::string weight_name(const LoraModule& module) {
  const std::string prefix = "base_model.model.";
  const std::string key = peft_key(module, 'A', true);
  return key.substr(prefix.size(), key.rfind(".lora_A") - prefix.size()) + ".weight";
}

std::vector<std::byte> merge_tensor(const StoredTensor& weight, const LowRank& change) {
  std::vector<std::byte> target(weight.bytes.size());
  if (!merge_low_rank(weight, change, weight.type, target)) {
    fail(
        "cannot merge tensor {} of {}: a sum is not finite or outside the range of {}; merge into a model "
        "with a wider dtype",
        weight.name, weight.file, name_of(weight.type));
  }
  return target;
}

// Changes by the adapter. The key is the weight's canonical name.
std::map<std::string, LowRank> changes_of(const Lora& lora, const Checkpoint& checkpoint) {
  std::map<std::string, LowRank> changes;
  for (const LoraModule& module : lora.layout->modules()) {
    changes.emplace(weight_name(module), LowRank{module.out, module.rank, module.in, module.scale,
                                                 lora.a(module), lora.b(module)});
  }
  if (lora.frozen == nullptr) return changes;
  check_copies(*lora.frozen, checkpoint);
  for (const FrozenPart& part : lora.frozen->parts) {
    if (part.module.name == "lm_head" && checkpoint.tied()) {
      fail(
          "cannot merge the adapter into the model: its part on lm_head changes only the head, but the "
          "model's head is also its embedding; use the adapter without merging, or untie the model's head "
          "first");
    }
    changes.emplace(part.module.name + ".weight", part.change());
  }
  return changes;
}

// Configuration, tokenizer, processor and licence, chosen by their extensions. Other weight files (the same model in
// another format, or an adapter that transformers would also load) are not copied, because they would not match the
// merged weights.
bool belongs_beside(const fs::path& file) {
  static const std::set<std::string> kEndings{"", ".json", ".jinja", ".txt", ".md", ".model", ".py"};
  const std::string name = file.filename().string();
  return !name.starts_with(".") && kEndings.count(file.extension().string()) != 0 &&
         !name.ends_with(".index.json") && name != "adapter_config.json";
}

/// The name of the copy of a model's file. A name that `beside` takes, with or without the prefix, gets a further prefix.
std::string name_of_copy(const std::string& name, const std::map<std::string, std::string>& beside) {
  constexpr std::string_view kPrefix = "base_model_";
  std::string_view end = name;
  while (end.starts_with(kPrefix)) end.remove_prefix(kPrefix.size());
  return beside.contains(std::string(end)) ? std::string(kPrefix) + name : name;
}

void copy_beside(const fs::path& source, const fs::path& target) {
  std::error_code error;
  fs::copy_file(source, target, error);
  if (error) {
    fail("cannot copy {} to {}: {}; free some space or correct the permissions", source.string(),
         target.string(), error.message());
  }
}

}  // namespace

MergeReport write_merged_model(const fs::path& model, const Lora& lora, const fs::path& target,
                               const std::map<std::string, std::string>& beside) {
  std::error_code ignored;
  if (fs::exists(target, ignored) && !fs::is_empty(target, ignored))
    fail("cannot write {}: it already exists; choose another name or remove it", target.string());
  const Checkpoint checkpoint = Checkpoint::open(model, ModelConfig::load(model));
  const std::map<std::string, LowRank> changes = changes_of(lora, checkpoint);

  AtomicFolder folder(target);
  MergeReport report;
  for (const fs::path& path : checkpoint.files()) {
    const MappedFile source(path);
    const Safetensors file = Safetensors::open(path);
    // Shapes and dtypes do not change, so the header does not change either.
    std::uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, source.bytes().data(), sizeof header_bytes);
    AtomicFile out(folder.path() / path.filename());
    out.write(source.bytes().first(sizeof header_bytes + header_bytes));
    for (const StoredTensor& tensor : file.tensors()) {
      const auto found = changes.find(canonical_name(tensor.name));
      if (found == changes.end()) {
        out.write(tensor.bytes);
        ++report.copied;
      } else {
        out.write(merge_tensor(tensor, found->second));
        ++report.merged;
      }
    }
    out.commit();
    ++report.files;
    report.bytes += source.bytes().size();
  }
  CHECK_EQ(report.merged, static_cast<std::int64_t>(changes.size())) << "the adapter is for another model";
  for (const auto& entry : fs::directory_iterator(model)) {
    if (entry.is_regular_file() && belongs_beside(entry.path()))
      copy_beside(entry.path(), folder.path() / name_of_copy(entry.path().filename().string(), beside));
  }
  for (const auto& [name, content] : beside) write_file_atomically(folder.path() / name, content);
  if (checkpoint.files().front().filename() != "model.safetensors")
    copy_beside(model / kIndexFile, folder.path() / kIndexFile);
  folder.commit();
  return report;
}

}  // namespace biqa
