// SPDX-License-Identifier: Apache-2.0
#include "training/work_share.h"

#include <glog/logging.h>

#include <algorithm>
#include <utility>

namespace biqa {

WorkShare::WorkShare(Communicator& world, std::span<const int> actors, RowsOfStep rows_of_step)
    : world_(world), actors_(actors.begin(), actors.end()), rows_of_step_(std::move(rows_of_step)) {}

void WorkShare::begin(std::int64_t step) {
  CHECK(ended_ && mine_.empty()) << "step " << step_ << " has not ended";
  if (step_ == 0) given_out_ = step - 1;
  step_ = step;
  ended_ = ended_ahead_.erase(step) != 0;
  listen();
  if (ended_) return;
  const auto rows = static_cast<std::int64_t>(rows_of_step_(step).size());
  const auto actors = static_cast<std::int64_t>(actors_.size());
  // Half of an even share at a time keeps the batch full. The other half remains for faster actors.
  ask(actors == 1 ? rows : std::max<std::int64_t>(1, (rows + 2 * actors - 1) / (2 * actors)), 0, 0);
}

void WorkShare::ask(std::int64_t groups, std::size_t row, std::int64_t tokens) {
  if (!keeper()) {
    send_work_request(world_, actors_.front(), {step_, groups, static_cast<std::int64_t>(row), tokens});
    return;
  }
  if (tokens > 0) lengths_[row] = tokens;
  give(world_.rank(), step_, groups);
}

void WorkShare::finished(std::size_t row, std::int64_t tokens) {
  if (actors_.size() > 1) ask(1, row, tokens);
}

std::vector<std::size_t> WorkShare::next(bool wait) {
  listen();
  while (wait && mine_.empty() && !ended_) {
    CHECK(!keeper());  // the keeper gives rows to itself at once
    accept(receive_work_reply(world_, actors_.front()));
  }
  return std::exchange(mine_, {});
}

void WorkShare::listen() {
  if (actors_.size() == 1) {
    world_.progress();
    return;
  }
  if (!keeper()) {
    while (const auto reply = try_receive_work_reply(world_, actors_.front())) accept(*reply);
    return;
  }
  while (const auto request = try_receive_work_request(world_)) {
    if (request->tokens > 0) lengths_[static_cast<std::size_t>(request->row)] = request->tokens;
    give(request->from, request->step, request->groups);
  }
}

WorkShare::List& WorkShare::list_of(std::int64_t step) {
  const auto [found, is_new] = lists_.try_emplace(step);
  if (is_new) {
    List& list = found->second;
    list.rows = rows_of_step_(step);
    const auto length = [&](std::size_t row) {
      const auto known = lengths_.find(row);
      return known == lengths_.end() ? std::int64_t{0} : known->second;
    };
    std::stable_sort(list.rows.begin(), list.rows.end(),
                     [&](std::size_t a, std::size_t b) { return length(a) > length(b); });
  }
  return found->second;
}

void WorkShare::give(int actor, std::int64_t step, std::int64_t groups) {
  if (step <= given_out_) return;  // the actor asked before it knew that no rows are left
  List& list = list_of(step);
  if (list.told.count(actor) != 0) return;  // the actor asked before it knew that no rows are left
  const std::size_t count = std::min(static_cast<std::size_t>(groups), list.rows.size() - list.given);
  const auto rows = std::span(list.rows).subspan(list.given, count);
  list.given += count;
  if (list.given < list.rows.size()) {
    send_rows(actor, step, rows, false);
    return;
  }
  list.told.insert(actor);
  send_rows(actor, step, rows, true);
  for (const int other : actors_) {
    if (list.told.insert(other).second) send_rows(other, step, {}, true);
  }
  for (auto first = lists_.begin();
       first != lists_.end() && first->first == given_out_ + 1 && first->second.told.size() == actors_.size();
       first = lists_.erase(first))
    ++given_out_;
}

void WorkShare::send_rows(int actor, std::int64_t step, std::span<const std::size_t> rows, bool last) {
  const WorkReply reply{step, last, {rows.begin(), rows.end()}};
  if (actor != world_.rank())
    send_work_reply(world_, actor, reply);
  else
    accept(reply);
}

void WorkShare::accept(const WorkReply& reply) {
  if (reply.step > step_) {
    CHECK(reply.last && reply.rows.empty());  // others have ended a step that this actor has not begun
    ended_ahead_.insert(reply.step);
    return;
  }
  CHECK_EQ(reply.step, step_);
  ended_ = reply.last;
  mine_.insert(mine_.end(), reply.rows.begin(), reply.rows.end());
}

}  // namespace biqa
