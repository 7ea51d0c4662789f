// SPDX-License-Identifier: Apache-2.0
// TensorBoard event files with scalar summaries: TFRecord framing (length, masked CRC-32C, data, masked
// CRC-32C) around `tensorflow.Event` protocol buffers (tensorflow/core/util/event.proto, framework/summary.proto).
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "io/append_file.h"

namespace biqa {

/// One point of one curve.
struct TensorboardScalar {
  std::string tag;   ///< "group/name"
  double value = 0;  ///< stored as f32; NaN is kept, TensorBoard shows a gap
};

/// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78): "123456789" gives 0xE3069283.
std::uint32_t crc32c(std::string_view bytes);

/// One TFRecord: u64 length, masked CRC of the length, data, masked CRC of the data; little endian.
std::string tensorboard_record(std::string_view data);

/// A serialised Event with one summary value per scalar.
std::string tensorboard_event(double wall_time, std::int64_t step,
                              std::span<const TensorboardScalar> scalars);

/// Appends events to a new file `events.out.tfevents.TIME.HOST.PID.biqa`. Every record is written whole.
class TensorboardWriter {
 public:
  /// Creates folder and file and writes the version event. Throws Error if that fails.
  explicit TensorboardWriter(const std::filesystem::path& folder);

  /// `wall_time` in seconds since 1970. Throws Error if the disk is full.
  void add(double wall_time, std::int64_t step, std::span<const TensorboardScalar> scalars);
  const std::filesystem::path& file() const { return file_.path(); }

 private:
  TensorboardWriter(const std::filesystem::path& folder, double wall_time);

  AppendFile file_;
};

}  // namespace biqa
