// SPDX-License-Identifier: Apache-2.0
// Wraps the parts of oneDNN's interface that changed between 2.x and 3.x.
#pragma once

#include <glog/logging.h>

#include <oneapi/dnnl/dnnl.hpp>

#include <cstdint>

#include "core/error.h"
#include "core/random.h"

namespace biqa::cpu {

/// The smallest number of rows that oneDNN multiplies with the same bits as many rows. Version 3.7 uses another kernel
/// for a single row. From an inner width of 1,025 on, that kernel rounds differently.
constexpr std::int64_t kLeastRows = DNNL_VERSION_MAJOR >= 3 ? 2 : 1;

/// Describes source · weights, plus `bias` unless it is null. Throws dnnl::error.
inline dnnl::matmul::primitive_desc describe_matmul(const dnnl::engine& engine,
                                                    const dnnl::memory::desc& source,
                                                    const dnnl::memory::desc& weights,
                                                    const dnnl::memory::desc* bias,
                                                    const dnnl::memory::desc& destination,
                                                    const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  if (bias != nullptr) return {engine, source, weights, *bias, destination, attributes};
  return {engine, source, weights, destination, attributes};
#else
  const auto operation = bias != nullptr ? dnnl::matmul::desc(source, weights, *bias, destination)
                                         : dnnl::matmul::desc(source, weights, destination);
  return {operation, attributes, engine};
#endif
}

/// Fingerprint of the positions of all elements. Equal layouts have equal fingerprints.
inline std::uint64_t layout_fingerprint(const dnnl::memory::desc& layout) {
  std::uint64_t state = 0;
  const auto add = [&state](std::int64_t value) {
    state = mix64(state ^ mix64(static_cast<std::uint64_t>(value)));
  };
  const auto add_all = [&add](const dnnl::memory::dims& values) {
    for (const std::int64_t value : values) add(value);
  };
#if DNNL_VERSION_MAJOR >= 3
  CHECK(layout.get_format_kind() == dnnl::memory::format_kind::blocked);
  // A layout that is larger than its elements would contain other data of oneDNN. Such layouts are not supported.
  std::size_t bytes = dnnl::memory::data_type_size(layout.get_data_type());
  for (const std::int64_t extent : layout.get_padded_dims()) bytes *= static_cast<std::size_t>(extent);
  CHECK_EQ(layout.get_size(), bytes);
  add(layout.get_ndims());
  add(static_cast<std::int64_t>(layout.get_data_type()));
  add(layout.get_submemory_offset());
  for (const auto& values : {layout.get_dims(), layout.get_padded_dims(), layout.get_padded_offsets(),
                             layout.get_strides(), layout.get_inner_blks(), layout.get_inner_idxs()}) {
    add_all(values);
  }
#else
  const dnnl_memory_desc_t& d = layout.data;
  CHECK(d.format_kind == dnnl_blocked && d.extra.flags == dnnl_memory_extra_flag_none);
  const dnnl_blocking_desc_t& blocks = d.format_desc.blocking;
  add(d.ndims);
  add(d.data_type);
  add(d.offset0);
  for (const auto* values : {d.dims, d.padded_dims, d.padded_offsets, blocks.strides})
    add_all({values, values + d.ndims});
  for (const auto* values : {blocks.inner_blks, blocks.inner_idxs})
    add_all({values, values + blocks.inner_nblks});
#endif
  return state;
}

}  // namespace biqa::cpu
