// SPDX-License-Identifier: Apache-2.0
// All collectives, on any transport. Posting a message never waits (comm/endpoint.h), so no order of sends and receives
// can cause a deadlock.
#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <numeric>
#include <type_traits>
#include <utility>

#include "comm/broadcast_shape.h"
#include "comm/endpoint.h"
#include "comm/rank_list.h"
#include "comm/wait_times.h"
#include "core/error.h"

namespace biqa {
namespace {

using namespace endpoint;

/// The most blocks of a broadcast that a rank sends at a time.
constexpr std::size_t kBlocksUnderWay = 8;
/// A sum of more elements is divided among the ranks.
constexpr std::size_t kRootedElements = 4096;
/// Factor of the deadline for ranks that wait for a collecting rank. The collecting rank knows which rank is missing,
/// so its deadline must pass first.
constexpr double kPatience = 1.25;

class MessageCommunicator final : public Communicator {
 public:
  MessageCommunicator(std::shared_ptr<Endpoint> endpoint, std::uint32_t context, std::vector<int> members,
                      std::string name, Seconds deadline)
      : endpoint_(std::move(endpoint)),
        members_(std::move(members)),
        name_(std::move(name)),
        deadline_(deadline) {
    const auto base = std::uint64_t{context} * kChannelsPerContext;
    CHECK_LE(base + kChannelsPerContext, static_cast<std::uint64_t>(endpoint_->transport().channels()))
        << "too many communicators were created";
    base_channel_ = static_cast<int>(base);
    const auto own = std::find(members_.begin(), members_.end(), endpoint_->transport().rank());
    CHECK(own != members_.end());
    rank_ = static_cast<int>(own - members_.begin());
  }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }
  int job_rank(int rank) const override {
    CHECK(rank >= 0 && rank < size()) << "rank " << rank << " of " << size();
    return members_[static_cast<std::size_t>(rank)];
  }
  void set_deadline(Seconds deadline) override { deadline_ = deadline; }
  Seconds deadline() const override { return deadline_; }
  Traffic traffic(Operation operation) const override {
    return traffic_.at(static_cast<std::size_t>(operation));
  }

  void barrier(const char* purpose) override;
  void broadcast(View buffer, int root) override;
  void broadcast_bytes(std::vector<std::byte>& bytes, int root) override;
  void all_reduce_sum(std::span<float> values) override { all_reduce(values); }
  void all_reduce_sum(std::span<double> values) override { all_reduce(values); }
  double all_reduce_max(double value) override;
  double all_reduce_min(double value) override;
  void reduce_scatter_sum(std::span<const float> all, std::span<float> own_shard) override {
    count_call(Operation::reduce_scatter);
    reduce_scatter(Operation::reduce_scatter, all, own_shard);
  }
  void all_gather(std::span<const float> own_shard, std::span<float> all) override {
    count_call(Operation::all_gather);
    gather_all(Operation::all_gather, own_shard, all);
  }
  std::vector<std::vector<std::byte>> gather_bytes(std::span<const std::byte> own, int root) override;
  void send(int to, int tag, std::span<const std::byte> bytes) override;
  std::optional<Message> try_receive(int from, int tag) override;
  Message receive(int from, std::span<const int> tags, const char* purpose) override;
  void progress() override {
    endpoint_->poll();
    endpoint_->progress();
  }
  void set_poll(std::function<void()> poll) override { endpoint_->set_poll(std::move(poll)); }
  void flush() override;
  std::unique_ptr<Communicator> split(std::span<const int> members, const std::string& name) override;

 private:
  /// A message with a tag that has not yet arrived completely.
  struct Partial {
    Message message;
    std::unique_ptr<Incoming> incoming;
  };

  /// The sends and receives of one collective call.
  class Collective {
   public:
    Collective(MessageCommunicator& communicator, Operation operation, Element element,
               std::uint64_t elements, int root, const char* purpose = "")
        : communicator_(communicator), purpose_(purpose) {
      CHECK(root >= 0 && root < communicator.size()) << root;
      communicator.endpoint_->check_usable();
      header_.operation = operation;
      header_.element = element;
      header_.elements = elements;
      header_.root = root;
      header_.sequence = ++communicator.sequence_;
    }
    Collective(const Collective&) = delete;
    Collective& operator=(const Collective&) = delete;
    ~Collective() { communicator_.endpoint_->drop_borrowed(); }

    /// `payload` stays unchanged until finish().
    void send(int to, std::span<const std::byte> payload) {
      outgoing_.push_back(communicator_.endpoint_->start(
          communicator_.job_rank(to), communicator_.collective_channel(), header_, payload, false));
      communicator_.traffic_.at(static_cast<std::size_t>(header_.operation)).bytes += payload.size();
    }

    void expect(int from, std::span<std::byte> payload) {
      expect(from, [payload](std::size_t bytes) {
        CHECK_EQ(payload.size(), bytes);
        return payload;
      });
    }
    void expect(int from, std::vector<std::byte>& payload) {
      expect(from, [&payload](std::size_t bytes) {
        payload.resize(bytes);
        return std::span(payload);
      });
    }

    /// Waits for everything expected.
    void receive(double patience = 1.0) {
      communicator_.wait(
          header_.operation, purpose_, patience,
          [this] {
            std::erase_if(incoming_, [](auto& incoming) { return incoming->advance(); });
            return incoming_.empty();
          },
          [this] {
            std::vector<int> missing;
            for (const auto& incoming : incoming_) missing.push_back(incoming->from());
            return missing;
          });
    }

    /// Waits until at most `under_way` messages are not yet sent.
    void finish(std::size_t under_way = 0) {
      communicator_.wait(
          header_.operation, purpose_, kPatience,
          [this, under_way] {
            std::erase_if(outgoing_,
                          [this](auto& message) { return message->done(communicator_.endpoint_->movement); });
            return outgoing_.size() <= under_way;
          },
          [this] {
            std::vector<int> missing;
            for (const auto& message : outgoing_) missing.push_back(message->to);
            return missing;
          });
    }

   private:
    template <typename Place>
    void expect(int from, Place place) {
      const int job_rank = communicator_.job_rank(from);
      incoming_.push_back(std::make_unique<Incoming>(*communicator_.endpoint_, job_rank,
                                                     communicator_.collective_channel(),
                                                     [this, job_rank, place](const Header& theirs) {
                                                       check_agreement(job_rank, theirs);
                                                       return place(theirs.bytes);
                                                     }));
    }

    void check_agreement(int from, const Header& theirs) const {
      if (theirs.operation == header_.operation && theirs.element == header_.element &&
          theirs.sequence == header_.sequence && theirs.root == header_.root &&
          theirs.elements == header_.elements)
        return;
      fail(
          "{}: it calls {} while rank {} calls {}; all ranks must make the same calls with the same types "
          "and sizes",
          communicator_.where(header_.operation, purpose_), describe(header_), from, describe(theirs));
    }

    MessageCommunicator& communicator_;
    const char* purpose_;
    Header header_;
    std::vector<std::shared_ptr<Outgoing>> outgoing_;
    std::vector<std::unique_ptr<Incoming>> incoming_;
  };

  int channel_of(int stream) const { return base_channel_ + 2 * stream; }
  int collective_channel() const { return channel_of(kCollectiveStream); }
  void count_call(Operation operation) { ++traffic_.at(static_cast<std::size_t>(operation)).calls; }

  /// "barrier "the end" of learners on rank 3"
  std::string where(Operation operation, const char* purpose) const {
    const std::string quoted = *purpose == '\0' ? "" : fmt::format(" \"{}\"", purpose);
    return fmt::format("{}{} of {} on rank {}", biqa::name_of(operation), quoted, name_,
                       endpoint_->transport().rank());
  }

  /// Polls until `ready` returns true. If nothing arrives within the deadline, throws an Error that names the ranks of
  /// `missing`.
  template <typename Ready, typename Missing>
  void wait(Operation operation, const char* purpose, double patience, Ready ready, Missing missing) {
    constexpr Seconds kShortest{10e-6};
    constexpr int kEager = 16;
    const Seconds limit = deadline_ * patience;
    Seconds waited{0};
    auto last = Clock::now();
    auto pieces = endpoint_->movement.pieces();
    for (int polls = 0;; ++polls) {
      endpoint_->progress();
      if (ready()) return;
      endpoint_->poll();
      if (pieces != endpoint_->movement.pieces()) {
        pieces = endpoint_->movement.pieces();
        waited = Seconds{0};
      }
      if (waited > limit)
        fail(
            "{}: {} did not answer within {:.1f} s; look for an earlier error there, or raise the deadline "
            "(BIQA_DEADLINE_SECONDS)",
            where(operation, purpose), list_ranks(missing()), limit.count());
      // Sleeps grow with the wait. So a reply is noticed at most about 6 % late, and an idle rank uses almost no
      // processor time.
      if (polls >= kEager) {
        const bool moving = endpoint_->movement.is_recent(last);
        endpoint_->transport().idle(
            moving ? kShortest : std::clamp<Seconds>(waited * kSleepShare, kShortest, kLongestSleep));
      }
      const auto now = Clock::now();
      // Time in which this process itself was stopped does not count as silence of the peers.
      waited += std::min<Seconds>(now - last, Seconds{1});
      last = now;
    }
  }

  void broadcast_span(Element element, std::uint64_t elements, std::span<std::byte> bytes, int root);

  /// Folds the other ranks' values into rank 0's, in rank order, and gives the result to all.
  template <typename T, typename Fold>
  void reduce_at_root(Operation operation, Element element, std::uint64_t elements, std::span<T> values,
                      Fold fold);

  template <typename T>
  void reduce_scatter(Operation operation, std::span<const T> all, std::span<T> own_shard);
  template <typename T>
  void gather_all(Operation operation, std::span<const T> own_shard, std::span<T> all);
  template <typename T>
  void all_reduce(std::span<T> values);

  std::optional<Message> try_receive_from(int from, int tag);

  std::shared_ptr<Endpoint> endpoint_;
  std::vector<int> members_;  ///< ranks of the job
  std::string name_;
  Seconds deadline_;
  int base_channel_ = 0, rank_ = 0;
  std::uint32_t sequence_ = 0;
  int last_from_ = 0;
  std::map<std::pair<int, int>, Partial> partials_;  ///< by (sender, tag)
  std::array<Traffic, kOperations> traffic_{};
};

void MessageCommunicator::barrier(const char* purpose) {
  count_call(Operation::barrier);
  Collective call(*this, Operation::barrier, Element::bytes, 0, 0, purpose);
  if (rank_ != 0) {
    call.send(0, {});
    call.expect(0, std::span<std::byte>());
    call.receive(kPatience);
  } else {
    for (int peer = 1; peer < size(); ++peer) call.expect(peer, std::span<std::byte>());
    call.receive();
    for (int peer = 1; peer < size(); ++peer) call.send(peer, {});
  }
  call.finish();
}

void MessageCommunicator::broadcast_span(Element element, std::uint64_t elements, std::span<std::byte> bytes,
                                         int root) {
  Collective call(*this, Operation::broadcast, element, elements, root);
  // Ranks relative to the root.
  const int ranks = size(), own = (rank_ - root + ranks) % ranks;
  const BroadcastShape shape = broadcast_shape(ranks, bytes.size());
  int parent = 0;
  std::vector<int> children;
  if (shape.children == 0) {
    parent = own & (own - 1);
    for (int bit = 1; (own == 0 || bit < (own & -own)) && own + bit < ranks; bit *= 2)
      children.push_back(own + bit);
    std::reverse(children.begin(), children.end());  // the deepest subtree first
  } else {
    parent = (own - 1) / shape.children;
    const std::int64_t first = std::int64_t{own} * shape.children + 1;
    for (auto child = first; child < std::min<std::int64_t>(first + shape.children, ranks); ++child)
      children.push_back(static_cast<int>(child));
  }
  const auto absolute = [&](int relative) { return (relative + root) % ranks; };
  for (std::size_t index = 0; index < shape.blocks; ++index) {
    const std::size_t begin = index * kBroadcastBlockBytes;
    const auto block = bytes.subspan(begin, std::min(kBroadcastBlockBytes, bytes.size() - begin));
    if (own != 0) {
      call.expect(absolute(parent), block);
      call.receive(kPatience);
    }
    for (const int child : children) call.send(absolute(child), block);
    call.finish(std::max(kBlocksUnderWay, children.size()));
  }
  call.finish();
}

void MessageCommunicator::broadcast(View buffer, int root) {
  CHECK(buffer.dense());
  count_call(Operation::broadcast);
  const auto elements = static_cast<std::size_t>(buffer.size());
  broadcast_span(element_of(buffer.type()), elements,
                 {static_cast<std::byte*>(buffer.data()), elements * size_of(buffer.type())}, root);
}

void MessageCommunicator::broadcast_bytes(std::vector<std::byte>& bytes, int root) {
  count_call(Operation::broadcast);
  std::uint64_t count = bytes.size();
  broadcast_span(Element::i64, 1, std::as_writable_bytes(std::span(&count, 1)), root);
  bytes.resize(count);
  broadcast_span(Element::bytes, count, bytes, root);
}

template <typename T, typename Fold>
void MessageCommunicator::reduce_at_root(Operation operation, Element element, std::uint64_t elements,
                                         std::span<T> values, Fold fold) {
  Collective call(*this, operation, element, elements, 0);
  if (rank_ != 0) {
    call.send(0, std::as_bytes(values));
    call.expect(0, std::as_writable_bytes(values));
    // The result may replace the values before they are sent, so sending must have copied them.
    static_assert(kRootedElements * sizeof(double) <= kInlineBytes);
    call.receive(kPatience);
  } else {
    std::vector<std::vector<T>> theirs(members_.size(), std::vector<T>(values.size()));
    for (int peer = 1; peer < size(); ++peer)
      call.expect(peer, std::as_writable_bytes(std::span(theirs[static_cast<std::size_t>(peer)])));
    call.receive();
    for (std::size_t peer = 1; peer < theirs.size(); ++peer)
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = fold(values[i], theirs[peer][i]);
    for (int peer = 1; peer < size(); ++peer) call.send(peer, std::as_bytes(values));
  }
  call.finish();
}

template <typename T>
void MessageCommunicator::reduce_scatter(Operation operation, std::span<const T> all,
                                         std::span<T> own_shard) {
  const auto ranks = members_.size(), shard = own_shard.size(), own = static_cast<std::size_t>(rank_);
  CHECK_EQ(all.size(), ranks * shard);
  Collective call(*this, operation, kElement<T>, all.size(), 0);
  const std::size_t block = reduce_block(ranks);
  std::vector<std::vector<T>> parts(ranks);
  for (auto& part : parts) part.resize(std::min(block, shard));
  std::size_t begin = 0;
  do {
    const std::size_t count = std::min(block, shard - begin);
    for (std::size_t step = 1; step < ranks; ++step) {
      const std::size_t to = (own + step) % ranks, from = (own + ranks - step) % ranks;
      call.send(static_cast<int>(to), std::as_bytes(all.subspan(to * shard + begin, count)));
      call.expect(static_cast<int>(from), std::as_writable_bytes(std::span(parts[from]).first(count)));
    }
    call.receive();
    const auto mine = all.subspan(own * shard + begin, count);
    std::copy(mine.begin(), mine.end(), parts[own].begin());
    const auto sum = std::span(parts[0]).first(count);
    for (std::size_t peer = 1; peer < ranks; ++peer)
      for (std::size_t i = 0; i < count; ++i) sum[i] += parts[peer][i];
    std::copy(sum.begin(), sum.end(), own_shard.subspan(begin).begin());
    begin += count;
  } while (begin < shard);
  call.finish();
}

template <typename T>
void MessageCommunicator::gather_all(Operation operation, std::span<const T> own_shard, std::span<T> all) {
  const auto ranks = members_.size(), shard = own_shard.size(), own = static_cast<std::size_t>(rank_);
  CHECK_EQ(all.size(), ranks * shard);
  Collective call(*this, operation, kElement<T>, all.size(), 0);
  for (std::size_t step = 1; step < ranks; ++step) {
    const std::size_t to = (own + step) % ranks, from = (own + ranks - step) % ranks;
    call.send(static_cast<int>(to), std::as_bytes(own_shard));
    call.expect(static_cast<int>(from), std::as_writable_bytes(all.subspan(from * shard, shard)));
  }
  const auto place = all.subspan(own * shard, shard);
  if (place.data() != own_shard.data()) std::copy(own_shard.begin(), own_shard.end(), place.begin());
  call.receive();
  call.finish();
}

template <typename T>
void MessageCommunicator::all_reduce(std::span<T> values) {
  count_call(Operation::all_reduce);
  if (values.size() <= kRootedElements)
    return reduce_at_root(Operation::all_reduce, kElement<T>, values.size(), values, std::plus<T>());
  const std::size_t ranks = members_.size(), shard = (values.size() + ranks - 1) / ranks;
  std::vector<T> padded(ranks * shard);
  std::copy(values.begin(), values.end(), padded.begin());
  const auto own = std::span(padded).subspan(static_cast<std::size_t>(rank_) * shard, shard);
  reduce_scatter<T>(Operation::all_reduce, padded, own);
  gather_all<T>(Operation::all_reduce, own, padded);
  std::copy_n(padded.begin(), values.size(), values.begin());
}

double MessageCommunicator::all_reduce_max(double value) {
  count_call(Operation::all_reduce);
  reduce_at_root(Operation::all_reduce, Element::f64, 1, std::span(&value, 1),
                 [](double a, double b) { return std::isnan(a) || a > b ? a : b; });
  return value;
}

double MessageCommunicator::all_reduce_min(double value) {
  count_call(Operation::all_reduce);
  reduce_at_root(Operation::all_reduce, Element::f64, 1, std::span(&value, 1),
                 [](double a, double b) { return std::isnan(a) || a < b ? a : b; });
  return value;
}

std::vector<std::vector<std::byte>> MessageCommunicator::gather_bytes(std::span<const std::byte> own,
                                                                      int root) {
  count_call(Operation::gather);
  Collective call(*this, Operation::gather, Element::bytes, 0, root);
  std::vector<std::vector<std::byte>> gathered;
  if (rank_ != root) {
    call.send(root, own);
  } else {
    gathered.resize(members_.size());
    for (int peer = 0; peer < size(); ++peer) {
      auto& theirs = gathered[static_cast<std::size_t>(peer)];
      if (peer == root) {
        theirs.assign(own.begin(), own.end());
      } else {
        call.expect(peer, theirs);
      }
    }
    call.receive();
  }
  call.finish();
  return gathered;
}

void MessageCommunicator::send(int to, int tag, std::span<const std::byte> bytes) {
  CHECK(tag >= 0 && tag <= kMaxTag) << tag;
  endpoint_->progress();
  Header header;
  endpoint_->start(job_rank(to), channel_of(tag), header, bytes, true);
  count_call(Operation::message);
  traffic_.at(static_cast<std::size_t>(Operation::message)).bytes += bytes.size();
}

std::optional<Message> MessageCommunicator::try_receive_from(int from, int tag) {
  auto found = partials_.find({from, tag});
  if (found == partials_.end()) {
    const int peer = job_rank(from);
    if (!endpoint_->transport().probe(peer, channel_of(tag))) return std::nullopt;
    found = partials_.try_emplace({from, tag}).first;
    Message& message = found->second.message;
    message.from = from;
    message.tag = tag;
    found->second.incoming =
        std::make_unique<Incoming>(*endpoint_, peer, channel_of(tag), [&message](const Header& header) {
          message.bytes.resize(header.bytes);
          return std::span(message.bytes);
        });
  }
  if (!found->second.incoming->advance()) return std::nullopt;
  Message complete = std::move(found->second.message);
  partials_.erase(found);
  return complete;
}

std::optional<Message> MessageCommunicator::try_receive(int from, int tag) {
  CHECK(tag >= 0 && tag <= kMaxTag) << tag;
  endpoint_->progress();
  if (from != kAnyRank) return try_receive_from(from, tag);
  // Waiting callers poll often. So the ranks are asked one by one only if some message has arrived.
  const bool begun = std::any_of(partials_.begin(), partials_.end(),
                                 [&](const auto& one) { return one.first.second == tag; });
  if (!begun && !endpoint_->transport().probe_any(channel_of(tag))) return std::nullopt;
  for (int step = 1; step <= size(); ++step) {
    const int candidate = (last_from_ + step) % size();
    if (auto message = try_receive_from(candidate, tag)) {
      last_from_ = candidate;
      return message;
    }
  }
  return std::nullopt;
}

Message MessageCommunicator::receive(int from, std::span<const int> tags, const char* purpose) {
  std::optional<Message> message;
  wait(
      Operation::message, purpose, 1.0,
      [&] {
        return std::any_of(tags.begin(), tags.end(), [&](int tag) {
          message = try_receive(from, tag);
          return message.has_value();
        });
      },
      [&] {
        std::vector<int> missing;
        for (int peer = 0; peer < size(); ++peer)
          if (from == kAnyRank ? peer != rank_ : peer == from) missing.push_back(job_rank(peer));
        return missing;
      });
  return std::move(*message);
}

void MessageCommunicator::flush() {
  wait(
      Operation::message, "all that was sent", 1.0, [this] { return endpoint_->outgoing().empty(); },
      [this] {
        std::vector<int> missing;
        for (const auto& message : endpoint_->outgoing()) missing.push_back(message->to);
        std::sort(missing.begin(), missing.end());
        missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
        return missing;
      });
}

std::unique_ptr<Communicator> MessageCommunicator::split(std::span<const int> members,
                                                         const std::string& name) {
  count_call(Operation::split);
  std::vector<int> job_ranks;
  std::uint64_t digest = 0xCBF29CE484222325ULL;  // FNV-1a over the list
  for (const int member : members) {
    CHECK(std::find(job_ranks.begin(), job_ranks.end(), job_rank(member)) == job_ranks.end())
        << "twice: " << member;
    job_ranks.push_back(job_rank(member));
    digest = (digest ^ static_cast<std::uint64_t>(member)) * 0x100000001B3ULL;
  }
  // The lowest context that no rank here has used. So two communicators that share a pair of ranks have different
  // contexts.
  std::uint64_t context = endpoint_->next_context;
  reduce_at_root(Operation::split, Element::member_digest, digest, std::span(&context, 1),
                 [](std::uint64_t a, std::uint64_t b) { return std::max(a, b); });
  endpoint_->next_context = static_cast<std::uint32_t>(context) + 1;
  if (std::find(members.begin(), members.end(), rank_) == members.end()) return nullptr;
  return std::make_unique<MessageCommunicator>(endpoint_, static_cast<std::uint32_t>(context),
                                               std::move(job_ranks), name, deadline_);
}

}  // namespace

const char* name_of(Operation operation) {
  constexpr std::array<const char*, kOperations> kNames{
      "barrier", "broadcast", "all_reduce", "reduce_scatter", "all_gather", "gather", "split", "message"};
  return kNames.at(static_cast<std::size_t>(operation));
}

std::unique_ptr<Communicator> make_communicator(std::unique_ptr<Transport> transport, Seconds deadline) {
  std::vector<int> members(static_cast<std::size_t>(transport->size()));
  std::iota(members.begin(), members.end(), 0);
  return std::make_unique<MessageCommunicator>(std::make_shared<Endpoint>(std::move(transport)), 0,
                                               std::move(members), "the job", deadline);
}

}  // namespace biqa
