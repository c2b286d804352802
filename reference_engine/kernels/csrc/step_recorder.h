// A step's operators, kept while they run for the first time and run again in one call: what a graph is to a GPU.
#pragma once

#include <torch/custom_class.h>

#include <ATen/ATen.h>

#include <functional>
#include <string>
#include <vector>

namespace llmbench {

// One operator with its arguments: plain pointers, to weights and inputs that the caller keeps where they are and to
// results in the recorder's buffers.
struct Operation {
  std::string name;
  std::function<void()> compute;
};

// Records programs, and replays them. Results are written to buffers that all programs share, [max_rows, columns] each;
// one is taken again as soon as nobody holds its last result. So the memory is that of the largest step, and what a
// replay returns is valid until the next one.
class StepRecorder : public torch::CustomClassHolder {
 public:
  explicit StepRecorder(int64_t max_rows) : max_rows_(max_rows) {}

  // Operators that this thread calls from here on become a new program,
  void begin();
  // up to here; its number.
  int64_t end();
  // Computes the program's operators anew; the last one's result.
  at::Tensor run(int64_t program) const;

  // For operators: memory of a result, and the operation that fills it.
  at::Tensor empty(int64_t rows, int64_t columns);
  void keep(Operation operation);

  // The recorder that has begun on this thread, or null.
  static StepRecorder* active();

 private:
  struct Program {
    std::vector<Operation> operations;
    size_t result_buffer = 0;
    int64_t result_rows = 0;
  };

  int64_t max_rows_;
  std::vector<at::Tensor> buffers_;
  std::vector<Program> programs_;
};

}  // namespace llmbench
