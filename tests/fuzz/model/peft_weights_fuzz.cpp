// SPDX-License-Identifier: Apache-2.0
// The header of an adapter_model.safetensors, beside an adapter_config.json that is whole.
#include <glog/logging.h>

#include <cmath>

#include "fuzz/harness.h"
#include "fuzz/tiny_files.h"
#include "model/peft.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder;
  static const bool written = (write_tiny_adapter(folder.path() / "adapter"), true);
  CHECK(written);
  folder.write("adapter/adapter_model.safetensors", safetensors_of(input));
  std::map<std::string, std::vector<std::int64_t>> shapes;
  if (!accepted([&] { shapes = read_peft_shapes(folder.path() / "adapter"); })) return;
  accepted([&] { (void)config_of_adapter(shapes, "input"); });
  Lora lora;
  if (!accepted([&] { lora = read_peft(folder.path() / "adapter", tiny_config()); })) return;
  CHECK_EQ(lora.values.size(), lora.layout->size());
  for (const float value : lora.values) CHECK(std::isfinite(value)) << value;
}

const Registered kRegistered("peft_weights", run);

}  // namespace
}  // namespace biqa::fuzz
