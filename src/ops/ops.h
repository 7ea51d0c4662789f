// SPDX-License-Identifier: Apache-2.0
// The seam between the program and a device: everything that computes on tensors of the network stands behind these
// interfaces, which each backend writes for itself (docs/decisions/0020-the-device-seam.md). Ops makes the parts of a
// network (ops/decoder.h, ops/vision.h) and does what the optimizer needs.
//
// Rules that hold for every operation of every backend
// - Numbers. Activations that feed a product have the compute type (f32 or bf16); everything else is f32: the residual
//   stream, results of products, gradients. Products accumulate in f32.
// - Batch invariance: a row of an output depends on that row's inputs alone, to the bit: not on the number of rows, on the
//   other rows, or on the thread count. Sums over tokens (weight gradients) run in row order.
// - Memory. Tensors that are passed in or written lie in memory() unless the operation says "host". Host spans are read before
//   the call returns, or filled by a call that says it waits.
// - Order. Work is done in the order of the calls. A call may return before its work is done, and what it was given must stay
//   as it is until something later has waited: DeviceMemory::wait, Decoder::log_prob, SampledTokens::wait, squared_norm.
//   Objects and tensors may be destroyed at any time.
// - Errors. Wrong arguments are a programmer's mistake (CHECK, at once). What fails while the work is done is thrown as Error
//   by the next call that waits.
// - Threads. One thread at a time calls an Ops and what it made.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "ops/adamw.h"
#include "ops/decoder.h"
#include "ops/vision.h"
#include "tensor/device_memory.h"
#include "tensor/weight_arena.h"

namespace biqa {

/// Packed weights in memory that the processes of a node share.
class SharedPacking {
 public:
  virtual ~SharedPacking() = default;
  /// As Ops::pack, into blocks of `arena` whose names begin with `name`. The elements of weight and bias are read where the
  /// arena is filling(), else only their sizes count; without memory (planning) the result is of no use.
  virtual std::unique_ptr<FrozenLinear> pack_into(WeightArena& arena, const std::string& name,
                                                  ConstView weight, std::span<const float> bias,
                                                  bool backward) = 0;
};

/// How keys and values are cut into pages.
struct KvLayout {
  std::int64_t page_tokens = 0;
  std::int64_t page_bytes = 0;  ///< of one page of one layer
};

class Ops {
 public:
  Ops() = default;
  virtual ~Ops() = default;
  Ops(const Ops&) = delete;
  Ops& operator=(const Ops&) = delete;

  virtual DType compute_type() const = 0;
  virtual DeviceMemory& memory() = 0;
  virtual KvLayout kv_layout(const HeadShape& shape) const = 0;

  /// --- parts of a network ---
  /// weight [out, in] of any float type, dense, and bias, empty or [out] f32, both host. `backward`: also made for gradients
  /// with respect to its input.
  virtual std::unique_ptr<FrozenLinear> pack(ConstView weight, std::span<const float> bias,
                                             bool backward) = 0;
  /// nullptr: packed weights can't be shared.
  virtual SharedPacking* shared_packing() { return nullptr; }
  /// Multiplies `counts` rows (at most 32 each) and many by w, which holds its weights. Throws Error when a row's bits depend
  /// on the others: a library may break batch invariance on a processor or in a version that nobody has tried.
  virtual void check_rows(const FrozenLinear& w, std::span<const std::int64_t> counts) = 0;
  virtual std::unique_ptr<Decoder> make_decoder(const DecoderShape& shape, DecoderWeights weights) = 0;
  virtual std::unique_ptr<VisionEncoder> make_vision(const VisionShape& shape, VisionWeights weights) = 0;

  /// --- products by themselves (measurements, checks) ---
  /// y [T, out] f32 (+)= x [T, in] · Wᵀ + b; x has the compute type; both dense.
  virtual void linear(ConstView x, const FrozenLinear& w, View y, bool accumulate = false) = 0;

  /// --- optimizer; all [1, n] f32 ---
  /// Sum of squares in f64, in an order that depends on n alone. Not finite where an element is not. Waits.
  virtual double squared_norm(ConstView gradient) = 0;
  /// One update of every element by itself (ops/adamw.h).
  virtual void adamw(View values, ConstView gradient, View m, View v, const AdamWStep& step) = 0;
};

}  // namespace biqa
