// SPDX-License-Identifier: Apache-2.0
#include <libexif/exif-data.h>

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <vector>

#include "io/image_formats.h"

namespace biqa::image {

int exif_orientation(Bytes exif) {
  static constexpr std::array<std::uint8_t, 6> kPrefix = {'E', 'x', 'i', 'f', 0, 0};
  // PNG and WebP store the block without the prefix that libexif wants.
  std::vector<std::uint8_t> block(as_octets(exif), as_octets(exif) + exif.size());
  if (block.size() < kPrefix.size() || !std::equal(kPrefix.begin(), kPrefix.end(), block.begin())) {
    block.insert(block.begin(), kPrefix.begin(), kPrefix.end());
  }
  const std::unique_ptr<ExifData, void (*)(ExifData*)> data(exif_data_new(), exif_data_unref);
  if (data == nullptr || block.size() > std::numeric_limits<unsigned>::max()) {
    return 1;
  }
  // Only read: no repair of other entries.
  exif_data_unset_option(data.get(), EXIF_DATA_OPTION_FOLLOW_SPECIFICATION);
  exif_data_load_data(data.get(), block.data(), static_cast<unsigned>(block.size()));
  const ExifEntry* entry = exif_content_get_entry(data->ifd[EXIF_IFD_0], EXIF_TAG_ORIENTATION);
  if (entry == nullptr || entry->format != EXIF_FORMAT_SHORT || entry->size < 2) {
    return 1;
  }
  const int code = exif_get_short(entry->data, exif_data_get_byte_order(data.get()));
  return code >= 1 && code <= 8 ? code : 1;
}

}  // namespace biqa::image
