// SPDX-License-Identifier: Apache-2.0
// Distributes the groups of a step among the actors as they become free. The first actor keeps the list and answers
// requests between the tokens that it generates itself. Groups that were long in earlier epochs come first. The sampled
// texts do not depend on which actor samples which group.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "training/messages.h"

namespace biqa {

class WorkShare {
 public:
  /// Rows of the training manifest that a step uses; the same on every rank.
  using RowsOfStep = std::function<std::vector<std::size_t>(std::int64_t step)>;
  /// `actors`: ranks of `world`, ascending; the first one keeps the lists.
  WorkShare(Communicator& world, std::span<const int> actors, RowsOfStep rows_of_step);

  /// Starts `step` on this actor. The previous step must have ended.
  void begin(std::int64_t step);
  /// Rows newly assigned to this actor; often empty. With `wait` it blocks until there are rows; an empty result then
  /// means that this step has no more work for this actor.
  std::vector<std::size_t> next(bool wait);
  /// Reports that a group has ended after `tokens` sampled tokens, and requests another one.
  void finished(std::size_t row, std::int64_t tokens);

 private:
  struct List {
    std::vector<std::size_t> rows;  ///< in the order in which they are handed out
    std::size_t given = 0;
    std::set<int> told;  ///< actors that know that the list is empty
  };
  bool keeper() const { return world_.rank() == actors_.front(); }
  void ask(std::int64_t groups, std::size_t row, std::int64_t tokens);
  List& list_of(std::int64_t step);
  void give(int actor, std::int64_t step, std::int64_t groups);
  void send_rows(int actor, std::int64_t step, std::span<const std::size_t> rows, bool last);
  void accept(const WorkReply& reply);
  void listen();

  Communicator& world_;
  const std::vector<int> actors_;
  const RowsOfStep rows_of_step_;
  std::int64_t step_ = 0;
  std::vector<std::size_t> mine_;  ///< received, but not yet returned by next()
  bool ended_ = true;
  std::set<std::int64_t> ended_ahead_;  ///< later steps without groups left for this actor
  // Used only on the first actor:
  std::map<std::int64_t, List> lists_;
  /// last step for which every actor knows that all groups are distributed
  std::int64_t given_out_ = 0;
  std::map<std::size_t, std::int64_t> lengths_;  ///< tokens of a row's group in its last rollout
};

}  // namespace biqa
