// The products of a linear by matrix tiles (AMX): 16 rows of inputs by 64 outputs, a group of 64 inputs at a time.
// Included by linear.h where the instruction set has tiles. Tested with the instructions emulated
// (tests/data/amx_emulation.h); not yet run on a processor that has them, so its speed is unknown.
//
// The packed weights are tiles already: a group's codes are 16 lines of 64 outputs by 4 inputs, so 16 outputs of them are
// a tile whose lines are kPanel * 4 bytes apart; pairs of bf16 likewise, 32 inputs in 16 lines. Inputs lie row by row.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace llmbench::LLMBENCH_ISA {

constexpr int kTileRows = 16, kTileBytes = 64, kLineBytes = kPanel * 4;
constexpr int kTileOutputs = kTileBytes / 4, kTilesOfPanel = kPanel / kTileOutputs;

// Integers give the same sums in tiles and in vectors, so tiles are for as many rows as make them faster; bf16 rounds in
// another order, and a row's result must not depend on its batch.
constexpr int kFewestTileRows = 6;
inline bool uses_tiles(Format format, int64_t num_rows) {
  return format == Format::kBfloat16 ||
         ((format == Format::kInt8 || format == Format::kInt4) && num_rows >= kFewestTileRows);
}

// All eight tiles at their full size. The last rows of a batch are multiplied with whatever lies behind them in the
// inputs' memory, which has room for a tile more; those outputs are not read.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_of_line[16] = {};
  uint8_t num_lines[16] = {};

  TileShapes() {
    for (int i = 0; i < 8; ++i) bytes_of_line[i] = kTileBytes, num_lines[i] = kTileRows;
  }
};

// What was written to `memory` is there for the tile instructions that follow: GCC does not know that they read it.
inline void publish(const void* memory) { asm volatile("" : : "r"(memory) : "memory"); }

// Tiles 0 to 3 are the sums of 16 rows, 4 the inputs, 5 to 7 and 5 again the weights.
inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

template <typename Sum>
inline void store_sums(Sum (*out)[kPanel]) {
  _tile_stored(0, &out[0][0], kLineBytes);
  _tile_stored(1, &out[0][kTileOutputs], kLineBytes);
  _tile_stored(2, &out[0][2 * kTileOutputs], kLineBytes);
  _tile_stored(3, &out[0][3 * kTileOutputs], kLineBytes);
}

// out [kTileRows, kPanel] of one 16-row block.
inline void bf16_tiles(const uint8_t* weights, const uint8_t* inputs, int64_t width, float (*out)[kPanel]) {
  zero_sums();
  for (int64_t k = 0; k < width; k += kTileBytes / 2, weights += kTileRows * kLineBytes, inputs += kTileBytes) {
    _tile_loadd(4, inputs, width * 2);
    _tile_loadd(5, weights, kLineBytes);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, weights + kTileBytes, kLineBytes);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(7, weights + 2 * kTileBytes, kLineBytes);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(5, weights + 3 * kTileBytes, kLineBytes);
    _tile_dpbf16ps(3, 4, 5);
  }
  store_sums(out);
}

// The codes of a group, a byte each: as they lie, or unpacked into `room`, once for all rows.
template <Format kFormat>
inline const uint8_t* byte_codes(const uint8_t* chunk, uint8_t* room) {
  if constexpr (kFormat == Format::kInt8) return chunk;
  for (int line = 0; line < kTileRows / 2; ++line, chunk += kLineBytes, room += 2 * kLineBytes) {
    for (int i = 0; i < kLineBytes; i += kLanes * 4) {
      const i32v both = load<i32v>(chunk + i);
      store(room + i, both & 0x0f0f0f0f);
      store(room + kLineBytes + i, (i32v)((u32v)both >> 4) & 0x0f0f0f0f);
    }
  }
  room -= kTileRows * kLineBytes;
  publish(room);
  return room;
}

// sums [kTileRows, kPanel] += one group's products with their scales, for the rows that there are.
template <Format kFormat>
inline void group_tiles(const uint8_t* codes, const uint16_t* weight_scales, const LinearArgs& a, int64_t row,
                        int64_t num_rows, int64_t group, float (*sums)[kPanel]) {
  constexpr int kZeroPoint = kFormat == Format::kInt8 ? 128 : 8;
  alignas(64) int32_t dots[kTileRows][kPanel];
  const int64_t width = a.num_groups * kGroup;
  zero_sums();
  _tile_loadd(4, a.inputs + row * width + group * kGroup, width);
  _tile_loadd(5, codes, kLineBytes);
  _tile_dpbsud(0, 4, 5);
  _tile_loadd(6, codes + kTileBytes, kLineBytes);
  _tile_dpbsud(1, 4, 6);
  _tile_loadd(7, codes + 2 * kTileBytes, kLineBytes);
  _tile_dpbsud(2, 4, 7);
  _tile_loadd(5, codes + 3 * kTileBytes, kLineBytes);
  _tile_dpbsud(3, 4, 5);
  store_sums(dots);
  for (int64_t r = 0; r < num_rows; ++r) {
    const int64_t place = (row + r) * a.num_groups + group;
    const i32v offset = splat(kZeroPoint * a.input_sums[place]);
    const f32v scale = splat(a.input_scales[place]);
    for (int v = 0; v < kPanel; v += kLanes) {
      const f32v products = to_float(load<i32v>(&dots[r][v]) - offset);
      store(&sums[r][v], fma(products, load_bf16(weight_scales + v) * scale, load<f32v>(&sums[r][v])));
    }
  }
}

// sums [last - first, kPanel] of a piece's rows. A group's weights are loaded once for all of them.
template <Format kFormat>
inline void integer_tiles(const LinearArgs& a, const uint8_t* chunk, int64_t first, int64_t last,
                          float (*sums)[kPanel]) {
  alignas(64) uint8_t room[kTileRows * kLineBytes];
  std::memset(sums, 0, (last - first) * sizeof(*sums));
  for (int64_t group = 0; group < a.num_groups; ++group, chunk += chunk_bytes(kFormat)) {
    const uint8_t* codes = byte_codes<kFormat>(chunk, room);
    const auto* scales = reinterpret_cast<const uint16_t*>(chunk + chunk_bytes(kFormat) - kPanel * 2);
    for (int64_t row = first; row < last; row += kTileRows) {
      const int64_t num_rows = last - row < kTileRows ? last - row : kTileRows;
      group_tiles<kFormat>(codes, scales, a, row, num_rows, group, sums + (row - first));
    }
  }
}

// [kPieceRows and a tile's overhang, kPanel] before bias and activation: rows [first, last) of one panel.
inline void tile_rows(const LinearArgs& a, int64_t panel, int64_t first, int64_t last, float (*sums)[kPanel]) {
  const TileShapes shapes;
  publish(&shapes);
  _tile_loadconfig(&shapes);
  const uint8_t* weights = a.packed + panel * a.num_groups * chunk_bytes(a.format);
  const int64_t width = a.num_groups * kGroup;
  if (a.format == Format::kBfloat16) {
    for (int64_t row = first; row < last; row += kTileRows) {
      bf16_tiles(weights, a.inputs + row * width * 2, width, sums + (row - first));
    }
  } else if (a.format == Format::kInt8) {
    integer_tiles<Format::kInt8>(a, weights, first, last, sums);
  } else {
    integer_tiles<Format::kInt4>(a, weights, first, last, sums);
  }
  _tile_release();  // a thread with tiles in use has eight kilobytes more to save when it is interrupted
}

}  // namespace llmbench::LLMBENCH_ISA
