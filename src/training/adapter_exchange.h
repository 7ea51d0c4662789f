// SPDX-License-Identifier: Apache-2.0
// The adapter and its versions on the holders, which are the actors and the learners.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <tuple>

#include "comm/communicator.h"
#include "data/trajectory.h"
#include "model/lora.h"

namespace biqa {

/// Version v is the adapter that step v produced. Version 0 is the initial adapter. With lag L, step s is sampled with
/// version s - 1 - L (docs/decisions/0007-exact-lag.md).
class AdapterExchange {
 public:
  /// A digest as numbers that a double holds exactly.
  using DigestParts = std::array<double, sizeof(std::uint64_t) / sizeof(std::uint32_t)>;
  /// Number of small reductions over the holders in publish(): the maximum and the minimum of each part.
  static constexpr int kReductions = 2 * static_cast<int>(std::tuple_size_v<DigestParts>);

  /// `holders`: rank 0 must be the first learner. `adapter`: must have the same layout on all holders.
  AdapterExchange(Communicator& holders, Lora adapter, std::int64_t lag);

  /// The newest adapter on this rank. Learners replace it after an update.
  const Lora& adapter() const { return adapter_; }
  void set_adapter(Lora adapter) { adapter_ = std::move(adapter); }

  /// Sends the first learner's adapter to every holder, as version `version`. Collective over the holders. Throws Error
  /// if two holders received different bytes.
  void publish(std::int64_t version);

  std::int64_t lag() const { return lag_; }
  /// Version and digest of the last published adapter.
  std::int64_t version() const { return version_; }
  std::uint64_t digest() const { return digest_; }

  /// Throws Error unless every trajectory of the group was sampled with an adapter that was published and is not too
  /// old for `step`.
  void check_origin(std::int64_t step, const Group& group) const;

 private:
  Communicator& holders_;
  Lora adapter_;
  const std::int64_t lag_;
  std::int64_t version_ = 0;
  std::uint64_t digest_ = 0;
  std::map<std::int64_t, std::uint64_t> digests_;  // by version; only versions that may still be used
};

}  // namespace biqa
