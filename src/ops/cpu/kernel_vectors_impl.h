// SPDX-License-Identifier: Apache-2.0
// Vectors of 16 elements for the inner loops (kernels_impl.h). They have 16 elements on every machine, so the order of each
// sum does not depend on the hardware. With AVX-512 such a vector is one register. Elsewhere it is a struct of several
// registers, because GCC keeps a vector that is wider than a register in memory.
#pragma once

#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace biqa::cpu::BIQA_KERNEL_NAMESPACE {
namespace {

#define BIQA_INLINE inline __attribute__((always_inline))
#define BIQA_INLINE_LAMBDA __attribute__((always_inline))

constexpr std::int64_t kLanes = 16;
#if defined(__AVX512F__)
constexpr int kVectorLanes = 16;
#elif defined(__AVX2__)
constexpr int kVectorLanes = 8;
#else
constexpr int kVectorLanes = 4;
#endif

/// Vectors that are as wide as a register.
using FloatVector = float __attribute__((vector_size(kVectorLanes * 4)));
using IntVector = std::int32_t __attribute__((vector_size(kVectorLanes * 4)));
using WordVector = std::uint32_t __attribute__((vector_size(kVectorLanes * 4)));
using HalfVector = std::uint16_t __attribute__((vector_size(kVectorLanes * 2)));

template <typename V>
BIQA_INLINE V read_register(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <typename To, typename From>
BIQA_INLINE To register_as(From v) {
  static_assert(sizeof(To) == sizeof(From));
  return read_register<To>(&v);
}

/// Elements of 16 bits to 32, and back where they fit. GCC 12 would compile __builtin_convertvector to several instructions
/// here. The AVX-512 forms take a full mask, because GCC 12 warns about its own header without one.
#if defined(__AVX512F__)
constexpr __mmask16 kAllLanes = 0xffff;
#endif
BIQA_INLINE WordVector widened(HalfVector v) {
#if defined(__AVX512F__)
  return register_as<WordVector>(_mm512_maskz_cvtepu16_epi32(kAllLanes, register_as<__m256i>(v)));
#elif defined(__AVX2__)
  return register_as<WordVector>(_mm256_cvtepu16_epi32(register_as<__m128i>(v)));
#else
  return __builtin_convertvector(v, WordVector);
#endif
}
BIQA_INLINE HalfVector narrowed(WordVector v) {
#if defined(__AVX512F__)
  return register_as<HalfVector>(_mm512_maskz_cvtepi32_epi16(kAllLanes, register_as<__m512i>(v)));
#elif defined(__AVX2__)
  const auto words = register_as<__m256i>(v);
  return register_as<HalfVector>(
      _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
#else
  return __builtin_convertvector(v, HalfVector);
#endif
}

#if defined(__AVX512F__)
using Floats = FloatVector;
using Ints = IntVector;
using Words = WordVector;
using Shorts = HalfVector;

BIQA_INLINE Floats select(Ints mask, Floats yes, Floats no) {
  return mask ? yes : no;
}
BIQA_INLINE Ints to_integers(Floats v) {
  return __builtin_convertvector(v, Ints);
}
template <typename To, typename From>
BIQA_INLINE To bits_as(From v) {
  return register_as<To>(v);
}
template <typename V>
BIQA_INLINE V read(const void* p) {
  return read_register<V>(p);
}
template <typename V>
BIQA_INLINE void write(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}
#else
constexpr int kParts = static_cast<int>(kLanes) / kVectorLanes;

/// 16 elements in kParts registers, with the operators of the compiler's vectors. They are read and written part by part,
/// because a copy of the whole struct would go through memory.
template <typename V>
struct Wide {
  using Part = V;
  V parts[kParts];
};
using Floats = Wide<FloatVector>;
using Ints = Wide<IntVector>;
using Words = Wide<WordVector>;
using Shorts = Wide<HalfVector>;

/// The vector whose i-th part is part(i).
template <typename To, typename Function>
BIQA_INLINE To of_parts(Function part) {
  To to;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) to.parts[i] = part(i);
  return to;
}

#define BIQA_WIDE_OPERATOR(op)                                                                    \
  template <typename V>                                                                           \
  BIQA_INLINE Wide<V> operator op(Wide<V> a, Wide<V> b) {                                         \
    return of_parts<Wide<V>>([&](int i) BIQA_INLINE_LAMBDA { return a.parts[i] op b.parts[i]; }); \
  }                                                                                               \
  template <typename V, typename Element>                                                         \
  BIQA_INLINE Wide<V> operator op(Wide<V> a, Element b) {                                         \
    return of_parts<Wide<V>>([&](int i) BIQA_INLINE_LAMBDA { return a.parts[i] op b; });          \
  }                                                                                               \
  template <typename V, typename Other>                                                           \
  BIQA_INLINE Wide<V>& operator op##=(Wide<V>& a, Other b) {                                      \
    return a = a op b;                                                                            \
  }
BIQA_WIDE_OPERATOR(+)
BIQA_WIDE_OPERATOR(-)
BIQA_WIDE_OPERATOR(*)
BIQA_WIDE_OPERATOR(/)
BIQA_WIDE_OPERATOR(&)
BIQA_WIDE_OPERATOR(|)
BIQA_WIDE_OPERATOR(<<)
BIQA_WIDE_OPERATOR(>>)
#undef BIQA_WIDE_OPERATOR

BIQA_INLINE Floats operator+(float a, Floats b) {
  return b + a;
}
BIQA_INLINE Floats operator-(float a, Floats b) {
  return of_parts<Floats>([&](int i) BIQA_INLINE_LAMBDA { return a - b.parts[i]; });
}
BIQA_INLINE Floats operator/(float a, Floats b) {
  return of_parts<Floats>([&](int i) BIQA_INLINE_LAMBDA { return a / b.parts[i]; });
}

template <typename V>
BIQA_INLINE Wide<V> operator-(Wide<V> a) {
  return of_parts<Wide<V>>([&](int i) BIQA_INLINE_LAMBDA { return -a.parts[i]; });
}
template <typename V>
BIQA_INLINE Wide<V> operator~(Wide<V> a) {
  return of_parts<Wide<V>>([&](int i) BIQA_INLINE_LAMBDA { return ~a.parts[i]; });
}
template <typename V>
BIQA_INLINE Ints operator<(Wide<V> a, Wide<V> b) {
  return of_parts<Ints>([&](int i) BIQA_INLINE_LAMBDA { return a.parts[i] < b.parts[i]; });
}
BIQA_INLINE Ints operator<(Ints a, std::int32_t b) {
  return of_parts<Ints>([&](int i) BIQA_INLINE_LAMBDA { return a.parts[i] < b; });
}
template <typename V>
BIQA_INLINE Ints operator>(Wide<V> a, Wide<V> b) {
  return b < a;
}
BIQA_INLINE Ints operator>(Words a, std::uint32_t b) {
  return of_parts<Ints>([&](int i) BIQA_INLINE_LAMBDA { return a.parts[i] > b; });
}
BIQA_INLINE Floats select(Ints mask, Floats yes, Floats no) {
  return of_parts<Floats>([&](int i)
                              BIQA_INLINE_LAMBDA { return mask.parts[i] ? yes.parts[i] : no.parts[i]; });
}
BIQA_INLINE Ints to_integers(Floats v) {
  return of_parts<Ints>([&](int i)
                            BIQA_INLINE_LAMBDA { return __builtin_convertvector(v.parts[i], IntVector); });
}
BIQA_INLINE Words widened(Shorts v) {
  return of_parts<Words>([&](int i) BIQA_INLINE_LAMBDA { return widened(v.parts[i]); });
}
BIQA_INLINE Shorts narrowed(Words v) {
  return of_parts<Shorts>([&](int i) BIQA_INLINE_LAMBDA { return narrowed(v.parts[i]); });
}
template <typename To, typename From>
BIQA_INLINE To bits_as(From v) {
  return of_parts<To>([&](int i) BIQA_INLINE_LAMBDA { return register_as<typename To::Part>(v.parts[i]); });
}
template <typename V>
BIQA_INLINE V read(const void* p) {
  using Part = typename V::Part;
  return of_parts<V>([&](int i)
                         BIQA_INLINE_LAMBDA { return read_register<Part>(static_cast<const Part*>(p) + i); });
}
template <typename V>
BIQA_INLINE void write(void* p, Wide<V> v) {
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) __builtin_memcpy(static_cast<V*>(p) + i, &v.parts[i], sizeof(V));
}
#endif

constexpr float kLowest = -__builtin_inff();

BIQA_INLINE Floats load(const float* p) {
  return read<Floats>(p);
}
BIQA_INLINE void store(float* p, Floats v) {
  write(p, v);
}
BIQA_INLINE Floats all(float x) {
  return x - Floats{};  // x − 0 has the bits of x, so the compiler emits no subtraction
}
/// 0, 1, …, 15.
BIQA_INLINE Ints lane_numbers() {
  alignas(64) static constexpr std::int32_t kNumbers[kLanes] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                                8, 9, 10, 11, 12, 13, 14, 15};
  return read<Ints>(kNumbers);
}
/// The first `count` elements of v, and `rest` in place of the others.
BIQA_INLINE Floats first_of(Floats v, std::int64_t count, Floats rest = Floats{}) {
  return select(lane_numbers() < static_cast<std::int32_t>(count), v, rest);
}

BIQA_INLINE Floats load(const std::uint16_t* p) {
  return bits_as<Floats>(widened(read<Shorts>(p)) << 16);
}
/// The bits of v in bf16, in the lower half of each word.
BIQA_INLINE Words bf16_bits(Floats v) {
  const Words w = bits_as<Words>(v);
  const Words rounded = (w + 0x7fffU + ((w >> 16) & 1U)) >> 16;
  const Words quiet = (w >> 16) | 0x40U;
  const Words is_nan = bits_as<Words>((w & 0x7fffffffU) > 0x7f800000U);
  return (rounded & ~is_nan) | (quiet & is_nan);
}
BIQA_INLINE void store(std::uint16_t* p, Floats v) {
  write(p, narrowed(bf16_bits(v)));
}
struct TwoRows {
  Floats first, second;
};
/// 16 elements of each of two rows in bf16, stored in pairs.
BIQA_INLINE TwoRows load_pairs(const std::uint16_t* p) {
  const Words w = read<Words>(p);
  return {bits_as<Floats>(w << 16), bits_as<Floats>(w & 0xffff0000U)};
}
template <typename T>
BIQA_INLINE Floats load_part(const T* p, std::int64_t count, float rest = 0.0F) {
  T values[kLanes] = {};
  for (std::int64_t i = 0; i < count; ++i) values[i] = p[i];
  const Floats v = load(values);
  return rest == 0.0F ? v : first_of(v, count, all(rest));
}
template <typename T>
BIQA_INLINE void store_part(T* p, std::int64_t count, Floats v) {
  T values[kLanes];
  store(values, v);
  for (std::int64_t i = 0; i < count; ++i) p[i] = values[i];
}

BIQA_INLINE Floats maximum(Floats a, Floats b) {
  return select(a > b, a, b);
}
BIQA_INLINE Floats minimum(Floats a, Floats b) {
  return select(a < b, a, b);
}

BIQA_INLINE float sum_of(Floats v) {
  float values[kLanes];
  store(values, v);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) values[i] += values[i + width];
  }
  return values[0];
}
BIQA_INLINE float max_of(Floats v) {
  float values[kLanes];
  store(values, v);
  float best = values[0];
  for (int i = 1; i < kLanes; ++i) best = values[i] > best ? values[i] : best;
  return best;
}

/// exp, accurate to about one unit in the last place: 2^n · p(r), r = x − n ln 2 (Cody and Waite's split), where p is a
/// polynomial of degree 6. NaN stays NaN, because maximum and minimum return their second operand if one is NaN.
BIQA_INLINE Floats exponential(Floats x) {
  const Floats clamped = minimum(all(88.7F), maximum(all(-87.3F), x));
  const Floats magic = all(12582912.0F);  // 1.5·2^23: adding it rounds to the nearest integer
  const Floats n = (clamped * 1.4426950408889634F + magic) - magic;
  const Floats r = (clamped - n * 0.693359375F) - n * -2.12194440e-4F;
  Floats p = all(1.9875691500e-4F);
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  const Floats power = bits_as<Floats>((to_integers(n) + 127) << 23);
  return select(x < all(-87.3F), Floats{}, p * power);
}
BIQA_INLINE Floats sigmoid(Floats x) {
  return 1.0F / (1.0F + exponential(-x));
}

/// Calls body(i, count) for i = 0, kStep, …. count is kStep, or less in the last call.
template <std::int64_t kStep, typename Body>
BIQA_INLINE void in_steps(std::int64_t n, Body body) {
  std::int64_t i = 0;
  for (; i + kStep <= n; i += kStep) body(i, kStep);
  if (i < n) body(i, n - i);
}
template <typename Body>
BIQA_INLINE void by_lanes(std::int64_t n, Body body) {
  in_steps<kLanes>(n, body);
}
template <typename T>
BIQA_INLINE Floats load_some(const T* p, std::int64_t count) {
  return count == kLanes ? load(p) : load_part(p, count);
}
template <typename T>
BIQA_INLINE void store_some(T* p, std::int64_t count, Floats v) {
  if (count == kLanes)
    store(p, v);
  else
    store_part(p, count, v);
}

// The same for vectors that are as wide as a register. Sums of single columns use them: the order of such a sum does not
// depend on the width, and narrow vectors waste less at the end of a row.
BIQA_INLINE FloatVector load_vector(const float* p) {
  return read_register<FloatVector>(p);
}
BIQA_INLINE FloatVector load_vector(const std::uint16_t* p) {
  return register_as<FloatVector>(widened(read_register<HalfVector>(p)) << 16);
}
template <typename T>
BIQA_INLINE FloatVector load_some_of_vector(const T* p, std::int64_t count) {
  if (count == kVectorLanes) return load_vector(p);
  T values[kVectorLanes] = {};
  for (std::int64_t i = 0; i < count; ++i) values[i] = p[i];
  return load_vector(values);
}
BIQA_INLINE void store_vector(float* p, FloatVector v) {
  __builtin_memcpy(p, &v, sizeof v);
}
BIQA_INLINE void store_some_of_vector(float* p, std::int64_t count, FloatVector v) {
  if (count == kVectorLanes) return store_vector(p, v);
  float values[kVectorLanes];
  store_vector(values, v);
  for (std::int64_t i = 0; i < count; ++i) p[i] = values[i];
}

}  // namespace
}  // namespace biqa::cpu::BIQA_KERNEL_NAMESPACE
