// SPDX-License-Identifier: Apache-2.0
#include "model/merge.h"

#include <glog/logging.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "core/bf16.h"
#include "core/error.h"
#include "core/processors.h"
#include "core/threads.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "model/config.h"

namespace biqa {
namespace fs = std::filesystem;
namespace {

constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr std::int64_t kMostThreads = 16;

// "base_model.model.model.language_model.layers.3.mlp.up_proj.lora_A.weight" adapts
// "model.layers.3.mlp.up_proj.weight".
std::string weight_name(const LoraModule& module) {
  const std::string prefix = "base_model.model.";
  const std::string key = peft_key(module, 'A', true);
  return key.substr(prefix.size(), key.rfind(".lora_A") - prefix.size()) + ".weight";
}

float to_float_of(float value) {
  return value;
}
float to_float_of(Bf16 value) {
  return to_float(value);
}
float to_float_of(std::uint16_t half) {
  return half_to_float(half);
}
void round_to(float value, float& target) {
  target = value;
}
void round_to(float value, Bf16& target) {
  target = to_bf16(value);
}
void round_to(float value, std::uint16_t& target) {
  target = to_half(value);
}

// Rows [first, last) of one projection; false where a value is not finite. A row depends on no other.
template <typename T>
bool merge_rows(const StoredTensor& weight, const Lora& lora, const LoraModule& module, std::int64_t first,
                std::int64_t last, std::byte* target) {
  const auto width = static_cast<std::size_t>(module.in);
  std::vector<T> row(width);
  std::vector<float> sum(width);
  bool finite = true;
  for (std::int64_t o = first; o < last; ++o) {
    const std::size_t offset = static_cast<std::size_t>(o) * width * sizeof(T);
    std::memcpy(row.data(), weight.bytes.data() + offset, width * sizeof(T));
    std::fill(sum.begin(), sum.end(), 0.0F);
    for (std::int64_t r = 0; r < module.rank; ++r) {
      const float b = lora.b(module)[o * module.rank + r];
      const float* a = lora.a(module) + r * module.in;
      for (std::size_t i = 0; i < width; ++i) sum[i] += b * a[i];
    }
    for (std::size_t i = 0; i < width; ++i) {
      round_to(to_float_of(row[i]) + module.scale * sum[i], row[i]);
      finite = finite && std::isfinite(to_float_of(row[i]));
    }
    std::memcpy(target + offset, row.data(), width * sizeof(T));
  }
  return finite;
}

template <typename T>
bool merge_as(const StoredTensor& weight, const Lora& lora, const LoraModule& module, std::byte* target) {
  const std::int64_t threads =
      std::clamp<std::int64_t>(threads_for(usable_processors()), 1, std::min(kMostThreads, module.out));
  std::atomic<bool> finite{true};
  on_threads(threads, [&](std::int64_t index) {
    if (!merge_rows<T>(weight, lora, module, module.out * index / threads, module.out * (index + 1) / threads,
                       target))
      finite = false;
  });
  return finite;
}

std::vector<std::byte> merge_tensor(const StoredTensor& weight, const Lora& lora, const LoraModule& module) {
  CHECK_EQ(weight.elements(), module.out * module.in) << weight.name << ": the adapter is for another model";
  std::vector<std::byte> target(weight.bytes.size());
  bool finite = true;
  if (weight.type == StoredType::f32) {
    finite = merge_as<float>(weight, lora, module, target.data());
  } else if (weight.type == StoredType::bf16) {
    finite = merge_as<Bf16>(weight, lora, module, target.data());
  } else {
    CHECK(weight.type == StoredType::f16) << weight.name;
    finite = merge_as<std::uint16_t>(weight, lora, module, target.data());
  }
  if (!finite) {
    fail(
        "cannot merge tensor {} of {}: a sum is not finite or beyond {}; merge into a checkpoint of a wider "
        "dtype",
        weight.name, weight.file, name_of(weight.type));
  }
  return target;
}

// Configuration, tokenizer, processor, licence: small files by their endings. Other weights (of this model in another
// format, or of an adapter that transformers would load on top) would no longer agree with what is written.
bool belongs_beside(const fs::path& file) {
  static const std::set<std::string> kEndings{"", ".json", ".jinja", ".txt", ".md", ".model", ".py"};
  const std::string name = file.filename().string();
  return !name.starts_with(".") && kEndings.count(file.extension().string()) != 0 &&
         !name.ends_with(".index.json") && name != "adapter_config.json";
}

void copy_beside(const fs::path& source, const fs::path& target) {
  std::error_code error;
  fs::copy_file(source, target, error);
  if (error) {
    fail("cannot copy {} to {}: {}; free the disk or mend the permissions", source.string(), target.string(),
         error.message());
  }
}

}  // namespace

MergeReport write_merged_model(const fs::path& model, const Lora& lora, const fs::path& target) {
  std::error_code ignored;
  if (fs::exists(target, ignored) && !fs::is_empty(target, ignored))
    fail("cannot write {}: it is there already; choose another name or remove it", target.string());
  const Checkpoint checkpoint = Checkpoint::open(model, ModelConfig::load(model));
  std::map<std::string, const LoraModule*> modules;
  for (const LoraModule& module : lora.layout->modules()) modules.emplace(weight_name(module), &module);

  AtomicFolder folder(target);
  MergeReport report;
  for (const fs::path& path : checkpoint.files()) {
    const MappedFile source(path);
    const Safetensors file = Safetensors::open(path);
    // Shapes and dtypes stay, so the header does too.
    std::uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, source.bytes().data(), sizeof header_bytes);
    AtomicFile out(folder.path() / path.filename());
    out.write(source.bytes().first(sizeof header_bytes + header_bytes));
    for (const StoredTensor& tensor : file.tensors()) {
      const auto found = modules.find(canonical_name(tensor.name));
      if (found == modules.end()) {
        out.write(tensor.bytes);
        ++report.copied;
      } else {
        out.write(merge_tensor(tensor, lora, *found->second));
        ++report.merged;
      }
    }
    out.commit();
    ++report.files;
    report.bytes += source.bytes().size();
  }
  CHECK_EQ(report.merged, static_cast<std::int64_t>(modules.size())) << "the adapter is for another model";
  for (const auto& entry : fs::directory_iterator(model)) {
    if (entry.is_regular_file() && belongs_beside(entry.path()))
      copy_beside(entry.path(), folder.path() / entry.path().filename());
  }
  if (checkpoint.files().front().filename() != "model.safetensors")
    copy_beside(model / kIndexFile, folder.path() / kIndexFile);
  folder.commit();
  return report;
}

}  // namespace biqa
