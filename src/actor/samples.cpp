// SPDX-License-Identifier: Apache-2.0
#include "actor/samples.h"

#include <filesystem>

namespace biqa {

std::vector<RolloutSample> load_samples(PictureEncoder& pictures, const std::vector<Sample>& samples,
                                        const std::vector<std::size_t>& rows) {
  std::vector<std::filesystem::path> paths;
  paths.reserve(rows.size());
  for (const std::size_t row : rows) paths.push_back(samples[row].image);
  const std::vector<EncodedPicture> encoded = pictures.encode(paths);
  std::vector<RolloutSample> loaded;
  loaded.reserve(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Sample& sample = samples[rows[i]];
    loaded.push_back({sample.id, static_cast<std::int64_t>(rows[i]), sample.annotation(), encoded[i]});
  }
  return loaded;
}

}  // namespace biqa
