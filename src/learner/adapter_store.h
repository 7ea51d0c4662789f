// SPDX-License-Identifier: Apache-2.0
// Adapters in HDF5 files: a dataset for each A [rank, in] and B [out, rank], named by its PEFT key, below a group ("" is
// the root). The attribute `scale` of A is the module's. adapter.h5 and step dumps are written and read through this.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/hdf5.h"
#include "model/frozen_parts.h"
#include "model/lora.h"

namespace biqa {

/// Flat values in the layout's order, without scales: gradients and moments.
void write_factors(Hdf5Writer& out, const std::string& group, const LoraLayout& layout,
                   std::span<const float> values);

/// The values that write_factors wrote, all finite. Throws Error naming the tensor that is missing, has another shape
/// or holds a value that is not finite.
std::vector<float> read_factors(const Hdf5File& file, const std::string& group, const LoraLayout& layout);

/// Values and scales, without parts on frozen modules.
void write_adapter(Hdf5Writer& out, const std::string& group, const Lora& lora);

/// What write_adapter wrote: the adapted modules are those that have tensors. `spec`: rank, alpha and rslora as the file
/// has them; its targets follow from the tensors. A module without the attribute `scale` gets the one of `spec`. Throws
/// Error as read_factors, and for a tensor that belongs to no module of the model. An adapter without any module is
/// returned as it is.
Lora read_adapter(const Hdf5File& file, const std::string& group, const ModelConfig& config, LoraSpec spec);

/// The parts on frozen modules, below `group`. Copies of the model's weights are left out.
void write_frozen_parts(Hdf5Writer& out, const std::string& group, const Lora& lora);

/// The parts among the children of `group`; nullptr if there are none. Throws Error naming file and tensor: a shape that
/// `config` does not have, a part without its other half, a value or a scale that is not finite.
std::shared_ptr<const FrozenParts> read_frozen_parts(const Hdf5File& file, const std::string& group,
                                                     const ModelConfig& config);

/// Whether a name in such a file is that of a part on a frozen module.
bool is_frozen_key(const std::string& name);

}  // namespace biqa
