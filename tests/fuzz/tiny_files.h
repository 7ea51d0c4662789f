// SPDX-License-Identifier: Apache-2.0
// The files of a model small enough to be written in a moment.
#pragma once

#include <filesystem>
#include <string>

#include "model/config.h"
#include "model/lora.h"

namespace biqa::fuzz {

ModelConfig tiny_config();
/// An adapter of tiny_config().
Lora tiny_adapter();
/// The weights of tiny_config() in two files, without their index.
void write_tiny_shards(const std::filesystem::path& folder);
/// The name of that file which holds a tensor.
std::string tiny_shard_of(const std::string& tensor);
/// A PEFT folder with tiny_adapter().
void write_tiny_adapter(const std::filesystem::path& folder);

}  // namespace biqa::fuzz
