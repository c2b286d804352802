// Vectors as wide as the instruction set has them. Included by isa.cpp, once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace llmbench::LLMBENCH_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

using f32v = float __attribute__((vector_size(kLanes * 4)));
using i32v = int32_t __attribute__((vector_size(kLanes * 4)));
using u32v = uint32_t __attribute__((vector_size(kLanes * 4)));
using u16h = uint16_t __attribute__((vector_size(kLanes * 2)));
using i8q = int8_t __attribute__((vector_size(kLanes)));

template <class V>
inline V load(const void* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <class V>
inline void store(void* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

inline f32v splat(float value) { return value - f32v{}; }
inline i32v splat(int32_t value) { return value - i32v{}; }

// a * b + c, rounded once where the hardware can.
inline f32v fma(f32v a, f32v b, f32v c) {
#if defined(__AVX512F__)
  return (f32v)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (f32v)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

inline f32v max(f32v a, f32v b) { return a > b ? a : b; }
inline f32v min(f32v a, f32v b) { return a < b ? a : b; }
inline f32v abs(f32v a) { return (f32v)((u32v)a & 0x7fffffffu); }
inline f32v to_float(i32v a) { return __builtin_convertvector(a, f32v); }

// The conversions between element widths are spelled out: GCC 12 splits __builtin_convertvector into halves.
inline u32v widen(u16h a) {
#if defined(__AVX512F__)
  return (u32v)_mm512_cvtepu16_epi32((__m256i)a);
#elif defined(__AVX2__)
  return (u32v)_mm256_cvtepu16_epi32((__m128i)a);
#else
  return __builtin_convertvector(a, u32v);
#endif
}

inline u16h narrow(u32v a) {
#if defined(__AVX512F__)
  return (u16h)_mm512_cvtepi32_epi16((__m512i)a);
#else
  return __builtin_convertvector(a, u16h);
#endif
}

inline i8q narrow_to_bytes(i32v a) {
#if defined(__AVX512F__)
  return (i8q)_mm512_cvtepi32_epi8((__m512i)a);
#else
  return __builtin_convertvector(a, i8q);
#endif
}

inline f32v widen_bf16(u16h a) { return (f32v)(widen(a) << 16); }
inline f32v load_bf16(const uint16_t* from) { return widen_bf16(load<u16h>(from)); }

// Round to nearest, ties to even; nan stays nan only for the payloads that survive the carry, which ours do.
inline u16h narrow_bf16(f32v a) {
  const u32v bits = (u32v)a;
  return narrow((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The nearest integer, ties to even, for |a| < 2^22.
inline i32v round_to_int(f32v a) {
  const f32v magic = splat(12582912.0f);  // 1.5 * 2^23: adding it leaves no bits for a fraction
  return (i32v)(a + magic) - (i32v)magic;
}

inline float sum(f32v a) {
  float lanes[kLanes], total = 0;
  store(lanes, a);
  for (float lane : lanes) total += lane;
  return total;
}

inline int32_t sum(i32v a) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)a);
#else
  int32_t lanes[kLanes], total = 0;
  store(lanes, a);
  for (int32_t lane : lanes) total += lane;
  return total;
#endif
}

inline float largest(f32v a) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)a);
#else
  float lanes[kLanes];
  store(lanes, a);
  float best = lanes[0];
  for (float lane : lanes) best = lane > best ? lane : best;
  return best;
#endif
}

// e^a within 2 units in the last place on [-87, 88], clamped outside. 2^n · e^r with |r| <= ln(2) / 2, Cephes' polynomial.
inline f32v exp(f32v a) {
  a = max(min(a, splat(88.0f)), splat(-87.0f));
  const i32v n = round_to_int(a * 1.44269504f);
  const f32v turns = to_float(n);
  f32v r = fma(turns, splat(-0.693359375f), a);
  r = fma(turns, splat(2.12194440e-4f), r);
  f32v p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r + 1.0f);
  return (f32v)((i32v)p + (n << 23));
}

inline u32v widen_bytes(const uint8_t* from) {
#if defined(__AVX512F__)
  return (u32v)_mm512_cvtepu8_epi32((__m128i)load<i8q>(from));
#elif defined(__AVX2__)
  return (u32v)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#else
  u32v lanes{};
  for (int i = 0; i < kLanes; ++i) lanes[i] = from[i];
  return lanes;
#endif
}

inline f32v load_int8(const int8_t* from) {
  const u32v bytes = widen_bytes(reinterpret_cast<const uint8_t*>(from));
  return to_float((i32v)(bytes << 24) >> 24);
}

// 8-bit floats of 4 exponent bits (bias 7) and 3 of fraction, without infinities (arXiv:2209.05433). Exponent 0 stands
// for m/8 · 2^-6: read as if it had an implicit one, 2^-7 (1 + m/8) = y, it is 2 y - 2^-6. No denormal float is made.
inline f32v load_fp8(const uint8_t* from) {
  const u32v code = widen_bytes(from);
  const u32v magnitude = code & 0x7fu;
  const f32v y = (f32v)((magnitude << 20) + (120u << 23));
  const f32v value = magnitude < 8u ? y + y - 0.015625f : y;
  return (f32v)((u32v)value | ((code & 0x80u) << 24));
}

// The nearest code, ties to even; beyond ±448 the largest.
inline i8q narrow_fp8(f32v a) {
  const f32v magnitude = min(abs(a), splat(448.0f));
  const u32v bits = (u32v)magnitude;
  const i32v normal = (i32v)((bits + 0x7ffffu + ((bits >> 20) & 1u)) >> 20) - (120 << 3);
  const i32v tiny = round_to_int(magnitude * 512.0f);
  const i32v code = magnitude < 0.015625f ? tiny : normal;
  return narrow_to_bytes(code | (i32v)(((u32v)a >> 24) & 0x80u));
}

// Products of unsigned weight bytes with signed input bytes, four per lane. The weights are stored with an offset
// (zero + w), and `dot_start` is what makes up for it: the accumulator of a group begins with it.
#if defined(__AVX512VNNI__)
template <int kZero>
inline i32v dot_start(int32_t input_sum) { return splat(-kZero * input_sum); }

template <int kZero>
inline i32v dot(i32v acc, i32v weights, i32v inputs) {
  return (i32v)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)weights, (__m512i)inputs);
}
#elif defined(__AVX2__)
template <int kZero>
inline i32v dot_start(int32_t) { return i32v{}; }

// maddubs saturates at 16 bits, so its unsigned side must be below 2^7: |w| with the sign of w moved to the inputs.
template <int kZero>
inline i32v dot(i32v acc, i32v weights, i32v inputs) {
  const __m256i w = _mm256_sub_epi8((__m256i)weights, _mm256_set1_epi8(static_cast<char>(kZero)));
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8((__m256i)inputs, w));
  return acc + (i32v)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#else
template <int kZero>
inline i32v dot_start(int32_t) { return i32v{}; }

template <int kZero>
inline i32v dot(i32v acc, i32v weights, i32v inputs) {
  for (int byte = 0; byte < 4; ++byte) {
    const i32v w = (i32v)(((u32v)weights >> (8 * byte)) & 0xffu) - kZero;
    const i32v x = (i32v)((u32v)inputs << (24 - 8 * byte)) >> 24;
    acc += w * x;
  }
  return acc;
}
#endif

#if defined(__AVX512BF16__)
// acc + the two bf16 products of each lane.
inline f32v dot_bf16(f32v acc, i32v weights, i32v inputs) {
  return (f32v)_mm512_dpbf16_ps((__m512)acc, (__m512bh)weights, (__m512bh)inputs);
}
#endif

}  // namespace llmbench::LLMBENCH_ISA
