// SPDX-License-Identifier: Apache-2.0
// A communicator that forwards every call to another. A test overrides the calls that it wants to disturb.
#pragma once

#include <memory>
#include <utility>

#include "comm/communicator.h"

namespace biqa::testing {

class ForwardingCommunicator : public Communicator {
 public:
  explicit ForwardingCommunicator(Communicator& inner) : inner_(inner) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  int job_rank(int rank) const override { return inner_.job_rank(rank); }
  void set_deadline(Seconds deadline) override { inner_.set_deadline(deadline); }
  Seconds deadline() const override { return inner_.deadline(); }
  void barrier(const char* purpose) override { inner_.barrier(purpose); }
  void broadcast(View buffer, int root) override { inner_.broadcast(buffer, root); }
  void broadcast_bytes(std::vector<std::byte>& bytes, int root) override {
    inner_.broadcast_bytes(bytes, root);
  }
  void all_reduce_sum(std::span<float> values) override { inner_.all_reduce_sum(values); }
  void all_reduce_sum(std::span<double> values) override { inner_.all_reduce_sum(values); }
  double all_reduce_max(double value) override { return inner_.all_reduce_max(value); }
  double all_reduce_min(double value) override { return inner_.all_reduce_min(value); }
  void reduce_scatter_sum(std::span<const float> all, std::span<float> own_shard) override {
    inner_.reduce_scatter_sum(all, own_shard);
  }
  void all_gather(std::span<const float> own_shard, std::span<float> all) override {
    inner_.all_gather(own_shard, all);
  }
  std::vector<std::vector<std::byte>> gather_bytes(std::span<const std::byte> own, int root) override {
    return inner_.gather_bytes(own, root);
  }
  void send(int to, int tag, std::span<const std::byte> bytes) override { inner_.send(to, tag, bytes); }
  std::optional<Message> try_receive(int from, int tag) override { return inner_.try_receive(from, tag); }
  Message receive(int from, std::span<const int> tags, const char* purpose) override {
    return inner_.receive(from, tags, purpose);
  }
  void progress() override { inner_.progress(); }
  void flush() override { inner_.flush(); }
  void set_poll(std::function<void()> poll) override { inner_.set_poll(std::move(poll)); }
  std::unique_ptr<Communicator> split(std::span<const int> members, const std::string& name) override {
    return inner_.split(members, name);
  }
  Traffic traffic(Operation operation) const override { return inner_.traffic(operation); }

 private:
  Communicator& inner_;
};

}  // namespace biqa::testing
