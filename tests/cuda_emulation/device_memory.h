// SPDX-License-Identifier: Apache-2.0
// The emulated device's memory: one reserved range of addresses, closed to the host outside of launches, copies and the
// stand-ins of libraries. Freed addresses are not used again at once. Memory starts as NaN bytes. Leaks fail the program at its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace biqa::emulation {

/// While one exists, the host may read and write device memory. For launches, copies and stand-ins of libraries.
class OpenDeviceMemory {
 public:
  OpenDeviceMemory();
  ~OpenDeviceMemory();
  OpenDeviceMemory(const OpenDeviceMemory&) = delete;
  OpenDeviceMemory& operator=(const OpenDeviceMemory&) = delete;
};

/// nullptr if the device has not so many bytes left.
void* allocate_device(std::size_t bytes);
/// Work in a stream will free this. Faults unless it is the start of a live allocation that no earlier work frees.
void announce_free(void* address);
/// Faults unless this is the start of a live allocation.
void free_device(void* address);
/// The name of the allocation that starts here, for messages.
void label_device(const void* address, const std::string& label);

void* allocate_pinned(std::size_t bytes);
void free_pinned(void* address);
bool is_pinned(const void* address);

/// True for every address of the reserved range, live or not.
bool is_device_address(const void* address);
/// Faults unless the bytes lie in one live allocation; `what` begins the message.
void require_device(const void* address, std::size_t bytes, const std::string& what);
/// Faults if one of the bytes has an address of device memory.
void require_host(const void* address, std::size_t bytes, const std::string& what);
/// `label + offset (of N bytes)`, `freed label + offset`, `no allocation of device memory` or `host memory`.
std::string describe(const void* address);

/// A stand-in of a library reads or writes these bytes of device memory: they must lie in one allocation, and what is read must
/// have been written.
void library_reads(const void* address, std::size_t bytes);
void library_writes(const void* address, std::size_t bytes);

/// The range of addresses that is reserved for device memory.
inline constexpr std::size_t kReservedDeviceBytes = std::size_t{1} << 40;
const unsigned char* device_base();
/// The bounds of the live allocation that holds these bytes; false if none does.
bool find_allocation(const void* address, std::size_t bytes, const unsigned char** first,
                     const unsigned char** end);

/// What is counted at the end of the program besides memory, for example streams.
void count_resource(const std::string& kind, int change);

/// Of the device, and how many bytes of it are in use.
std::size_t device_bytes();
std::size_t device_bytes_in_use();

}  // namespace biqa::emulation
