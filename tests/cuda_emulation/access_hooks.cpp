// SPDX-License-Identifier: Apache-2.0
// The functions that code compiled with -fsanitize=thread and -fsanitize=alignment calls. They stand where the sanitizers' runtimes
// would, which are not linked. Their names and signatures are the compiler's.
#include "cuda_emulation/access_hooks.h"

#ifdef BIQA_EMULATOR_HOOKS

using biqa::emulation::access::Kind;
using biqa::emulation::access::touch;

// NOLINTBEGIN(bugprone-reserved-identifier, readability-identifier-naming, bugprone-macro-parentheses)
extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void* /*caller*/) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void** /*place*/, void* /*value*/) {}
void __tsan_vptr_read(void** /*place*/) {}

#define BIQA_ACCESS(bytes)                            \
  void __tsan_read##bytes(void* address) {            \
    touch(address, bytes, Kind::read, bytes);         \
  }                                                   \
  void __tsan_write##bytes(void* address) {           \
    touch(address, bytes, Kind::write, bytes);        \
  }                                                   \
  void __tsan_unaligned_read##bytes(void* address) {  \
    touch(address, bytes, Kind::read, 1);             \
  }                                                   \
  void __tsan_unaligned_write##bytes(void* address) { \
    touch(address, bytes, Kind::write, 1);            \
  }                                                   \
  void __tsan_volatile_read##bytes(void* address) {   \
    touch(address, bytes, Kind::read, bytes);         \
  }                                                   \
  void __tsan_volatile_write##bytes(void* address) {  \
    touch(address, bytes, Kind::write, bytes);        \
  }
BIQA_ACCESS(1)
BIQA_ACCESS(2)
BIQA_ACCESS(4)
BIQA_ACCESS(8)
BIQA_ACCESS(16)
#undef BIQA_ACCESS

void __tsan_read_range(void* address, std::size_t bytes) {
  touch(address, bytes, Kind::read, 1);
}
void __tsan_write_range(void* address, std::size_t bytes) {
  touch(address, bytes, Kind::write, 1);
}

// Atomic operations, also those of host code in the same files.
#define BIQA_ATOMIC_CHANGE(bits, type, name)                                             \
  type __tsan_atomic##bits##_##name(volatile type* address, type value, int /*order*/) { \
    touch(const_cast<type*>(address), sizeof(type), Kind::atomic, sizeof(type));         \
    return __atomic_##name(address, value, __ATOMIC_SEQ_CST);                            \
  }
#define BIQA_ATOMIC_EXCHANGE(bits, type, kind, weak)                                                        \
  int __tsan_atomic##bits##_compare_exchange_##kind(volatile type* address, type* expected, type value,     \
                                                    int /*order*/, int /*failure*/) {                       \
    touch(const_cast<type*>(address), sizeof(type), Kind::atomic, sizeof(type));                            \
    return __atomic_compare_exchange_n(address, expected, value, weak, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }
#define BIQA_ATOMICS(bits, type)                                                                       \
  type __tsan_atomic##bits##_load(const volatile type* address, int /*order*/) {                       \
    return __atomic_load_n(address, __ATOMIC_SEQ_CST);                                                 \
  }                                                                                                    \
  void __tsan_atomic##bits##_store(volatile type* address, type value, int /*order*/) {                \
    touch(const_cast<type*>(address), sizeof(type), Kind::write, sizeof(type));                        \
    __atomic_store_n(address, value, __ATOMIC_SEQ_CST);                                                \
  }                                                                                                    \
  type __tsan_atomic##bits##_exchange(volatile type* address, type value, int /*order*/) {             \
    touch(const_cast<type*>(address), sizeof(type), Kind::atomic, sizeof(type));                       \
    return __atomic_exchange_n(address, value, __ATOMIC_SEQ_CST);                                      \
  }                                                                                                    \
  type __tsan_atomic##bits##_compare_exchange_val(volatile type* address, type expected, type value,   \
                                                  int /*order*/, int /*failure*/) {                    \
    touch(const_cast<type*>(address), sizeof(type), Kind::atomic, sizeof(type));                       \
    __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    return expected;                                                                                   \
  }                                                                                                    \
  BIQA_ATOMIC_EXCHANGE(bits, type, strong, false)                                                      \
  BIQA_ATOMIC_EXCHANGE(bits, type, weak, true)                                                         \
  BIQA_ATOMIC_CHANGE(bits, type, fetch_add)                                                            \
  BIQA_ATOMIC_CHANGE(bits, type, fetch_sub)                                                            \
  BIQA_ATOMIC_CHANGE(bits, type, fetch_and)                                                            \
  BIQA_ATOMIC_CHANGE(bits, type, fetch_or)                                                             \
  BIQA_ATOMIC_CHANGE(bits, type, fetch_xor)                                                            \
  BIQA_ATOMIC_CHANGE(bits, type, fetch_nand)
BIQA_ATOMICS(8, std::uint8_t)
BIQA_ATOMICS(16, std::uint16_t)
BIQA_ATOMICS(32, std::uint32_t)
BIQA_ATOMICS(64, std::uint64_t)
#undef BIQA_ATOMICS
#undef BIQA_ATOMIC_EXCHANGE
#undef BIQA_ATOMIC_CHANGE

// What -fsanitize=alignment passes besides the address.
struct AlignmentCheck {
  struct {
    const char* file;
    std::uint32_t line, column;
  } location;
  const struct {
    std::uint16_t kind, info;
    char name[1];
  } * type;
  unsigned char log_alignment, use;
};
void __ubsan_handle_type_mismatch_v1(const AlignmentCheck* check, const void* address) {
  biqa::emulation::access::misaligned(address, std::size_t{1} << check->log_alignment, check->type->name);
}

void __tsan_atomic_thread_fence(int /*order*/) {}
void __tsan_atomic_signal_fence(int /*order*/) {}
}
// NOLINTEND(bugprone-reserved-identifier, readability-identifier-naming, bugprone-macro-parentheses)

#endif
