// Norm, rotation, cache write and attention over the paged cache. Included by isa.cpp.
//
// Keys lie as [head_dim, block_size] within a block, so that a vector holds one component of 16 keys: scores need no
// sum across lanes. Each query row goes through the keys in steps of kKeyTile from the first on, with the running maximum
// and sum of FlashAttention (arXiv:2205.14135), by the same operations in the same order for decode and prefill.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention_tile.h"
#include "kernels.h"
#include "simd.h"

namespace llmbench::LLMBENCH_ISA {

// ---- write: norm, rotation, scale; keys and values into the cache

// A head's query or key: root-mean-square norm if there is one, rotation if there is one, times a factor.
inline void turn_head(const AttentionArgs& a, const float* norm, int64_t position, float factor, const float* x,
                      float* y) {
  const int64_t D = a.head_dim, half = a.rotary_dim / 2;
  if (norm != nullptr) {
    f32v squares{};
    for (int64_t d = 0; d < D; d += kLanes) squares = fma(load<f32v>(x + d), load<f32v>(x + d), squares);
    const float inverse = 1.0f / std::sqrt(sum(squares) / D + a.norm_eps);
    for (int64_t d = 0; d < D; d += kLanes) store(y + d, load<f32v>(x + d) * inverse * load<f32v>(norm + d) * factor);
  } else {
    for (int64_t d = 0; d < D; d += kLanes) store(y + d, load<f32v>(x + d) * factor);
  }
  if (a.cos == nullptr) return;
  const float* cos = a.cos + position * a.rotary_dim;
  const float* sin = a.sin + position * a.rotary_dim;
  int64_t d = 0;
  for (; d + kLanes <= half; d += kLanes) {
    const f32v low = load<f32v>(y + d), high = load<f32v>(y + half + d);
    store(y + d, fma(low, load<f32v>(cos + d), high * load<f32v>(sin + d)));
    store(y + half + d, fma(high, load<f32v>(cos + half + d), low * load<f32v>(sin + half + d)));
  }
  for (; d < half; ++d) {
    const float low = y[d], high = y[half + d];
    y[d] = low * cos[d] + high * sin[d];
    y[half + d] = high * cos[half + d] + low * sin[half + d];
  }
}

// A head's numbers as the cache holds them, in `to` [head_dim]; int8 gives their scale to `scale`.
template <class T>
inline void encode_head(const float* from, int64_t D, T* to, char*) {
  for (int64_t d = 0; d < D; d += kLanes) write_lanes(to + d, load<f32v>(from + d));
}

inline void encode_head(const float* from, int64_t D, int8_t* to, char* scale) {
  f32v extreme{};
  for (int64_t d = 0; d < D; d += kLanes) extreme = max(extreme, abs(load<f32v>(from + d)));
  const uint16_t rounded = narrow_bf16(largest(extreme) / 127.0f);  // the codes are chosen for the rounded scale
  store(scale, rounded);
  const float step = widen_bf16(rounded), inverse = step > 0 ? 1.0f / step : 0.0f;
  for (int64_t d = 0; d < D; d += kLanes) {
    const f32v code = max(min(load<f32v>(from + d) * inverse, splat(127.0f)), splat(-127.0f));
    store(to + d, narrow_to_bytes(round_to_int(code)));
  }
}

template <class T>
inline void write_token(const AttentionArgs& a, const Span& span, const int64_t* table, int64_t offset) {
  const int64_t H = a.num_heads, G = a.num_kv_heads, D = a.head_dim, B = a.block_size;
  const int64_t row = span.first_row + offset, position = span.context_len - span.num_tokens + offset;
  const float* heads = a.qkv + row * (H + 2 * G) * D;
  for (int64_t h = 0; h < H; ++h) {
    turn_head(a, a.q_norm, position, a.scale, heads + h * D, a.q + (row * H + h) * D);
  }
  const int64_t block = table[position / B], slot = position % B;
  alignas(64) float key[kMaxHeadDim];
  alignas(64) T codes[kMaxHeadDim];
  const int64_t head_size = B * (D + kScaleSize<T>);
  const auto scale_at = [&](T* head) { return reinterpret_cast<char*>(head + B * D + slot * kScaleSize<T>); };
  for (int64_t g = 0; g < G; ++g) {
    turn_head(a, a.k_norm, position, 1.0f, heads + (H + g) * D, key);
    T* keys = static_cast<T*>(a.k_cache) + (block * G + g) * head_size;
    encode_head(key, D, codes, scale_at(keys));
    for (int64_t d = 0; d < D; ++d) keys[d * B + slot] = codes[d];
    T* values = static_cast<T*>(a.v_cache) + (block * G + g) * head_size;
    encode_head(heads + (H + G + g) * D, D, values + slot * D, scale_at(values));
  }
}

// `run` with a value of the cache's element type.
template <class Run>
inline void with_cache_type(const AttentionArgs& a, Run run) {
  switch (a.cache_format) {
    case CacheFormat::kFloat32: return run(float{});
    case CacheFormat::kBfloat16: return run(uint16_t{});
    case CacheFormat::kInt8: return run(int8_t{});
    case CacheFormat::kFp8: return run(Fp8{});
  }
}

inline void attention_write(const AttentionArgs& a, const Span& span, const int64_t* table, int64_t offset) {
  with_cache_type(a, [&](auto element) { write_token<decltype(element)>(a, span, table, offset); });
}

// ---- read

// Scores to weights for one row: keys outside [low, high) count nothing. Updates the running maximum and sum; returns
// what the row's earlier output is to be multiplied with.
inline float soften(float* scores, int64_t low, int64_t high, float* running_max, float* running_sum) {
  constexpr float kNothing = -std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j < low; ++j) scores[j] = kNothing;
  for (int64_t j = high; j < kKeyTile; ++j) scores[j] = kNothing;
  f32v top = splat(*running_max);
  for (int j = 0; j < kKeyTile; j += kLanes) top = max(top, load<f32v>(scores + j));
  const float maximum = largest(top);
  if (maximum == kNothing) {  // the window has not begun: nothing seen yet, all weights zero
    for (int j = 0; j < kKeyTile; j += kLanes) store(scores + j, f32v{});
    return 1.0f;
  }
  f32v total{};
  for (int j = 0; j < kKeyTile; j += kLanes) {
    const f32v score = load<f32v>(scores + j);
    const f32v weight = score == kNothing ? f32v{} : exp(score - maximum);
    total += weight;
    store(scores + j, weight);
  }
  const float decay = *running_max == kNothing ? 0.0f : *running_max == maximum ? 1.0f : exp(splat(*running_max - maximum))[0];
  *running_max = maximum;
  *running_sum = *running_sum * decay + sum(total);
  return decay;
}

// row [kKeyTile] times factors, where there are any.
inline void scale_row(float* row, const float* factors) {
  for (int j = 0; j < kKeyTile; j += kLanes) store(row + j, load<f32v>(row + j) * load<f32v>(factors + j));
}

// What the rows of one item carry from step to step; in scratch.
struct Rows {
  float *q, *out;               // [n, head_dim]
  float *maxima, *sums;         // [n]
  int64_t n, first_position, heads_per_key;

  int64_t position(int64_t row) const { return first_position + row / heads_per_key; }
};

// Rows [i, i + R) take the keys [start, start + kKeyTile) in.
template <int R, class T>
inline void take_in(const AttentionArgs& a, const Rows& rows, int64_t i, const Tile<T>& tile, const Tile<T>* next,
                    int64_t start) {
  alignas(64) float scores[R * kKeyTile];
  float decay[R];
  const auto within_tile = [](int64_t key) { return key < 0 ? 0 : key > kKeyTile ? kKeyTile : key; };
  const int64_t D = a.head_dim, num_seen = within_tile(rows.position(i + R - 1) + 1 - start);
  if (num_seen == 0) return;
  score_rows<R>(rows.q + i * D, tile, next, D, scores);
  for (int r = 0; r < R; ++r) {
    const int64_t position = rows.position(i + r);
    const int64_t low = a.window > 0 ? within_tile(position - a.window + 1 - start) : 0;
    const int64_t high = within_tile(position + 1 - start);
    float* row = scores + r * kKeyTile;
    if (tile.scales != nullptr) scale_row(row, tile.scales->keys);
    decay[r] = soften(row, low, high, rows.maxima + i + r, rows.sums + i + r);
    if (tile.scales != nullptr) scale_row(row, tile.scales->values);
  }
  mix_rows<R>(scores, tile, next, num_seen, D, decay, rows.out + i * D);
}

template <class T>
inline void take_in_all(const AttentionArgs& a, const Rows& rows, const Tile<T>& tile, const Tile<T>* next,
                        int64_t start) {
  int64_t i = 0;
  for (; i + 4 <= rows.n; i += 4, next = nullptr) take_in<4>(a, rows, i, tile, next, start);
  switch (rows.n - i) {
    case 3: return take_in<3>(a, rows, i, tile, next, start);
    case 2: return take_in<2>(a, rows, i, tile, next, start);
    case 1: return take_in<1>(a, rows, i, tile, next, start);
  }
}

template <class T>
inline void attend(const AttentionArgs& a, const Span& span, const int64_t* table, int64_t kv_head, int64_t first,
                   int64_t last, float* scratch) {
  const int64_t D = a.head_dim, M = a.num_heads / a.num_kv_heads;
  float* keys = scratch;
  float* values = keys + kKeyTile * D;
  Rows rows;
  // Row i is position i / M, head i % M: neighbours see nearly the same keys.
  rows.n = (last - first) * M, rows.heads_per_key = M;
  rows.first_position = span.context_len - span.num_tokens + first;
  rows.q = values + kKeyTile * D;
  rows.out = rows.q + rows.n * D;
  rows.maxima = rows.out + rows.n * D;
  rows.sums = rows.maxima + rows.n;
  for (int64_t i = 0; i < rows.n; ++i) {
    const int64_t row = span.first_row + first + i / M;
    std::memcpy(rows.q + i * D, a.q + (row * a.num_heads + kv_head * M + i % M) * D, D * sizeof(float));
    rows.maxima[i] = -std::numeric_limits<float>::infinity();
    rows.sums[i] = 0;
  }
  std::memset(rows.out, 0, rows.n * D * sizeof(float));
  constexpr int64_t kFewRows = 8;  // up to here widening a tile costs more than it saves
  const int64_t end = rows.position(rows.n - 1) + 1;
  const int64_t oldest = a.window > 0 && rows.first_position >= a.window ? rows.first_position - a.window + 1 : 0;
  const int64_t begin = oldest / kKeyTile * kKeyTile;
  for (int64_t start = begin; start < end; start += kKeyTile) {
    const int64_t tile_end = start + kKeyTile < end ? start + kKeyTile : end;
    Tile<T> tile;
    TileScales scales;
    find_tile(a, table, kv_head, start, tile_end, reinterpret_cast<T*>(rows.sums + rows.n), scales, tile);
    if (rows.n <= kFewRows) {
      // The head's next keys; after its last ones the next head's, which this thread mostly takes next.
      const bool is_last = tile_end == end;
      const int64_t next_start = is_last ? begin : tile_end;
      Tile<T> next;
      locate_tile(a, table, is_last ? (kv_head + 1) % a.num_kv_heads : kv_head, next_start,
                  std::min(next_start + kKeyTile, end), next);
      take_in_all(a, rows, tile, &next, start);
    } else {
      Tile<float> wide;
      widen_tile(tile, D, tile_end - start, keys, values, wide);
      take_in_all<float>(a, rows, wide, nullptr, start);
    }
  }
  for (int64_t i = 0; i < rows.n; ++i) {
    const int64_t row = span.first_row + first + i / M;
    float* to = a.out + (row * a.num_heads + kv_head * M + i % M) * D;
    const float share = 1.0f / rows.sums[i];
    for (int64_t d = 0; d < D; d += kLanes) store(to + d, load<f32v>(rows.out + i * D + d) * share);
  }
}

inline void attention_item(const AttentionArgs& a, const Span& span, const int64_t* table, int64_t kv_head,
                           int64_t first, int64_t last, float* scratch) {
  with_cache_type(a, [&](auto element) {
    attend<decltype(element)>(a, span, table, kv_head, first, last, scratch);
  });
}

}  // namespace llmbench::LLMBENCH_ISA
