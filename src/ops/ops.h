// SPDX-License-Identifier: Apache-2.0
// The interface between the program and a device. All computation on tensors of the network goes through these
// interfaces, and each backend implements them (docs/decisions/0020-the-device-seam.md). Ops creates the parts of a
// network (ops/decoder.h, ops/vision.h) and has the operations of the optimizer.
//
// Rules that hold for every operation of every backend
// - Numbers. Activations that feed a product have the compute type (f32 or bf16). Everything else is f32: the residual
//   stream, results of products, gradients. In bf16 runs, some results and gradients inside CUDA's network are bf16
//   (docs/numerics.md). Products accumulate in f32.
// - Batch invariance. Every bit of an output row depends only on that row's inputs. It does not depend on the number of
//   rows, on the other rows or on the number of threads. Sums over tokens (weight gradients) run in row order.
// - Memory. Tensors that are passed in or written are in memory() unless the operation says "host". Host spans are
//   inputs, read before the call returns, or outputs of calls that wait.
// - Order. Work runs in the order of the calls. A call may return before its work has finished. The caller must not
//   change the values of the arguments until a later call has waited for the work. DeviceMemory::wait,
//   Decoder::log_prob and squared_norm wait for all earlier work. SampledTokens::wait waits for all work up to its
//   sample(). Host targets of copies have their values only after DeviceMemory::wait.
// - Lifetime. Tensors, plans, stores, adapters, tapes and packed weights may be destroyed as soon as the call that
//   received them has returned. The backend keeps everything that its work still needs.
// - Errors. Wrong arguments are programming errors (CHECK in the call). If work fails later, the next call that waits
//   throws an Error, and so does every later call that waits. A backend that finishes its work within the call may throw
//   the Error there.
// - Threads. Only one thread at a time may use an Ops and the objects that it made.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ops/adamw.h"
#include "ops/decoder.h"
#include "ops/vision.h"
#include "tensor/device_memory.h"
#include "tensor/weight_arena.h"

namespace biqa {

/// Packs weights into memory that the processes of a node share.
class SharedPacking {
 public:
  virtual ~SharedPacking() = default;
  /// As Ops::pack, into blocks of `arena` whose names begin with `name`. Reads the elements of weight and bias only if
  /// the arena is filling(); otherwise it uses only their sizes. If the arena is still planning
  /// (tensor/weight_arena.h), the result must not be used.
  virtual std::unique_ptr<FrozenLinear> pack_into(WeightArena& arena, const std::string& name,
                                                  ConstView weight, std::span<const float> bias,
                                                  bool backward) = 0;
};

/// Keeps packed weights as plain tensors in device memory, so that one device can send them to another.
class DevicePacking {
 public:
  virtual ~DevicePacking() = default;
  /// As Ops::pack for a weight [out, in] of the compute type, but only takes the memory. The caller writes all
  /// tensors_of() the result before it is used.
  virtual std::unique_ptr<FrozenLinear> pack_later(std::int64_t out, std::int64_t in, bool bias,
                                                   bool backward) = 0;
  /// The dense tensors of `w`, which this backend packed. Number, order, types and shapes depend only on the arguments
  /// of the packing. They are valid as long as `w`.
  virtual std::vector<View> tensors_of(FrozenLinear& w) = 0;
};

/// Chooses the algorithms of products while a model is loaded. Processes with equal keys choose the same, so a process
/// can take the choices of an earlier one. Choices change the speed, never a bit.
class ProductTuning {
 public:
  virtual ~ProductTuning() = default;
  /// Everything on which the choices depend, in one line: device, driver and library. Empty: they must not be kept.
  virtual std::string key() const = 0;
  /// Chooses for all products with `w`, unless that has happened. Takes device memory for a while. Waits.
  virtual void choose(const FrozenLinear& w) = 0;
  /// All choices, of this process and those that it restored.
  virtual std::string saved() const = 0;
  /// Takes the choices of a text that saved() returned. If the text is not valid, takes none and returns what is wrong
  /// with it.
  virtual std::string restore(const std::string& text) = 0;
};

class Ops {
 public:
  Ops() = default;
  virtual ~Ops() = default;
  Ops(const Ops&) = delete;
  Ops& operator=(const Ops&) = delete;

  virtual DType compute_type() const = 0;
  /// Name of the device of this process: a UUID (GPU-…), or an address, which only one GPU of a node has. Empty for the
  /// CPU, because processes may share it.
  virtual std::string device_name() const { return {}; }
  /// The device as its maker writes it (ops/gpu_cards.h). Empty for the CPU.
  virtual std::string card_name() const { return {}; }
  /// Type of the device and version of its library of products: the bits of results depend on them. All processes of a
  /// job need the same. Empty for the CPU.
  virtual std::string device_type() const { return {}; }
  virtual DeviceMemory& memory() = 0;
  virtual KvLayout kv_layout(const HeadShape& shape) const = 0;
  /// The vision tower pads the inner width of its MLP with zeros to a multiple of this, so that rows begin at addresses
  /// which the device reads fast.
  virtual std::int64_t vision_width_unit() const { return 1; }

  // --- parts of a network ---

  /// `weight` [out, in] is dense and of any float type; `bias` is empty or [out] f32; both are in host memory.
  /// `backward`: also prepare gradients with respect to the input.
  virtual std::unique_ptr<FrozenLinear> pack(ConstView weight, std::span<const float> bias,
                                             bool backward) = 0;
  /// nullptr: packed weights cannot be shared.
  virtual SharedPacking* shared_packing() { return nullptr; }
  /// nullptr: packed weights cannot be sent to another device.
  virtual DevicePacking* device_packing() { return nullptr; }
  /// nullptr: this backend chooses no algorithms while loading.
  virtual ProductTuning* product_tuning() { return nullptr; }
  /// Multiplies made-up rows by w, in a batch of each of the `counts` (at most 32) and in one larger batch. Throws
  /// Error if a row's bits depend on the batch. The CPU backend also throws if they depend on the number of threads. w
  /// must already have its elements. A library may break batch invariance on an untested processor or in an untested
  /// version.
  virtual void check_rows(const FrozenLinear& w, std::span<const std::int64_t> counts) = 0;
  virtual std::unique_ptr<Decoder> make_decoder(const DecoderShape& shape, DecoderWeights weights) = 0;
  virtual std::unique_ptr<VisionEncoder> make_vision(const VisionShape& shape, VisionWeights weights) = 0;

  // --- single products (measurements, checks) ---

  /// y [T, out] f32 (+)= x [T, in] · Wᵀ + b. x has the compute type; x and y are dense.
  virtual void linear(ConstView x, const FrozenLinear& w, View y, bool accumulate = false) = 0;

  // --- optimizer; all tensors are [1, n] f32 ---

  /// Sum of squares in f64, in an order that depends only on n. Not finite if an element is not. Waits.
  virtual double squared_norm(ConstView gradient) = 0;
  /// Updates every element (ops/adamw.h).
  virtual void adamw(View values, ConstView gradient, View m, View v, const AdamWStep& step) = 0;
};

}  // namespace biqa
