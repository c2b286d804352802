// One step of attention, kKeyTile keys and values of the paged cache: where they lie, scores, weighted sums. Included by
// attention.h.
#pragma once

#include <algorithm>
#include <array>
#include <type_traits>

#include "kernels.h"
#include "simd.h"

namespace llmbench::LLMBENCH_ISA {

constexpr int kKeyVectors = kKeyTile / kLanes;

// The cache's element types: float, bf16 as its bits, int8 codes with a scale per token and head, fp8 as its bits.
using Fp8 = uint8_t;
// Elements that each token's scale takes, behind a head's codes.
template <class T>
constexpr int64_t kScaleSize = std::is_same_v<T, int8_t> ? 2 : 0;

inline f32v read_lanes(const int8_t* from) { return load_int8(from); }
inline f32v read_lanes(const Fp8* from) { return load_fp8(from); }
inline void write_lanes(Fp8* to, f32v value) { store(to, narrow_fp8(value)); }
inline f32v read_lanes(const float* from) { return load<f32v>(from); }
inline f32v read_lanes(const uint16_t* from) { return load_bf16(from); }
inline void write_lanes(float* to, f32v value) { store(to, value); }
inline void write_lanes(uint16_t* to, f32v value) { store(to, narrow_bf16(value)); }
inline uint16_t narrow_bf16(float value) {
  const uint32_t bits = load<uint32_t>(&value);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline float widen_bf16(uint16_t bits) { return load<float>(std::array<uint16_t, 2>{0, bits}.data()); }

// What int8 keys and values are to be multiplied with, one number per key; unused for other formats.
struct TileScales {
  alignas(64) float keys[kKeyTile], values[kKeyTile];
};

// Where a step's keys and values lie: component d of kLanes keys at keys[v] + d * key_stride, a value at values[j].
template <class T>
struct Tile {
  const T* keys[kKeyVectors];
  const T* values[kKeyTile];
  int64_t key_stride;
  const TileScales* scales;  // null: none
};

// The step's place in the cache, block by block: to divide each key's position would cost as much as its score.
// `visit(head, slot, j)` for each key: where its block's head begins, its slot in it, its place in the step.
template <class Visit>
inline void visit_keys(const AttentionArgs& a, const int64_t* block_table, int64_t kv_head, int64_t start, int64_t end,
                       Visit visit) {
  const int64_t B = a.block_size;
  for (int64_t position = start; position < end;) {
    const int64_t head = block_table[position / B] * a.num_kv_heads + kv_head;
    const int64_t first = position % B, last = std::min(B, first + end - position);
    for (int64_t slot = first; slot < last; ++slot, ++position) visit(head, slot, position - start);
  }
}

// Tile with keys read where they are; beyond the end any readable place: the scores are masked.
template <class T>
inline void locate_tile(const AttentionArgs& a, const int64_t* block_table, int64_t kv_head, int64_t start, int64_t end,
                        Tile<T>& tile) {
  const int64_t D = a.head_dim, B = a.block_size, head_size = B * (D + kScaleSize<T>);
  const T* keys = static_cast<const T*>(a.k_cache);
  const T* values = static_cast<const T*>(a.v_cache);
  tile.key_stride = B;
  std::fill_n(tile.keys, kKeyVectors, keys);
  std::fill_n(tile.values, kKeyTile, values);
  visit_keys(a, block_table, kv_head, start, end, [&](int64_t head, int64_t slot, int64_t j) {
    tile.values[j] = values + head * head_size + slot * D;
    if (j % kLanes == 0) tile.keys[j / kLanes] = keys + head * head_size + slot;
  });
}

// The tile with its scales. Keys are gathered into scratch [head_dim, kKeyTile] where blocks are no whole vectors.
template <class T>
inline void find_tile(const AttentionArgs& a, const int64_t* block_table, int64_t kv_head, int64_t start, int64_t end,
                      T* scratch, TileScales& scales, Tile<T>& tile) {
  const int64_t D = a.head_dim, B = a.block_size, head_size = B * (D + kScaleSize<T>);
  const T* keys = static_cast<const T*>(a.k_cache);
  const T* values = static_cast<const T*>(a.v_cache);
  locate_tile(a, block_table, kv_head, start, end, tile);
  tile.scales = kScaleSize<T> > 0 ? &scales : nullptr;
  if constexpr (kScaleSize<T> > 0) {
    scales = TileScales{};
    visit_keys(a, block_table, kv_head, start, end, [&](int64_t head, int64_t slot, int64_t j) {
      const int64_t place = head * head_size + B * D + slot * kScaleSize<T>;
      scales.keys[j] = widen_bf16(load<uint16_t>(keys + place));
      scales.values[j] = widen_bf16(load<uint16_t>(values + place));
    });
  }
  if (B % kLanes == 0) return;
  tile.key_stride = kKeyTile;
  for (int v = 0; v < kKeyVectors; ++v) tile.keys[v] = scratch + v * kLanes;
  visit_keys(a, block_table, kv_head, start, end, [&](int64_t head, int64_t slot, int64_t j) {
    for (int64_t d = 0; d < D; ++d) scratch[d * kKeyTile + j] = keys[head * head_size + slot + d * B];
  });
}

// The tile as floats in scratch, for when many rows read it.
template <class T>
inline void widen_tile(const Tile<T>& from, int64_t D, int64_t num_keys, float* keys, float* values, Tile<float>& to) {
  to.key_stride = kKeyTile, to.scales = from.scales;
  for (int v = 0; v < kKeyVectors; ++v) {
    to.keys[v] = keys + v * kLanes;
    for (int64_t d = 0; d < D; ++d) {
      store(keys + d * kKeyTile + v * kLanes, read_lanes(from.keys[v] + d * from.key_stride));
    }
  }
  for (int64_t j = 0; j < num_keys; ++j) {
    to.values[j] = values + j * D;
    for (int64_t d = 0; d < D; d += kLanes) store(values + j * D + d, read_lanes(from.values[j] + d));
  }
}

// What is read next, asked for at the place of each load: a decode waits for its keys and values, which a block table
// scatters so that no processor foresees them. Without `next` nothing is asked for.
template <class T>
inline void prefetch(const T* next) {
  __builtin_prefetch(next, 0, 2);
}

// scores [R, kKeyTile] = q [R, head_dim] · the tile's keys.
template <int R, class T>
inline void score_rows(const float* q, const Tile<T>& tile, const Tile<T>* next, int64_t D, float* scores) {
  constexpr int kStep = kKeyVectors < 4 ? kKeyVectors : 4;
  for (int v0 = 0; v0 < kKeyVectors; v0 += kStep) {
    f32v acc[R][kStep] = {};
    for (int64_t d = 0; d < D; ++d) {
      f32v k[kStep];
      for (int v = 0; v < kStep; ++v) k[v] = read_lanes(tile.keys[v0 + v] + d * tile.key_stride);
      if (next != nullptr) {
        for (int v = 0; v < kStep; ++v) prefetch(next->keys[v0 + v] + d * next->key_stride);
      }
      for (int r = 0; r < R; ++r) {
        const f32v x = splat(q[r * D + d]);
        for (int v = 0; v < kStep; ++v) acc[r][v] = fma(k[v], x, acc[r][v]);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kStep; ++v) store(scores + r * kKeyTile + (v0 + v) * kLanes, acc[r][v]);
    }
  }
}

// out [R, head_dim] = out * decay [R] + weights [R, kKeyTile] · the tile's values, V vectors of a row at a time.
template <int R, int V, class T>
inline void mix_columns(const float* weights, const Tile<T>& tile, const Tile<T>* next, int64_t num_keys, int64_t D,
                        int64_t d, const float* decay, float* out) {
  f32v acc[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) acc[r][v] = load<f32v>(out + r * D + d + v * kLanes) * decay[r];
  }
  for (int64_t j = 0; j < num_keys; ++j) {
    f32v value[V];
    for (int v = 0; v < V; ++v) value[v] = read_lanes(tile.values[j] + d + v * kLanes);
    if (next != nullptr) {
      for (int v = 0; v < V; ++v) prefetch(next->values[j] + d + v * kLanes);
    }
    for (int r = 0; r < R; ++r) {
      const f32v w = splat(weights[r * kKeyTile + j]);
      for (int v = 0; v < V; ++v) acc[r][v] = fma(value[v], w, acc[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) store(out + r * D + d + v * kLanes, acc[r][v]);
  }
}

template <int R, class T>
inline void mix_rows(const float* weights, const Tile<T>& tile, const Tile<T>* next, int64_t num_keys, int64_t D,
                     const float* decay, float* out) {
  constexpr int kStep = 4;
  int64_t d = 0;
  for (; d + kStep * kLanes <= D; d += kStep * kLanes) {
    mix_columns<R, kStep>(weights, tile, next, num_keys, D, d, decay, out);
  }
  for (; d < D; d += kLanes) mix_columns<R, 1>(weights, tile, next, num_keys, D, d, decay, out);
}

}  // namespace llmbench::LLMBENCH_ISA
