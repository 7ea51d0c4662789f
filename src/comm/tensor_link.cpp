// SPDX-License-Identifier: Apache-2.0
#include "comm/tensor_link.h"

namespace biqa {
namespace {

class HostLink final : public TensorLink {
 public:
  HostLink(Communicator& ranks, DeviceMemory& memory) : ranks_(ranks), memory_(memory) {}

  void reduce_scatter_sum(ConstView whole, View shard) override {
    through_host(whole, shard, [&](std::span<const float> all, std::span<float> own) {
      ranks_.reduce_scatter_sum(all, own);
    });
  }
  void all_gather(ConstView shard, View whole) override {
    through_host(shard, whole,
                 [&](std::span<const float> own, std::span<float> all) { ranks_.all_gather(own, all); });
  }

 private:
  template <typename Exchange>
  void through_host(ConstView from, View to, const Exchange& exchange) {
    if (memory_.kind() != Memory::device) {
      exchange(from.span<const float>(), to.span<float>());
      return;
    }
    const Tensor sent = copied_to_host(memory_, from, "exchange");
    Tensor received(DType::f32, to.rows(), to.columns(), "exchange");
    exchange(sent.span<float>(), received.span<float>());
    memory_.copy(received.view(), to);
    memory_.wait();
  }

  Communicator& ranks_;
  DeviceMemory& memory_;
};

}  // namespace

std::unique_ptr<TensorLink> make_tensor_link(Communicator& ranks, DeviceMemory& memory) {
  return std::make_unique<HostLink>(ranks, memory);
}

}  // namespace biqa
