// SPDX-License-Identifier: Apache-2.0
// HDF5 files, damaged as they come. The library crashes on some; the child that looks first must be the only one to die.
#include <fmt/format.h>

#include <optional>
#include <string>

#include "fuzz/harness.h"
#include "io/hdf5.h"

namespace biqa::fuzz {
namespace {

void read_all(const Hdf5File& file, const std::string& place, int depth) {
  for (const std::string& name : file.attributes(place)) {
    accepted([&] { (void)file.attribute_f64(place, name); });
    accepted([&] { (void)file.attribute_i64(place, name); });
    accepted([&] { (void)file.attribute_texts(place, name); });
  }
  if (!file.is_dataset(place)) {
    if (depth > 4) return;
    for (const std::string& name : file.children(place)) {
      accepted([&] { read_all(file, fmt::format("{}/{}", place == "/" ? "" : place, name), depth + 1); });
    }
    return;
  }
  accepted([&] { (void)file.shape(place); });
  (void)file.type_name(place);
  accepted([&] { (void)file.read_f32(place); });
  accepted([&] { (void)file.read_f64(place); });
  accepted([&] { (void)file.read_i64(place); });
  accepted([&] { (void)file.read_u8(place); });
  accepted([&] { (void)file.read_texts(place); });
}

void run(std::string_view input) {
  static const Folder folder;
  const std::filesystem::path path = folder.write("a.h5", input);
  std::optional<Hdf5File> file;
  if (!accepted([&] { file.emplace(path); })) return;
  accepted([&] { read_all(*file, "/", 0); });
}

const Registered kRegistered("hdf5_file", run);

}  // namespace
}  // namespace biqa::fuzz
