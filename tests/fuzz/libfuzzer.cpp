// SPDX-License-Identifier: Apache-2.0
// The entry points of libFuzzer around the one harness that is linked.
#include <glog/logging.h>

#include <cstdint>

#include "fuzz/harness.h"

extern "C" int LLVMFuzzerInitialize(int* /*argc*/,
                                    char*** /*argv*/) {  // NOLINT(readability-identifier-naming)
  CHECK_EQ(biqa::fuzz::harnesses().size(), 1U);
  FLAGS_minloglevel = google::GLOG_ERROR;  // warnings about the input are no news
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,  // NOLINT(readability-identifier-naming)
                                      std::size_t size) {
  static const biqa::fuzz::Harness harness = biqa::fuzz::harnesses().begin()->second;
  harness({reinterpret_cast<const char*>(data), size});
  return 0;
}
