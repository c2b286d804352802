// What an instruction set implements, and the plain data that goes in. No torch in here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmbench {

constexpr int kPanel = 64;  // outputs that lie together in packed weights
constexpr int kGroup = 64;  // inputs that share a scale, of the weights and of the activations

// Rows that are multiplied with a panel of weights at a time: more are cut, so that a prompt has work for all threads.
constexpr int kPieceRows = 128;

// kInt8 and kInt4 are multiplied with inputs rounded to 8 bits; kFp8 (e4m3) and the last two with float32 ones.
enum class Format : int { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2, kInt4 = 3, kFp8 = 4, kInt8Only = 5, kInt4Only = 6 };
enum class Activation : int { kNone = 0, kSwiGLU = 1, kGelu = 2, kGeluTanh = 3 };

// Bytes of kPanel outputs by kGroup inputs; a group's scales (bf16) follow its codes.
constexpr size_t chunk_bytes(Format format) {
  switch (format) {
    case Format::kFloat32: return kPanel * kGroup * 4;
    case Format::kBfloat16: return kPanel * kGroup * 2;
    case Format::kInt8:
    case Format::kFp8:
    case Format::kInt8Only: return kPanel * kGroup + kPanel * 2;
    case Format::kInt4:
    case Format::kInt4Only: return kPanel * kGroup / 2 + kPanel * 2;
  }
  return 0;
}

// out = residual + activation(norm(x) · W + bias), row by row.
struct LinearArgs {
  const float* x;  // [num_rows, in_features]
  int64_t num_rows, in_features, out_features;
  const float* norm_weight;  // null: no norm
  const float* norm_bias;    // null: root-mean-square norm, else layer norm
  float norm_eps;
  const uint8_t* packed;  // [num_panels, num_groups, chunk_bytes]; kernels/packing.py writes it
  int64_t num_panels, num_groups;
  Format format;
  const float* bias;  // [num_panels * kPanel] or null
  Activation activation;
  const float* residual;  // [num_rows, out_features] or null
  float* out;             // [num_rows, out_features]
  // The inputs as the dot products read them, written by linear_inputs and read by linear_panel: rows in blocks of
  // however many are computed together, a block's rows interleaved by words of four bytes.
  uint8_t* inputs;        // [block: words, rows in the block] of the format's input type, num_groups * kGroup in a row
  float* input_scales;    // [block: num_groups, rows in the block], integer formats only
  int32_t* input_sums;    // likewise
};

// One sequence's rows of a step.
struct Span {
  int64_t first_row, num_tokens, context_len;
};

// What the cache holds. kInt8: a block's codes of one head, then a bf16 scale per token. kFp8: e4m3 without a scale.
enum class CacheFormat : int { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2, kFp8 = 3 };

// q, k, v in one matrix; norms and rotation on the way; keys and values into the cache; attention over it.
struct AttentionArgs {
  const float* qkv;  // [T, (num_heads + 2 * num_kv_heads) * head_dim]
  void* k_cache;     // [num_blocks, num_kv_heads, head_dim, block_size]; int8: each head's scales [block_size] follow
  void* v_cache;     // [num_blocks, num_kv_heads, block_size, head_dim]; likewise
  CacheFormat cache_format;
  const Span* spans;            // [num_spans]
  const int64_t* block_tables;  // [num_spans, table_width]
  int64_t num_rows, num_spans, table_width, num_blocks, block_size;
  int64_t num_heads, num_kv_heads, head_dim;
  const float* cos;  // [num_positions, rotary_dim] or null; sin has the rotation's sign in its first half
  const float* sin;
  int64_t num_positions, rotary_dim;
  const float* q_norm;  // [head_dim] or null
  const float* k_norm;
  float norm_eps, scale;
  int64_t window;  // a token sees the last `window` tokens, itself included; 0: all
  float* q;        // [T, num_heads * head_dim]: rotated and scaled, written by attention_write
  float* out;      // [T, num_heads * head_dim]
};

// Query rows of one attention item: this many positions, times the heads that share a key head.
constexpr int kQueryTile = 32;
// Keys of one softmax step. Steps begin at multiples of it, whatever the chunk: then a row's result does not depend on
// the batch, nor on how its prompt was cut.
constexpr int kKeyTile = 64;
constexpr int kMaxHeadDim = 512;

struct KernelTable {
  const char* name;
  // Rows [first, last) to the format's input type; scratch [in_features rounded up to kGroup].
  void (*linear_inputs)(const LinearArgs&, int64_t first, int64_t last, float* scratch);
  // Rows [first, last) of one panel's outputs: kPieceRows from a multiple of that on, or those that are left.
  void (*linear_panel)(const LinearArgs&, int64_t panel, int64_t first, int64_t last);
  // Token `offset` of a span: its q into args.q, its k and v into the cache.
  void (*attention_write)(const AttentionArgs&, const Span&, const int64_t* table, int64_t offset);
  // Positions [first, last) of a span, the heads of one key head; scratch of attention_scratch floats.
  void (*attention_item)(const AttentionArgs&, const Span&, const int64_t* table, int64_t kv_head, int64_t first,
                         int64_t last, float* scratch);
  int64_t (*argmax)(const float* row, int64_t size);
};

// Floats that attention_item needs: a tile of keys twice (gathered, widened) and of values, queries and output, and each
// row's maximum and sum.
inline int64_t attention_scratch(int64_t num_rows, int64_t head_dim) {
  return 3 * kKeyTile * head_dim + num_rows * (2 * head_dim + 2);
}

}  // namespace llmbench
