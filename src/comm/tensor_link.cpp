// SPDX-License-Identifier: Apache-2.0
#include "comm/tensor_link.h"

#include <utility>
#include <vector>

#include "comm/nccl/device_link.h"

namespace biqa {
namespace {

class HostLink final : public TensorLink {
 public:
  HostLink(Communicator& ranks, DeviceMemory& memory, Shards shards)
      : ranks_(ranks), memory_(memory), shards_(std::move(shards)) {
    CHECK_EQ(shards_.ranks(), ranks.size());
  }

  void reduce_scatter_sum(ConstView whole, View shard) override {
    shards_.check(ranks_.rank(), whole, shard);
    through_host(whole, shard, [&](std::span<const float> all, std::span<float> own) {
      if (shards_.are_even()) return ranks_.reduce_scatter_sum(all, own);
      std::vector<float> padded(padded_size());
      std::vector<float> sum(largest());
      for (int rank = 0; rank < ranks_.size(); ++rank) {
        const auto part = range(all, rank);
        std::copy(part.begin(), part.end(), padded.begin() + rank * shards_.largest());
      }
      ranks_.reduce_scatter_sum(padded, sum);
      std::copy_n(sum.begin(), own.size(), own.begin());
    });
  }

  void all_gather(ConstView shard, View whole) override {
    shards_.check(ranks_.rank(), whole, shard);
    through_host(shard, whole, [&](std::span<const float> own, std::span<float> all) {
      if (shards_.are_even()) return ranks_.all_gather(own, all);
      std::vector<float> padded(padded_size());
      std::vector<float> part(largest());
      std::copy(own.begin(), own.end(), part.begin());
      ranks_.all_gather(part, padded);
      for (int rank = 0; rank < ranks_.size(); ++rank) {
        const auto to = range(all, rank);
        std::copy_n(padded.begin() + rank * shards_.largest(), to.size(), to.begin());
      }
    });
  }

  void broadcast(View values, int root) override {
    if (memory_.kind() != Memory::device) return ranks_.broadcast(values, root);
    if (ranks_.size() == 1) return;
    const bool sends = ranks_.rank() == root;
    Tensor host = sends ? copied_to_host(memory_, values, "exchange")
                        : Tensor(values.type(), values.rows(), values.columns(), "exchange");
    ranks_.broadcast(host.view(), root);
    if (sends) return;
    memory_.copy(host.view(), values);
    memory_.wait();
  }

 private:
  template <typename Exchange>
  void through_host(ConstView from, View to, const Exchange& exchange) {
    if (memory_.kind() != Memory::device) {
      exchange(from.span<const float>(), to.span<float>());
      return;
    }
    if (ranks_.size() == 1) {
      memory_.copy(from, to);
      memory_.wait();
      return;
    }
    const Tensor sent = copied_to_host(memory_, from, "exchange");
    Tensor received(DType::f32, to.rows(), to.columns(), "exchange");
    exchange(sent.span<float>(), received.span<float>());
    memory_.copy(received.view(), to);
    memory_.wait();
  }

  std::size_t largest() const { return static_cast<std::size_t>(shards_.largest()); }
  std::size_t padded_size() const { return largest() * static_cast<std::size_t>(ranks_.size()); }
  template <typename T>
  std::span<T> range(std::span<T> all, int rank) const {
    return all.subspan(static_cast<std::size_t>(shards_.begin(rank)),
                       static_cast<std::size_t>(shards_.size(rank)));
  }

  Communicator& ranks_;
  DeviceMemory& memory_;
  Shards shards_;
};

TensorLinkMaker& maker() {
  static TensorLinkMaker make;
  return make;
}

}  // namespace

void set_tensor_link_maker(TensorLinkMaker make) {
  maker() = std::move(make);
}

std::unique_ptr<TensorLink> make_host_link(Communicator& ranks, DeviceMemory& memory, Shards shards) {
  return std::make_unique<HostLink>(ranks, memory, std::move(shards));
}

std::unique_ptr<TensorLink> make_tensor_link(Communicator& ranks, DeviceMemory& memory, Shards shards) {
  if (maker()) return maker()(ranks, memory, std::move(shards));
  if (auto link = nccl::make_device_link(ranks, memory, shards)) return link;
  return make_host_link(ranks, memory, std::move(shards));
}

}  // namespace biqa
