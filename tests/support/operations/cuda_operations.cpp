// SPDX-License-Identifier: Apache-2.0
// The CUDA backend's operations on host views: inputs go to the device, the operation runs, outputs come back. The same code
// serves the emulator and a real device.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/error.h"
#include "ops/cuda/attention.h"
#include "ops/cuda/cuda_adapter.h"
#include "ops/cuda/cuda_head.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/rows.h"
#include "support/operations.h"

namespace biqa::testing {
namespace {

using cuda::BackwardTables;
using cuda::DeviceSpan;
using cuda::KeyQueries;
using cuda::QueryKeys;
using cuda::QueryRange;
using cuda::QueryRow;
using cuda::Upload;

struct Pages final : KvStore {
  Pages(Tensor memory, std::int64_t page) : storage(std::move(memory)), page_elements(page) {}
  cuda::KvPages pages() const {
    return {const_cast<void*>(storage.view().address()), storage.type(), page_elements};
  }
  Tensor storage;
  std::int64_t page_elements;
};

/// The factors, and where they are in a flat vector, of which gradients have the same layout.
struct Lora final : PackedLora {
  using PackedLora::PackedLora;
  cuda::AdapterInput input;
  std::vector<LoraModule> modules;
  std::int64_t elements = 0;
};

struct KeyTables {
  std::vector<QueryKeys> queries;
  std::vector<KeyQueries> keys;
  std::vector<QueryRange> ranges;
};

std::int32_t narrow(std::int64_t value) {
  return static_cast<std::int32_t>(value);
}

void add_group(const SharedPromptRows& group, KeyTables& tables) {
  const std::int64_t without_query = group.rows - group.query_rows;
  const std::int32_t range_begin = narrow(static_cast<std::int64_t>(tables.ranges.size()));
  for (const SharedPromptRows::Member& member : group.members) {
    if (member.rows > 0) tables.ranges.push_back({narrow(member.first_query_row), narrow(member.rows)});
  }
  const std::int32_t range_end = narrow(static_cast<std::int64_t>(tables.ranges.size()));
  for (std::int64_t i = 0; i < group.query_rows; ++i) {
    tables.queries.push_back({narrow(group.first_query_row + i), narrow(group.first_key_row),
                              narrow(without_query + i + 1), 0, 0});
  }
  for (std::int64_t i = 0; i < group.rows; ++i) {
    const std::int64_t skipped = std::max<std::int64_t>(i - without_query, 0);
    tables.keys.push_back({narrow(group.first_key_row + i),
                           {narrow(group.first_query_row + skipped), narrow(group.query_rows - skipped)},
                           range_begin,
                           range_end});
  }
  for (const SharedPromptRows::Member& member : group.members) {
    for (std::int64_t i = 0; i < member.rows; ++i) {
      tables.queries.push_back({narrow(member.first_query_row + i), narrow(group.first_key_row),
                                narrow(group.rows), narrow(member.first_key_row), narrow(i + 1)});
      tables.keys.push_back({narrow(member.first_key_row + i),
                             {narrow(member.first_query_row + i), narrow(member.rows - i)},
                             0,
                             0});
    }
  }
}

class CudaOperations final : public Operations {
 public:
  explicit CudaOperations(DType compute) : ops_(compute) {}

  std::int64_t page_tokens() const override { return cuda::kPageTokens; }
  std::unique_ptr<KvStore> make_pages(const HeadShape& shape, std::int64_t pages) override {
    const std::int64_t elements = cuda::kv_page_elements(shape);
    Tensor storage = memory_.allocate(ops_.compute_type(), 1, pages * elements, "test pages");
    memory_.zero(storage.view());
    memory_.wait();
    return std::make_unique<Pages>(std::move(storage), elements);
  }

  std::unique_ptr<FrozenLinear> pack(ConstView weight, std::span<const float> bias, bool backward) override {
    auto packed = ops_.pack(weight, bias, backward);
    memory_.wait();
    return packed;
  }
  void linear(ConstView x, const FrozenLinear& w, View y, bool accumulate) override {
    const Tensor input = upload(x);
    run(y, accumulate, [&](View out) { ops_.linear(input.view(), w, out, accumulate); });
  }
  void linear_backward(ConstView dy, const FrozenLinear& w, View dx, bool accumulate) override {
    const Tensor input = upload(dy);
    run(dx, accumulate, [&](View out) { ops_.linear_backward(input.view(), w, out, accumulate); });
  }

  double lora_error() const override { return ops_.compute_type() == DType::bf16 ? 0x1.4p-15 : 0; }
  std::unique_ptr<PackedLora> pack_lora(std::int64_t in, std::span<const LoraFactors> factors) override {
    std::vector<float> flat;
    std::vector<LoraModule> modules;
    std::int64_t rank = 0;
    std::int64_t outputs = 0;
    for (const LoraFactors& f : factors) {
      outputs = std::max(outputs, f.out_offset + f.out);
      LoraModule module;
      module.rank = f.rank;
      module.in = in;
      module.out = f.out;
      module.scale = f.scale;
      module.a_offset = flat.size();
      flat.insert(flat.end(), f.a, f.a + f.rank * in);
      module.b_offset = flat.size();
      flat.insert(flat.end(), f.b, f.b + f.out * f.rank);
      modules.push_back(module);
      rank += f.rank;
    }
    auto packed = std::make_unique<Lora>(in, rank);
    packed->elements = static_cast<std::int64_t>(flat.size());
    const Tensor device = upload(ConstView(flat.data(), 1, packed->elements));
    for (std::size_t p = 0; p < modules.size(); ++p) {
      packed->input.add(modules[p], factors[p].out_offset, device.view(), memory_, ops_.stream());
    }
    packed->input.finish(ops_.compute_type(), outputs, memory_, ops_.stream());
    packed->modules = std::move(modules);
    memory_.wait();
    return packed;
  }
  void lora(ConstView x, const PackedLora& lora, const Dropout* dropout, View u, View y) override {
    const auto& packed = dynamic_cast<const Lora&>(lora);
    const Tensor input = upload(x);
    Upload keys;
    const cuda::InputDropout kept = device_dropout(dropout, keys);
    Tensor inner = memory_.allocate(DType::f32, u.rows(), u.columns(), "test output");
    Arena arena("test scratch", memory_);
    packed.input.reduce_input(input.view(), kept, inner.view(), arena, ops_.stream());
    run(y, true, [&](View out) { packed.input.add_output(inner.view(), out, ops_.stream()); });
    download(inner, u);
  }
  void lora_backward(ConstView x, ConstView u, ConstView dy, const PackedLora& lora, const Dropout* dropout,
                     View d_x, std::span<const LoraGradients> gradients) override {
    const auto& packed = dynamic_cast<const Lora&>(lora);
    const Tensor input = upload(x);
    const Tensor inner = upload(u);
    const Tensor d_output = upload(dy);
    Upload keys;
    const cuda::InputDropout kept = device_dropout(dropout, keys);
    Tensor flat(DType::f32, 1, packed.elements, "test gradient");
    for_each_part(packed, gradients, [&](std::size_t offset, float* values, std::int64_t count) {
      std::copy_n(values, count, flat.row<float>(0) + offset);
    });
    Tensor gradient = upload(flat.view());
    Arena arena("test scratch", memory_);
    Tensor g = memory_.allocate(DType::f32, x.rows(), packed.input.rank(), "test output");
    packed.input.reduce_gradient(d_output.view(), g.view(), arena, ops_.stream());
    packed.input.add_gradients(input.view(), inner.view(), d_output.view(), g.view(), kept, gradient.view(),
                               arena, ops_.stream());
    if (!d_x.empty()) {
      run(d_x, true, [&](View out) { packed.input.add_input_gradient(g.view(), kept, out, ops_.stream()); });
    }
    download(gradient, flat.view());
    for_each_part(packed, gradients, [&](std::size_t offset, float* values, std::int64_t count) {
      std::copy_n(flat.row<float>(0) + offset, count, values);
    });
  }

  void rms_norm(ConstView x, ConstView weight, float eps, View y) override {
    const Tensor input = upload(x);
    const Tensor scales = upload(weight);
    run(y, false, [&](View out) { cuda::rms_norm(input.view(), scales.view(), eps, out, ops_.stream()); });
  }
  void rms_norm_backward(ConstView x, ConstView weight, float eps, ConstView dy, View d_x) override {
    const Tensor input = upload(x);
    const Tensor scales = upload(weight);
    const Tensor d_output = upload(dy);
    run(d_x, true, [&](View out) {
      cuda::rms_norm_backward(input.view(), scales.view(), eps, d_output.view(), out, ops_.stream());
    });
  }
  void swiglu(ConstView gate_up, View h) override {
    const Tensor input = upload(gate_up);
    run(h, false, [&](View out) { cuda::swiglu(input.view(), out, ops_.stream()); });
  }
  void swiglu_backward(ConstView gate_up, ConstView dh, View d_gate_up) override {
    const Tensor input = upload(gate_up);
    const Tensor d_output = upload(dh);
    run(d_gate_up, false,
        [&](View out) { cuda::swiglu_backward(input.view(), d_output.view(), out, ops_.stream()); });
  }
  void gelu(ConstView x, View y) override {
    const Tensor input = upload(x);
    run(y, false, [&](View out) { cuda::gelu(input.view(), out, ops_.stream()); });
  }
  void rotate(View x, std::int64_t head_dim, ConstView cosines, ConstView sines, bool inverse) override {
    const Tensor c = upload(cosines);
    const Tensor s = upload(sines);
    run(x, true, [&](View out) { cuda::rotate(out, head_dim, c.view(), s.view(), inverse, ops_.stream()); });
  }
  void convert(ConstView x, View y) override {
    const Tensor input = upload(x);
    run(y, false, [&](View out) { cuda::convert(input.view(), out, ops_.stream()); });
  }

  void gather_rows(ConstView x, std::span<const std::int64_t> rows, View y) override {
    const Tensor input = upload(x);
    const Array<std::int64_t> selected(memory_, rows);
    run(y, false, [&](View out) { cuda::gather_rows(input.view(), selected.span(), out, ops_.stream()); });
  }
  void scatter_add_rows(ConstView x, std::span<const std::int64_t> rows, View y) override {
    std::vector<std::int64_t> targets(rows.begin(), rows.end());
    std::sort(targets.begin(), targets.end());
    targets.erase(std::unique(targets.begin(), targets.end()), targets.end());
    std::vector<std::int64_t> first{0};
    std::vector<std::int64_t> sources;
    for (const std::int64_t target : targets) {
      for (std::size_t i = 0; i < rows.size(); ++i) {
        if (rows[i] == target) sources.push_back(static_cast<std::int64_t>(i));
      }
      first.push_back(static_cast<std::int64_t>(sources.size()));
    }
    const Tensor input = upload(x);
    const Array<std::int64_t> device_targets(memory_, targets);
    const Array<std::int64_t> device_first(memory_, first);
    const Array<std::int64_t> device_sources(memory_, sources);
    run(y, true, [&](View out) {
      cuda::add_rows(input.view(), {device_targets.span(), device_first.span(), device_sources.span()}, out,
                     ops_.stream());
    });
  }
  void scale_rows(ConstView x, std::span<const float> factors, View y) override {
    const Tensor input = upload(x);
    const Array<float> device_factors(memory_, factors);
    run(y, false,
        [&](View out) { cuda::scale_rows(input.view(), device_factors.span(), out, ops_.stream()); });
  }
  void embed(ConstView table, std::span<const std::int64_t> ids, View x) override {
    const Tensor rows = upload(table);
    const Array<std::int64_t> device_ids(memory_, ids);
    run(x, false, [&](View out) { cuda::embed(rows.view(), device_ids.span(), out, ops_.stream()); });
  }

  void write_kv(ConstView k, ConstView v, const HeadShape& shape, std::span<const KvWrite> writes,
                KvStore& pages) override {
    const Tensor keys = upload(k);
    const Tensor values = upload(v);
    const Array<KvWrite> device_writes(memory_, writes);
    cuda::write_kv(keys.view(), values.view(), shape, device_writes.span(), pages_of(pages), ops_.stream());
    memory_.wait();
  }
  void copy_page(KvStore& pages, std::int32_t from, std::int32_t to) override {
    cuda::copy_page(pages_of(pages), from, to, ops_.stream());
    memory_.wait();
  }
  void attention(ConstView q, const KvStore& pages, const HeadShape& shape,
                 std::span<const AttentionRows> sequences, View out, View lse) override {
    std::vector<QueryRow> rows(static_cast<std::size_t>(q.rows()));
    std::vector<std::int32_t> table;
    for (const AttentionRows& s : sequences) {
      const auto first_page = static_cast<std::int32_t>(table.size());
      const std::int64_t count = (s.first_position + s.rows + cuda::kPageTokens - 1) / cuda::kPageTokens;
      table.insert(table.end(), s.pages, s.pages + count);
      for (std::int64_t r = 0; r < s.rows; ++r) {
        rows[static_cast<std::size_t>(s.first_row + r)] = {first_page, narrow(s.first_position + r + 1)};
      }
    }
    const Tensor queries = upload(q);
    const Array<QueryRow> device_rows(memory_, rows);
    const Array<std::int32_t> device_table(memory_, table);
    Tensor device_lse = memory_.allocate(DType::f32, lse.rows(), lse.columns(), "test output");
    run(out, false, [&](View device_out) {
      cuda::attention(queries.view(), pages_of(pages), shape, device_rows.span(), device_table.span(),
                      device_out, lse.empty() ? View{} : device_lse.view(), ops_.stream());
    });
    download(device_lse, lse);
  }
  void attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse,
                          ConstView d_out, const HeadShape& shape, DType kv_type,
                          std::span<const SharedPromptRows> groups, View d_q, View d_k, View d_v) override {
    KeyTables tables;
    for (const SharedPromptRows& group : groups) add_group(group, tables);
    const Array<QueryKeys> queries(memory_, tables.queries);
    const Array<KeyQueries> keys(memory_, tables.keys);
    const Array<QueryRange> ranges(memory_, tables.ranges);
    const BackwardTables device_tables{queries.span(), keys.span(), ranges.span()};
    const Tensor inputs[] = {upload(q), upload(k), upload(v), upload(out), upload(lse), upload(d_out)};
    Tensor device_k = upload(d_k);
    Tensor device_v = upload(d_v);
    run(d_q, true, [&](View device_q) {
      cuda::attention_backward(inputs[0].view(), inputs[1].view(), inputs[2].view(), inputs[3].view(),
                               inputs[4].view(), inputs[5].view(), shape, kv_type, device_tables, device_q,
                               device_k.view(), device_v.view(), ops_.stream());
    });
    download(device_k, d_k);
    download(device_v, d_v);
  }
  void segment_attention(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                         std::span<const std::int64_t> boundaries, View out) override {
    std::vector<cuda::SegmentRow> rows;
    for (std::size_t s = 0; s + 1 < boundaries.size(); ++s) {
      const std::int64_t count = boundaries[s + 1] - boundaries[s];
      rows.insert(rows.end(), static_cast<std::size_t>(count), {narrow(boundaries[s]), narrow(count)});
    }
    const Array<cuda::SegmentRow> device_rows(memory_, rows);
    const Tensor queries = upload(q);
    const Tensor keys = upload(k);
    const Tensor values = upload(v);
    run(out, false, [&](View device_out) {
      cuda::segment_attention(queries.view(), keys.view(), values.view(), shape, device_rows.span(),
                              device_out, ops_.stream());
    });
  }

  void log_prob(ConstView h, const FrozenLinear& head, std::span<const std::int64_t> targets,
                float temperature, std::span<float> logp, std::span<float> entropy, View d_hidden) override {
    const Tensor hidden = upload(h);
    // The CPU's spans may be longer than the rows.
    const auto some = targets.first(static_cast<std::size_t>(h.rows()));
    const auto call = [&](View derivative) {
      cuda::CudaHead(ops_, head).log_prob(hidden.view(), some, temperature, logp, entropy, derivative);
    };
    if (d_hidden.empty()) {
      call({});
    } else {
      run(d_hidden, false, call);
    }
  }
  void sample(ConstView h, const FrozenLinear& head, std::span<const SampleRequest> requests,
              std::span<const std::int64_t> suppressed, std::span<SampledToken> tokens) override {
    const Tensor hidden = upload(h);
    const auto some = requests.first(static_cast<std::size_t>(h.rows()));
    const auto sampled = cuda::CudaHead(ops_, head).sample(hidden.view(), some, suppressed);
    const std::span<const SampledToken> result = sampled->wait();
    std::copy(result.begin(), result.end(), tokens.begin());
  }

 private:
  /// An array in device memory.
  template <typename T>
  class Array {
   public:
    Array(cuda::CudaMemory& memory, std::span<const T> values)
        : place_(upload_.add(std::vector<T>(values.begin(), values.end()))) {
      upload_.commit(memory, "test input");
    }
    DeviceSpan<T> span() const { return upload_.at(place_); }

   private:
    Upload upload_;
    Upload::Place<T> place_;
  };

  static cuda::KvPages pages_of(const KvStore& store) { return dynamic_cast<const Pages&>(store).pages(); }
  cuda::InputDropout device_dropout(const Dropout* dropout, Upload& keys) {
    if (dropout == nullptr) return {};
    const auto place =
        keys.add(std::vector<std::uint64_t>(dropout->token_keys.begin(), dropout->token_keys.end()));
    keys.commit(memory_, "test input");
    return {dropout->rate, dropout->key, keys.at(place)};
  }
  /// f(offset in the flat vector, values of the host, their number) for A and B of every part.
  template <typename F>
  static void for_each_part(const Lora& lora, std::span<const LoraGradients> gradients, F f) {
    for (std::size_t p = 0; p < lora.modules.size(); ++p) {
      const LoraModule& module = lora.modules[p];
      f(module.a_offset, gradients[p].a, module.rank * module.in);
      f(module.b_offset, gradients[p].b, module.out * module.rank);
    }
  }

  Tensor upload(ConstView host) { return copied_to(memory_, host, "test input"); }
  void download(const Tensor& device, View host) {
    memory_.copy(device.view(), host);
    memory_.wait();
  }
  /// f(output in device memory), and the output to the host. `before`: the operation reads what the output holds.
  template <typename F>
  void run(View host, bool before, F f) {
    Tensor device = memory_.allocate(host.type(), host.rows(), host.columns(), "test output");
    if (before) memory_.copy(host, device.view());
    f(device.view());
    download(device, host);
  }

  cuda::CudaOps ops_;
  cuda::CudaMemory& memory_ = ops_.device_memory();
};

/// Where there is no device, a program for this backend ends as CTest knows it for a skipped test (SKIP_RETURN_CODE).
class Device final : public ::testing::Environment {
 public:
  void SetUp() override {
    if (tested_backend() != "cuda") return;
    try {
      cuda::select_device(0);
    } catch (const Error& error) {
      std::puts((std::string("skipped: ") + error.what()).c_str());
      std::exit(77);
    }
  }
};
const ::testing::Environment* const kDevice = ::testing::AddGlobalTestEnvironment(new Device);

const Registered kCuda("cuda", [](DType compute, int /*threads*/) -> std::unique_ptr<Operations> {
  return std::make_unique<CudaOperations>(compute);
});

}  // namespace
}  // namespace biqa::testing
