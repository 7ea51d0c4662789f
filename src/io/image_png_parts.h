// SPDX-License-Identifier: Apache-2.0
// Private to io/image: a PNG file taken apart as Pillow takes it apart, which is more forgiving than libpng.
#pragma once

#include <array>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/image_formats.h"

namespace biqa::image {

/// What libpng shall read: the chunks that make the picture, whole, and an end mark. Chunks of other kinds are left out, so
/// none of these can be one that libpng refuses.
/// Checksums of chunks before the pixels were compared; those behind do not count, for the pixels have one of their own.
/// Bytes of the file are referred to, not copied.
class PngParts {
 public:
  /// Everything up to the pixels. Throws Error where the file is damaged or ends before.
  explicit PngParts(const PictureFile& file);
  PngParts(const PngParts&) = delete;
  PngParts& operator=(const PngParts&) = delete;

  /// The pixels, and what stands behind them.
  void read_rest();
  /// No pixels, but their beginning: libpng reads a header up to there.
  void leave_out_rest() { add("IDAT", {}); }

  /// What libpng shall read, piece by piece.
  const std::vector<Bytes>& pieces() const { return pieces_; }
  /// Valid after read_rest: what tells it may follow the pixels.
  int orientation() const;

 private:
  struct Chunk {
    std::string_view kind;
    Bytes content;
  };
  /// A text as it stands in the file.
  struct Text {
    std::string_view bytes;
    bool packed = false;
  };

  /// The chunk's kind and what the file has of its content; nothing where no chunk begins.
  std::optional<Chunk> next_chunk(std::uint32_t& length);
  void add(std::string_view kind, Bytes content);
  void read_transparency(Bytes content);
  void read_note(const Chunk& chunk);
  static std::string content_of(const Text& text);

  const PictureFile& file_;
  Bytes rest_;
  std::deque<std::array<std::byte, 8>> heads_;
  std::vector<Bytes> pieces_;
  int colour_type_ = -1;
  std::size_t palette_ = 0;  ///< colours
  std::optional<std::string> exif_;
  std::optional<Text> profile_;
  Text xmp_;
};

}  // namespace biqa::image
