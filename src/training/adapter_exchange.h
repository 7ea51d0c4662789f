// SPDX-License-Identifier: Apache-2.0
// The adapter and its versions on the ranks that hold it: actors and learners.
#pragma once

#include <cstdint>
#include <map>

#include "comm/communicator.h"
#include "data/trajectory.h"
#include "model/lora.h"

namespace biqa {

/// Version v is the adapter that step v made; version 0 is the one that training starts from. With lag L, step s is
/// sampled with version s - 1 - L (docs/decisions/0007-exact-lag.md).
class AdapterExchange {
 public:
  /// Small maxima and minima over the holders in publish().
  static constexpr int kSums = 4;

  /// `holders`: the first learner is its rank 0. `adapter`: of the same layout on all of them.
  AdapterExchange(Communicator& holders, Lora adapter, std::int64_t lag);

  /// The newest adapter here. Learners replace it when they have learned.
  const Lora& adapter() const { return adapter_; }
  void set_adapter(Lora adapter) { adapter_ = std::move(adapter); }

  /// The first learner's adapter becomes `version` on every holder. Collective over the holders. Throws Error if two of
  /// them received different bytes.
  void publish(std::int64_t version);

  std::int64_t lag() const { return lag_; }
  /// Of the last one published here.
  std::int64_t version() const { return version_; }
  std::uint64_t digest() const { return digest_; }

  /// Throws Error unless every trajectory of the group was sampled by an adapter that was published here and that is not
  /// too old for `step`.
  void check_origin(std::int64_t step, const Group& group) const;

 private:
  Communicator& holders_;
  Lora adapter_;
  const std::int64_t lag_;
  std::int64_t version_ = 0;
  std::uint64_t digest_ = 0;
  std::map<std::int64_t, std::uint64_t> digests_;  // by version, those that may still be used
};

}  // namespace biqa
