// The kernels for one instruction set. Compiled once per instruction set, with its flags and -DLLMBENCH_ISA=its name.
//
// Nothing from the standard library is instantiated here that could be merged with another file's copy: the linker might
// keep this one, and a processor without these instructions would run it.
#include "attention.h"
#include "kernels.h"
#include "linear.h"

namespace llmbench::LLMBENCH_ISA {

#define LLMBENCH_TEXT(name) #name
#define LLMBENCH_NAME(name) LLMBENCH_TEXT(name)

// The lowest index of the largest value.
static int64_t argmax(const float* row, int64_t size) {
  constexpr int64_t kStretch = 1024;  // the largest is found stretch by stretch, its place in the best stretch only
  float best = row[0];
  int64_t best_start = 0;
  for (int64_t start = 0; start < size; start += kStretch) {
    const int64_t end = start + kStretch < size ? start + kStretch : size;
    f32v tops[4] = {splat(row[start]), splat(row[start]), splat(row[start]), splat(row[start])};
    int64_t i = start;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
      for (int v = 0; v < 4; ++v) tops[v] = max(load<f32v>(row + i + v * kLanes), tops[v]);
    }
    float top = largest(max(max(tops[0], tops[1]), max(tops[2], tops[3])));
    for (; i < end; ++i) top = row[i] > top ? row[i] : top;
    if (top > best) best = top, best_start = start;
  }
  for (int64_t i = best_start; i < size; ++i) {
    if (row[i] == best) return i;
  }
  return 0;  // all nan
}

extern const KernelTable table;
const KernelTable table = {
    LLMBENCH_NAME(LLMBENCH_ISA), linear_inputs, linear_panel, attention_write, attention_item, argmax,
};

}  // namespace llmbench::LLMBENCH_ISA
