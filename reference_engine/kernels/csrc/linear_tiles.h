// The products of a linear in bf16 by matrix tiles (AMX): 16 rows of inputs by 64 outputs, 32 inputs at a time. Included
// by linear.h where the instruction set has tiles; tested also with the instructions emulated (tests/data/amx_emulation.h).
//
// The packed weights are tiles already: 32 inputs of 64 outputs are 16 lines of pairs, so 16 outputs of them are a tile
// whose lines are kPanel * 4 bytes apart. Inputs lie row by row. Integers stay with vectors: a group's scales end the sum
// after one tile of inputs, and what the tiles win at that is less than their sums' way through memory costs.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace llmbench::LLMBENCH_ISA {

constexpr int kTileRows = 16, kTileBytes = 64, kLineBytes = kPanel * 4;
constexpr int kTileOutputs = kTileBytes / 4, kTilesOfPanel = kPanel / kTileOutputs;

// For any number of rows: bf16 rounds in another order in vectors, and a row's result must not depend on its batch.
inline bool uses_tiles(Format format) { return format == Format::kBfloat16; }

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

// [kPieceRows and a tile's overhang, kPanel] before bias and activation: rows [first, last) of one panel.
inline void tile_rows(const LinearArgs& a, int64_t panel, int64_t first, int64_t last, float (*sums)[kPanel]) {
  const TileShapes shapes;
  publish(&shapes);
  _tile_loadconfig(&shapes);
  const uint8_t* weights = a.packed + panel * a.num_groups * chunk_bytes(a.format);
  const int64_t width = a.num_groups * kGroup;
  for (int64_t row = first; row < last; row += kTileRows) {
    bf16_tiles(weights, a.inputs + row * width * 2, width, sums + (row - first));
  }
  _tile_release();  // a thread with tiles in use has eight kilobytes more to save when it is interrupted
}

}  // namespace llmbench::LLMBENCH_ISA
