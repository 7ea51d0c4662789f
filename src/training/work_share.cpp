// SPDX-License-Identifier: Apache-2.0
#include "training/work_share.h"

#include <glog/logging.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace biqa {
namespace {

/// A request for `groups` groups of a step. If tokens > 0, also reports the length of the finished group of `row`.
struct Request {
  std::int64_t step = 0, groups = 0, row = 0, tokens = 0;
};
static_assert(sizeof(Request) == WorkShare::kRequestBytes);

}  // namespace

WorkShare::WorkShare(Communicator& world, std::span<const int> actors, int tag, RowsOfStep rows_of_step)
    : world_(world),
      actors_(actors.begin(), actors.end()),
      tag_(tag),
      rows_of_step_(std::move(rows_of_step)) {}

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
  const Request request{step_, groups, static_cast<std::int64_t>(row), tokens};
  if (!keeper()) {
    world_.send(actors_.front(), tag_, std::as_bytes(std::span(&request, 1)));
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
    CHECK(!keeper());  // it takes what is left itself
    accept(world_.receive(actors_.front(), tag_ + 1, "groups to roll out").bytes);
  }
  return std::exchange(mine_, {});
}

void WorkShare::listen() {
  if (actors_.size() == 1) {
    world_.progress();
    return;
  }
  if (!keeper()) {
    while (auto message = world_.try_receive(actors_.front(), tag_ + 1)) accept(message->bytes);
    return;
  }
  while (auto message = world_.try_receive(kAnyRank, tag_)) {
    Request request;
    CHECK_EQ(message->bytes.size(), sizeof request);
    std::memcpy(&request, message->bytes.data(), sizeof request);
    if (request.tokens > 0) lengths_[static_cast<std::size_t>(request.row)] = request.tokens;
    give(message->from, request.step, request.groups);
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
  if (step <= given_out_) return;  // asked before it knew that there is no more
  List& list = list_of(step);
  if (list.told.count(actor) != 0) return;  // asked before it knew that there is no more
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
  std::vector<std::int64_t> numbers{step, last ? 1 : 0};
  numbers.insert(numbers.end(), rows.begin(), rows.end());
  const auto bytes = std::as_bytes(std::span(numbers));
  if (actor != world_.rank()) {
    world_.send(actor, tag_ + 1, bytes);
  } else {
    accept(bytes);
  }
}

void WorkShare::accept(std::span<const std::byte> bytes) {
  std::vector<std::int64_t> numbers(bytes.size() / sizeof(std::int64_t));
  std::memcpy(numbers.data(), bytes.data(), numbers.size() * sizeof(std::int64_t));
  CHECK(numbers.size() >= 2);
  if (numbers[0] > step_) {
    CHECK(numbers[1] != 0 && numbers.size() == 2);  // others have ended a step that this actor has not begun
    ended_ahead_.insert(numbers[0]);
    return;
  }
  CHECK_EQ(numbers[0], step_);
  ended_ = numbers[1] != 0;
  for (std::size_t i = 2; i < numbers.size(); ++i) mine_.push_back(static_cast<std::size_t>(numbers[i]));
}

}  // namespace biqa
