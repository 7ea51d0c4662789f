// SPDX-License-Identifier: Apache-2.0
#include "io/safetensors.h"

#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "io/json.h"

namespace biqa {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian and is used in place");

constexpr std::uint64_t kMaxHeader = 100'000'000;
constexpr std::size_t kLengthBytes = 8;

struct TypeInfo {
  StoredType type;
  const char* name;
  std::int64_t bits;
};
constexpr std::array<TypeInfo, 22> kTypes{{{StoredType::boolean, "BOOL", 8},
                                           {StoredType::f4, "F4", 4},
                                           {StoredType::f6_e2m3, "F6_E2M3", 6},
                                           {StoredType::f6_e3m2, "F6_E3M2", 6},
                                           {StoredType::u8, "U8", 8},
                                           {StoredType::i8, "I8", 8},
                                           {StoredType::f8_e5m2, "F8_E5M2", 8},
                                           {StoredType::f8_e4m3, "F8_E4M3", 8},
                                           {StoredType::f8_e8m0, "F8_E8M0", 8},
                                           {StoredType::f8_e4m3fnuz, "F8_E4M3FNUZ", 8},
                                           {StoredType::f8_e5m2fnuz, "F8_E5M2FNUZ", 8},
                                           {StoredType::i16, "I16", 16},
                                           {StoredType::u16, "U16", 16},
                                           {StoredType::f16, "F16", 16},
                                           {StoredType::bf16, "BF16", 16},
                                           {StoredType::i32, "I32", 32},
                                           {StoredType::u32, "U32", 32},
                                           {StoredType::f32, "F32", 32},
                                           {StoredType::c64, "C64", 64},
                                           {StoredType::f64, "F64", 64},
                                           {StoredType::i64, "I64", 64},
                                           {StoredType::u64, "U64", 64}}};

const TypeInfo& info_of(StoredType type) {
  const TypeInfo& info = kTypes.at(static_cast<std::size_t>(type));
  DCHECK(info.type == type);
  return info;
}

// nullopt where a product of non-negative factors does not fit.
std::optional<std::int64_t> checked_product(const std::vector<std::int64_t>& shape, std::int64_t bits) {
  // A zero anywhere makes the product zero, but the reference multiplies from the left and refuses an
  // overflow before it.
  std::int64_t product = 1;
  for (const std::int64_t size : shape) {
    if (__builtin_mul_overflow(product, size, &product)) return std::nullopt;
  }
  if (__builtin_mul_overflow(product, bits, &product)) return std::nullopt;
  return product;
}

// Header entry of one tensor.
struct Entry {
  StoredTensor tensor;
  std::uint64_t begin = 0, end = 0;
};

Entry read_entry(const std::string& name, const nlohmann::json& value, const std::string& file) {
  const JsonFields fields(value, file, shown(name) + ".");
  for (const auto& [key, ignored] : value.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      fail("cannot read {}: tensor {} has an unknown field {}; check that the file is whole", file,
           shown(name), shown(key));
    }
  }
  Entry entry;
  entry.tensor.name = name;
  entry.tensor.file = file;

  const auto type = fields.text("dtype");
  if (!type) fields.missing("dtype");
  const auto* info =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeInfo& known) { return *type == known.name; });
  if (info == kTypes.end()) {
    fail("cannot read {}: tensor {} has the unknown dtype {}; convert the file to F32, BF16 or F16", file,
         shown(name), shown(*type));
  }
  entry.tensor.type = info->type;

  const auto shape = fields.integers("shape");
  if (!shape) fields.missing("shape");
  entry.tensor.shape = *shape;
  if (std::any_of(shape->begin(), shape->end(), [](std::int64_t size) { return size < 0; })) {
    fields.refuse("shape", "a list of sizes that are not negative");
  }

  const auto offsets = fields.integers("data_offsets");
  if (!offsets) fields.missing("data_offsets");
  if (offsets->size() != 2 || (*offsets)[0] < 0 || (*offsets)[1] < (*offsets)[0]) {
    fields.refuse("data_offsets", "[begin, end] with 0 ≤ begin ≤ end");
  }
  entry.begin = static_cast<std::uint64_t>((*offsets)[0]);
  entry.end = static_cast<std::uint64_t>((*offsets)[1]);

  const auto bits = checked_product(*shape, info->bits);
  if (!bits) {
    fail("cannot read {}: tensor {} has an impossibly large shape ({}); check that the file is whole", file,
         shown(name), shown(value["shape"]));
  }
  if (*bits % 8 != 0) {
    fail(
        "cannot read {}: tensor {} ({} {}) does not fill a whole number of bytes; check that the file is "
        "whole",
        file, shown(name), info->name, shown(value["shape"]));
  }
  if (static_cast<std::uint64_t>(*bits) / 8 != entry.end - entry.begin) {
    fail(
        "cannot read {}: tensor {} ({} {}) needs {} bytes, but its data_offsets span {}; check that the file "
        "is whole",
        file, shown(name), info->name, shown(value["shape"]), *bits / 8, entry.end - entry.begin);
  }
  return entry;
}

std::map<std::string, std::string> read_metadata(const nlohmann::json& value, const std::string& file) {
  const JsonFields fields(value, file, "__metadata__.");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) fields.refuse(key, "a text");
    metadata.emplace(key, text.get<std::string>());
  }
  return metadata;
}

template <typename Source, typename Target, typename Convert>
void convert_all(std::span<const std::byte> bytes, std::span<Target> target, const Convert& convert) {
  for (std::size_t i = 0; i < target.size(); ++i) {
    Source source;
    std::memcpy(&source, bytes.data() + i * sizeof(Source), sizeof(Source));
    target[i] = convert(source);
  }
}

[[noreturn]] void refuse_type(const StoredTensor& tensor) {
  fail("cannot use tensor {} of {}: its dtype is {}; convert it to F32, BF16 or F16", shown(tensor.name),
       tensor.file, name_of(tensor.type));
}

}  // namespace

const char* name_of(StoredType type) {
  return info_of(type).name;
}
std::int64_t bits_of(StoredType type) {
  return info_of(type).bits;
}

std::int64_t StoredTensor::elements() const {
  std::int64_t product = 1;
  for (const std::int64_t size : shape) product *= size;
  return product;
}

void StoredTensor::copy_to(std::span<float> target) const {
  CHECK_EQ(static_cast<std::int64_t>(target.size()), elements()) << name;
  if (type == StoredType::f32) {
    if (!target.empty()) std::memcpy(target.data(), bytes.data(), bytes.size());
  } else if (type == StoredType::bf16) {
    convert_all<Bf16>(bytes, target, [](Bf16 value) { return to_float(value); });
  } else if (type == StoredType::f16) {
    convert_all<std::uint16_t>(bytes, target, [](std::uint16_t value) { return half_to_float(value); });
  } else {
    refuse_type(*this);
  }
}

void StoredTensor::copy_to(std::span<Bf16> target) const {
  CHECK_EQ(static_cast<std::int64_t>(target.size()), elements()) << name;
  if (type == StoredType::f32) {
    convert_all<float>(bytes, target, [](float value) { return to_bf16(value); });
  } else if (type == StoredType::bf16) {
    if (!target.empty()) std::memcpy(target.data(), bytes.data(), bytes.size());
  } else if (type == StoredType::f16) {
    convert_all<std::uint16_t>(bytes, target,
                               [](std::uint16_t value) { return to_bf16(half_to_float(value)); });
  } else {
    refuse_type(*this);
  }
}

Safetensors Safetensors::open(const std::filesystem::path& path) {
  const std::string file = path.string();
  Safetensors result;
  result.path_ = path;
  result.file_ = std::make_shared<const MappedFile>(path);
  const std::span<const std::byte> bytes = result.file_->bytes();
  if (bytes.size() < kLengthBytes) {
    fail("cannot read {}: {} bytes are too few for a safetensors file; check that the file is whole", file,
         bytes.size());
  }
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  if (header_bytes > kMaxHeader) {
    fail(
        "cannot read {}: its header claims {} bytes, more than the {} allowed; check that it is a "
        "safetensors file",
        file, header_bytes, kMaxHeader);
  }
  if (header_bytes > bytes.size() - kLengthBytes) {
    fail(
        "cannot read {}: its header claims {} bytes, but the file has only {}; it is truncated, fetch it "
        "again",
        file, header_bytes, bytes.size());
  }
  const std::string header(reinterpret_cast<const char*>(bytes.data() + kLengthBytes), header_bytes);
  if (header.empty() || header[0] != '{') {
    fail("cannot read {}: its header does not start with '{{'; check that it is a safetensors file", file);
  }
  const nlohmann::json json = parse_json(header, file + " (header)");

  std::vector<Entry> entries;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      result.metadata_ = read_metadata(value, file);
    } else {
      entries.push_back(read_entry(name, value, file));
    }
  }
  // Tensors without elements share their offset with the next one.
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.tensor.name) < std::tie(b.begin, b.end, b.tensor.name);
  });
  const std::uint64_t data_bytes = bytes.size() - kLengthBytes - header_bytes;
  std::uint64_t expected = 0;
  for (Entry& entry : entries) {
    if (entry.begin != expected) {
      fail("cannot read {}: tensor {} begins at byte {} of the data, {} at {}; check that the file is whole",
           file, shown(entry.tensor.name), entry.begin,
           entry.begin < expected ? "overlapping the one before it, which ends"
                                  : "leaving a gap after the one before it, which ends",
           expected);
    }
    expected = entry.end;
    if (entry.end > data_bytes) {
      fail(
          "cannot read {}: tensor {} ends at byte {} of the data, but there are only {}; it is truncated, "
          "fetch it again",
          file, shown(entry.tensor.name), entry.end, data_bytes);
    }
    entry.tensor.bytes = bytes.subspan(kLengthBytes + header_bytes + entry.begin, entry.end - entry.begin);
    result.index_.emplace(entry.tensor.name, result.tensors_.size());
    result.tensors_.push_back(std::move(entry.tensor));
  }
  if (expected != data_bytes) {
    fail("cannot read {}: {} bytes follow the last tensor; check that it is one whole safetensors file", file,
         data_bytes - expected);
  }
  return result;
}

const StoredTensor& Safetensors::at(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) {
    fail("cannot read {}: there is no tensor {}; check that it belongs to this model", path_.string(),
         shown(name));
  }
  return tensors_[found->second];
}

void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<const NamedTensor*> order;
  std::set<std::string_view> names;
  for (const NamedTensor& tensor : tensors) {
    CHECK(tensor.name != "__metadata__" && names.insert(tensor.name).second) << tensor.name;
    const auto bits = checked_product(tensor.shape, bits_of(tensor.type));
    CHECK(bits && static_cast<std::size_t>(*bits) == tensor.bytes.size() * 8) << tensor.name;
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    return a->type != b->type ? a->type > b->type : a->name < b->name;
  });

  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!metadata.empty()) json["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const NamedTensor* tensor : order) {
    const std::uint64_t end = offset + tensor->bytes.size();
    // Assigns one by one, because an initialiser list of pairs would not keep the order.
    nlohmann::ordered_json& entry = json[tensor->name];
    entry["dtype"] = name_of(tensor->type);
    entry["shape"] = tensor->shape;
    entry["data_offsets"] = {offset, end};
    offset = end;
  }
  std::string header = json.dump();
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t header_bytes = header.size();

  AtomicFile file(path);
  file.write(std::as_bytes(std::span(&header_bytes, 1)));
  file.write(header);
  for (const NamedTensor* tensor : order) file.write(tensor->bytes);
  file.commit();
}

}  // namespace biqa
