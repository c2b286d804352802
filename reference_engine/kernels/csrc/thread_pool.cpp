#include "thread_pool.h"

#include <chrono>

namespace llmbench {
namespace {

// Longer than the Python between two operators of a step, shorter than the pause between two requests.
constexpr auto kSpin = std::chrono::microseconds(200);
constexpr int kRoundsBeforeYield = 1024;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : stretches_(num_threads) {
  for (int thread = 1; thread < num_threads; ++thread) {
    workers_.emplace_back([this, thread] { work(thread); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  loops_begun_.fetch_add(1);
  loops_begun_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t num_items, Call call, const void* context) {
  call_ = call;
  context_ = context;
  if (num_items <= 1 || workers_.empty()) {
    for (int64_t item = 0; item < num_items; ++item) call(context, item, 0);
    return;
  }
  for (int64_t thread = 0; thread < num_threads(); ++thread) {
    stretches_[thread].next.store(num_items * thread / num_threads(), std::memory_order_relaxed);
    stretches_[thread].end = num_items * (thread + 1) / num_threads();
  }
  open_.store(true);
  loops_begun_.fetch_add(1);
  loops_begun_.notify_all();
  take_items(0);
  // A worker enters before it looks whether the loop is open: after this line it either is counted or stays out, so
  // nobody reads this loop's fields once the count is zero.
  open_.store(false);
  for (int round = 1; num_inside_.load() != 0; ++round) {
    pause();
    if (round % kRoundsBeforeYield == 0) std::this_thread::yield();  // the worker may be waiting for this very core
  }
}

void ThreadPool::take_items(int thread) {
  for (int turn = 0; turn < num_threads(); ++turn) {
    Stretch& stretch = stretches_[(thread + turn) % num_threads()];
    for (;;) {
      const int64_t item = stretch.next.fetch_add(1, std::memory_order_relaxed);
      if (item >= stretch.end) break;
      call_(context_, item, thread);
    }
  }
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  while (!stopping_.load()) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    for (int round = 1; loops_begun_.load() == seen; ++round) {
      pause();
      if (round % 64 == 0 && std::chrono::steady_clock::now() > deadline) loops_begun_.wait(seen);
    }
    seen = loops_begun_.load();
    num_inside_.fetch_add(1);
    if (open_.load()) take_items(thread);
    num_inside_.fetch_sub(1);
  }
}

}  // namespace llmbench
