// AMX's tile instructions in plain C++, as Intel's manual defines them, for processors without: eight tiles of 16 lines of
// 64 bytes. For tests of kernels/csrc/linear_tiles.h; put before it with -include.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#define __AMX_BF16__ 1

namespace amx_emulation {

struct Tile {
  uint8_t lines[16][64];
};
inline thread_local Tile tiles[8];
inline thread_local bool is_configured = false;

// Stops where a processor would: tiles are only defined between configuration and release.
inline Tile& tile(int number) {
  if (!is_configured) std::abort();
  return tiles[number];
}

inline void configure(const void* shapes) {
  const auto* bytes = static_cast<const uint8_t*>(shapes);
  is_configured = bytes[0] == 1 && bytes[1] == 0;
  for (int i = 0; i < 8; ++i) {
    uint16_t width;
    std::memcpy(&width, bytes + 16 + 2 * i, 2);
    is_configured = is_configured && width == 64 && bytes[48 + i] == 16;  // the only shape that is emulated
  }
  std::memset(tiles, 0, sizeof(tiles));
}

inline void load(int to, const void* from, int64_t stride) {
  for (int i = 0; i < 16; ++i) std::memcpy(tile(to).lines[i], static_cast<const char*>(from) + i * stride, 64);
}

inline void store(int from, void* to, int64_t stride) {
  for (int i = 0; i < 16; ++i) std::memcpy(static_cast<char*>(to) + i * stride, tile(from).lines[i], 64);
}

inline float widen(const uint8_t* bf16) {
  const uint8_t bytes[4] = {0, 0, bf16[0], bf16[1]};
  float value;
  std::memcpy(&value, bytes, 4);
  return value;
}

// to += left · right, two products of bf16 for each float32 sum. The tile's products are summed first.
inline void dot_bf16(int to, int left, int right) {
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      float sum, even = 0, odd = 0;
      std::memcpy(&sum, &tile(to).lines[m][4 * n], 4);
      for (int k = 0; k < 16; ++k) {
        const uint8_t *x = &tile(left).lines[m][4 * k], *w = &tile(right).lines[k][4 * n];
        even += widen(x) * widen(w);
        odd += widen(x + 2) * widen(w + 2);
      }
      sum += even + odd;
      std::memcpy(&tile(to).lines[m][4 * n], &sum, 4);
    }
  }
}

}  // namespace amx_emulation

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(shapes) amx_emulation::configure(shapes)
#define _tile_release() (amx_emulation::is_configured = false)
#define _tile_zero(number) std::memset(&amx_emulation::tile(number), 0, sizeof(amx_emulation::Tile))
#define _tile_loadd(to, from, stride) amx_emulation::load(to, from, stride)
#define _tile_stored(from, to, stride) amx_emulation::store(from, to, stride)
#define _tile_dpbf16ps(to, left, right) amx_emulation::dot_bf16(to, left, right)
