// SPDX-License-Identifier: Apache-2.0
#include "io/tensorboard.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <system_error>

#include "core/error.h"

namespace biqa {
namespace {

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1U) != 0 ? 0x82F63B78U : 0U);
    table[byte] = value;
  }
  return table;
}
constexpr auto kCrcTable = make_crc_table();

// TFRecord stores CRCs rotated and shifted, because a CRC over data that contains its own CRC is weak.
std::uint32_t masked_crc(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xA282EAD8U;
}

template <typename T>
void put_little_endian(std::string& out, T value) {
  for (std::size_t byte = 0; byte < sizeof(T); ++byte)
    out += static_cast<char>((value >> (8 * byte)) & 0xFFU);
}

// Protocol buffers' wire format: a tag is (field number << 3) | wire type.
enum WireType : std::uint64_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7F) | 0x80);
  out += static_cast<char>(value);
}
void put_tag(std::string& out, std::uint64_t field, WireType type) {
  put_varint(out, (field << 3) | type);
}
void put_bytes(std::string& out, std::uint64_t field, std::string_view bytes) {
  put_tag(out, field, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

// Event: 1 wall_time double, 2 step int64, 3 file_version string, 5 summary. Summary: 1 value. Value: 1 tag,
// 2 simple_value float.
std::string event_head(double wall_time) {
  std::string event;
  put_tag(event, 1, kFixed64);
  put_little_endian(event, std::bit_cast<std::uint64_t>(wall_time));
  return event;
}

std::filesystem::path event_file(const std::filesystem::path& folder, double wall_time) {
  std::error_code problem;
  std::filesystem::create_directories(folder, problem);
  if (problem)
    fail("cannot create folder {}: {}; choose another train.out", folder.string(), problem.message());
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0 || host[0] == '\0') host = {'l', 'o', 'c', 'a', 'l'};
  return folder / fmt::format("events.out.tfevents.{:.6f}.{}.{}.biqa", wall_time, host.data(), ::getpid());
}

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t value = 0xFFFFFFFFU;
  for (const char c : bytes)
    value = (value >> 8) ^ kCrcTable[(value ^ static_cast<unsigned char>(c)) & 0xFFU];
  return value ^ 0xFFFFFFFFU;
}

std::string tensorboard_record(std::string_view data) {
  std::string record;
  put_little_endian(record, static_cast<std::uint64_t>(data.size()));
  put_little_endian(record, masked_crc(record));
  record += data;
  put_little_endian(record, masked_crc(data));
  return record;
}

std::string tensorboard_event(double wall_time, std::int64_t step,
                              std::span<const TensorboardScalar> scalars) {
  std::string summary;
  for (const TensorboardScalar& scalar : scalars) {
    std::string value;
    put_bytes(value, 1, scalar.tag);
    put_tag(value, 2, kFixed32);
    put_little_endian(value, std::bit_cast<std::uint32_t>(static_cast<float>(scalar.value)));
    put_bytes(summary, 1, value);
  }
  std::string event = event_head(wall_time);
  put_tag(event, 2, kVarint);
  put_varint(event, static_cast<std::uint64_t>(step));
  put_bytes(event, 5, summary);
  return event;
}

TensorboardWriter::TensorboardWriter(const std::filesystem::path& folder)
    : TensorboardWriter(folder, seconds_since_1970()) {}

TensorboardWriter::TensorboardWriter(const std::filesystem::path& folder, double wall_time)
    : file_(event_file(folder, wall_time)) {
  std::string event = event_head(wall_time);
  put_bytes(event, 3, "brain.Event:2");
  file_.append(tensorboard_record(event));
}

void TensorboardWriter::add(double wall_time, std::int64_t step, std::span<const TensorboardScalar> scalars) {
  file_.append(tensorboard_record(tensorboard_event(wall_time, step, scalars)));
}

}  // namespace biqa
