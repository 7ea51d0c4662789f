// SPDX-License-Identifier: Apache-2.0
// Reads a whole HDF5 file without a seal in a child process, before the reader uses the file.
#include <malloc.h>

#include <new>
#include <optional>
#include <set>

#include "io/child.h"
#include "io/hdf5/state.h"

namespace biqa {

using namespace hdf5;

namespace {
constexpr char kHarmless = '+';
/// A compressed file may claim a thousand times its size. Adapters and dumps need little more than their own size.
constexpr std::uint64_t kChildMemory = std::uint64_t{1} << 30;
}  // namespace

void Hdf5File::State::visit_values(hid_t type, hid_t space, std::size_t count,
                                   const std::function<herr_t(hid_t, void*)>& read) const {
  const H5T_class_t kind = H5Tget_class(type);
  if (kind == H5T_STRING) {
    (void)texts(type, space, count, "a text", read);
    return;
  }
  if (count == 0 || (kind != H5T_INTEGER && kind != H5T_FLOAT && kind != H5T_ENUM)) return;
  const std::size_t width = H5Tget_size(type);
  std::vector<char> values(count * width);
  if (read(type, values.data()) < 0) return;
  // Conversions depend on the types, not on the values.
  const std::size_t some = std::min<std::size_t>(count, 16);
  for (const hid_t wanted : {H5T_NATIVE_FLOAT, H5T_NATIVE_DOUBLE, H5T_NATIVE_INT64, H5T_NATIVE_UINT8}) {
    std::vector<char> converted(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(some * width));
    converted.resize(some * std::max(width, sizeof(std::int64_t)));
    H5Tconvert(type, wanted, some, converted.data(), nullptr, H5P_DEFAULT);
  }
}

void Hdf5File::State::visit_dataset(hid_t dataset) const {
  const Handle space = take(H5Dget_space(dataset), H5Sclose, "a dataset");
  const Handle type = take(H5Dget_type(dataset), H5Tclose, "a dataset");
  const std::size_t count = elements(dataset, type.get(), dimensions(space.get(), "a dataset"), "a dataset");
  visit_values(type.get(), space.get(), count, [&](hid_t memory, void* target) {
    return H5Dread(dataset, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, target);
  });
}

void Hdf5File::State::visit_attributes(hid_t object, const std::string& place) const {
  for (const std::string& name : attribute_names(object, place)) {
    try {
      const Handle value = take(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose, name);
      const Handle type = take(H5Aget_type(value.get()), H5Tclose, name);
      const Handle space = take(H5Aget_space(value.get()), H5Sclose, name);
      const std::size_t count = attribute_elements(type.get(), space.get(), name);
      visit_values(type.get(), space.get(), count,
                   [&](hid_t memory, void* target) { return H5Aread(value.get(), memory, target); });
    } catch (const Error&) {
      continue;
    }
  }
}

void Hdf5File::State::visit_everything() const {
  std::set<haddr_t> seen;
  std::vector<std::string> waiting{"/"};
  while (!waiting.empty()) {
    const std::string place = std::move(waiting.back());
    waiting.pop_back();
    std::vector<Link> found;
    try {
      const Handle object = take(H5Oopen(file, place.c_str(), H5P_DEFAULT), H5Oclose, place);
      H5O_info_t info{};
      if (H5Oget_info2(object.get(), &info, H5O_INFO_BASIC) < 0) fail_at(place);
      if (!seen.insert(info.addr).second) continue;
      visit_attributes(object.get(), place);
      if (info.type == H5O_TYPE_DATASET) visit_dataset(object.get());
      if (info.type == H5O_TYPE_GROUP) found = links(object.get(), place);
    } catch (const Error&) {
      continue;
    }
    for (const Link& link : found) {
      const std::string name = place == "/" ? "/" + link.name : place + "/" + link.name;
      // Another file would be read unchecked.
      if (link.kind != H5L_TYPE_HARD && link.kind != H5L_TYPE_SOFT) refuse(name, "it is in another file");
      // The target of a soft link is visited under its own name.
      if (link.kind == H5L_TYPE_HARD) waiting.push_back(name);
    }
  }
}

std::string Hdf5File::State::inspect() {
  std::string answer(1, kHarmless);
  try {
    const Handle access = reading_list();
    file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get());
    if (file >= 0) {
      visit_everything();
      H5Fclose(file);
    }
    ::malloc_trim(0);  // checks the heap, and aborts if it is damaged
  } catch (const Error& error) {
    answer = error.what();
  } catch (const std::bad_alloc&) {
    answer = fmt::format(
        "cannot read {}: it claims more data than fit into memory; check that it is the right file",
        path.string());
  }
  return answer;
}

// The library crashes or loops on some damaged files (docs/decisions/0008-hdf5-checked-by-a-child.md). A child process
// first reads the whole file with the same calls. A file that kills it is refused.
void Hdf5File::State::check_in_a_child() {
  // Seconds of processor time that suffice to read the whole file even on a slow machine.
  const std::uint64_t patience = 10 + file_bytes / (std::uint64_t{4} << 20);
  std::optional<std::string> answer;
  try {
    answer = answer_of_child([this] { return inspect(); },
                             {.cpu_seconds = patience, .memory = kChildMemory + 8 * file_bytes});
  } catch (const Error& error) {
    fail("cannot check {}: {}", path.string(), error.what());
  }
  if (!answer) {
    fail("cannot read {}: it is damaged (the HDF5 library crashes or hangs); fetch or write it again",
         path.string());
  }
  if (answer->front() != kHarmless) throw Error(*answer);
}

}  // namespace biqa
