// SPDX-License-Identifier: Apache-2.0
// Adapters in HDF5 files (adapter.h5 and step dumps). Each A [rank, in] and B [out, rank] is a dataset named by its
// PEFT key, below a group ("" is the root). The attribute `scale` of A is the module's scale.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/hdf5.h"
#include "model/frozen_parts.h"
#include "model/lora.h"

namespace biqa {

/// Writes flat values in the layout's order, without scales. For gradients and moments.
void write_factors(Hdf5Writer& out, const std::string& group, const LoraLayout& layout,
                   std::span<const float> values);

/// Reads the values that write_factors wrote. Throws Error naming the tensor if it is missing, has another shape or
/// holds a value that is not finite.
std::vector<float> read_factors(const Hdf5File& file, const std::string& group, const LoraLayout& layout);

/// Writes values and scales, without parts on frozen modules.
void write_adapter(Hdf5Writer& out, const std::string& group, const Lora& lora);

/// Reads what write_adapter wrote. The adapted modules are those that have tensors. `spec`: rank, alpha and rslora from
/// the file; its targets are taken from the tensors. A module without the attribute `scale` gets the scale of `spec`.
/// Throws Error as read_factors does, and for a tensor that belongs to no module of the model. The root may contain other
/// objects, whose names do not begin with `base_model`; a warning names the first. An adapter may have no modules.
Lora read_adapter(const Hdf5File& file, const std::string& group, const ModelConfig& config, LoraSpec spec);

/// Writes the parts on frozen modules below `group`. Copies of the model's weights are left out.
void write_frozen_parts(Hdf5Writer& out, const std::string& group, const Lora& lora);

/// Reads the parts on frozen modules among the children of `group`; nullptr if there are none. Throws Error naming file
/// and tensor if a shape does not fit `config`, or if A or B is missing. Also throws Error if a value or a scale is not
/// finite.
std::shared_ptr<const FrozenParts> read_frozen_parts(const Hdf5File& file, const std::string& group,
                                                     const ModelConfig& config);

/// Whether a dataset of this name is a part on a frozen module.
bool is_frozen_key(const std::string& name);

}  // namespace biqa
