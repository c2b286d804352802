// Norm, rotation, cache write and attention over the paged cache. Included by isa.cpp.
//
// Keys lie as [head_dim, block_size] within a block, so that a vector holds one component of 16 keys: scores need no
// sum across lanes. Each query row goes through the keys in steps of kKeyTile from the first on, with the running maximum
// and sum of FlashAttention (arXiv:2205.14135), by the same operations in the same order for decode and prefill.
#pragma once

#include <cmath>
#include <limits>

#include "kernels.h"
#include "simd.h"

namespace llmbench::LLMBENCH_ISA {

constexpr int kKeyVectors = kKeyTile / kLanes;

inline float read_cache(const AttentionArgs& a, const void* cache, int64_t index) {
  if (!a.cache_is_bf16) return static_cast<const float*>(cache)[index];
  const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(cache)[index]) << 16;
  return load<float>(&bits);
}

inline void write_cache(const AttentionArgs& a, void* cache, int64_t index, float value) {
  if (!a.cache_is_bf16) {
    static_cast<float*>(cache)[index] = value;
    return;
  }
  const uint32_t bits = load<uint32_t>(&value);
  static_cast<uint16_t*>(cache)[index] = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// A head's query or key: root-mean-square norm if there is one, then rotation.
inline void turn_head(const AttentionArgs& a, const float* norm, int64_t position, const float* x, float* y) {
  const int64_t D = a.head_dim;
  float factor = 1.0f;
  if (norm != nullptr) {
    float squares = 0;
    for (int64_t d = 0; d < D; ++d) squares += x[d] * x[d];
    factor = 1.0f / std::sqrt(squares / D + a.norm_eps);
  }
  for (int64_t d = 0; d < D; ++d) y[d] = norm == nullptr ? x[d] : x[d] * factor * norm[d];
  if (a.cos == nullptr) return;
  const float* cos = a.cos + position * a.rotary_dim;
  const float* sin = a.sin + position * a.rotary_dim;
  const int64_t half = a.rotary_dim / 2;
  for (int64_t d = 0; d < half; ++d) {
    const float low = y[d], high = y[d + half];
    y[d] = low * cos[d] + high * sin[d];
    y[d + half] = high * cos[d + half] + low * sin[d + half];
  }
}

inline void attention_write(const AttentionArgs& a, const Span& span, const int64_t* table, int64_t offset) {
  const int64_t H = a.num_heads, G = a.num_kv_heads, D = a.head_dim, B = a.block_size;
  const int64_t row = span.first_row + offset, position = span.context_len - span.num_tokens + offset;
  const float* heads = a.qkv + row * (H + 2 * G) * D;
  float* q = a.q + row * H * D;
  for (int64_t h = 0; h < H; ++h) {
    turn_head(a, a.q_norm, position, heads + h * D, q + h * D);
    for (int64_t d = 0; d < D; ++d) q[h * D + d] *= a.scale;
  }
  const int64_t block = table[position / B], slot = position % B;
  float key[512];
  for (int64_t g = 0; g < G; ++g) {
    turn_head(a, a.k_norm, position, heads + (H + g) * D, key);
    const float* value = heads + (H + G + g) * D;
    const int64_t k_base = (block * G + g) * D * B + slot, v_base = ((block * G + g) * B + slot) * D;
    for (int64_t d = 0; d < D; ++d) {
      write_cache(a, a.k_cache, k_base + d * B, key[d]);
      write_cache(a, a.v_cache, v_base + d, value[d]);
    }
  }
}

// One step's keys [head_dim, kKeyTile] and values [kKeyTile, head_dim] as floats; keys from `end` on are left out.
inline void read_tile(const AttentionArgs& a, const int64_t* table, int64_t kv_head, int64_t start, int64_t end,
                      float* keys, float* values) {
  const int64_t G = a.num_kv_heads, D = a.head_dim, B = a.block_size;
  const bool whole_vectors = B % kLanes == 0;
  for (int64_t j = 0; j < kKeyTile;) {
    const int64_t position = start + j;
    if (position >= end) break;
    const int64_t block = table[position / B], slot = position % B;
    const int64_t run = whole_vectors ? kLanes : 1;
    const int64_t k_base = (block * G + kv_head) * D * B + slot, v_base = ((block * G + kv_head) * B + slot) * D;
    if (!whole_vectors) {
      for (int64_t d = 0; d < D; ++d) keys[d * kKeyTile + j] = read_cache(a, a.k_cache, k_base + d * B);
    } else if (a.cache_is_bf16) {
      const auto* from = static_cast<const uint16_t*>(a.k_cache) + k_base;
      for (int64_t d = 0; d < D; ++d) store(keys + d * kKeyTile + j, load_bf16(from + d * B));
    } else {
      const auto* from = static_cast<const float*>(a.k_cache) + k_base;
      for (int64_t d = 0; d < D; ++d) store(keys + d * kKeyTile + j, load<f32v>(from + d * B));
    }
    const int64_t num_values = (run < end - position ? run : end - position) * D;
    float* to = values + j * D;
    if (a.cache_is_bf16) {
      const auto* from = static_cast<const uint16_t*>(a.v_cache) + v_base;
      for (int64_t i = 0; i < num_values; i += kLanes) store(to + i, load_bf16(from + i));
    } else {
      std::memcpy(to, static_cast<const float*>(a.v_cache) + v_base, num_values * sizeof(float));
    }
    j += run;
  }
}

// scores [R, kKeyTile] = q [R, head_dim] · keys [head_dim, kKeyTile].
template <int R>
inline void score_rows(const float* q, const float* keys, int64_t D, float* scores) {
  constexpr int kStep = kKeyVectors < 4 ? kKeyVectors : 4;
  for (int v0 = 0; v0 < kKeyVectors; v0 += kStep) {
    f32v acc[R][kStep] = {};
    for (int64_t d = 0; d < D; ++d) {
      f32v k[kStep];
      for (int v = 0; v < kStep; ++v) k[v] = load<f32v>(keys + d * kKeyTile + (v0 + v) * kLanes);
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

// out [R, head_dim] = out * decay [R] + weights [R, kKeyTile] · values [num_keys, head_dim].
template <int R>
inline void mix_rows(const float* weights, const float* values, int64_t num_keys, int64_t D, const float* decay,
                     float* out) {
  constexpr int kStep = 4;
  int64_t d = 0;
  for (; d + kStep * kLanes <= D; d += kStep * kLanes) {
    f32v acc[R][kStep];
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kStep; ++v) acc[r][v] = load<f32v>(out + r * D + d + v * kLanes) * decay[r];
    }
    for (int64_t j = 0; j < num_keys; ++j) {
      f32v value[kStep];
      for (int v = 0; v < kStep; ++v) value[v] = load<f32v>(values + j * D + d + v * kLanes);
      for (int r = 0; r < R; ++r) {
        const f32v w = splat(weights[r * kKeyTile + j]);
        for (int v = 0; v < kStep; ++v) acc[r][v] = fma(value[v], w, acc[r][v]);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kStep; ++v) store(out + r * D + d + v * kLanes, acc[r][v]);
    }
  }
  for (; d < D; d += kLanes) {
    f32v acc[R];
    for (int r = 0; r < R; ++r) acc[r] = load<f32v>(out + r * D + d) * decay[r];
    for (int64_t j = 0; j < num_keys; ++j) {
      const f32v value = load<f32v>(values + j * D + d);
      for (int r = 0; r < R; ++r) acc[r] = fma(value, splat(weights[r * kKeyTile + j]), acc[r]);
    }
    for (int r = 0; r < R; ++r) store(out + r * D + d, acc[r]);
  }
}

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

inline void attention_item(const AttentionArgs& a, const Span& span, const int64_t* table, int64_t kv_head,
                           int64_t first, int64_t last, float* scratch) {
  constexpr int R = 4;
  const int64_t D = a.head_dim, M = a.num_heads / a.num_kv_heads;
  const int64_t num_rows = (last - first) * M;
  const int64_t first_position = span.context_len - span.num_tokens + first;
  // Row i is position i / M, head i % M: neighbours see nearly the same keys.
  float* keys = scratch;
  float* values = keys + kKeyTile * D;
  float* q = values + kKeyTile * D;
  float* out = q + num_rows * D;
  float* scores = out + num_rows * D;
  float* maxima = scores + num_rows * kKeyTile;
  float* sums = maxima + num_rows;
  float* decay = sums + num_rows;
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t row = span.first_row + first + i / M;
    std::memcpy(q + i * D, a.q + (row * a.num_heads + kv_head * M + i % M) * D, D * sizeof(float));
    maxima[i] = -std::numeric_limits<float>::infinity();
    sums[i] = 0;
  }
  std::memset(out, 0, num_rows * D * sizeof(float));
  const int64_t last_position = first_position + (last - first) - 1;
  const int64_t oldest = a.window > 0 && first_position >= a.window ? first_position - a.window + 1 : 0;
  for (int64_t start = oldest / kKeyTile * kKeyTile; start <= last_position; start += kKeyTile) {
    const int64_t end = start + kKeyTile < last_position + 1 ? start + kKeyTile : last_position + 1;
    read_tile(a, table, kv_head, start, end, keys, values);
    int64_t i = 0;
    const auto step = [&]<int kRows>() {
      score_rows<kRows>(q + i * D, keys, D, scores);
      int64_t most = 0;
      for (int r = 0; r < kRows; ++r) {
        const int64_t position = first_position + (i + r) / M;
        const int64_t since = a.window > 0 ? position - a.window + 1 - start : 0;
        const int64_t low = since < 0 ? 0 : since > kKeyTile ? kKeyTile : since;
        const int64_t seen = position + 1 - start;
        const int64_t high = seen < 0 ? 0 : seen > kKeyTile ? kKeyTile : seen;
        decay[r] = soften(scores + r * kKeyTile, low, high, maxima + i + r, sums + i + r);
        most = high > most ? high : most;
      }
      if (most > 0) mix_rows<kRows>(scores, values, most, D, decay, out + i * D);
    };
    for (; i + R <= num_rows; i += R) step.template operator()<R>();
    for (; i < num_rows; ++i) step.template operator()<1>();
  }
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t row = span.first_row + first + i / M;
    float* to = a.out + (row * a.num_heads + kv_head * M + i % M) * D;
    const float share = 1.0f / sums[i];
    for (int64_t d = 0; d < D; d += kLanes) store(to + d, load<f32v>(out + i * D + d) * share);
  }
}

}  // namespace llmbench::LLMBENCH_ISA
