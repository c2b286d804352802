// The products of a linear: R rows of inputs by NV vectors of one panel's outputs. Included by linear.h.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace llmbench::LLMBENCH_ISA {

// Rows and vectors of one block of accumulators: as many as the registers hold beside the weights and an input. Fewer rows
// take more vectors, and a single one the whole panel, whose bytes then come from memory in their order. Integers have
// two accumulators for each: the group's dots and the sum over groups.
#if defined(__AVX512F__)
constexpr int most_rows(Format format) { return format == Format::kFloat32 || format == Format::kBfloat16 ? 6 : 4; }
template <int R>
constexpr int kBlockVectors = 4;
#else
constexpr int most_rows(Format) { return 4; }
template <int R>
constexpr int kBlockVectors = R == 1 ? 8 : R == 2 ? 4 : 2;
#endif

// For the rows of a block, written out: the accumulators must be registers, whatever the compiler thinks of the length.
#define LLMBENCH_ROWS(r) _Pragma("GCC unroll 16") for (int r = 0; r < R; ++r)

// Asks for NV vectors of weights that are due some bytes later. For R rows that share them, kAhead bytes: the arithmetic
// has time for what it asks into the first-level cache, and columns of a few vectors are an order that processors do not
// foresee. A single row waits for memory, in an order that processors with AVX-512 do foresee: fetching to the
// second-level cache leaves the first one's few places for misses to the loads. Further ahead, int4 loses a third.
template <int R, int NV, int kAhead>
inline void prefetch_weights(const uint8_t* weights) {
#if defined(__AVX512F__)
  if constexpr (R == 1) {
    for (int i = 0; i < NV * kLanes * 4; i += 64) __builtin_prefetch(weights + 2048 + i, 0, 2);
    return;
  }
#endif
  for (int i = 0; i < NV * kLanes * 4; i += 64) __builtin_prefetch(weights + kAhead + i);
}

// What a pass over a panel fetches of the next one, so that memory works while the passes compute: of each step's lines
// `num_lines`, which lie `offset` further on. They go to the second-level cache: the first has no room for a panel.
struct Ahead {
  int64_t offset;
  int num_lines;
};

inline void prefetch_ahead(const uint8_t* weights, const Ahead& ahead) {
  for (int i = 0; i < ahead.num_lines; ++i) __builtin_prefetch(weights + ahead.offset + 64 * i, 0, 2);
}

template <Format kFormat>
constexpr int kZero = kFormat == Format::kInt8 ? 128 : 8;

// dots [R, NV] of one group: the integer products of weights from `weights` on and the inputs of R rows.
template <Format kFormat, int R, int NV>
inline void group_dots(const uint8_t* weights, const int32_t* inputs, const int32_t* sums, const Ahead& ahead,
                       i32v (*dots)[NV]) {
  constexpr int kZeroPoint = kZero<kFormat>;
  LLMBENCH_ROWS(r) {
    for (int v = 0; v < NV; ++v) dots[r][v] = dot_start<kZeroPoint>(sums[r]);
  }
  if constexpr (kFormat == Format::kInt8) {
#pragma GCC unroll 4
    for (int k = 0; k < kGroup; k += 4, weights += kPanel * 4, inputs += R) {
      prefetch_weights<R, NV, 2 * chunk_bytes(kFormat)>(weights);
      prefetch_ahead(weights, ahead);
      i32v w[NV];
      for (int v = 0; v < NV; ++v) w[v] = load<i32v>(weights + v * kLanes * 4);
      LLMBENCH_ROWS(r) {
        const i32v x = splat(inputs[r]);
        for (int v = 0; v < NV; ++v) dots[r][v] = dot<kZeroPoint>(dots[r][v], w[v], x);
      }
    }
  } else {
#pragma GCC unroll 2
    for (int k = 0; k < kGroup; k += 8, weights += kPanel * 4, inputs += 2 * R) {
      prefetch_weights<R, NV, 2 * chunk_bytes(kFormat)>(weights);
      prefetch_ahead(weights, ahead);
      i32v low[NV], high[NV];
      for (int v = 0; v < NV; ++v) {
        const i32v both = load<i32v>(weights + v * kLanes * 4);
        low[v] = both & 0x0f0f0f0f;
        high[v] = (i32v)((u32v)both >> 4) & 0x0f0f0f0f;
      }
      LLMBENCH_ROWS(r) {
        const i32v x = splat(inputs[r]);
        for (int v = 0; v < NV; ++v) dots[r][v] = dot<kZeroPoint>(dots[r][v], low[v], x);
      }
      LLMBENCH_ROWS(r) {
        const i32v x = splat(inputs[R + r]);
        for (int v = 0; v < NV; ++v) dots[r][v] = dot<kZeroPoint>(dots[r][v], high[v], x);
      }
    }
  }
}

#if defined(__AVX2__) && !defined(__AVX512VNNI__)
// The sum is formed here: GCC would gather the terms of several steps first, and spill them.
inline void add_pairs(i32v& sums, i32v codes, i32v inputs) {
  sums = (i32v)_mm256_add_epi16((__m256i)sums, _mm256_maddubs_epi16((__m256i)codes, (__m256i)inputs));
  asm("" : "+x"(sums));
}

// Products of codes below 16 with inputs of at most 127 are summed in 16 bits as far as they fit: sixteen of them are at
// most 30480. The codes stay as they are stored, 8 too large; the inputs' sum makes up for it.
template <int R, int NV>
inline void group_dots_of_nibbles(const uint8_t* weights, const int32_t* inputs, const int32_t* sums,
                                  i32v (*dots)[NV]) {
  constexpr int kFit = 32;  // inputs: eight pairs for each 16-bit sum
  constexpr int kAtOnce = NV < 2 ? NV : 2;
  LLMBENCH_ROWS(r) {
    for (int v = 0; v < NV; ++v) dots[r][v] = splat(-kZero<Format::kInt4> * sums[r]);
  }
  for (int k = 0; k < kGroup; k += kFit) {
    i32v pairs[R][NV] = {};
#pragma GCC unroll 1
    for (int i = k; i < k + kFit; i += 8, weights += kPanel * 4, inputs += 2 * R) {
      prefetch_weights<R, NV, 2 * chunk_bytes(Format::kInt4)>(weights);
      for (int first = 0; first < NV; first += kAtOnce) {
        i32v low[kAtOnce], high[kAtOnce];
        for (int v = 0; v < kAtOnce; ++v) {
          const i32v both = load<i32v>(weights + (first + v) * kLanes * 4);
          low[v] = both & 0x0f0f0f0f;
          high[v] = (i32v)((u32v)both >> 4) & 0x0f0f0f0f;
        }
        LLMBENCH_ROWS(r) {
          const i32v x_low = splat(inputs[r]), x_high = splat(inputs[R + r]);
          for (int v = 0; v < kAtOnce; ++v) {
            add_pairs(pairs[r][first + v], low[v], x_low);
            add_pairs(pairs[r][first + v], high[v], x_high);
          }
        }
      }
    }
    LLMBENCH_ROWS(r) {
      for (int v = 0; v < NV; ++v) {
        dots[r][v] += (i32v)_mm256_madd_epi16((__m256i)pairs[r][v], _mm256_set1_epi16(1));
      }
    }
  }
}
#endif

template <Format kFormat, int R, int NV>
inline void integer_block(const LinearArgs& a, const uint8_t* chunk, int column, int64_t row, const Ahead& ahead,
                          float (*tile)[kPanel]) {
  const auto* inputs = reinterpret_cast<const int32_t*>(a.inputs) + row * a.num_groups * (kGroup / 4);
  const float* input_scales = a.input_scales + row * a.num_groups;
  const int32_t* input_sums = a.input_sums + row * a.num_groups;
  f32v acc[R][NV] = {};
  for (int64_t g = 0; g < a.num_groups; ++g, chunk += chunk_bytes(kFormat)) {
    i32v dots[R][NV];
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
    if constexpr (kFormat == Format::kInt4) {
      group_dots_of_nibbles<R, NV>(chunk + column * 4, inputs, input_sums, dots);
    } else {
      group_dots<kFormat, R, NV>(chunk + column * 4, inputs, input_sums, ahead, dots);
    }
#else
    group_dots<kFormat, R, NV>(chunk + column * 4, inputs, input_sums, ahead, dots);
#endif
    const auto* scales = reinterpret_cast<const uint16_t*>(chunk + chunk_bytes(kFormat) - kPanel * 2) + column;
    f32v weight_scales[NV];
    for (int v = 0; v < NV; ++v) weight_scales[v] = load_bf16(scales + v * kLanes);
    LLMBENCH_ROWS(r) {
      const f32v scale = splat(input_scales[r]);
      for (int v = 0; v < NV; ++v) acc[r][v] = fma(to_float(dots[r][v]), weight_scales[v] * scale, acc[r][v]);
    }
    inputs += R * kGroup / 4, input_scales += R, input_sums += R;
  }
  LLMBENCH_ROWS(r) {
    for (int v = 0; v < NV; ++v) store(&tile[r][column + v * kLanes], acc[r][v]);
  }
}

// Inputs of bf16 weights: pairs of bf16 where the processor multiplies those, float32 elsewhere, where unpacking them
// anew for every panel would cost as much as the products.
#if defined(__AVX512BF16__)
using Bf16Input = uint16_t;
using Bf16Word = int32_t;  // two of them
inline void write_bf16_input(uint16_t* to, f32v values) { store(to, narrow_bf16(values)); }
#else
using Bf16Input = float;
using Bf16Word = float;
inline void write_bf16_input(float* to, f32v values) { store(to, values); }
#endif

template <int R, int NV>
inline void bf16_block(const LinearArgs& a, const uint8_t* panel, int column, int64_t row, const Ahead& ahead,
                       float (*tile)[kPanel]) {
  const int64_t width = a.num_groups * kGroup;
  const auto* inputs = reinterpret_cast<const Bf16Word*>(a.inputs) + row * (width * sizeof(Bf16Input) / 4);
  const uint8_t* weights = panel + column * 4;
  f32v acc[R][NV] = {};
  for (int64_t k = 0; k < width; k += 2, weights += kPanel * 4) {
    prefetch_weights<R, NV, chunk_bytes(Format::kBfloat16)>(weights);
    prefetch_ahead(weights, ahead);
#if defined(__AVX512BF16__)
    i32v w[NV];
    for (int v = 0; v < NV; ++v) w[v] = load<i32v>(weights + v * kLanes * 4);
    LLMBENCH_ROWS(r) {
      const i32v x = splat(inputs[r]);
      for (int v = 0; v < NV; ++v) acc[r][v] = dot_bf16(acc[r][v], w[v], x);
    }
    inputs += R;
#else
    // Two vectors at a time: more unpacked weights than that do not fit the registers, and fewer load inputs twice.
    constexpr int kAtOnce = NV < 2 ? NV : 2;
    for (int first = 0; first < NV; first += kAtOnce) {
      f32v low[kAtOnce], high[kAtOnce];
      for (int v = 0; v < kAtOnce; ++v) {
        const u32v both = load<u32v>(weights + (first + v) * kLanes * 4);
        low[v] = (f32v)(both << 16);
        high[v] = (f32v)(both & 0xffff0000u);
      }
      LLMBENCH_ROWS(r) {
        const f32v x_low = splat(inputs[r]), x_high = splat(inputs[R + r]);
        for (int v = 0; v < kAtOnce; ++v) acc[r][first + v] = fma(low[v], x_low, acc[r][first + v]);
        for (int v = 0; v < kAtOnce; ++v) acc[r][first + v] = fma(high[v], x_high, acc[r][first + v]);
      }
    }
    inputs += 2 * R;
#endif
  }
  LLMBENCH_ROWS(r) {
    for (int v = 0; v < NV; ++v) store(&tile[r][column + v * kLanes], acc[r][v]);
  }
}

template <int R, int NV>
inline void float_block(const LinearArgs& a, const uint8_t* panel, int column, int64_t row, float (*tile)[kPanel]) {
  const int64_t width = a.num_groups * kGroup;
  const auto* inputs = reinterpret_cast<const float*>(a.inputs) + row * width;
  const auto* weights = reinterpret_cast<const float*>(panel) + column;
  f32v acc[R][NV] = {};
  for (int64_t k = 0; k < width; ++k, weights += kPanel, inputs += R) {
    f32v w[NV];
    for (int v = 0; v < NV; ++v) w[v] = load<f32v>(weights + v * kLanes);
    LLMBENCH_ROWS(r) {
      const f32v x = splat(inputs[r]);
      for (int v = 0; v < NV; ++v) acc[r][v] = fma(w[v], x, acc[r][v]);
    }
  }
  LLMBENCH_ROWS(r) {
    for (int v = 0; v < NV; ++v) store(&tile[r][column + v * kLanes], acc[r][v]);
  }
}

// Codes of one byte, widened to float32: the inputs are not rounded.
template <Format kFormat, int R, int NV>
inline void byte_block(const LinearArgs& a, const uint8_t* chunk, int column, int64_t row, float (*tile)[kPanel]) {
  const int64_t width = a.num_groups * kGroup;
  const auto* inputs = reinterpret_cast<const float*>(a.inputs) + row * width;
  f32v acc[R][NV] = {};
  for (int64_t g = 0; g < a.num_groups; ++g, chunk += chunk_bytes(kFormat)) {
    f32v part[R][NV] = {};
    const uint8_t* weights = chunk + column;
    for (int k = 0; k < kGroup; ++k, weights += kPanel, inputs += R) {
      f32v w[NV];
      for (int v = 0; v < NV; ++v) {
        const uint8_t* codes = weights + v * kLanes;
        w[v] = kFormat == Format::kFp8 ? load_fp8(codes) : load_int8(reinterpret_cast<const int8_t*>(codes));
      }
      LLMBENCH_ROWS(r) {
        const f32v x = splat(inputs[r]);
        for (int v = 0; v < NV; ++v) part[r][v] = fma(w[v], x, part[r][v]);
      }
    }
    const auto* scales = reinterpret_cast<const uint16_t*>(chunk + kPanel * kGroup) + column;
    for (int v = 0; v < NV; ++v) {
      const f32v scale = load_bf16(scales + v * kLanes);
      LLMBENCH_ROWS(r) acc[r][v] = fma(part[r][v], scale, acc[r][v]);
    }
  }
  LLMBENCH_ROWS(r) {
    for (int v = 0; v < NV; ++v) store(&tile[r][column + v * kLanes], acc[r][v]);
  }
}

// Codes of half a byte, widened to float32: a byte holds those of two inputs, the first in its low bits, 8 too large.
template <int R, int NV>
inline void nibble_block(const LinearArgs& a, const uint8_t* chunk, int column, int64_t row, float (*tile)[kPanel]) {
  const int64_t width = a.num_groups * kGroup;
  const auto* inputs = reinterpret_cast<const float*>(a.inputs) + row * width;
  f32v acc[R][NV] = {};
  for (int64_t g = 0; g < a.num_groups; ++g, chunk += chunk_bytes(Format::kInt4Only)) {
    f32v part[R][NV] = {};
    const uint8_t* weights = chunk + column;
    for (int k = 0; k < kGroup; k += 2, weights += kPanel, inputs += 2 * R) {
      for (int v = 0; v < NV; ++v) {
        const i32v both = (i32v)widen_bytes(weights + v * kLanes);
        const f32v low = to_float((both & 15) - 8), high = to_float((both >> 4) - 8);
        LLMBENCH_ROWS(r) part[r][v] = fma(high, splat(inputs[R + r]), fma(low, splat(inputs[r]), part[r][v]));
      }
    }
    const auto* scales = reinterpret_cast<const uint16_t*>(chunk + kPanel * kGroup / 2) + column;
    for (int v = 0; v < NV; ++v) {
      const f32v scale = load_bf16(scales + v * kLanes);
      LLMBENCH_ROWS(r) acc[r][v] = fma(part[r][v], scale, acc[r][v]);
    }
  }
  LLMBENCH_ROWS(r) {
    for (int v = 0; v < NV; ++v) store(&tile[r][column + v * kLanes], acc[r][v]);
  }
}

}  // namespace llmbench::LLMBENCH_ISA
