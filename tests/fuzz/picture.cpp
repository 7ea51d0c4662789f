// SPDX-License-Identifier: Apache-2.0
#include "fuzz/picture.h"

#include <glog/logging.h>

#include <algorithm>
#include <optional>

#include "fuzz/harness.h"
#include "io/files.h"

namespace biqa::fuzz {
namespace {

std::optional<Image> decoded(std::string_view content) {
  std::optional<Image> image;
  accepted([&] { image = decode_image(bytes_of(content), "input", kPictureLimits); });
  return image;
}

bool same(const Image& a, const Image& b) {
  return a.width == b.width && a.height == b.height && a.rgb == b.rgb;
}

/// Perhaps turned otherwise: what tells that may stand behind the pixels.
bool same_pixels(Image a, Image b) {
  std::sort(a.rgb.begin(), a.rgb.end());
  std::sort(b.rgb.begin(), b.rgb.end());
  return a.width * a.height == b.width * b.height && a.rgb == b.rgb;
}

}  // namespace

void check_picture(std::string_view content, bool cut_shows) {
  static const Folder folder;
  const std::filesystem::path file = folder.write("picture", content);
  ImageSize size;
  const bool has_size = accepted([&] { size = read_image_size(file, kPictureLimits); });
  const std::optional<Image> image = decoded(content);
  if (!image) return;
  CHECK(has_size) << "read, though its header was refused";
  CHECK(image->width >= 1 && image->height >= 1 && image->width * image->height <= kPictureLimits.max_pixels);
  CHECK_EQ(image->rgb.size(), static_cast<std::size_t>(image->width * image->height * 3));
  CHECK((size.width == image->width && size.height == image->height) ||
        (size.width == image->height && size.height == image->width));
  CHECK(same(*image, *decoded(content))) << "the same file gives two pictures";
  if (!cut_shows) return;
  const std::size_t place = digest_of_bytes(bytes_of(content)) % content.size();
  for (const std::size_t length : {place, content.size() - 1}) {
    const std::optional<Image> part = decoded(content.substr(0, length));
    CHECK(!part || same_pixels(*part, *image))
        << "a picture from the first " << length << " of " << content.size() << " bytes";
  }
}

}  // namespace biqa::fuzz
