// SPDX-License-Identifier: Apache-2.0
// The part of HDF5 that traces, dumps and checkpoints need. Calls from several threads are serialised, because Debian's
// library is not thread-safe. Every failure is an Error naming file and object.
#pragma once

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace biqa {

/// Writes a new file, which appears under its name only if close() succeeds (like AtomicFile). Object paths are
/// absolute or relative to the root ("a/b"). Missing groups in a path are created.
class Hdf5Writer {
 public:
  explicit Hdf5Writer(const std::filesystem::path& target);
  ~Hdf5Writer();  ///< without close() no file is left
  Hdf5Writer(Hdf5Writer&&) noexcept;
  Hdf5Writer& operator=(Hdf5Writer&&) noexcept;

  /// A dataset of little-endian float32, float64, int64 or uint8 in row-major order. The product of the shape is the
  /// number of values (CHECK); an empty shape is a scalar. `deflate` compresses the data as one chunk (level 4).
  void dataset(const std::string& path, std::span<const float> values, const std::vector<std::int64_t>& shape,
               bool deflate = false);
  void dataset(const std::string& path, std::span<const double> values,
               const std::vector<std::int64_t>& shape, bool deflate = false);
  void dataset(const std::string& path, std::span<const std::int64_t> values,
               const std::vector<std::int64_t>& shape, bool deflate = false);
  void dataset(const std::string& path, std::span<const std::uint8_t> values,
               const std::vector<std::int64_t>& shape, bool deflate = false);
  /// One-dimensional, UTF-8, padded with NULs to the longest text.
  void dataset(const std::string& path, std::span<const std::string> texts);

  /// Writes an attribute of an existing group or dataset ("/" is the root). Stored types: bool as h5py's enum, integers
  /// as int64, floating point as float64, text as UTF-8. A list of texts becomes an array; the others are scalars.
  template <typename T>
  void attribute(const std::string& object, const std::string& name, const T& value) {
    if constexpr (std::same_as<T, bool>) {
      write_bool(object, name, value);
    } else if constexpr (std::integral<T>) {
      write_integer(object, name, static_cast<std::int64_t>(value));
    } else if constexpr (std::floating_point<T>) {
      write_number(object, name, static_cast<double>(value));
    } else if constexpr (std::convertible_to<T, std::string_view>) {
      write_text(object, name, std::string_view(value));
    } else {
      write_texts(object, name, std::span<const std::string>(value));
    }
  }
  /// Creates a group and its parents; they may exist already.
  void group(const std::string& path);
  /// Makes `link` another name of `target` (an absolute path in this file).
  void soft_link(const std::string& target, const std::string& link);
  /// Flushes, closes and publishes the file. `seal`: appends a line with XXH3-64 of the file's bytes; HDF5 readers
  /// ignore it. Hdf5File checks the seal before the library opens the file, because the library crashes on some damaged
  /// files.
  void close(bool seal = false);

 private:
  template <typename T>
  void write_numbers(const std::string& path, std::span<const T> values,
                     const std::vector<std::int64_t>& shape, bool deflate);
  void write_bool(const std::string& object, const std::string& name, bool value);
  void write_integer(const std::string& object, const std::string& name, std::int64_t value);
  void write_number(const std::string& object, const std::string& name, double value);
  void write_text(const std::string& object, const std::string& name, std::string_view value);
  void write_texts(const std::string& object, const std::string& name, std::span<const std::string> values);
  struct State;
  std::unique_ptr<State> state_;
};

/// Reads a file, after checking its seal if it has one. Soft links are followed. Numbers are converted from the file's
/// types (integers only from integers). No read allocates much more memory than the file's size justifies.
class Hdf5File {
 public:
  /// A file without a seal is first read as a whole by a child process, because the library crashes or loops on some
  /// damaged files. Such damage is an Error. So are links into other files.
  explicit Hdf5File(std::filesystem::path path);
  ~Hdf5File();
  Hdf5File(Hdf5File&&) noexcept;
  Hdf5File& operator=(Hdf5File&&) noexcept;

  /// True for a group or dataset. A broken link counts as absent.
  bool exists(const std::string& path) const;
  bool is_dataset(const std::string& path) const;
  /// Names of a group's members, sorted.
  std::vector<std::string> children(const std::string& group = "/") const;
  std::vector<std::int64_t> shape(const std::string& dataset) const;
  /// "f32", "i64", "u8", "text" …; "other" if it is neither number nor text.
  std::string type_name(const std::string& dataset) const;

  /// Whole datasets in row-major order; `shape` receives the dimensions.
  std::vector<float> read_f32(const std::string& path, std::vector<std::int64_t>* shape = nullptr) const;
  std::vector<double> read_f64(const std::string& path, std::vector<std::int64_t>* shape = nullptr) const;
  std::vector<std::int64_t> read_i64(const std::string& path,
                                     std::vector<std::int64_t>* shape = nullptr) const;
  std::vector<std::uint8_t> read_u8(const std::string& path,
                                    std::vector<std::int64_t>* shape = nullptr) const;
  std::vector<std::string> read_texts(const std::string& path) const;

  std::vector<std::string> attributes(const std::string& object = "/") const;
  bool has_attribute(const std::string& object, const std::string& name) const;
  /// Scalars or one-element arrays. Numbers may have any type. A bool may also be an integer. Text may have fixed or
  /// variable length.
  double attribute_f64(const std::string& object, const std::string& name) const;
  std::int64_t attribute_i64(const std::string& object, const std::string& name) const;
  bool attribute_bool(const std::string& object, const std::string& name) const;
  std::string attribute_text(const std::string& object, const std::string& name) const;
  std::vector<std::string> attribute_texts(const std::string& object, const std::string& name) const;
  const std::filesystem::path& path() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace biqa
