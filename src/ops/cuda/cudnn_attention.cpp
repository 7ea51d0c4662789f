// SPDX-License-Identifier: Apache-2.0
// cuDNN recognises the graph of cudnn_graph.h as attention and computes it in one kernel, which it compiles during the
// run. A plan belongs to one AttentionShape and is kept.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "ops/cuda/buffers.h"
#include "ops/cuda/cudnn_graph.h"
#include "ops/cuda/vision_attention.h"
#include "tensor/cuda/runtime.h"

namespace biqa::cuda {
namespace {

class Library {
 public:
  Library() { check_cudnn(cudnnCreate(&handle_), "cudnnCreate"); }
  ~Library() { cudnnDestroy(handle_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  cudnnHandle_t get() const { return handle_; }

 private:
  cudnnHandle_t handle_ = nullptr;
};

/// Whether two runs of the engine may give other bits.
bool may_differ(const CudnnDescriptor& configuration) {
  const CudnnDescriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t handle = engine.get();
  configuration.read(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &handle);
  constexpr std::size_t kMost = 32;  // newer libraries may have more notes than this header
  std::array<cudnnBackendNumericalNote_t, kMost> notes{};
  const std::int64_t count =
      engine.read(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, kMost, notes.data());
  const auto end = notes.begin() + count;
  return std::find(notes.begin(), end, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) != end;
}

std::int64_t workspace_of(const CudnnDescriptor& plan) {
  std::int64_t bytes = 0;
  plan.read(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &bytes);
  return bytes;
}

/// What cuDNN's rules propose for the graph, the best first. They use no timings, so every process gets the same.
std::vector<CudnnDescriptor> proposals(const CudnnDescriptor& graph, cudnnBackendHeurMode_t mode) {
  constexpr std::size_t kMost = 16;
  CudnnDescriptor rules(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  rules.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  rules.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, mode);
  std::vector<CudnnDescriptor> found;
  if (!rules.finish_if_supported()) return found;
  std::vector<cudnnBackendDescriptor_t> handles;
  for (std::size_t i = 0; i < kMost; ++i)
    handles.push_back(found.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).get());
  const std::int64_t count =
      rules.read(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, kMost, handles.data());
  while (static_cast<std::int64_t>(found.size()) > count) found.pop_back();
  return found;
}

/// A plan with everything that it was made of, in case that cuDNN only refers to it.
struct Plan {
  std::shared_ptr<const AttentionGraph> graph;
  CudnnDescriptor configuration, plan;
};

/// Compiled kernels that several plans use, with the graph that they were described by.
struct KernelCache {
  std::shared_ptr<const AttentionGraph> graph;
  CudnnDescriptor cache;
};

/// Shapes of one kind may share a compiled kernel. cuDNN 9.19 compiles other code for another head dimension, and for a
/// length that is a multiple of the kernel's block of rows, but the keys of its cache contain neither. With one cache for
/// all shapes, a kernel would depend on which picture came first, and could lack the test for the last rows.
struct KernelKind {
  std::int64_t heads = 0, head_dim = 0, stride = 0, out_stride = 0;
  std::int64_t factor = 0;  ///< largest power of two that divides the length, at most kLargestBlock
  auto operator<=>(const KernelKind&) const =
      default;  // NOLINT(modernize-use-nullptr): a fault of clang-tidy 14
};
KernelKind kind_of(const AttentionShape& shape) {
  constexpr std::int64_t kLargestBlock = 256;
  std::int64_t factor = 1;
  while (factor < kLargestBlock && shape.length % (2 * factor) == 0) factor *= 2;
  return {shape.heads, shape.head_dim, shape.stride, shape.out_stride, factor};
}

class CudnnAttention final : public VisionAttention {
 public:
  explicit CudnnAttention(const Stream& stream) : stream_(stream) {
    check_cudnn(cudnnSetStream(library_.get(), stream.get()), "cudnnSetStream");
  }
  /// Kernels are unloaded with their plans, so work that was enqueued must have ended.
  ~CudnnAttention() override { cudaStreamSynchronize(stream_.get()); }
  CudnnAttention(const CudnnAttention&) = delete;
  CudnnAttention& operator=(const CudnnAttention&) = delete;

  std::string version() const override { return fmt::format("attention by cuDNN {}", cudnnGetVersion()); }

 private:
  void attend_batch(ConstView q, ConstView k, ConstView v, const HeadShape& shape, const SegmentBatch& batch,
                    View out, View workspace) override {
    const Plan& plan = plan_for(
        {batch.count, batch.length, batch.distance, shape.heads, shape.head_dim, q.stride(), out.stride()});
    const auto from = [&](ConstView rows) {
      return const_cast<void*>(rows.row_range(batch.first, batch.length).address());
    };
    float scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim));
    const std::array<std::int64_t, 5> names{kQ, kK, kV, kOut, kScale};
    const std::array<void*, 5> addresses{from(q), from(k), from(v), from(out), &scale};
    CudnnDescriptor operands(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    operands.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, std::span<const std::int64_t>(names));
    operands.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
                 std::span<void* const>(addresses));
    operands.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, workspace.address());
    operands.finish();
    check_cudnn(cudnnBackendExecute(library_.get(), plan.plan.get(), operands.get()), "cudnnBackendExecute");
  }

  const Plan& plan_for(const AttentionShape& shape) {
    const auto found = plans_.find(shape);
    if (found != plans_.end()) return found->second;
    // Pictures of many sizes must not fill the memory.
    constexpr std::size_t kMostPlans = 1024;
    if (plans_.size() >= kMostPlans) {
      stream_.synchronise();
      plans_.clear();
      kernels_.clear();
    }
    std::optional<Plan> plan;
    if (shares_kernels_) plan = find_plan(shape, true);
    if (!plan) plan = find_plan(shape, false);
    if (!plan) {
      fail(
          "cuDNN {} cannot compute attention of {} segments of {} rows with {} heads of dimension {}: it has "
          "no deterministic engine whose workspace fits into {} bytes; set model.vision_attention: own",
          cudnnGetVersion(), shape.segments, shape.length, shape.heads, shape.head_dim,
          kVisionWorkspaceBytes);
    }
    return plans_.emplace(shape, *std::move(plan)).first->second;
  }

  /// The first proposal that gives the same bits every time and fits the workspace. Errors are never a reason to take
  /// the next one, because then processes could differ.
  std::optional<Plan> find_plan(const AttentionShape& shape, bool any_shape) {
    const auto graph = AttentionGraph::make(library_.get(), shape, any_shape);
    if (!graph) return std::nullopt;
    const KernelCache* const kernels = any_shape ? kernels_for(shape, graph) : nullptr;
    if (any_shape && kernels == nullptr) return std::nullopt;
    for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
      for (CudnnDescriptor& configuration : proposals(graph->graph(), mode)) {
        if (may_differ(configuration)) continue;
        CudnnDescriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
        plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, library_.get());
        plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
#if BIQA_CUDNN_SHARES_KERNELS
        if (kernels != nullptr) plan.set(CUDNN_ATTR_EXECUTION_PLAN_KERNEL_CACHE, kernels->cache);
#endif
        if (plan.finish_if_supported() && workspace_of(plan) <= kVisionWorkspaceBytes)
          return Plan{graph, std::move(configuration), std::move(plan)};
      }
    }
    return std::nullopt;
  }

  /// The compiled kernels of earlier plans of this kind; compiling takes seconds. Null if cuDNN cannot share them.
  const KernelCache* kernels_for([[maybe_unused]] const AttentionShape& shape,
                                 [[maybe_unused]] const std::shared_ptr<const AttentionGraph>& graph) {
#if BIQA_CUDNN_SHARES_KERNELS
    const KernelKind kind = kind_of(shape);
    const auto known = kernels_.find(kind);
    if (known != kernels_.end()) return &known->second;
    CudnnDescriptor empty(CUDNN_BACKEND_KERNEL_CACHE_DESCRIPTOR);
    empty.set(CUDNN_ATTR_KERNEL_CACHE_OPERATION_GRAPH, graph->graph());
    if (!empty.finish_if_supported()) return nullptr;
    return &kernels_.emplace(kind, KernelCache{graph, std::move(empty)}).first->second;
#else
    return nullptr;
#endif
  }

  const Stream& stream_;
  Library library_;
  // A library older than its header may lack what the header names.
  bool shares_kernels_ = BIQA_CUDNN_SHARES_KERNELS && cudnnGetVersion() >= CUDNN_VERSION;
  std::map<KernelKind, KernelCache> kernels_;
  std::map<AttentionShape, Plan> plans_;
};

}  // namespace

std::unique_ptr<VisionAttention> make_vision_attention(const Stream& stream) {
  return std::make_unique<CudnnAttention>(stream);
}

}  // namespace biqa::cuda
