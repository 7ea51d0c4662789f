// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <fstream>
#include <numeric>
#include <optional>
#include <system_error>
#include <utility>

#include "io/hdf5.h"
#include "io/hdf5/library.h"

namespace biqa {
namespace fs = std::filesystem;

using namespace hdf5;

struct Hdf5Writer::State {
  fs::path target, temporary;
  hid_t file = -1;

  ~State() {
    if (file < 0) return;
    const LibraryLock lock;
    H5Fclose(file);
    std::error_code ignored;
    fs::remove(temporary, ignored);
  }
  [[noreturn]] void fail_at(const std::string& object) const {
    fail("cannot write {} to {}: {}; check free space and permissions", object, target.string(),
         last_reason());
  }
  void require(bool succeeded, const std::string& object) const {
    if (!succeeded) fail_at(object);
  }
  // A handle whose close may fail in the file system.
  Handle take(hid_t id, herr_t (*close)(hid_t), const std::string& object) const {
    require(id >= 0, object);
    return {id, close};
  }
  // Creates missing groups of a path.
  void make_groups(const std::string& path) const {
    const Handle links = link_list(), creation = creation_list(H5P_GROUP_CREATE);
    for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
      const std::string group = path.substr(0, end);
      if (group != "/" && H5Lexists(file, group.c_str(), H5P_DEFAULT) <= 0) {
        take(H5Gcreate2(file, group.c_str(), links.get(), creation.get(), H5P_DEFAULT), H5Gclose, group);
      }
      if (end == std::string::npos) break;
    }
  }
  void make_parent(const std::string& path) const {
    if (const std::size_t slash = path.rfind('/'); slash != std::string::npos && slash > 0) {
      make_groups(path.substr(0, slash));
    }
  }
  void write_dataset(const std::string& path, hid_t file_type, hid_t memory_type, hid_t space, hid_t creation,
                     const void* values) const {
    make_parent(path);
    const Handle links = link_list();
    const Handle dataset = take(
        H5Dcreate2(file, path.c_str(), file_type, space, links.get(), creation, H5P_DEFAULT), H5Dclose, path);
    if (H5Sget_simple_extent_npoints(space) > 0) {
      require(H5Dwrite(dataset.get(), memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0, path);
    }
  }
  void write_attribute(const std::string& object, const std::string& name, hid_t file_type, hid_t memory_type,
                       hid_t space, const void* value) const {
    const std::string place = object + "@" + name;
    const Handle owner = take(H5Oopen(file, object.c_str(), H5P_DEFAULT), H5Oclose, place);
    const Handle attribute = take(
        H5Acreate2(owner.get(), name.c_str(), file_type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, place);
    require(H5Awrite(attribute.get(), memory_type, value) >= 0, place);
  }
};

Hdf5Writer::Hdf5Writer(const fs::path& target) : state_(std::make_unique<State>()) {
  const LibraryLock lock;
  state_->target = writable_target(target);
  state_->temporary = temporary_beside(state_->target);
  {
    // The system's reason for an unwritable folder is clearer than the library's.
    const AtomicFile probe(state_->target);
  }
  const Handle creation = creation_list(H5P_FILE_CREATE), access = writing_list();
  state_->file = H5Fcreate(state_->temporary.c_str(), H5F_ACC_EXCL, creation.get(), access.get());
  state_->require(state_->file >= 0, "an HDF5 file");
}
Hdf5Writer::~Hdf5Writer() = default;
Hdf5Writer::Hdf5Writer(Hdf5Writer&&) noexcept = default;
Hdf5Writer& Hdf5Writer::operator=(Hdf5Writer&&) noexcept = default;

namespace {

template <typename T>
hid_t file_type_of() {
  if constexpr (std::is_same_v<T, float>)
    return H5T_IEEE_F32LE;
  else if constexpr (std::is_same_v<T, double>)
    return H5T_IEEE_F64LE;
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return H5T_STD_I64LE;
  else
    return H5T_STD_U8LE;
}

// Space and creation list of a numeric dataset.
template <typename T>
std::pair<Handle, Handle> plan_dataset(std::span<const T> values, const std::vector<std::int64_t>& shape,
                                       bool deflate) {
  CHECK_EQ(std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()),
           static_cast<std::int64_t>(values.size()));
  std::vector<hsize_t> sizes(shape.begin(), shape.end());
  Handle space = sizes.empty()
                     ? own(H5Screate(H5S_SCALAR), H5Sclose)
                     : own(H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), nullptr), H5Sclose);
  Handle creation = creation_list(H5P_DATASET_CREATE);
  if (deflate && !sizes.empty() && !values.empty()) {
    std::uint64_t bytes = values.size_bytes();
    for (hsize_t& size : sizes) {
      while (bytes > kMaxChunkBytes && size > 1) {
        bytes = bytes / size * ((size + 1) / 2);
        size = (size + 1) / 2;
      }
    }
    CHECK_GE(H5Pset_chunk(creation.get(), static_cast<int>(sizes.size()), sizes.data()), 0);
    CHECK_GE(H5Pset_deflate(creation.get(), kDeflateLevel), 0);
  }
  return {std::move(space), std::move(creation)};
}

}  // namespace

template <typename T>
void Hdf5Writer::write_numbers(const std::string& path, std::span<const T> values,
                               const std::vector<std::int64_t>& shape, bool deflate) {
  const LibraryLock lock;
  const auto [space, creation] = plan_dataset(values, shape, deflate);
  state_->write_dataset(path, file_type_of<T>(), memory_type_of<T>(), space.get(), creation.get(),
                        values.data());
}

void Hdf5Writer::dataset(const std::string& path, std::span<const float> values,
                         const std::vector<std::int64_t>& shape, bool deflate) {
  write_numbers(path, values, shape, deflate);
}
void Hdf5Writer::dataset(const std::string& path, std::span<const double> values,
                         const std::vector<std::int64_t>& shape, bool deflate) {
  write_numbers(path, values, shape, deflate);
}
void Hdf5Writer::dataset(const std::string& path, std::span<const std::int64_t> values,
                         const std::vector<std::int64_t>& shape, bool deflate) {
  write_numbers(path, values, shape, deflate);
}
void Hdf5Writer::dataset(const std::string& path, std::span<const std::uint8_t> values,
                         const std::vector<std::int64_t>& shape, bool deflate) {
  write_numbers(path, values, shape, deflate);
}

void Hdf5Writer::dataset(const std::string& path, std::span<const std::string> texts) {
  const LibraryLock lock;
  // Fixed width, because the heap of variable-length texts has no checksum.
  std::size_t width = 1;
  for (const std::string& text : texts) width = std::max(width, text.size());
  std::string values;
  for (const std::string& text : texts) values += text + std::string(width - text.size(), '\0');
  const Handle type = text_type(width, H5T_CSET_UTF8);
  const Handle space = list_space(texts.size());
  const Handle creation = creation_list(H5P_DATASET_CREATE);
  state_->write_dataset(path, type.get(), type.get(), space.get(), creation.get(), values.data());
}

void Hdf5Writer::write_bool(const std::string& object, const std::string& name, bool value) {
  const LibraryLock lock;
  const Handle type = own(H5Tenum_create(H5T_STD_I8LE), H5Tclose);
  const std::int8_t no = 0, yes = 1;
  CHECK_GE(H5Tenum_insert(type.get(), "FALSE", &no), 0);
  CHECK_GE(H5Tenum_insert(type.get(), "TRUE", &yes), 0);
  const Handle space = own(H5Screate(H5S_SCALAR), H5Sclose);
  state_->write_attribute(object, name, type.get(), type.get(), space.get(), value ? &yes : &no);
}

void Hdf5Writer::write_integer(const std::string& object, const std::string& name, std::int64_t value) {
  const LibraryLock lock;
  const Handle space = own(H5Screate(H5S_SCALAR), H5Sclose);
  state_->write_attribute(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, space.get(), &value);
}

void Hdf5Writer::write_number(const std::string& object, const std::string& name, double value) {
  const LibraryLock lock;
  const Handle space = own(H5Screate(H5S_SCALAR), H5Sclose);
  state_->write_attribute(object, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, space.get(), &value);
}

void Hdf5Writer::write_text(const std::string& object, const std::string& name, std::string_view value) {
  const LibraryLock lock;
  const Handle space = own(H5Screate(H5S_SCALAR), H5Sclose);
  const std::string text(value);
  if (text.find('\0') == std::string::npos) {
    const Handle type = text_type(H5T_VARIABLE, H5T_CSET_UTF8);
    const char* pointer = text.c_str();
    state_->write_attribute(object, name, type.get(), type.get(), space.get(), &pointer);
    return;
  }
  // A variable-length string ends at its first NUL, but a model may generate NULs. Such a text gets a fixed length.
  if (text.size() > kMaxFixedText) {
    fail(
        "cannot write {}@{} to {}: the text has NUL characters and {} bytes, more than the limit of {}; "
        "shorten it",
        object, name, state_->target.string(), text.size(), kMaxFixedText);
  }
  const Handle type = text_type(text.size(), H5T_CSET_UTF8);
  state_->write_attribute(object, name, type.get(), type.get(), space.get(), text.data());
}

void Hdf5Writer::write_texts(const std::string& object, const std::string& name,
                             std::span<const std::string> values) {
  const LibraryLock lock;
  const Handle type = text_type(H5T_VARIABLE, H5T_CSET_UTF8);
  const Handle space = list_space(values.size());
  state_->write_attribute(object, name, type.get(), type.get(), space.get(), pointers_to(values).data());
}

void Hdf5Writer::group(const std::string& path) {
  const LibraryLock lock;
  state_->make_groups(path);
}

void Hdf5Writer::soft_link(const std::string& target, const std::string& link) {
  const LibraryLock lock;
  state_->make_parent(link);
  const Handle links = link_list();
  state_->require(H5Lcreate_soft(target.c_str(), state_->file, link.c_str(), links.get(), H5P_DEFAULT) >= 0,
                  link);
}

void Hdf5Writer::close(bool seal) {
  const LibraryLock lock;
  CHECK_GE(state_->file, 0) << "closed twice";
  // A failed flush leaves the file to the destructor, which discards it.
  state_->require(H5Fflush(state_->file, H5F_SCOPE_GLOBAL) >= 0, "the file");
  const bool closed = H5Fclose(std::exchange(state_->file, -1)) >= 0;
  if (!closed) {
    std::error_code ignored;
    fs::remove(state_->temporary, ignored);
    state_->fail_at("the file");
  }
  if (seal) {
    std::string line;
    {
      const MappedFile written(state_->temporary);
      line = seal_of(written.bytes());
    }
    std::ofstream file(state_->temporary, std::ios::binary | std::ios::app);
    file << line;
    file.close();
    if (!file) {
      std::error_code ignored;
      fs::remove(state_->temporary, ignored);
      fail("cannot write the digest line of {}: {}; check free space and permissions",
           state_->target.string(), std::generic_category().message(errno));
    }
  }
  publish(state_->temporary, state_->target);
}
}  // namespace biqa
