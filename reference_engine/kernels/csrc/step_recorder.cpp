#include "step_recorder.h"

#include "message.h"

#include <utility>

namespace llmbench {
namespace {

thread_local StepRecorder* active_recorder = nullptr;

}  // namespace

StepRecorder* StepRecorder::active() { return active_recorder; }

void StepRecorder::begin() {
  TORCH_CHECK(active_recorder == nullptr, "a step is being recorded on this thread already");
  active_recorder = this;
  programs_.emplace_back();
}

int64_t StepRecorder::end() {
  TORCH_CHECK(active_recorder == this, "no step is being recorded");
  active_recorder = nullptr;
  return static_cast<int64_t>(programs_.size()) - 1;
}

at::Tensor StepRecorder::run(int64_t program) const {
  const Program& steps = programs_.at(program);
  for (const Operation& operation : steps.operations) operation.compute();
  return buffers_.at(steps.result_buffer).narrow(0, 0, steps.result_rows);
}

at::Tensor StepRecorder::empty(int64_t rows, int64_t columns) {
  TORCH_CHECK(rows <= max_rows_, message("a recorded step has at most ", max_rows_, " rows; ", rows, " were given"));
  size_t index = 0;
  while (index < buffers_.size() &&
         (buffers_[index].size(1) != columns || buffers_[index].storage().use_count() > 1)) {
    ++index;
  }
  if (index == buffers_.size()) buffers_.push_back(at::empty({max_rows_, columns}));
  programs_.back().result_buffer = index;
  programs_.back().result_rows = rows;
  return buffers_[index].narrow(0, 0, rows);
}

void StepRecorder::keep(Operation operation) { programs_.back().operations.push_back(std::move(operation)); }

TORCH_LIBRARY_FRAGMENT(llmbench, library) {
  library.class_<StepRecorder>("StepRecorder")
      .def(torch::init<int64_t>())
      .def("begin", &StepRecorder::begin)
      .def("end", &StepRecorder::end)
      .def("run", &StepRecorder::run);
}

}  // namespace llmbench
