// SPDX-License-Identifier: Apache-2.0
#include "io/hdf5.h"

// Newer versions of the library keep the interface of 1.10.
#define H5_USE_110_API

#include <fcntl.h>
#include <glog/logging.h>
#include <hdf5.h>
#include <malloc.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <mutex>
#include <numeric>
#include <optional>
#include <set>
#include <system_error>
#include <type_traits>
#include <utility>

#include "core/error.h"
#include "io/files.h"

namespace biqa {
namespace fs = std::filesystem;
namespace {

constexpr unsigned kDeflateLevel = 4;
// The format allows 4 GiB; smaller ones keep the library's buffers in bounds.
constexpr std::uint64_t kMaxChunkBytes = std::uint64_t{256} << 20;
// Deflate cannot shrink anything more than 1032-fold, so a dataset that claims more than this is made up.
constexpr std::uint64_t kMaxExpansion = 1100;
// Attributes live in an object header, which has 64 KiB in all.
constexpr std::size_t kMaxFixedText = 32768;

// Held during every use of the library, which keeps global state.
class LibraryLock {
 public:
  LibraryLock() : lock_(mutex()) {
    // Failures are reported by us; the library would print its own stack.
    // At exit the library would write again what a full disk refused, and crash over it.
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }

 private:
  static std::recursive_mutex& mutex() {
    static std::recursive_mutex instance;
    return instance;
  }
  std::lock_guard<std::recursive_mutex> lock_;
};

herr_t take_description(unsigned /*depth*/, const H5E_error2_t* error, void* text) {
  auto* result = static_cast<std::string*>(text);
  if (result->empty() && error->desc != nullptr) *result = error->desc;
  return 0;
}

// Why the last call failed: the innermost entry of the library's stack, in one line. Of a failed read or write that is
// the system's message among many numbers ("… errno = 28, error message = 'No space left on device', buf = …").
std::string last_reason() {
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_description, &reason);
  H5Eclear2(H5E_DEFAULT);
  constexpr std::string_view kSystem = "error message = '";
  if (const std::size_t found = reason.find(kSystem); found != std::string::npos) {
    const std::size_t begin = found + kSystem.size();
    reason = reason.substr(begin, reason.find('\'', begin) - begin);
  }
  std::replace_if(
      reason.begin(), reason.end(), [](unsigned char c) { return c < 0x20; }, ' ');
  return reason.empty() ? "HDF5 gave no reason" : reason;
}

// An identifier with what closes it.
class Handle {
 public:
  Handle() = default;
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  bool valid() const { return id_ >= 0; }
  hid_t get() const { return id_; }
  hid_t release() { return std::exchange(id_, -1); }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

Handle own(hid_t id, herr_t (*close)(hid_t)) {
  // Property lists, spaces and types fail only for mistakes of ours or without memory.
  CHECK_GE(id, 0) << last_reason();
  return {id, close};
}

// Two runs that compute the same write the same bytes: no times of day inside.
Handle creation_list(hid_t what) {
  Handle list = own(H5Pcreate(what), H5Pclose);
  CHECK_GE(H5Pset_obj_track_times(list.get(), false), 0);
  return list;
}

Handle link_list() {
  Handle list = own(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  CHECK_GE(H5Pset_char_encoding(list.get(), H5T_CSET_UTF8), 0);
  return list;
}

// Without the library's own file locks, which some file systems refuse: files are written under a name of their own and
// never changed.
Handle reading_list() {
  Handle list = own(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  CHECK_GE(H5Pset_file_locking(list.get(), false, true), 0);
  return list;
}

// The format of HDF5 1.10: its metadata carry checksums, which the older default does not, so that damage is an error.
Handle writing_list() {
  Handle list = reading_list();
  CHECK_GE(H5Pset_libver_bounds(list.get(), H5F_LIBVER_V110, H5F_LIBVER_V110), 0);
  return list;
}

Handle text_type(std::size_t size, H5T_cset_t characters) {
  Handle type = own(H5Tcopy(H5T_C_S1), H5Tclose);
  CHECK_GE(H5Tset_size(type.get(), size), 0);
  CHECK_GE(H5Tset_cset(type.get(), characters), 0);
  if (size != H5T_VARIABLE) CHECK_GE(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), 0);
  return type;
}

std::vector<const char*> pointers_to(std::span<const std::string> texts) {
  std::vector<const char*> pointers(texts.size());
  std::transform(texts.begin(), texts.end(), pointers.begin(),
                 [](const std::string& text) { return text.c_str(); });
  return pointers;
}

Handle list_space(std::size_t count) {
  const hsize_t dimension = count;
  return own(H5Screate_simple(1, &dimension, nullptr), H5Sclose);
}

constexpr std::string_view kSeal = "\nbiqa-xxh3-64 ";
constexpr std::size_t kSealBytes = kSeal.size() + 16 + 1;

// The line behind a sealed file whose other bytes these are.
std::string seal_of(std::span<const std::byte> bytes) {
  return fmt::format("{}{:016x}\n", kSeal, digest_of_bytes(bytes));
}

enum class Seal { none, whole, broken };
Seal check_seal(std::span<const std::byte> bytes) {
  if (bytes.size() < kSealBytes) return Seal::none;
  const std::span<const std::byte> last = bytes.last(kSealBytes);
  const std::string line(reinterpret_cast<const char*>(last.data()), last.size());
  if (!line.starts_with(kSeal)) return Seal::none;
  return line == seal_of(bytes.first(bytes.size() - kSealBytes)) ? Seal::whole : Seal::broken;
}

}  // namespace

// ---- writing ----

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
    fail("cannot write {} to {}: {}; check the space left and the permissions", object, target.string(),
         last_reason());
  }
  void require(bool succeeded, const std::string& object) const {
    if (!succeeded) fail_at(object);
  }
  // A handle that the file system can refuse.
  Handle take(hid_t id, herr_t (*close)(hid_t), const std::string& object) const {
    require(id >= 0, object);
    return {id, close};
  }
  // Makes every group of a path that is not there yet.
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
    // The system's own reason for an unwritable folder is clearer than the library's.
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
hid_t memory_type_of() {
  if constexpr (std::is_same_v<T, float>)
    return H5T_NATIVE_FLOAT;
  else if constexpr (std::is_same_v<T, double>)
    return H5T_NATIVE_DOUBLE;
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return H5T_NATIVE_INT64;
  else
    return H5T_NATIVE_UINT8;
}

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
  // Of one width: the heap of variable-length texts has no checksum.
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
  // A variable-length string ends at its first NUL, which a model may well have written: such a text gets its
  // own length.
  if (text.size() > kMaxFixedText) {
    fail(
        "cannot write {}@{} to {}: a text with NUL characters of {} bytes is more than the {} that fit; "
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
      fail("cannot write the seal of {}: {}; check the space left and the permissions",
           state_->target.string(), std::generic_category().message(errno));
    }
  }
  publish(state_->temporary, state_->target);
}

// ---- reading ----

namespace {
constexpr char kHarmless = '+';
}

struct Hdf5File::State {
  fs::path path;
  std::uint64_t file_bytes = 0;
  hid_t file = -1;

  ~State() {
    if (file < 0) return;
    const LibraryLock lock;
    H5Fclose(file);
  }
  [[noreturn]] void refuse(const std::string& object, const std::string& why) const {
    fail("cannot read {} of {}: {}; check that it is the right file and whole", object, path.string(), why);
  }
  [[noreturn]] void fail_at(const std::string& object) const { refuse(object, last_reason()); }
  Handle take(hid_t id, herr_t (*close)(hid_t), const std::string& object) const {
    if (id < 0) fail_at(object);
    return {id, close};
  }
  Handle dataset(const std::string& name) const {
    return take(H5Dopen2(file, name.c_str(), H5P_DEFAULT), H5Dclose, name);
  }
  Handle attribute(const std::string& object, const std::string& name) const {
    return take(H5Aopen_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose,
                object + "@" + name);
  }
  std::vector<std::int64_t> dimensions(hid_t space, const std::string& object) const {
    const int rank = H5Sget_simple_extent_ndims(space);
    if (rank < 0 || H5Sget_simple_extent_type(space) == H5S_NULL) refuse(object, "it has no shape");
    std::vector<hsize_t> sizes(static_cast<std::size_t>(rank));
    if (rank > 0 && H5Sget_simple_extent_dims(space, sizes.data(), nullptr) < 0) fail_at(object);
    std::vector<std::int64_t> result;
    std::int64_t product = 1;
    for (const hsize_t size : sizes) {
      if (size > static_cast<hsize_t>(std::numeric_limits<std::int64_t>::max()) ||
          __builtin_mul_overflow(product, static_cast<std::int64_t>(size), &product)) {
        refuse(object, "its shape has more elements than there can be");
      }
      result.push_back(static_cast<std::int64_t>(size));
    }
    return result;
  }
  // The number of elements; refuses a dataset whose file cannot hold that many.
  std::size_t elements(hid_t dataset, hid_t type, const std::vector<std::int64_t>& shape,
                       const std::string& object) const {
    const std::int64_t count =
        std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
    if (count == 0) return 0;
    const Handle creation = take(H5Dget_create_plist(dataset), H5Pclose, object);
    const H5D_layout_t layout = H5Pget_layout(creation.get());
    if (layout == H5D_VIRTUAL || H5Pget_external_count(creation.get()) > 0) {
      refuse(object, "its data are in other files");
    }
    const std::uint64_t stored = H5Dget_storage_size(dataset);
    if (stored == 0) refuse(object, "it was never written");
    const std::uint64_t limit = layout == H5D_CHUNKED ? stored * kMaxExpansion : stored;
    const std::uint64_t width = H5Tget_size(type);
    if (stored > file_bytes || width == 0 || static_cast<std::uint64_t>(count) > limit / width) {
      refuse(object, fmt::format("it claims {} elements, more than the file holds", count));
    }
    if (layout == H5D_CHUNKED) {
      std::vector<hsize_t> chunk(shape.size());
      if (H5Pget_chunk(creation.get(), static_cast<int>(chunk.size()), chunk.data()) < 0) fail_at(object);
      std::uint64_t chunk_bytes = width;
      for (const hsize_t size : chunk) {
        if (__builtin_mul_overflow(chunk_bytes, size, &chunk_bytes) || chunk_bytes > limit + kMaxChunkBytes) {
          refuse(object, "its chunks are larger than the file warrants");
        }
      }
    }
    return static_cast<std::size_t>(count);
  }
  // The number of values of an attribute; refuses more than the file can hold.
  std::size_t attribute_elements(hid_t type, hid_t space, const std::string& place) const {
    const auto shape = dimensions(space, place);
    const auto count = static_cast<std::uint64_t>(
        std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
    const std::uint64_t width = H5Tis_variable_str(type) > 0 ? 1 : H5Tget_size(type);
    if (width == 0 || count > file_bytes / width) refuse(place, "it claims more than the file holds");
    return count;
  }
  struct Link {
    std::string name;
    H5L_type_t kind;
  };
  std::vector<Link> links(hid_t group, const std::string& place) const {
    std::vector<Link> found;
    const auto collect = [](hid_t, const char* name, const H5L_info_t* info, void* data) -> herr_t {
      static_cast<std::vector<Link>*>(data)->push_back({name, info->type});
      return 0;
    };
    if (H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &found) < 0) fail_at(place);
    return found;
  }
  std::vector<std::string> attribute_names(hid_t object, const std::string& place) const {
    std::vector<std::string> names;
    const auto collect = [](hid_t, const char* name, const H5A_info_t*, void* data) -> herr_t {
      static_cast<std::vector<std::string>*>(data)->emplace_back(name);
      return 0;
    };
    if (H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names) < 0) fail_at(place);
    return names;
  }
  // Texts of a dataset or attribute of either string kind.
  std::vector<std::string> texts(hid_t type, hid_t space, std::size_t count, const std::string& object,
                                 const std::function<herr_t(hid_t, void*)>& read) const {
    if (H5Tget_class(type) != H5T_STRING) refuse(object, "it is no text");
    std::vector<std::string> result;
    if (count == 0) return result;
    if (H5Tis_variable_str(type) > 0) {
      const Handle memory = text_type(H5T_VARIABLE, H5Tget_cset(type));
      std::vector<char*> pointers(count);
      if (read(memory.get(), pointers.data()) < 0) fail_at(object);
      for (const char* pointer : pointers) result.emplace_back(pointer == nullptr ? "" : pointer);
      H5Dvlen_reclaim(memory.get(), space, H5P_DEFAULT, pointers.data());
      return result;
    }
    const std::size_t width = H5Tget_size(type);
    if (width == 0 || count > file_bytes * kMaxExpansion / width)
      refuse(object, "it claims more than the file holds");
    std::string buffer(count * width, '\0');
    if (read(type, buffer.data()) < 0) fail_at(object);
    for (std::size_t i = 0; i < count; ++i) {
      std::string text = buffer.substr(i * width, width);
      switch (H5Tget_strpad(type)) {
        case H5T_STR_NULLTERM:
          text.resize(std::min(text.size(), text.find('\0')));
          break;
        case H5T_STR_SPACEPAD:
          text.resize(text.find_last_not_of(' ') + 1);
          break;
        default:
          text.resize(text.find_last_not_of('\0') + 1);
      }
      result.push_back(std::move(text));
    }
    return result;
  }
  template <typename T>
  std::vector<T> numbers(const std::string& name, std::vector<std::int64_t>* shape) const;
  // A number stored as float, integer or boolean; `Target` is double or int64.
  template <typename Target>
  Target scalar(const std::string& object, const std::string& name) const;

  // The caller holds the lock.
  void check_in_a_child();
  // Its child: reads all of the file, writes kHarmless or why not, ends.
  [[noreturn]] void inspect(int report);
  // Reads all that the methods of Hdf5File could reach. What cannot be read is left to them.
  void visit_everything() const;
  void visit_attributes(hid_t object, const std::string& place) const;
  void visit_dataset(hid_t dataset) const;
  void visit_values(hid_t type, hid_t space, std::size_t count,
                    const std::function<herr_t(hid_t, void*)>& read) const;
};

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
      // Another file would be read unseen.
      if (link.kind != H5L_TYPE_HARD && link.kind != H5L_TYPE_SOFT) refuse(name, "it is in another file");
      // Where a soft link leads has a name of its own.
      if (link.kind == H5L_TYPE_HARD) waiting.push_back(name);
    }
  }
}

void Hdf5File::State::inspect(int report) {
  // Whatever was installed for crashes would print or hang; here a crash is an answer.
  for (const int signal : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGXCPU}) std::signal(signal, SIG_DFL);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  // Seconds of processor time in which all of it can be read, however slow the machine.
  const rlim_t patience = 10 + file_bytes / (std::uint64_t{4} << 20);
  const rlimit time{patience, patience};
  ::setrlimit(RLIMIT_CPU, &time);
  if (const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC); nowhere >= 0)
    ::dup2(nowhere, STDERR_FILENO);
  std::string answer(1, kHarmless);
  try {
    const Handle access = reading_list();
    file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get());
    if (file >= 0) {
      visit_everything();
      H5Fclose(file);
    }
    ::malloc_trim(0);  // looks through the heap, and aborts where that is damaged
  } catch (const Error& error) {
    answer = error.what();
  } catch (const std::bad_alloc&) {
    answer =
        fmt::format("cannot read {}: it claims more than fits into memory; check that it is the right file",
                    path.string());
  }
  const ssize_t written = ::write(report, answer.data(), answer.size());
  ::_exit(written == static_cast<ssize_t>(answer.size()) ? 0 : 1);
}

// The library crashes or loops on some damaged files (docs/decisions/0008-hdf5-checked-by-a-child.md). A child process
// reads all of the file first, with the same calls: what kills it is refused.
void Hdf5File::State::check_in_a_child() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    fail("cannot check {}: {}; close other programs", path.string(), std::generic_category().message(errno));
  }
  const pid_t child = ::fork();
  if (child == 0) inspect(ends[1]);
  const int error = errno;
  ::close(ends[1]);
  if (child < 0) {
    ::close(ends[0]);
    fail("cannot check {}: no process can be made: {}; free some memory", path.string(),
         std::generic_category().message(error));
  }
  std::string answer;
  std::array<char, 4096> buffer{};
  for (ssize_t count = 0; (count = ::read(ends[0], buffer.data(), buffer.size())) != 0;) {
    if (count > 0)
      answer.append(buffer.data(), static_cast<std::size_t>(count));
    else if (errno != EINTR)
      break;
  }
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (answer.empty()) {
    fail("cannot read {}: it is damaged, the HDF5 library fails over it; fetch or write it again",
         path.string());
  }
  if (answer[0] != kHarmless) throw Error(answer);
}

Hdf5File::Hdf5File(fs::path path) : state_(std::make_unique<State>()) {
  const LibraryLock lock;
  state_->path = std::move(path);
  const MappedFile probe(state_->path);  // the system's own reason where it cannot be read
  state_->file_bytes = probe.bytes().size();
  const Seal seal = check_seal(probe.bytes());
  if (seal == Seal::broken)
    fail("cannot read {}: it is damaged (its digest differs); fetch or write it again",
         state_->path.string());
  if (H5Fis_hdf5(state_->path.c_str()) <= 0) {
    fail("cannot read {}: it is no HDF5 file; check the path", state_->path.string());
  }
  // What we have sealed is as we have written it.
  if (seal == Seal::none) state_->check_in_a_child();
  const Handle access = reading_list();
  state_->file = H5Fopen(state_->path.c_str(), H5F_ACC_RDONLY, access.get());
  if (state_->file < 0) state_->fail_at("the superblock");
}
Hdf5File::~Hdf5File() = default;
Hdf5File::Hdf5File(Hdf5File&&) noexcept = default;
Hdf5File& Hdf5File::operator=(Hdf5File&&) noexcept = default;

const fs::path& Hdf5File::path() const {
  return state_->path;
}

bool Hdf5File::exists(const std::string& path) const {
  const LibraryLock lock;
  const Handle object(H5Oopen(state_->file, path.c_str(), H5P_DEFAULT), H5Oclose);
  H5Eclear2(H5E_DEFAULT);
  return object.valid();
}

bool Hdf5File::is_dataset(const std::string& path) const {
  const LibraryLock lock;
  const Handle dataset(H5Dopen2(state_->file, path.c_str(), H5P_DEFAULT), H5Dclose);
  H5Eclear2(H5E_DEFAULT);
  return dataset.valid();
}

std::vector<std::string> Hdf5File::children(const std::string& group) const {
  const LibraryLock lock;
  const Handle owner = state_->take(H5Gopen2(state_->file, group.c_str(), H5P_DEFAULT), H5Gclose, group);
  std::vector<std::string> names;
  for (State::Link& link : state_->links(owner.get(), group)) names.push_back(std::move(link.name));
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::int64_t> Hdf5File::shape(const std::string& dataset) const {
  const LibraryLock lock;
  const Handle data = state_->dataset(dataset);
  const Handle space = state_->take(H5Dget_space(data.get()), H5Sclose, dataset);
  return state_->dimensions(space.get(), dataset);
}

std::string Hdf5File::type_name(const std::string& dataset) const {
  const LibraryLock lock;
  const Handle data = state_->dataset(dataset);
  const Handle type = state_->take(H5Dget_type(data.get()), H5Tclose, dataset);
  const std::size_t bits = H5Tget_size(type.get()) * 8;
  switch (H5Tget_class(type.get())) {
    case H5T_FLOAT:
      return fmt::format("f{}", bits);
    case H5T_INTEGER:
      return fmt::format("{}{}", H5Tget_sign(type.get()) == H5T_SGN_2 ? 'i' : 'u', bits);
    case H5T_STRING:
      return "text";
    default:
      return "other";
  }
}

template <typename T>
std::vector<T> Hdf5File::State::numbers(const std::string& name, std::vector<std::int64_t>* shape) const {
  const Handle data = dataset(name);
  const Handle space = take(H5Dget_space(data.get()), H5Sclose, name);
  const Handle type = take(H5Dget_type(data.get()), H5Tclose, name);
  const H5T_class_t kind = H5Tget_class(type.get());
  if (kind != H5T_INTEGER && (kind != H5T_FLOAT || std::is_integral_v<T>)) {
    refuse(name, std::is_integral_v<T> ? "it does not hold integers" : "it does not hold numbers");
  }
  if constexpr (std::is_integral_v<T>) {
    // The library would silently clip what does not fit.
    const bool is_signed = H5Tget_sign(type.get()) == H5T_SGN_2;
    if (H5Tget_size(type.get()) > sizeof(T) ||
        (is_signed != std::is_signed_v<T> && H5Tget_size(type.get()) == sizeof(T))) {
      refuse(name, "its integers are of a wider type");
    }
  }
  const std::vector<std::int64_t> sizes = dimensions(space.get(), name);
  std::vector<T> values(elements(data.get(), type.get(), sizes, name));
  if (!values.empty() &&
      H5Dread(data.get(), memory_type_of<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) {
    fail_at(name);
  }
  if (shape != nullptr) *shape = sizes;
  return values;
}

std::vector<float> Hdf5File::read_f32(const std::string& path, std::vector<std::int64_t>* shape) const {
  const LibraryLock lock;
  return state_->numbers<float>(path, shape);
}
std::vector<double> Hdf5File::read_f64(const std::string& path, std::vector<std::int64_t>* shape) const {
  const LibraryLock lock;
  return state_->numbers<double>(path, shape);
}
std::vector<std::int64_t> Hdf5File::read_i64(const std::string& path,
                                             std::vector<std::int64_t>* shape) const {
  const LibraryLock lock;
  return state_->numbers<std::int64_t>(path, shape);
}
std::vector<std::uint8_t> Hdf5File::read_u8(const std::string& path, std::vector<std::int64_t>* shape) const {
  const LibraryLock lock;
  return state_->numbers<std::uint8_t>(path, shape);
}

std::vector<std::string> Hdf5File::read_texts(const std::string& path) const {
  const LibraryLock lock;
  const Handle data = state_->dataset(path);
  const Handle space = state_->take(H5Dget_space(data.get()), H5Sclose, path);
  const Handle type = state_->take(H5Dget_type(data.get()), H5Tclose, path);
  const std::size_t count =
      state_->elements(data.get(), type.get(), state_->dimensions(space.get(), path), path);
  return state_->texts(type.get(), space.get(), count, path, [&](hid_t memory, void* target) {
    return H5Dread(data.get(), memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, target);
  });
}

std::vector<std::string> Hdf5File::attributes(const std::string& object) const {
  const LibraryLock lock;
  const Handle owner = state_->take(H5Oopen(state_->file, object.c_str(), H5P_DEFAULT), H5Oclose, object);
  std::vector<std::string> names = state_->attribute_names(owner.get(), object);
  std::sort(names.begin(), names.end());
  return names;
}

bool Hdf5File::has_attribute(const std::string& object, const std::string& name) const {
  const LibraryLock lock;
  const bool found = H5Aexists_by_name(state_->file, object.c_str(), name.c_str(), H5P_DEFAULT) > 0;
  H5Eclear2(H5E_DEFAULT);
  return found;
}

template <typename Target>
Target Hdf5File::State::scalar(const std::string& object, const std::string& name) const {
  const std::string place = object + "@" + name;
  const Handle value = attribute(object, name);
  const Handle type = take(H5Aget_type(value.get()), H5Tclose, place);
  const Handle space = take(H5Aget_space(value.get()), H5Sclose, place);
  if (H5Sget_simple_extent_npoints(space.get()) != 1) refuse(place, "it is not one value");
  const H5T_class_t kind = H5Tget_class(type.get());
  if (kind == H5T_ENUM && H5Tget_size(type.get()) == 1) {
    std::int8_t byte = 0;
    if (H5Aread(value.get(), type.get(), &byte) < 0) fail_at(place);
    return static_cast<Target>(byte);
  }
  if (kind != H5T_INTEGER && (kind != H5T_FLOAT || std::is_integral_v<Target>)) {
    refuse(place, std::is_integral_v<Target> ? "it is no integer" : "it is no number");
  }
  if (std::is_integral_v<Target> &&
      (H5Tget_size(type.get()) > sizeof(Target) ||
       (H5Tget_size(type.get()) == sizeof(Target) && H5Tget_sign(type.get()) != H5T_SGN_2))) {
    refuse(place, "it is of a wider integer type");
  }
  Target number{};
  if (H5Aread(value.get(), memory_type_of<Target>(), &number) < 0) fail_at(place);
  return number;
}

double Hdf5File::attribute_f64(const std::string& object, const std::string& name) const {
  const LibraryLock lock;
  return state_->scalar<double>(object, name);
}

std::int64_t Hdf5File::attribute_i64(const std::string& object, const std::string& name) const {
  const LibraryLock lock;
  return state_->scalar<std::int64_t>(object, name);
}

bool Hdf5File::attribute_bool(const std::string& object, const std::string& name) const {
  return attribute_i64(object, name) != 0;
}

std::vector<std::string> Hdf5File::attribute_texts(const std::string& object, const std::string& name) const {
  const LibraryLock lock;
  const std::string place = object + "@" + name;
  const Handle value = state_->attribute(object, name);
  const Handle type = state_->take(H5Aget_type(value.get()), H5Tclose, place);
  const Handle space = state_->take(H5Aget_space(value.get()), H5Sclose, place);
  const std::size_t count = state_->attribute_elements(type.get(), space.get(), place);
  return state_->texts(type.get(), space.get(), count, place,
                       [&](hid_t memory, void* target) { return H5Aread(value.get(), memory, target); });
}

std::string Hdf5File::attribute_text(const std::string& object, const std::string& name) const {
  std::vector<std::string> texts = attribute_texts(object, name);
  if (texts.size() != 1) state_->refuse(object + "@" + name, "it is not one text");
  return std::move(texts[0]);
}

}  // namespace biqa
