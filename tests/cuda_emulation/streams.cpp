// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/streams.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda_emulation/access.h"
#include "cuda_emulation/device_memory.h"
#include "cuda_emulation/emulator.h"
#include "cuda_emulation/fault.h"

namespace biqa::emulation {
namespace {

/// Counts how often an event was recorded, and how many of these records have been reached.
struct EventState {
  std::uint64_t recorded = 0, reached = 0;
  cudaStream_t stream = nullptr;  // of the last record
};

struct Range {
  const unsigned char* first = nullptr;
  std::size_t bytes = 0;
};

struct Operation {
  std::function<void()> work;
  std::shared_ptr<EventState> waits_for;  // with `record`: what must have been reached before
  std::uint64_t record = 0;
  Range reads;  // of pinned memory
};

}  // namespace
}  // namespace biqa::emulation

struct EmulatedStream {
  std::deque<biqa::emulation::Operation> operations;
  bool destroyed = false;
};

struct EmulatedEvent {
  std::shared_ptr<biqa::emulation::EventState> state = std::make_shared<biqa::emulation::EventState>();
};

namespace biqa::emulation {
namespace {

/// All streams; those destroyed with work left stay until it is done.
struct World {
  std::recursive_mutex mutex;
  std::vector<std::unique_ptr<EmulatedStream>> streams;
  EmulatedStream standard;
};

World& world() {
  static World& world = *new World;
  return world;
}

EmulatedStream& stream_of(cudaStream_t stream) {
  if (stream == nullptr) return world().standard;
  if (stream->destroyed) fault("use of a destroyed stream");
  return *stream;
}

void step(EmulatedStream& stream);

void reach(EventState& event, std::uint64_t record) {
  while (event.reached < record) step(event.stream == nullptr ? world().standard : *event.stream);
}

/// Does the stream's next operation.
void step(EmulatedStream& stream) {
  Operation operation = std::move(stream.operations.front());
  stream.operations.pop_front();
  if (operation.waits_for != nullptr) reach(*operation.waits_for, operation.record);
  if (operation.work) operation.work();
}

void finish(EmulatedStream& stream) {
  while (!stream.operations.empty()) step(stream);
}

/// Frees the streams that are destroyed and empty.
void sweep() {
  std::erase_if(world().streams,
                [](const auto& stream) { return stream->destroyed && stream->operations.empty(); });
}

void add(cudaStream_t stream, Operation operation) {
  const std::lock_guard lock(world().mutex);
  EmulatedStream& to = stream_of(stream);
  to.operations.push_back(std::move(operation));
  if (!late_streams()) finish(to);
}

void copy_rows(unsigned char* to, std::size_t to_pitch, const unsigned char* from, std::size_t from_pitch,
               std::size_t width, std::size_t rows) {
  for (std::size_t row = 0; row < rows; ++row) {
    unsigned char* target = to + row * to_pitch;
    const unsigned char* source = from + row * from_pitch;
    std::memmove(target, source, width);
    if (!is_device_address(target)) continue;
    if (is_device_address(source))
      access::device_copied(target, source, width);
    else
      access::device_written(target, width);
  }
}

/// Whether work in a stream still has to read one of these bytes of pinned memory.
bool still_read(const unsigned char* first, std::size_t bytes) {
  const auto overlaps = [&](const Operation& operation) {
    return first < operation.reads.first + operation.reads.bytes && operation.reads.first < first + bytes;
  };
  const auto any = [&](const EmulatedStream& stream) {
    return std::any_of(stream.operations.begin(), stream.operations.end(), overlaps);
  };
  return any(world().standard) || std::any_of(world().streams.begin(), world().streams.end(),
                                              [&](const auto& stream) { return any(*stream); });
}

struct Copy {
  unsigned char* to;
  std::size_t to_pitch;
  const unsigned char* from;
  std::size_t from_pitch, width, rows;
  std::size_t to_bytes() const { return rows == 0 ? 0 : (rows - 1) * to_pitch + width; }
  std::size_t from_bytes() const { return rows == 0 ? 0 : (rows - 1) * from_pitch + width; }
};

void require_side(const void* address, std::size_t bytes, bool device, const char* direction,
                  const char* side) {
  const std::string what = fmt::format("a copy from {}, {}", direction, side);
  if (device)
    require_device(address, bytes, what);
  else
    require_host(address, bytes, what);
}

/// The direction must say where source and target are, and both must be large enough.
void require_direction(const Copy& copy, cudaMemcpyKind kind) {
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const char* direction = from_device ? to_device ? "device to device" : "device to host"
                          : to_device ? "host to device"
                                      : "host to host";
  require_side(copy.from, copy.from_bytes(), from_device, direction, "source");
  require_side(copy.to, copy.to_bytes(), to_device, direction, "target");
}

void enqueue_copy(Copy copy, cudaMemcpyKind kind, cudaStream_t stream) {
  if (copy.width == 0 || copy.rows == 0) return;
  if (kind == cudaMemcpyDefault) {
    const bool from = is_device_address(copy.from);
    const bool to = is_device_address(copy.to);
    kind = from ? to ? cudaMemcpyDeviceToDevice : cudaMemcpyDeviceToHost
           : to ? cudaMemcpyHostToDevice
                : cudaMemcpyHostToHost;
  }
  require_direction(copy, kind);
  const std::lock_guard lock(world().mutex);
  Operation operation;
  const bool from_host = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyHostToHost;
  if (from_host && late_streams() && !is_pinned(copy.from)) {
    // CUDA reads pageable memory before the call returns.
    const auto staged =
        std::make_shared<std::vector<unsigned char>>(copy.from, copy.from + copy.from_bytes());
    operation.work = [copy, staged] {
      const OpenDeviceMemory open;
      copy_rows(copy.to, copy.to_pitch, staged->data(), copy.from_pitch, copy.width, copy.rows);
    };
  } else {
    if (from_host) operation.reads = {copy.from, copy.from_bytes()};
    operation.work = [copy] {
      const OpenDeviceMemory open;
      copy_rows(copy.to, copy.to_pitch, copy.from, copy.from_pitch, copy.width, copy.rows);
    };
  }
  if (kind == cudaMemcpyDeviceToHost && late_streams()) {
    // What the host finds there before it waits is not the result.
    for (std::size_t row = 0; row < copy.rows; ++row) {
      unsigned char* first = copy.to + row * copy.to_pitch;
      if (!still_read(first, copy.width)) std::memset(first, 0xff, copy.width);
    }
  }
  add(stream, std::move(operation));
}

void enqueue_set(void* address, std::size_t pitch, int value, std::size_t width, std::size_t rows,
                 cudaStream_t stream) {
  if (width == 0 || rows == 0) return;
  require_device(address, (rows - 1) * pitch + width, "cudaMemsetAsync");
  enqueue(stream, [=] {
    for (std::size_t row = 0; row < rows; ++row) {
      unsigned char* target = static_cast<unsigned char*>(address) + row * pitch;
      std::memset(target, value, width);
      access::device_written(target, width);
    }
  });
}

}  // namespace

void enqueue(cudaStream_t stream, std::function<void()> work) {
  Operation operation;
  operation.work = [work = std::move(work)] {
    const OpenDeviceMemory open;
    work();
  };
  add(stream, std::move(operation));
}

void finish_all_work() {
  const std::lock_guard lock(world().mutex);
  finish(world().standard);
  for (std::size_t i = 0; i < world().streams.size(); ++i) finish(*world().streams[i]);
  sweep();
}

}  // namespace biqa::emulation

using biqa::emulation::Operation;
using biqa::emulation::world;

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t rows, cudaMemcpyKind kind, cudaStream_t stream) {
  if (width > to_pitch || width > from_pitch) return cudaErrorInvalidPitchValue;
  biqa::emulation::enqueue_copy({static_cast<unsigned char*>(to), to_pitch,
                                 static_cast<const unsigned char*>(from), from_pitch, width, rows},
                                kind, stream);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* address, int value, std::size_t bytes, cudaStream_t stream) {
  biqa::emulation::enqueue_set(address, bytes, value, bytes, 1, stream);
  return cudaSuccess;
}

cudaError_t cudaMemset2DAsync(void* address, std::size_t pitch, int value, std::size_t width,
                              std::size_t rows, cudaStream_t stream) {
  if (width > pitch) return cudaErrorInvalidPitchValue;
  biqa::emulation::enqueue_set(address, pitch, value, width, rows, stream);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned /*flags*/) {
  const std::lock_guard lock(world().mutex);
  world().streams.push_back(std::make_unique<EmulatedStream>());
  *stream = world().streams.back().get();
  biqa::emulation::count_resource("CUDA stream", 1);
  return cudaSuccess;
}

// The work that a destroyed stream still holds is done by whoever waits for all streams.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(world().mutex);
  biqa::emulation::stream_of(stream).destroyed = true;
  biqa::emulation::count_resource("CUDA stream", -1);
  biqa::emulation::sweep();
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard lock(world().mutex);
  if (const cudaError_t planned = biqa::emulation::planned_failure(biqa::emulation::Call::wait);
      planned != cudaSuccess)
    return planned;
  biqa::emulation::finish(biqa::emulation::stream_of(stream));
  return cudaSuccess;
}

// Time passes with every query: one operation is done.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const std::lock_guard lock(world().mutex);
  EmulatedStream& asked = biqa::emulation::stream_of(stream);
  if (asked.operations.empty()) return cudaSuccess;
  biqa::emulation::step(asked);
  return cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize() {
  biqa::emulation::finish_all_work();
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned /*flags*/) {
  *event = new EmulatedEvent;
  biqa::emulation::count_resource("CUDA event", 1);
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  biqa::emulation::count_resource("CUDA event", -1);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(world().mutex);
  const auto state = event->state;
  state->stream = stream;
  Operation operation;
  operation.work = [state, record = ++state->recorded] { state->reached = record; };
  biqa::emulation::add(stream, std::move(operation));
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned /*flags*/) {
  const std::lock_guard lock(world().mutex);
  Operation operation;
  operation.waits_for = event->state;
  operation.record = event->state->recorded;
  biqa::emulation::add(stream, std::move(operation));
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const std::lock_guard lock(world().mutex);
  biqa::emulation::reach(*event->state, event->state->recorded);
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard lock(world().mutex);
  biqa::emulation::EventState& state = *event->state;
  if (state.reached == state.recorded) return cudaSuccess;
  biqa::emulation::step(state.stream == nullptr ? world().standard : *state.stream);
  return cudaErrorNotReady;
}
