// SPDX-License-Identifier: Apache-2.0
// An adapter's parts on frozen modules in HDF5 files: as its other tensors, A and B by PEFT key, attribute `scale` of A.
#pragma once

#include <memory>
#include <string>

#include "io/hdf5.h"
#include "model/frozen_parts.h"

namespace biqa {

/// Below `group` ("" is the root). Copies of the model's weights are left out.
void write_frozen_parts(Hdf5Writer& out, const std::string& group, const Lora& lora);

/// The parts among the children of `group`; nullptr where there are none. Throws Error naming file and tensor: a shape that
/// `config` does not have, a part without its other half, a value or a scale that is not finite.
std::shared_ptr<const FrozenParts> read_frozen_parts(const Hdf5File& file, const std::string& group,
                                                     const ModelConfig& config);

/// Whether a name in such a file is that of a part on a frozen module.
bool is_frozen_key(const std::string& name);

}  // namespace biqa
