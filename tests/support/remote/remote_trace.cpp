// SPDX-License-Identifier: Apache-2.0
// Linked into biqa_trace, where it replaces the device cpu by the remote device.
#include "ops/backends.h"
#include "support/remote/remote_ops.h"

namespace {

const bool kIsSet = [] {
  biqa::set_further_backend([](const biqa::DeviceChoice& choice) {
    return biqa::testing::make_remote_ops(choice.compute, choice.threads);
  });
  return true;
}();

}  // namespace
