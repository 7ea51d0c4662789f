// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/cudnn_graph.h"

#include <memory>
#include <span>
#include <utility>

namespace biqa::cuda {
namespace {

/// Tensors that exist only inside the kernel. Their numbers must differ from AttentionTensor.
enum Inner : std::int64_t {
  kScores = 16,
  kScaled,
  kMaximum,
  kDifference,
  kPower,
  kSum,
  kLog,
  kLogSum,
  kWeights
};

constexpr std::int64_t kAlignment = 16;  // bytes

}  // namespace

const CudnnDescriptor& AttentionGraph::keep(CudnnDescriptor&& part) {
  return parts_.emplace_back(std::move(part));
}

const CudnnDescriptor& AttentionGraph::tensor(std::int64_t id, cudnnDataType_t type, const Sizes& sizes,
                                              const Sizes& strides) {
  CudnnDescriptor t(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  t.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
  t.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type);
  t.set(CUDNN_ATTR_TENSOR_DIMENSIONS, std::span<const std::int64_t>(sizes));
  t.set(CUDNN_ATTR_TENSOR_STRIDES, std::span<const std::int64_t>(strides));
  t.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, kAlignment);
  t.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, id >= kScores);
  t.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, id == kScale);
  t.finish();
  return keep(std::move(t));
}

void AttentionGraph::add(CudnnDescriptor function, CudnnDescriptor operation) {
  operation.finish();
  keep(std::move(function));
  operations_.push_back(keep(std::move(operation)).get());
}

void AttentionGraph::multiply(const CudnnDescriptor& a, const CudnnDescriptor& b, const CudnnDescriptor& c) {
  CudnnDescriptor product(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  product.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  product.finish();
  CudnnDescriptor operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, product);
  add(std::move(product), std::move(operation));
}

void AttentionGraph::pointwise(cudnnPointwiseMode_t mode, const CudnnDescriptor& x, const CudnnDescriptor* b,
                               const CudnnDescriptor& y) {
  CudnnDescriptor function(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  function.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, mode);
  function.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_FLOAT);
  function.finish();
  CudnnDescriptor operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, function);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
  if (b != nullptr) operation.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *b);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
  add(std::move(function), std::move(operation));
}

void AttentionGraph::reduce(cudnnReduceTensorOp_t kind, const CudnnDescriptor& x, const CudnnDescriptor& y) {
  CudnnDescriptor reduction(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  reduction.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, kind);
  reduction.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  reduction.finish();
  CudnnDescriptor operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, reduction);
  add(std::move(reduction), std::move(operation));
}

AttentionGraph::AttentionGraph() : graph_(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR) {}

void AttentionGraph::describe(const AttentionShape& s) {
  const std::int64_t next = s.distance * s.stride;  // from segment to segment
  const Sizes rows{s.segments, s.heads, s.length, s.head_dim};
  const Sizes row_strides{next, s.head_dim, s.stride, 1};
  const CudnnDescriptor& q = tensor(kQ, CUDNN_DATA_BFLOAT16, rows, row_strides);
  const CudnnDescriptor& k = tensor(kK, CUDNN_DATA_BFLOAT16, {s.segments, s.heads, s.head_dim, s.length},
                                    {next, s.head_dim, 1, s.stride});
  const CudnnDescriptor& v = tensor(kV, CUDNN_DATA_BFLOAT16, rows, row_strides);
  const CudnnDescriptor& out =
      tensor(kOut, CUDNN_DATA_BFLOAT16, rows, {s.distance * s.out_stride, s.head_dim, s.out_stride, 1});
  const CudnnDescriptor& scale = tensor(kScale, CUDNN_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1});

  const auto pairs = [&](Inner id, cudnnDataType_t type) -> const CudnnDescriptor& {
    return tensor(id, type, {s.segments, s.heads, s.length, s.length},
                  {s.heads * s.length * s.length, s.length * s.length, s.length, 1});
  };
  const auto column = [&](Inner id) -> const CudnnDescriptor& {
    return tensor(id, CUDNN_DATA_FLOAT, {s.segments, s.heads, s.length, 1},
                  {s.heads * s.length, s.length, 1, 1});
  };
  const CudnnDescriptor& scores = pairs(kScores, CUDNN_DATA_FLOAT);
  const CudnnDescriptor& scaled = pairs(kScaled, CUDNN_DATA_FLOAT);
  const CudnnDescriptor& maximum = column(kMaximum);
  const CudnnDescriptor& difference = pairs(kDifference, CUDNN_DATA_FLOAT);
  const CudnnDescriptor& power = pairs(kPower, CUDNN_DATA_FLOAT);
  const CudnnDescriptor& sum = column(kSum);
  const CudnnDescriptor& log = column(kLog);
  const CudnnDescriptor& log_sum = column(kLogSum);
  const CudnnDescriptor& weights = pairs(kWeights, CUDNN_DATA_BFLOAT16);

  multiply(q, k, scores);
  pointwise(CUDNN_POINTWISE_MUL, scores, &scale, scaled);
  reduce(CUDNN_REDUCE_TENSOR_MAX, scaled, maximum);
  pointwise(CUDNN_POINTWISE_SUB, scaled, &maximum, difference);
  pointwise(CUDNN_POINTWISE_EXP, difference, nullptr, power);
  reduce(CUDNN_REDUCE_TENSOR_ADD, power, sum);
  // Nobody reads the log-sum-exp, but without it cuDNN 9.19 has no engine for the graph.
  pointwise(CUDNN_POINTWISE_LOG, sum, nullptr, log);
  pointwise(CUDNN_POINTWISE_ADD, maximum, &log, log_sum);
  pointwise(CUDNN_POINTWISE_DIV, power, &sum, weights);
  multiply(weights, v, out);
}

std::shared_ptr<const AttentionGraph> AttentionGraph::make(cudnnHandle_t library, const AttentionShape& shape,
                                                           bool any_shape) {
  const std::shared_ptr<AttentionGraph> made(new AttentionGraph);
  made->describe(shape);
  CudnnDescriptor& graph = made->graph_;
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, library);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
            std::span<const cudnnBackendDescriptor_t>(made->operations_));
#if BIQA_CUDNN_SHARES_KERNELS
  if (any_shape) graph.set(CUDNN_ATTR_OPERATIONGRAPH_IS_DYNAMIC_SHAPE_ENABLED, true);
#else
  CHECK(!any_shape);
#endif
  return graph.finish_if_supported() ? made : nullptr;
}

}  // namespace biqa::cuda
