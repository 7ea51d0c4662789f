// SPDX-License-Identifier: Apache-2.0
#include "data/wire.h"

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/error.h"

namespace biqa {
namespace {

/// "biqagrp" and the version of the layout.
constexpr std::uint64_t kMagic = 0x6269716167727002ULL;

class Writer {
 public:
  template <typename T>
  requires std::is_arithmetic_v<T>
  void operator()(const T& value) { append(&value, sizeof value); }
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void operator()(const std::vector<T>& values) {
    (*this)(std::uint64_t{values.size()});
    append(values.data(), values.size() * sizeof(T));
  }
  void operator()(const std::string& text) {
    (*this)(std::uint64_t{text.size()});
    append(text.data(), text.size());
  }
  template <typename T>
  void operator()(const std::optional<T>& value) {
    (*this)(value.has_value());
    if (value) (*this)(*value);
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  void append(const void* data, std::size_t size) {
    if (size == 0) return;
    const auto* from = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), from, from + size);
  }

  std::vector<std::byte> bytes_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  requires std::is_arithmetic_v<T>
  void operator()(T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      std::uint8_t flag = 0;
      extract(&flag, sizeof flag);
      if (flag > 1) refuse("a flag is neither 0 nor 1");
      value = flag == 1;
    } else {
      extract(&value, sizeof value);
    }
  }
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void operator()(std::vector<T>& values) {
    values.resize(length(sizeof(T)));
    extract(values.data(), values.size() * sizeof(T));
  }
  void operator()(std::string& text) {
    text.resize(length(1));
    extract(text.data(), text.size());
  }
  template <typename T>
  void operator()(std::optional<T>& value) {
    bool present = false;
    (*this)(present);
    if (present) (*this)(value.emplace());
  }
  std::size_t left() const { return bytes_.size() - at_; }

  [[noreturn]] void refuse(std::string_view why) const {
    fail("group message at byte {} of {}: {}; run the same biqa build on every rank", at_, bytes_.size(),
         why);
  }

 private:
  /// Reads a number of elements. Refuses a number that the rest of the message cannot hold.
  std::size_t length(std::size_t element) {
    std::uint64_t count = 0;
    (*this)(count);
    if (count > left() / element) refuse("a length exceeds the message");
    return count;
  }
  void extract(void* data, std::size_t size) {
    if (size > left()) refuse("it ends too early");
    if (size != 0) std::memcpy(data, bytes_.data() + at_, size);
    at_ += size;
  }

  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

/// One list of fields for both directions; `T` is Trajectory, const when writing.
template <typename Archive, typename T>
void visit_trajectory(Archive& archive, T& trajectory) {
  archive(trajectory.member);
  archive(trajectory.completion_ids);
  archive(trajectory.behaviour_logp);
  archive(trajectory.finished);
  archive(trajectory.text);
  archive(trajectory.format_ok);
  archive(trajectory.caption);
  archive(trajectory.reasoning);
  archive(trajectory.rating);
  archive(trajectory.stage2_prompt_ids);
  archive(trajectory.stage2_completion_ids);
  archive(trajectory.stage2_behaviour_logp);
  archive(trajectory.stage2_finished);
  archive(trajectory.stage2_text);
  archive(trajectory.stage2_rating);
  archive(trajectory.policy_version);
  archive(trajectory.adapter_digest);
  archive(trajectory.rewards);
  archive(trajectory.reward);
  archive(trajectory.advantage);
}

/// Visits all fields of a group except its members.
template <typename Archive, typename G>
void visit_group(Archive& archive, G& group) {
  archive(group.sample_id);
  archive(group.sample_index);
  archive(group.step);
  archive(group.prompt_ids);
  archive(group.image_grid_thw);
  for_each_field(group.annotation, [&](const char*, auto& field) { archive(field); });
}

}  // namespace

std::vector<std::byte> serialise(const Group& group) {
  Writer writer;
  writer(kMagic);
  visit_group(writer, group);
  writer(std::uint64_t{group.members.size()});
  for (const Trajectory& member : group.members) visit_trajectory(writer, member);
  return writer.take();
}

Group parse_group(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  std::uint64_t magic = 0;
  reader(magic);
  if (magic != kMagic) reader.refuse("it is not a group in this build's layout");
  Group group;
  visit_group(reader, group);
  std::uint64_t members = 0;
  reader(members);
  // Members are added one by one. So a wrong number fails at the end of the message, before the memory is exhausted.
  for (std::uint64_t i = 0; i < members; ++i) visit_trajectory(reader, group.members.emplace_back());
  if (reader.left() != 0) reader.refuse("there are bytes after its end");
  return group;
}

}  // namespace biqa
