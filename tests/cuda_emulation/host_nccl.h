// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "comm/nccl/world.h"

namespace biqa::emulation {

/// What goes wrong in a HostNccl, and what takes time. Ranks are those of the world; -1: none.
struct NcclFaults {
  int polls_under_way = 0;    ///< answers "under way" to state() after each call
  int failing_creation = -1;  ///< rank whose world fails in its creation
  int failing_start = -1;     ///< rank whose world fails after a start()
  int silent_start = -1;      ///< rank whose moves are never seen by the others
  int starts_before = 0;      ///< starts that go well before either of these two
  bool no_name = false;       ///< make_name() throws
  bool refused = false;       ///< join() throws
};

/// Stands in for NCCL: ranks are threads of this process, and device memory is the emulator's. It CHECKs that its user keeps
/// NCCL's rules: no call while another is under way, no mark before the state is ready. A move that does not match its peer's
/// fails. Destroyed worlds take back what they have not yet sent.
class HostNccl final : public nccl::Library {
 public:
  explicit HostNccl(NcclFaults faults = {});
  ~HostNccl() override;
  HostNccl(const HostNccl&) = delete;
  HostNccl& operator=(const HostNccl&) = delete;

  nccl::WorldName make_name() override;
  std::unique_ptr<nccl::World> join(const nccl::WorldName& name, int rank, int ranks,
                                    const cuda::Stream& stream) override;
  /// Ends of worlds that exist, and those that were destroyed before all had left.
  int ends() const;
  int aborted() const;

  struct Shared;

 private:
  NcclFaults faults_;
  mutable std::mutex mutex_;
  std::map<nccl::WorldName, std::shared_ptr<Shared>> worlds_;
};

}  // namespace biqa::emulation
