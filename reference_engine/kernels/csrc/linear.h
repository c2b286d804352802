// residual + activation(norm(x) · W + bias), for weights packed in panels of 64 outputs. Included by isa.cpp.
#pragma once

#include <cmath>

#include "kernels.h"
#include "linear_blocks.h"
#include "simd.h"
#if defined(__AMX_BF16__)
#include "linear_tiles.h"
#else
namespace llmbench::LLMBENCH_ISA {
inline bool uses_tiles(Format) { return false; }
}  // namespace llmbench::LLMBENCH_ISA
#endif

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

// The block of rows that a row is computed in; tiles want rows by themselves. Pieces of kPieceRows, which a thread takes at
// a time, are cut in blocks of nearly equal size.
struct RowBlock {
  int64_t first;
  int64_t num_rows;
};

inline RowBlock block_of_row(Format format, int64_t row, int64_t num_rows) {
  if (uses_tiles(format)) return {row, 1};
  const int64_t start = row / kPieceRows * kPieceRows, left = num_rows - start;
  const int64_t size = left < kPieceRows ? left : kPieceRows;
  const int64_t num_blocks = (size + most_rows(format) - 1) / most_rows(format);
  const int64_t short_rows = size / num_blocks, num_long = size % num_blocks, in_long = num_long * (short_rows + 1);
  const int64_t offset = row - start;
  if (offset < in_long) return {start + offset / (short_rows + 1) * (short_rows + 1), short_rows + 1};
  return {start + in_long + (offset - in_long) / short_rows * short_rows, short_rows};
}

// A row's words of four bytes to their place among those of its block: the block's first words, then its second words.
template <class Word>
inline void write_words(const RowBlock& block, int64_t row, int64_t num_words, const void* from, void* inputs) {
  Word* to = static_cast<Word*>(inputs) + block.first * num_words + (row - block.first);
  if (block.num_rows == 1) {
    std::memcpy(to, from, num_words * sizeof(Word));
    return;
  }
  const Word* words = static_cast<const Word*>(from);
  for (int64_t i = 0; i < num_words; ++i) to[i * block.num_rows] = words[i];
}

// One scale per group of 64: the largest magnitude becomes 127. Scales and sums `stride` apart; codes in place of x.
inline void quantise_row(float* x, int64_t num_groups, int64_t stride, float* scales, int32_t* sums) {
  auto* codes = reinterpret_cast<int8_t*>(x);
  for (int64_t g = 0; g < num_groups; ++g, x += kGroup, codes += kGroup, scales += stride, sums += stride) {
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
    *scales = magnitude / 127.0f;
    *sums = sum(total);
  }
}

inline void linear_inputs(const LinearArgs& a, int64_t first, int64_t last, float* scratch) {
  const int64_t width = a.num_groups * kGroup;
  std::memset(scratch + a.in_features, 0, (width - a.in_features) * sizeof(float));
  for (int64_t row = first; row < last; ++row) {
    const RowBlock block = block_of_row(a.format, row, a.num_rows);
    normalise(a, a.x + row * a.in_features, scratch);
    switch (a.format) {
      case Format::kFloat32:
      case Format::kFp8:
      case Format::kInt8Only:
      case Format::kInt4Only:
        write_words<float>(block, row, width, scratch, a.inputs);
        break;
      case Format::kBfloat16: {
        if (uses_tiles(a.format)) {
          auto* to = reinterpret_cast<uint16_t*>(a.inputs) + row * width;
          for (int64_t i = 0; i < width; i += kLanes) store(to + i, narrow_bf16(load<f32v>(scratch + i)));
          break;
        }
        auto* narrowed = reinterpret_cast<Bf16Input*>(scratch);
        for (int64_t i = 0; i < width; i += kLanes) write_bf16_input(narrowed + i, load<f32v>(scratch + i));
        write_words<Bf16Word>(block, row, width * sizeof(Bf16Input) / 4, scratch, a.inputs);
        break;
      }
      case Format::kInt8:
      case Format::kInt4: {
        const int64_t group_0 = block.first * a.num_groups + (row - block.first);
        quantise_row(scratch, a.num_groups, block.num_rows, a.input_scales + group_0, a.input_sums + group_0);
        write_words<int32_t>(block, row, width / 4, scratch, a.inputs);
      }
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
inline void block_rows(const LinearArgs& a, int64_t panel, int64_t row, const Ahead& ahead) {
  alignas(64) float tile[R][kPanel];
  const uint8_t* weights = a.packed + panel * a.num_groups * chunk_bytes(kFormat);
  constexpr int NV = kBlockVectors<R>;
  for (int column = 0; column < kPanel; column += NV * kLanes) {
    if constexpr (kFormat == Format::kFloat32) {
      float_block<R, NV>(a, weights, column, row, tile);
    } else if constexpr (kFormat == Format::kBfloat16) {
      bf16_block<R, NV>(a, weights, column, row, ahead, tile);
    } else if constexpr (kFormat == Format::kInt4Only) {
      nibble_block<R, NV>(a, weights, column, row, tile);
    } else if constexpr (kFormat == Format::kFp8 || kFormat == Format::kInt8Only) {
      byte_block<kFormat, R, NV>(a, weights, column, row, tile);
    } else {
      integer_block<kFormat, R, NV>(a, weights, column, row, ahead, tile);
    }
  }
  for (int r = 0; r < R; ++r) epilogue(a, panel, row + r, tile[r]);
}

// block_rows for a number of rows that is known when it runs.
template <Format kFormat, int R = most_rows(kFormat)>
inline void block_of(int64_t num_rows, const LinearArgs& a, int64_t panel, int64_t row, const Ahead& ahead) {
  if constexpr (R > 1) {
    if (num_rows < R) return block_of<kFormat, R - 1>(num_rows, a, panel, row, ahead);
  }
  block_rows<kFormat, R>(a, panel, row, ahead);
}

// Rows [first, last), which are a piece. Where a batch's blocks pass over a panel several times, each of the first four
// fetches its share of the next one: a single pass waits for memory anyway, and a prompt waits for the arithmetic.
template <Format kFormat>
inline void all_rows(const LinearArgs& a, int64_t panel, int64_t first, int64_t last) {
  constexpr int64_t kBatch = 32, kLinesOfStep = 4;
  const int64_t panel_bytes = a.num_groups * chunk_bytes(kFormat);
  const bool is_batch = a.num_rows > most_rows(kFormat) && a.num_rows <= kBatch;
  const int64_t num_blocks = (last - first + most_rows(kFormat) - 1) / most_rows(kFormat);
  const int64_t num_shares = num_blocks < kLinesOfStep ? num_blocks : kLinesOfStep;
  int64_t share = 0;
  for (int64_t row = first; row < last; ++share) {
    const int64_t size = block_of_row(kFormat, row, a.num_rows).num_rows;
    const int64_t line = kLinesOfStep * share / num_shares, end = kLinesOfStep * (share + 1) / num_shares;
    const bool fetches = is_batch && share < num_shares;
    block_of<kFormat>(size, a, panel, row, {panel_bytes + 64 * line, fetches ? static_cast<int>(end - line) : 0});
    row += size;
  }
}

inline void linear_panel(const LinearArgs& a, int64_t panel, int64_t first, int64_t last) {
#if defined(__AMX_BF16__)
  if (uses_tiles(a.format)) {
    alignas(64) float sums[kPieceRows + kTileRows][kPanel];
    tile_rows(a, panel, first, last, sums);
    for (int64_t row = first; row < last; ++row) epilogue(a, panel, row, sums[row - first]);
    return;
  }
#endif
  switch (a.format) {
    case Format::kFloat32: return all_rows<Format::kFloat32>(a, panel, first, last);
    case Format::kBfloat16: return all_rows<Format::kBfloat16>(a, panel, first, last);
    case Format::kInt8: return all_rows<Format::kInt8>(a, panel, first, last);
    case Format::kInt4: return all_rows<Format::kInt4>(a, panel, first, last);
    case Format::kFp8: return all_rows<Format::kFp8>(a, panel, first, last);
    case Format::kInt8Only: return all_rows<Format::kInt8Only>(a, panel, first, last);
    case Format::kInt4Only: return all_rows<Format::kInt4Only>(a, panel, first, last);
  }
}

}  // namespace llmbench::LLMBENCH_ISA
