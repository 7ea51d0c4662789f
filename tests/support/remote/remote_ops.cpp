// SPDX-License-Identifier: Apache-2.0
#include "support/remote/remote_ops.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "ops/backends.h"
#include "ops/cpu/cpu_ops.h"

namespace biqa::testing {
namespace {

/// Bytes at two addresses: `shown`, which must not be accessed, and `used`.
class Pages {
 public:
  explicit Pages(std::size_t bytes) : bytes_(bytes) {
    const int file = ::memfd_create("biqa remote tensor", 0);
    CHECK(file >= 0 && ::ftruncate(file, static_cast<off_t>(bytes)) == 0);
    shown_ = ::mmap(nullptr, bytes, PROT_NONE, MAP_SHARED, file, 0);
    used_ = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(shown_ != MAP_FAILED && used_ != MAP_FAILED);
    ::close(file);
    std::memset(used_, 0xFF, bytes);  // NaN in every float type
  }
  ~Pages() {
    ::munmap(shown_, bytes_);
    ::munmap(used_, bytes_);
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  std::byte* shown() const { return static_cast<std::byte*>(shown_); }
  std::byte* used() const { return static_cast<std::byte*>(used_); }
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_;
  void *shown_, *used_;
};

/// The thread that does the work in order. It also maps a shown address to the used one.
class Device {
 public:
  Device() : thread_([this] { run(); }) {}
  ~Device() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  /// The number of the work, from 1.
  std::int64_t enqueue(std::function<void()> work) {
    std::int64_t number = 0;
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(std::move(work));
      number = ++enqueued_;
    }
    changed_.notify_all();
    return number;
  }
  /// Waits until all work is done. Throws the Error of failed work.
  void wait() {
    std::unique_lock lock(mutex_);
    wait_until(lock, enqueued_);
  }
  /// Work up to `number` is done, and perhaps no more.
  void wait_for(std::int64_t number) {
    std::unique_lock lock(mutex_);
    wait_until(lock, number);
  }
  template <typename Result>
  Result ask(const std::function<Result()>& work) {
    Result result{};
    enqueue([&] { result = work(); });
    wait();
    return result;
  }

  std::byte* add(const std::shared_ptr<Pages>& pages) {
    const std::lock_guard lock(places_mutex_);
    places_[pages->shown()] = pages;
    return pages->shown();
  }
  void remove(const std::byte* shown) {
    const std::lock_guard lock(places_mutex_);
    places_.erase(shown);
  }
  /// The same elements where they may be touched.
  template <typename AnyView>
  AnyView real(AnyView view) {
    if (view.address() == nullptr) return view;
    CHECK(view.memory() == Memory::device) << "an operation was given host memory";
    const auto* data = static_cast<const std::byte*>(static_cast<const void*>(view.address()));
    const std::lock_guard lock(places_mutex_);
    const auto after = places_.upper_bound(data);
    CHECK(after != places_.begin()) << "an operation was given memory that is gone";
    const Pages& pages = *std::prev(after)->second;
    const auto offset = data - pages.shown();
    CHECK(offset < static_cast<std::ptrdiff_t>(pages.bytes()))
        << "an operation was given memory that is gone";
    return {pages.used() + offset, view.type(), view.rows(), view.columns(), view.stride()};
  }

 private:
  void wait_until(std::unique_lock<std::mutex>& lock, std::int64_t number) {
    wanted_ = std::max(wanted_, number);
    changed_.notify_all();
    progress_.wait(lock, [&] { return done_ >= number; });
    if (failure_) std::rethrow_exception(failure_);
  }
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      // Nothing begins before someone waits for it or much has come together: results read too early are then surely missing.
      changed_.wait(
          lock, [this] { return ending_ || (!queue_.empty() && (done_ < wanted_ || queue_.size() > 24)); });
      if (queue_.empty()) return;
      std::function<void()> work = std::move(queue_.front());
      queue_.pop_front();
      const bool failed = failure_ != nullptr;
      lock.unlock();
      std::exception_ptr failure;
      try {
        if (!failed) work();
      } catch (...) {
        failure = std::current_exception();
      }
      work = {};
      lock.lock();
      if (failure) failure_ = failure;
      ++done_;
      progress_.notify_all();
    }
  }

  std::mutex mutex_, places_mutex_;
  std::condition_variable changed_, progress_;
  std::deque<std::function<void()>> queue_;
  std::int64_t enqueued_ = 0, done_ = 0, wanted_ = 0;
  bool ending_ = false;
  std::exception_ptr failure_;
  std::map<const std::byte*, std::shared_ptr<Pages>> places_;
  std::thread thread_;
};

/// A tensor that the CPU backend may use, which keeps the remote one alive.
Tensor usable(Device& device, Tensor remote) {
  if (remote.size() == 0) return remote;
  auto owner = std::make_shared<Tensor>(std::move(remote));
  const View real = device.real(owner->view());
  return {real.type(), real.rows(), real.columns(),
          Buffer::borrow(real.data(), owner->bytes(), owner->label(), owner, false)};
}

class RemoteMemory final : public DeviceMemory {
 public:
  explicit RemoteMemory(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  Memory kind() const override { return Memory::device; }
  Tensor allocate(DType type, std::int64_t rows, std::int64_t columns, std::string label) override {
    const std::size_t bytes = static_cast<std::size_t>(rows * columns) * size_of(type);
    if (bytes == 0) return {type, rows, columns, Buffer()};
    const auto pages = std::make_shared<Pages>(bytes);
    std::byte* shown = device_->add(pages);
    // Behind the work that was asked for: the queue frees it.
    const std::shared_ptr<const void> owner(shown, [device = device_](const std::byte* address) {
      device->enqueue([device = device.get(), address] { device->remove(address); });
    });
    return {type, rows, columns, Buffer::borrow(shown, bytes, std::move(label), owner, true, Memory::device)};
  }
  void copy(ConstView from, View to) override {
    CHECK(from.type() == to.type() && from.rows() == to.rows() && from.columns() == to.columns());
    if (from.empty()) return;
    if (to.memory() == Memory::device) {
      if (from.memory() == Memory::device) {
        device_->enqueue(
            [device = device_.get(), from, to] { host_memory().copy(device->real(from), device->real(to)); });
        return;
      }
      auto source = std::make_shared<Tensor>(from.type(), from.rows(), from.columns(), "remote copy");
      host_memory().copy(from, source->view());
      device_->enqueue(
          [device = device_.get(), source, to] { host_memory().copy(source->view(), device->real(to)); });
      return;
    }
    CHECK(from.memory() == Memory::device);
    for (std::int64_t row = 0; row < to.rows(); ++row) {
      std::memset(to.row_range(row, 1).data(), 0xFF,
                  static_cast<std::size_t>(to.columns()) * size_of(to.type()));
    }
    auto landing = std::make_shared<Tensor>(from.type(), from.rows(), from.columns(), "remote copy");
    device_->enqueue(
        [device = device_.get(), from, landing] { host_memory().copy(device->real(from), landing->view()); });
    landings_.emplace_back(landing, to);
  }
  void zero(View values) override {
    device_->enqueue([device = device_.get(), values] { host_memory().zero(device->real(values)); });
  }
  void wait() override {
    device_->wait();
    for (auto& [landing, to] : landings_) host_memory().copy(landing->view(), to);
    landings_.clear();
  }

 private:
  std::shared_ptr<Device> device_;
  std::vector<std::pair<std::shared_ptr<Tensor>, View>> landings_;
};

struct RemotePlan final : BatchPlan {
  using BatchPlan::BatchPlan;
  std::unique_ptr<BatchPlan> plan;  // made by the queue
  std::vector<Tensor>
      features;  // copies of those in host memory, which may be gone when the queue reads them
};
struct RemoteTape final : Tape {
  std::unique_ptr<Tape> tape;  // made by the queue
};
struct RemoteAdapter final : PackedAdapter {
  using PackedAdapter::PackedAdapter;
  std::shared_ptr<const PackedAdapter> adapter;
};
struct RemoteKv final : KvStore {
  std::unique_ptr<KvStore> kv;
};

/// Shares what the queue needs, so that the caller may destroy his object at once.
template <typename Base, typename State>
struct Handle final : Base {
  template <typename... Arguments>
  explicit Handle(std::shared_ptr<State> shared, Arguments&&... arguments)
      : Base(std::forward<Arguments>(arguments)...), state(std::move(shared)) {}
  std::shared_ptr<State> state;
};
using PlanHandle = Handle<BatchPlan, RemotePlan>;
using TapeHandle = Handle<Tape, RemoteTape>;
using KvHandle = Handle<KvStore, RemoteKv>;
using AdapterHandle = Handle<PackedAdapter, RemoteAdapter>;

class RemoteSampled final : public SampledTokens {
 public:
  RemoteSampled(std::shared_ptr<Device> device, std::int64_t number,
                std::shared_ptr<std::vector<SampledToken>> tokens)
      : device_(std::move(device)), number_(number), tokens_(std::move(tokens)) {}
  /// As slow as a device can be: never, before somebody has waited.
  bool ready() override { return waited_; }
  std::span<const SampledToken> wait() override {
    device_->wait_for(number_);
    waited_ = true;
    return *tokens_;
  }
  /// For work in the queue after the sampling.
  std::shared_ptr<const std::vector<SampledToken>> tokens() const { return tokens_; }

 private:
  std::shared_ptr<Device> device_;
  std::int64_t number_;
  bool waited_ = false;
  std::shared_ptr<std::vector<SampledToken>> tokens_;
};

class RemoteDecoder final : public Decoder {
 public:
  RemoteDecoder(std::shared_ptr<Device> device, std::shared_ptr<Decoder> inner)
      : device_(std::move(device)), inner_(std::move(inner)) {}

  std::unique_ptr<BatchPlan> plan(const RowBatch& batch) override {
    const auto picks = static_cast<std::int64_t>(batch.picks.size());
    auto state = std::make_shared<RemotePlan>(batch.rows(), batch.outputs(), picks);
    std::shared_ptr<const std::vector<SampledToken>> tokens;
    if (batch.sampled != nullptr) tokens = dynamic_cast<RemoteSampled&>(*batch.sampled).tokens();
    RowBatch own = batch;
    for (FeatureRows& f : own.features) {
      if (f.features.memory() == Memory::device) continue;
      state->features.push_back(copied_to(host_memory(), f.features, "features"));
      f.features = state->features.back().view();
    }
    device_->enqueue(
        [inner = inner_, device = device_.get(), state, tokens, copy = std::move(own)]() mutable {
          for (const SampledRow& r : copy.sampled_rows)
            copy.ids[static_cast<std::size_t>(r.row)] = (*tokens)[static_cast<std::size_t>(r.pick)].id;
          copy.sampled = nullptr;
          copy.sampled_rows.clear();
          for (FeatureRows& f : copy.features) {
            if (f.features.memory() == Memory::device) f.features = device->real(f.features);
          }
          state->plan = inner->plan(copy);
        });
    return std::make_unique<PlanHandle>(state, batch.rows(), batch.outputs(), picks);
  }
  std::unique_ptr<KvStore> make_kv(std::int64_t pages, std::int64_t layers) override {
    auto state = std::make_shared<RemoteKv>();
    device_->enqueue([inner = inner_, device = device_.get(), state, pages, layers] {
      state->kv = inner->make_kv(pages, layers);
    });
    return std::make_unique<KvHandle>(state);
  }
  void copy_page(KvStore& kv, std::int32_t from, std::int32_t to) override {
    device_->enqueue([inner = inner_, device = device_.get(), kv = of(kv), from, to] {
      inner->copy_page(*kv->kv, from, to);
    });
  }
  std::shared_ptr<const PackedAdapter> pack_adapter(std::span<const LoraModule> modules,
                                                    ConstView flat) override {
    auto state = std::make_shared<RemoteAdapter>(static_cast<std::size_t>(flat.size()));
    device_->enqueue([inner = inner_, device = device_.get(), state, flat,
                      copy = std::vector<LoraModule>(modules.begin(), modules.end())] {
      state->adapter = inner->pack_adapter(copy, device->real(flat));
    });
    return std::make_shared<AdapterHandle>(state, static_cast<std::size_t>(flat.size()));
  }
  void forward(const BatchPlan& plan, KvStore& kv, const PackedAdapter* adapter, View hidden,
               const ForwardOptions& options) override {
    std::shared_ptr<RemoteTape> tape;
    if (options.tape != nullptr) {
      tape = std::make_shared<RemoteTape>();
      *options.tape = std::make_unique<TapeHandle>(tape);
    }
    device_->enqueue([inner = inner_, device = device_.get(), plan = of(plan), kv = of(kv),
                      adapter = of(adapter), hidden, tape, recompute = options.recompute,
                      dropout = options.dropout] {
      inner->forward(*plan->plan, *kv->kv, adapter ? adapter->adapter.get() : nullptr, device->real(hidden),
                     {tape ? &tape->tape : nullptr, recompute, dropout});
    });
  }
  void backward(const BatchPlan& plan, KvStore& kv, const PackedAdapter& adapter, const Tape& tape,
                ConstView d_hidden, View gradient) override {
    device_->enqueue([inner = inner_, device = device_.get(), plan = of(plan), kv = of(kv),
                      adapter = of(&adapter), tape = dynamic_cast<const TapeHandle&>(tape).state, d_hidden,
                      gradient] {
      inner->backward(*plan->plan, *kv->kv, *adapter->adapter, *tape->tape, device->real(d_hidden),
                      device->real(gradient));
    });
  }
  void log_prob(const BatchPlan& plan, ConstView hidden, std::span<const std::int64_t> targets,
                float temperature, std::span<float> logp, std::span<float> entropy, View d_picked) override {
    device_->enqueue([&, inner = inner_, device = device_.get()] {
      inner->log_prob(*of(plan)->plan, device->real(hidden), targets, temperature, logp, entropy,
                      device->real(d_picked));
    });
    device_->wait();
  }
  void spread_picks(const BatchPlan& plan, View d_picked, std::span<const float> factors,
                    View d_hidden) override {
    device_->enqueue([inner = inner_, device = device_.get(), plan = of(plan), d_picked, d_hidden,
                      copy = std::vector<float>(factors.begin(), factors.end())] {
      inner->spread_picks(*plan->plan, device->real(d_picked), copy, device->real(d_hidden));
    });
  }
  std::unique_ptr<SampledTokens> sample(const BatchPlan& plan, ConstView hidden,
                                        std::span<const SampleRequest> requests,
                                        std::span<const std::int64_t> suppressed) override {
    auto tokens = std::make_shared<std::vector<SampledToken>>();
    const std::int64_t number =
        device_->enqueue([inner = inner_, device = device_.get(), plan = of(plan), hidden, tokens,
                          copy = std::vector<SampleRequest>(requests.begin(), requests.end()),
                          never = std::vector<std::int64_t>(suppressed.begin(), suppressed.end())] {
          const auto sampled = inner->sample(*plan->plan, device->real(hidden), copy, never);
          const auto found = sampled->wait();
          tokens->assign(found.begin(), found.end());
        });
    return std::make_unique<RemoteSampled>(device_, number, tokens);
  }
  void logits(ConstView hidden, View logits) override {
    device_->enqueue([inner = inner_, device = device_.get(), hidden, logits] {
      inner->logits(device->real(hidden), device->real(logits));
    });
  }

 private:
  static std::shared_ptr<RemotePlan> of(const BatchPlan& plan) {
    return dynamic_cast<const PlanHandle&>(plan).state;
  }
  static std::shared_ptr<RemoteKv> of(KvStore& kv) { return dynamic_cast<KvHandle&>(kv).state; }
  static std::shared_ptr<RemoteAdapter> of(const PackedAdapter* adapter) {
    return adapter == nullptr ? nullptr : dynamic_cast<const AdapterHandle&>(*adapter).state;
  }

  std::shared_ptr<Device> device_;
  std::shared_ptr<Decoder> inner_;
};

class RemoteVision final : public VisionEncoder {
 public:
  RemoteVision(std::shared_ptr<Device> device, DeviceMemory& memory, std::shared_ptr<VisionEncoder> inner)
      : device_(std::move(device)), memory_(memory), inner_(std::move(inner)) {}
  void encode(const VisionBatch& batch, View features, const Observer* observer) override {
    struct Copy {
      Tensor patches, cosines, sines;
      std::vector<std::int64_t> windows, frames, cells;
    };
    const auto list = [](std::span<const std::int64_t> values) {
      return std::vector<std::int64_t>(values.begin(), values.end());
    };
    auto copy = std::make_shared<Copy>(Copy{clone(batch.patches), clone(batch.cosines), clone(batch.sines),
                                            list(batch.windows), list(batch.frames), list(batch.cells)});
    std::vector<std::pair<std::string, Tensor>> seen;
    const Observer collect = [&](const std::string& name, ConstView value) {
      seen.emplace_back(name, clone(value));
    };
    const Observer* collector = observer == nullptr ? nullptr : &collect;
    device_->enqueue([inner = inner_, device = device_.get(), copy, features, collector] {
      inner->encode({copy->patches.view(), copy->cosines.view(), copy->sines.view(), copy->windows,
                     copy->frames, copy->cells},
                    device->real(features), collector);
    });
    if (observer == nullptr) return;
    device_->wait();
    for (const auto& [name, value] : seen) {
      const Tensor there = copied_to(memory_, value.view(), "observed");
      (*observer)(name, there.view());
    }
  }

 private:
  static Tensor clone(ConstView values) {
    Tensor copy(values.type(), values.rows(), values.columns(), "remote copy");
    host_memory().copy(values, copy.view());
    return copy;
  }
  std::shared_ptr<Device> device_;
  DeviceMemory& memory_;
  std::shared_ptr<VisionEncoder> inner_;
};

class RemoteOps final : public Ops {
 public:
  RemoteOps(DType compute, int threads) : memory_(device_) {
    device_->enqueue([this, compute, threads] { cpu_ = make_cpu_ops(compute, threads); });
    device_->wait();
  }
  ~RemoteOps() override {
    try {
      device_->wait();  // what is queued uses the CPU backend
    } catch (const std::exception&) {
      // Was thrown where it was waited for.
    }
  }
  DType compute_type() const override { return cpu_->compute_type(); }
  DeviceMemory& memory() override { return memory_; }
  KvLayout kv_layout(const HeadShape& shape) const override { return cpu_->kv_layout(shape); }
  std::unique_ptr<FrozenLinear> pack(ConstView weight, std::span<const float> bias, bool backward) override {
    return cpu_->pack(weight, bias, backward);
  }
  void check_rows(const FrozenLinear& w, std::span<const std::int64_t> counts) override {
    cpu_->check_rows(w, counts);
  }
  std::unique_ptr<Decoder> make_decoder(const DecoderShape& shape, DecoderWeights weights) override {
    device_->wait();
    weights.embedding = usable(*device_, std::move(weights.embedding));
    weights.final_norm = usable(*device_, std::move(weights.final_norm));
    for (DecoderWeights::Layer& layer : weights.layers) {
      layer.input_norm = usable(*device_, std::move(layer.input_norm));
      layer.middle_norm = usable(*device_, std::move(layer.middle_norm));
    }
    return std::make_unique<RemoteDecoder>(device_, cpu_->make_decoder(shape, std::move(weights)));
  }
  std::unique_ptr<VisionEncoder> make_vision(const VisionShape& shape, VisionWeights weights) override {
    device_->wait();
    weights.merger_norm = usable(*device_, std::move(weights.merger_norm));
    for (VisionWeights::Block& block : weights.blocks) {
      block.norm1 = usable(*device_, std::move(block.norm1));
      block.norm2 = usable(*device_, std::move(block.norm2));
    }
    return std::make_unique<RemoteVision>(device_, memory_, cpu_->make_vision(shape, std::move(weights)));
  }
  void linear(ConstView x, const FrozenLinear& w, View y, bool accumulate) override {
    device_->enqueue([&, cpu = cpu_, device = device_.get()] {
      cpu->linear(device->real(x), w, device->real(y), accumulate);
    });
    device_->wait();  // w may be gone as soon as this returns
  }
  double squared_norm(ConstView gradient) override {
    return device_->ask<double>([&] { return cpu_->squared_norm(device_->real(gradient)); });
  }
  void adamw(View values, ConstView gradient, View m, View v, const AdamWStep& step) override {
    device_->enqueue([cpu = cpu_, device = device_.get(), values, gradient, m, v, step] {
      cpu->adamw(device->real(values), device->real(gradient), device->real(m), device->real(v), step);
    });
  }

 private:
  std::shared_ptr<Device> device_ = std::make_shared<Device>();
  RemoteMemory memory_;
  std::shared_ptr<CpuOps> cpu_;
};

}  // namespace

std::unique_ptr<Ops> make_remote_ops(DType compute, int threads) {
  return std::make_unique<RemoteOps>(compute, threads);
}

}  // namespace biqa::testing
