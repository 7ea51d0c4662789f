// SPDX-License-Identifier: Apache-2.0
#include "io/hdf5/state.h"

#include <numeric>
#include <type_traits>
#include <utility>

namespace biqa {
namespace fs = std::filesystem;

using namespace hdf5;

std::vector<std::int64_t> Hdf5File::State::dimensions(hid_t space, const std::string& object) const {
  const int rank = H5Sget_simple_extent_ndims(space);
  if (rank < 0 || H5Sget_simple_extent_type(space) == H5S_NULL) refuse(object, "it has no shape");
  std::vector<hsize_t> sizes(static_cast<std::size_t>(rank));
  if (rank > 0 && H5Sget_simple_extent_dims(space, sizes.data(), nullptr) < 0) fail_at(object);
  std::vector<std::int64_t> result;
  std::int64_t product = 1;
  for (const hsize_t size : sizes) {
    if (size > static_cast<hsize_t>(std::numeric_limits<std::int64_t>::max()) ||
        __builtin_mul_overflow(product, static_cast<std::int64_t>(size), &product)) {
      refuse(object, "its shape has too many elements");
    }
    result.push_back(static_cast<std::int64_t>(size));
  }
  return result;
}

std::size_t Hdf5File::State::elements(hid_t dataset, hid_t type, const std::vector<std::int64_t>& shape,
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
    refuse(object, fmt::format("it claims {} elements, more than fit into the file", count));
  }
  if (layout == H5D_CHUNKED) {
    std::vector<hsize_t> chunk(shape.size());
    if (H5Pget_chunk(creation.get(), static_cast<int>(chunk.size()), chunk.data()) < 0) fail_at(object);
    std::uint64_t chunk_bytes = width;
    for (const hsize_t size : chunk) {
      if (__builtin_mul_overflow(chunk_bytes, size, &chunk_bytes) || chunk_bytes > limit + kMaxChunkBytes) {
        refuse(object, "its chunks are too large for the file");
      }
    }
  }
  return static_cast<std::size_t>(count);
}

std::size_t Hdf5File::State::attribute_elements(hid_t type, hid_t space, const std::string& place) const {
  const auto shape = dimensions(space, place);
  const auto count = static_cast<std::uint64_t>(
      std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
  const std::uint64_t width = H5Tis_variable_str(type) > 0 ? 1 : H5Tget_size(type);
  if (width == 0 || count > file_bytes / width) refuse(place, "it claims more data than fit into the file");
  return count;
}

std::vector<Hdf5File::State::Link> Hdf5File::State::links(hid_t group, const std::string& place) const {
  std::vector<Link> found;
  const auto collect = [](hid_t, const char* name, const H5L_info_t* info, void* data) -> herr_t {
    static_cast<std::vector<Link>*>(data)->push_back({name, info->type});
    return 0;
  };
  if (H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &found) < 0) fail_at(place);
  return found;
}

std::vector<std::string> Hdf5File::State::attribute_names(hid_t object, const std::string& place) const {
  std::vector<std::string> names;
  const auto collect = [](hid_t, const char* name, const H5A_info_t*, void* data) -> herr_t {
    static_cast<std::vector<std::string>*>(data)->emplace_back(name);
    return 0;
  };
  if (H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names) < 0) fail_at(place);
  return names;
}

std::vector<std::string> Hdf5File::State::texts(hid_t type, hid_t space, std::size_t count,
                                                const std::string& object,
                                                const std::function<herr_t(hid_t, void*)>& read) const {
  if (H5Tget_class(type) != H5T_STRING) refuse(object, "it is not text");
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
    refuse(object, "it claims more data than fit into the file");
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

Hdf5File::Hdf5File(fs::path path) : state_(std::make_unique<State>()) {
  const LibraryLock lock;
  state_->path = std::move(path);
  const MappedFile probe(state_->path);  // gives the system's reason if the file cannot be read
  state_->file_bytes = probe.bytes().size();
  const Seal seal = check_seal(probe.bytes());
  if (seal == Seal::broken)
    fail("cannot read {}: it is damaged (its digest differs); fetch or write it again",
         state_->path.string());
  if (H5Fis_hdf5(state_->path.c_str()) <= 0) {
    fail("cannot read {}: it is not an HDF5 file; check the path", state_->path.string());
  }
  // A sealed file is as biqa has written it, so it needs no inspection.
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
    // The library would silently clip values that do not fit.
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
    refuse(place, std::is_integral_v<Target> ? "it is not an integer" : "it is not a number");
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
