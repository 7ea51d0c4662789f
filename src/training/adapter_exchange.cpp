// SPDX-License-Identifier: Apache-2.0
#include "training/adapter_exchange.h"

#include <algorithm>
#include <span>
#include <utility>

#include "core/error.h"
#include "io/files.h"

namespace biqa {

AdapterExchange::AdapterExchange(Communicator& holders, Lora adapter, std::int64_t lag)
    : holders_(holders), adapter_(std::move(adapter)), lag_(lag) {}

void AdapterExchange::publish(std::int64_t version) {
  version_ = version;
  holders_.broadcast(View(adapter_.values.data(), 1, static_cast<std::int64_t>(adapter_.values.size())), 0);
  digest_ = digest_of_bytes(std::as_bytes(std::span(adapter_.values)));
  digests_[version_] = digest_;
  while (digests_.begin()->first < version_ - lag_) digests_.erase(digests_.begin());
  const DigestParts parts{static_cast<double>(digest_ >> 32), static_cast<double>(digest_ & 0xffffffffU)};
  const bool same = std::all_of(parts.begin(), parts.end(), [this](double part) {
    return holders_.all_reduce_max(part) == holders_.all_reduce_min(part);
  });
  if (!same) {
    fail(
        "adapter version {} differs between ranks after its broadcast: memory or network corrupts data; "
        "check the machines",
        version_);
  }
}

void AdapterExchange::check_origin(std::int64_t step, const Group& group) const {
  for (const Trajectory& t : group.members) {
    const auto policy = digests_.find(t.policy_version);
    const bool known = policy != digests_.end() && policy->second == t.adapter_digest;
    if (known && step - 1 - t.policy_version <= lag_) continue;
    fail(
        "step {}: a trajectory of {} was sampled with adapter version {} and digest {:016x}, but must come "
        "from a published version {} to {}; end the job and resume",
        step, group.sample_id, t.policy_version, t.adapter_digest, step - 1 - lag_, step - 1);
  }
}

}  // namespace biqa
