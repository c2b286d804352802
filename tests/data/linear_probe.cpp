// A linear of one instruction set by a C interface, without torch: for what the tests' processor does not have.
#include "linear.h"

extern "C" int uses_tiles(int format) {
  return llmbench::LLMBENCH_ISA::uses_tiles(static_cast<llmbench::Format>(format));
}

// Memory is the caller's: inputs has num_rows + 15 rows of num_groups * kGroup words, scratch one.
extern "C" void linear(const float* x, int64_t num_rows, int64_t in_features, int64_t out_features,
                       const uint8_t* packed, int64_t num_panels, int64_t num_groups, int format, int activation,
                       uint8_t* inputs, float* input_scales, int32_t* input_sums, float* scratch, float* out) {
  using namespace llmbench;
  LinearArgs args{};
  args.x = x, args.num_rows = num_rows, args.in_features = in_features, args.out_features = out_features;
  args.packed = packed, args.num_panels = num_panels, args.num_groups = num_groups;
  args.format = static_cast<Format>(format), args.activation = static_cast<Activation>(activation);
  args.inputs = inputs, args.input_scales = input_scales, args.input_sums = input_sums, args.out = out;
  LLMBENCH_ISA::linear_inputs(args, 0, num_rows, scratch);
  for (int64_t panel = 0; panel < num_panels; ++panel) {
    for (int64_t first = 0; first < num_rows; first += kPieceRows) {
      LLMBENCH_ISA::linear_panel(args, panel, first, first + kPieceRows < num_rows ? first + kPieceRows : num_rows);
    }
  }
}
