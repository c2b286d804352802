// As much of HIP's runtime as kernels/csrc/cuda needs, in plain C++: a launch is a loop over the grid. For tests on
// machines without a GPU: the CUDA sources, translated to HIP, compile against this and compute on the processor.
#pragma once

#include <cstdint>

#define __global__ static

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

using hipStream_t = void*;
enum hipError_t : int { hipSuccess = 0, hipErrorInvalidValue = 1 };

inline dim3 gridDim, blockDim, blockIdx, threadIdx;
inline hipError_t hip_emulation_error = hipSuccess;

// The stream of the last launch and how many there were.
extern "C" inline void* hip_emulation_stream = nullptr;
extern "C" inline int64_t hip_emulation_launches = 0;

template <class Kernel, class... Arguments>
void hipLaunchKernelGGL(Kernel kernel, dim3 grid, dim3 block, unsigned, hipStream_t stream, Arguments... arguments) {
  hip_emulation_stream = stream;
  ++hip_emulation_launches;
  // What a device takes at most; beyond it a launch is an error and does nothing.
  if (grid.y > 65535 || grid.z > 65535 || block.x * block.y * block.z > 1024) {
    hip_emulation_error = hipErrorInvalidValue;
    return;
  }
  gridDim = grid, blockDim = block;
  // The last come first: a kernel may count on no order.
  for (unsigned z = grid.z; z-- > 0;) {
    for (unsigned y = grid.y; y-- > 0;) {
      for (unsigned x = grid.x; x-- > 0;) {
        blockIdx = {x, y, z};
        for (unsigned t = block.x; t-- > 0;) {
          threadIdx = {t};
          kernel(arguments...);
        }
      }
    }
  }
}

inline hipError_t hipGetLastError() {
  const hipError_t error = hip_emulation_error;
  hip_emulation_error = hipSuccess;
  return error;
}
inline const char* hipGetErrorString(hipError_t error) { return error == hipSuccess ? "no error" : "invalid argument"; }
