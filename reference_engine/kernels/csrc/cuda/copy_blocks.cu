// Copies whole KV blocks, in every layer at once: one launch where a loop would make two per layer and block.
//
// A cache is planes of blocks (a layer's keys are a plane, its values the next). Source and target may be two caches
// with different numbers of blocks, and the source may be pinned host memory, which a GPU reads in place.
//
// Written in the subset that hipify translates by renaming: no warp size, no inline PTX, no library but the runtime.

#include <cuda_runtime.h>

#include <cstdint>

namespace {

constexpr int kThreads = 256;

// Grid: (pair, plane). Threads of a block copy 16 bytes each, side by side, so that every access is coalesced.
__global__ void copy_blocks(uint4* target, const uint4* source, const int64_t* pairs, int64_t block_size,
                            int64_t target_plane, int64_t source_plane) {
  const int64_t from = pairs[2 * blockIdx.x];
  const int64_t to = pairs[2 * blockIdx.x + 1];
  const uint4* read = source + blockIdx.y * source_plane + from * block_size;
  uint4* write = target + blockIdx.y * target_plane + to * block_size;
  for (int64_t i = threadIdx.x; i < block_size; i += blockDim.x) {
    write[i] = read[i];
  }
}

}  // namespace

// pairs: (source block, target block) int64, readable by the device; no target may be another pair's source or target.
// Sizes are in units of 16 bytes: of a block, and of a plane in each cache. The copies are queued on `stream`, may be
// recorded into a graph there, and are not waited for. Returns a cudaError_t, 0 for none.
extern "C" int llmbench_copy_blocks(void* target, const void* source, const int64_t* pairs, int num_pairs,
                                    int num_planes, int64_t block_size, int64_t target_plane, int64_t source_plane,
                                    void* stream) {
  if (num_pairs == 0) {
    return 0;
  }
  const dim3 grid(num_pairs, num_planes);
  copy_blocks<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<uint4*>(target), static_cast<const uint4*>(source), pairs, block_size, target_plane, source_plane);
  return static_cast<int>(cudaGetLastError());
}

// What a returned number means, in words that live as long as the process.
extern "C" const char* llmbench_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
