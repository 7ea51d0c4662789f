// SPDX-License-Identifier: Apache-2.0
#include "io/hdf5/mat_variables.h"

#include <hdf5.h>

#include <algorithm>
#include <stdexcept>

namespace biqa {
namespace {

/// An identifier of the library, closed at the end.
class Id {
 public:
  Id(hid_t id, herr_t (*close)(hid_t), const char* why) : id_(id), close_(close) {
    if (id < 0) throw std::runtime_error(why);
  }
  ~Id() { close_(id_); }
  Id(const Id&) = delete;
  Id& operator=(const Id&) = delete;
  hid_t get() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

struct Shape {
  std::size_t count = 0;
  bool is_row = false;  ///< at most one side is longer than 1
};

Shape shape_of(hid_t dataset) {
  const Id space(H5Dget_space(dataset), H5Sclose, "its shape cannot be read");
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if (rank < 0 || rank > H5S_MAX_RANK) throw std::runtime_error("its shape cannot be read");
  std::vector<hsize_t> sides(static_cast<std::size_t>(rank));
  H5Sget_simple_extent_dims(space.get(), sides.data(), nullptr);
  Shape shape{1, std::count_if(sides.begin(), sides.end(), [](hsize_t side) { return side > 1; }) <= 1};
  for (const hsize_t side : sides) {
    if (side != 0 && shape.count > kMaxMatElements / side)
      throw std::runtime_error("it has too many elements");
    shape.count *= side;
  }
  return shape;
}

H5T_class_t class_of(hid_t dataset) {
  const Id type(H5Dget_type(dataset), H5Tclose, "its type cannot be read");
  return H5Tget_class(type.get());
}

template <typename T>
std::vector<T> values_of(hid_t dataset, hid_t type, std::size_t count) {
  std::vector<T> values(count);
  if (count > 0 && H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0)
    throw std::runtime_error("its elements cannot be read");
  return values;
}

struct Opened {
  Id file, dataset;
  Opened(const std::string& name, const std::string& variable)
      : file(H5Fopen(name.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose,
             "it is not a MATLAB file of version 7.3"),
        dataset(H5Dopen2(file.get(), variable.c_str(), H5P_DEFAULT), H5Dclose,
                "it has no such variable, or is damaged") {}
};

}  // namespace

std::vector<double> mat_hdf5_numbers(const std::string& file, const std::string& variable) {
  const Opened opened(file, variable);
  const hid_t dataset = opened.dataset.get();
  const H5T_class_t kind = class_of(dataset);
  if (kind != H5T_FLOAT && kind != H5T_INTEGER)
    throw std::runtime_error("it is not an array of real numbers");
  return values_of<double>(dataset, H5T_NATIVE_DOUBLE, shape_of(dataset).count);
}

std::vector<std::string> mat_hdf5_texts(const std::string& file, const std::string& variable) {
  const Opened opened(file, variable);
  const hid_t cells = opened.dataset.get();
  if (class_of(cells) != H5T_REFERENCE) throw std::runtime_error("it is not a cell array");
  std::vector<std::string> texts;
  for (const hobj_ref_t& reference : values_of<hobj_ref_t>(cells, H5T_STD_REF_OBJ, shape_of(cells).count)) {
    const Id cell(H5Rdereference2(cells, H5P_DEFAULT, H5R_OBJECT, &reference), H5Oclose,
                  "one of its cells is missing");
    if (H5Iget_type(cell.get()) != H5I_DATASET || class_of(cell.get()) != H5T_INTEGER)
      throw std::runtime_error("one of its cells is not text");
    if (H5Aexists(cell.get(), "MATLAB_empty") > 0) {  // the elements are then the shape of the empty text
      texts.emplace_back();
      continue;
    }
    const Shape shape = shape_of(cell.get());
    if (!shape.is_row) throw std::runtime_error("one of its cells is not a row of text");
    texts.push_back(utf8_of(values_of<std::uint16_t>(cell.get(), H5T_NATIVE_UINT16, shape.count)));
  }
  return texts;
}

}  // namespace biqa
