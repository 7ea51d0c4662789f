// SPDX-License-Identifier: Apache-2.0
// An open HDF5 file, shared by reader and inspector. Private to io/hdf5.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "io/hdf5.h"
#include "io/hdf5/library.h"

namespace biqa {

struct Hdf5File::State {
  std::filesystem::path path;
  std::uint64_t file_bytes = 0;
  hid_t file = -1;

  ~State() {
    if (file < 0) return;
    const hdf5::LibraryLock lock;
    H5Fclose(file);
  }
  [[noreturn]] void refuse(const std::string& object, const std::string& why) const {
    fail("cannot read {} of {}: {}; check that the file is the right one and complete", object, path.string(),
         why);
  }
  [[noreturn]] void fail_at(const std::string& object) const { refuse(object, hdf5::last_reason()); }
  hdf5::Handle take(hid_t id, herr_t (*close)(hid_t), const std::string& object) const {
    if (id < 0) fail_at(object);
    return {id, close};
  }
  hdf5::Handle dataset(const std::string& name) const {
    return take(H5Dopen2(file, name.c_str(), H5P_DEFAULT), H5Dclose, name);
  }
  hdf5::Handle attribute(const std::string& object, const std::string& name) const {
    return take(H5Aopen_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose,
                object + "@" + name);
  }
  std::vector<std::int64_t> dimensions(hid_t space, const std::string& object) const;
  /// The number of elements. Throws Error if the file is too small for that many.
  std::size_t elements(hid_t dataset, hid_t type, const std::vector<std::int64_t>& shape,
                       const std::string& object) const;
  /// The number of values of an attribute. Throws Error if the file is too small for that many.
  std::size_t attribute_elements(hid_t type, hid_t space, const std::string& place) const;
  struct Link {
    std::string name;
    H5L_type_t kind;
  };
  std::vector<Link> links(hid_t group, const std::string& place) const;
  std::vector<std::string> attribute_names(hid_t object, const std::string& place) const;
  /// Texts of a dataset or attribute, with fixed or variable length.
  std::vector<std::string> texts(hid_t type, hid_t space, std::size_t count, const std::string& object,
                                 const std::function<herr_t(hid_t, void*)>& read) const;
  template <typename T>
  std::vector<T> numbers(const std::string& name, std::vector<std::int64_t>* shape) const;
  /// A number stored as float, integer or boolean; `Target` is double or int64.
  template <typename Target>
  Target scalar(const std::string& object, const std::string& name) const;

  /// The caller must hold the lock.
  void check_in_a_child();
  /// Runs in the child process. Reads the whole file. Returns a text that starts with kHarmless, or the fault it found.
  std::string inspect();
  /// Reads everything that the methods of Hdf5File can reach. Ordinary read errors are left to these methods.
  void visit_everything() const;
  void visit_attributes(hid_t object, const std::string& place) const;
  void visit_dataset(hid_t dataset) const;
  void visit_values(hid_t type, hid_t space, std::size_t count,
                    const std::function<herr_t(hid_t, void*)>& read) const;
};

}  // namespace biqa
