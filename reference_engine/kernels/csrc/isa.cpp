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
  int64_t i = 0;
  f32v top = splat(row[0]);
  for (; i + kLanes <= size; i += kLanes) top = max(load<f32v>(row + i), top);
  float best = largest(top);
  for (; i < size; ++i) best = row[i] > best ? row[i] : best;
  for (i = 0; i < size; ++i) {
    if (row[i] == best) return i;
  }
  return 0;  // all nan
}

extern const KernelTable table;
const KernelTable table = {
    LLMBENCH_NAME(LLMBENCH_ISA), linear_inputs, linear_panel, attention_write, attention_item, argmax,
};

}  // namespace llmbench::LLMBENCH_ISA
