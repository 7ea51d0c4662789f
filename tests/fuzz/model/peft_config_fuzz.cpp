// SPDX-License-Identifier: Apache-2.0
// adapter_config.json beside an adapter_model.safetensors that is whole.
#include <glog/logging.h>

#include <cmath>
#include <optional>

#include "fuzz/harness.h"
#include "fuzz/tiny_files.h"
#include "model/peft.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder;
  static const bool written = (write_tiny_adapter(folder.path() / "adapter"), true);
  CHECK(written);
  folder.write("adapter/adapter_config.json", input);
  accepted([&] { (void)read_peft_base_model(folder.path() / "adapter"); });
  std::optional<Lora> lora;
  if (!accepted([&] { lora = read_peft(folder.path() / "adapter", tiny_config()); })) return;
  CHECK_EQ(lora->values.size(), lora->layout->size());
  for (const LoraModule& module : lora->layout->modules()) CHECK(std::isfinite(module.scale)) << module.scale;
}

const Registered kRegistered("peft_config", run);

}  // namespace
}  // namespace biqa::fuzz
