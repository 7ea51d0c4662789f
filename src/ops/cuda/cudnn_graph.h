// SPDX-License-Identifier: Apache-2.0
// Attention as a graph of cuDNN's operations. Only cudnn_*.cpp may include this.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "ops/cuda/cudnn_descriptor.h"

/// Whether one compiled kernel can serve several shapes. Headers of older versions may lack the names for it.
#define BIQA_CUDNN_SHARES_KERNELS (CUDNN_VERSION >= 91000)

namespace biqa::cuda {

/// Shapes and strides, in elements, of a batch of segments.
struct AttentionShape {
  std::int64_t segments = 0, length = 0, distance = 0;
  std::int64_t heads = 0, head_dim = 0;
  std::int64_t stride = 0, out_stride = 0;  ///< from row to row: of q, k and v; of the result
  auto operator<=>(const AttentionShape&) const =
      default;  // NOLINT(modernize-use-nullptr): a fault of clang-tidy 14
};

/// Identifiers of the tensors whose addresses cuDNN gets at each execution. `scale` is an f32 in host memory.
enum AttentionTensor : std::int64_t { kQ = 1, kK, kV, kOut, kScale };

/// The graph: scores = q·kᵀ · scale; weights = exp(scores − maximum) / sum; out = weights·v. All tensors between are
/// f32, except the weights, which cuDNN wants in the type of v. `any_shape`: one compiled kernel may serve other shapes
/// too.
class AttentionGraph {
 public:
  /// Null if cuDNN does not support the graph.
  static std::shared_ptr<const AttentionGraph> make(cudnnHandle_t library, const AttentionShape& shape,
                                                    bool any_shape);
  const CudnnDescriptor& graph() const { return graph_; }

 private:
  AttentionGraph();
  void describe(const AttentionShape& shape);
  using Sizes = std::vector<std::int64_t>;
  const CudnnDescriptor& tensor(std::int64_t id, cudnnDataType_t type, const Sizes& sizes,
                                const Sizes& strides);
  void multiply(const CudnnDescriptor& a, const CudnnDescriptor& b, const CudnnDescriptor& c);
  void pointwise(cudnnPointwiseMode_t mode, const CudnnDescriptor& x, const CudnnDescriptor* b,
                 const CudnnDescriptor& y);
  void reduce(cudnnReduceTensorOp_t kind, const CudnnDescriptor& x, const CudnnDescriptor& y);
  /// Adds an operation that applies `function`.
  void add(CudnnDescriptor function, CudnnDescriptor operation);
  const CudnnDescriptor& keep(CudnnDescriptor&& part);

  std::deque<CudnnDescriptor> parts_;  // never moved: descriptors refer to one another
  std::vector<cudnnBackendDescriptor_t> operations_;
  CudnnDescriptor graph_;
};

}  // namespace biqa::cuda
