// residual + activation(norm(x) · W + bias), for weights packed in panels of 64 outputs. Included by isa.cpp.
#pragma once

#include <cmath>

#include "kernels.h"
#include "linear_blocks.h"
#include "simd.h"

namespace llmbench::LLMBENCH_ISA {

// ---- inputs: normalise, then write as the dot products read them

inline void normalise(const LinearArgs& a, const float* x, float* y) {
  const int64_t size = a.in_features;
  if (a.norm_weight == nullptr) {
    std::memcpy(y, x, size * sizeof(float));
    return;
  }
  f32v sums{}, squares{};
  int64_t i = 0;
  float sum_rest = 0, square_rest = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const f32v v = load<f32v>(x + i);
    sums += v;
    squares = fma(v, v, squares);
  }
  for (; i < size; ++i) sum_rest += x[i], square_rest += x[i] * x[i];
  const bool is_layer_norm = a.norm_bias != nullptr;
  const float mean = is_layer_norm ? (sum(sums) + sum_rest) / size : 0.0f;
  float variance = (sum(squares) + square_rest) / size;
  if (is_layer_norm) {  // around the mean in a second pass: the difference of two large sums would lose digits
    squares = f32v{}, square_rest = 0;
    for (i = 0; i + kLanes <= size; i += kLanes) {
      const f32v v = load<f32v>(x + i) - mean;
      squares = fma(v, v, squares);
    }
    for (; i < size; ++i) square_rest += (x[i] - mean) * (x[i] - mean);
    variance = (sum(squares) + square_rest) / size;
  }
  const float factor = 1.0f / std::sqrt(variance + a.norm_eps);
  for (i = 0; i + kLanes <= size; i += kLanes) {
    f32v v = (load<f32v>(x + i) - mean) * factor * load<f32v>(a.norm_weight + i);
    if (is_layer_norm) v += load<f32v>(a.norm_bias + i);
    store(y + i, v);
  }
  for (; i < size; ++i) {
    y[i] = (x[i] - mean) * factor * a.norm_weight[i] + (is_layer_norm ? a.norm_bias[i] : 0.0f);
  }
}

// One scale per group of 64: the largest magnitude becomes 127.
inline void quantise_row(const float* x, int64_t num_groups, int8_t* codes, float* scales, int32_t* sums) {
  for (int64_t g = 0; g < num_groups; ++g, x += kGroup, codes += kGroup) {
    f32v extreme{};
    for (int i = 0; i < kGroup; i += kLanes) extreme = max(extreme, abs(load<f32v>(x + i)));
    const float magnitude = largest(extreme);
    const float inverse = magnitude > 0 ? 127.0f / magnitude : 0.0f;
    i32v total{};
    for (int i = 0; i < kGroup; i += kLanes) {
      const i32v code = round_to_int(load<f32v>(x + i) * inverse);
      total += code;
      store(codes + i, narrow_to_bytes(code));
    }
    scales[g] = magnitude / 127.0f;
    sums[g] = sum(total);
  }
}

inline void linear_inputs(const LinearArgs& a, int64_t first, int64_t last, float* scratch) {
  const int64_t width = a.num_groups * kGroup;
  std::memset(scratch + a.in_features, 0, (width - a.in_features) * sizeof(float));
  for (int64_t row = first; row < last; ++row) {
    normalise(a, a.x + row * a.in_features, scratch);
    switch (a.format) {
      case Format::kFloat32:
      case Format::kFp8:
      case Format::kInt8Only:
        std::memcpy(a.inputs + row * width * 4, scratch, width * 4);
        break;
      case Format::kBfloat16: {
        auto* to = reinterpret_cast<Bf16Input*>(a.inputs) + row * width;
        for (int64_t i = 0; i < width; i += kLanes) write_bf16_input(to + i, load<f32v>(scratch + i));
        break;
      }
      case Format::kInt8:
      case Format::kInt4:
        quantise_row(scratch, a.num_groups, reinterpret_cast<int8_t*>(a.inputs) + row * width,
                     a.input_scales + row * a.num_groups, a.input_sums + row * a.num_groups);
    }
  }
}

// ---- epilogue

inline f32v silu(f32v a) { return a / (exp(-a) + 1.0f); }

// 0.5 a (1 + tanh(√(2/π) (a + 0.044715 a³))), with tanh written as a logistic function.
inline f32v gelu_tanh(f32v a) {
  const f32v inner = a * fma(a * a, splat(0.044715f), splat(1.0f)) * 1.5957691216f;
  return a / (exp(-inner) + 1.0f);
}

// a Φ(a). erf by Abramowitz and Stegun 7.1.26: absolute error below 2e-7.
inline f32v gelu(f32v a) {
  const f32v z = abs(a) * 0.70710678f;
  const f32v t = 1.0f / fma(z, splat(0.3275911f), splat(1.0f));
  f32v p = splat(1.061405429f);
  p = fma(p, t, splat(-1.453152027f));
  p = fma(p, t, splat(1.421413741f));
  p = fma(p, t, splat(-0.284496736f));
  p = fma(p, t, splat(0.254829592f));
  const f32v erf = 1.0f - p * t * exp(-z * z);
  return 0.5f * a * (1.0f + (a < 0.0f ? -erf : erf));
}

// The tile's outputs to their place. SwiGLU panels hold 32 gates and their 32 ups, and give 32 outputs.
inline void epilogue(const LinearArgs& a, int64_t panel, int64_t row, float* tile) {
  if (a.bias != nullptr) {
    for (int i = 0; i < kPanel; i += kLanes) {
      store(tile + i, load<f32v>(tile + i) + load<f32v>(a.bias + panel * kPanel + i));
    }
  }
  int width = kPanel;
  if (a.activation == Activation::kSwiGLU) {
    width = kPanel / 2;
    for (int i = 0; i < width; i += kLanes) {
      store(tile + i, silu(load<f32v>(tile + i)) * load<f32v>(tile + width + i));
    }
  } else if (a.activation == Activation::kGelu) {
    for (int i = 0; i < width; i += kLanes) store(tile + i, gelu(load<f32v>(tile + i)));
  } else if (a.activation == Activation::kGeluTanh) {
    for (int i = 0; i < width; i += kLanes) store(tile + i, gelu_tanh(load<f32v>(tile + i)));
  }
  const int64_t column = panel * width;
  const int64_t num_outputs = a.out_features - column < width ? a.out_features - column : width;
  float* out = a.out + row * a.out_features + column;
  const float* residual = a.residual == nullptr ? nullptr : a.residual + row * a.out_features + column;
  int64_t i = 0;
  for (; i + kLanes <= num_outputs; i += kLanes) {
    const f32v value = load<f32v>(tile + i);
    store(out + i, residual == nullptr ? value : value + load<f32v>(residual + i));
  }
  for (; i < num_outputs; ++i) out[i] = tile[i] + (residual == nullptr ? 0.0f : residual[i]);
}

// ---- one panel: rows by blocks

template <Format kFormat, int R>
inline void block_rows(const LinearArgs& a, int64_t panel, int64_t row) {
  alignas(64) float tile[R][kPanel];
  const uint8_t* weights = a.packed + panel * a.num_groups * chunk_bytes(kFormat);
  constexpr int NV = kBlockVectors<R>;
  for (int column = 0; column < kPanel; column += NV * kLanes) {
    if constexpr (kFormat == Format::kFloat32) {
      float_block<R, NV>(a, weights, column, row, tile);
    } else if constexpr (kFormat == Format::kBfloat16) {
      bf16_block<R, NV>(a, weights, column, row, tile);
    } else if constexpr (kFormat == Format::kFp8 || kFormat == Format::kInt8Only) {
      byte_block<kFormat, R, NV>(a, weights, column, row, tile);
    } else {
      integer_block<kFormat, R, NV>(a, weights, column, row, tile);
    }
  }
  for (int r = 0; r < R; ++r) epilogue(a, panel, row + r, tile[r]);
}

// Blocks of R rows, then one of the rows that are left.
template <Format kFormat, int R>
inline void all_rows(const LinearArgs& a, int64_t panel, int64_t row, int64_t last) {
  for (; row + R <= last; row += R) block_rows<kFormat, R>(a, panel, row);
  if constexpr (R > 1) {
    if (row < last) all_rows<kFormat, R - 1>(a, panel, row, last);
  }
}

inline void linear_panel(const LinearArgs& a, int64_t panel, int64_t first, int64_t last) {
  switch (a.format) {
    case Format::kFloat32: return all_rows<Format::kFloat32, kBlockRows>(a, panel, first, last);
    case Format::kBfloat16: return all_rows<Format::kBfloat16, kBlockRows>(a, panel, first, last);
    case Format::kInt8: return all_rows<Format::kInt8, kBlockRows>(a, panel, first, last);
    case Format::kInt4: return all_rows<Format::kInt4, kBlockRows>(a, panel, first, last);
    case Format::kFp8: return all_rows<Format::kFp8, kBlockRows>(a, panel, first, last);
    case Format::kInt8Only: return all_rows<Format::kInt8Only, kBlockRows>(a, panel, first, last);
  }
}

}  // namespace llmbench::LLMBENCH_ISA
