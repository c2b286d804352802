// Threads that share the items of one loop at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace llmbench {

// One loop runs at a time, started by one caller; the caller works too. A decode step is some sixty loops of about
// twenty microseconds, so an idle worker spins for a while before it sleeps, and a worker that is still asleep when the
// items are gone is not waited for.
class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(item, thread) once for each item in [0, num_items); thread is below num_threads(). A thread goes through
  // its own stretch of neighbours first, so that it reads memory in order, and helps the others with theirs after that.
  template <class Body>
  void run(int64_t num_items, const Body& body) {
    run(num_items, [](const void* context, int64_t item, int thread) {
      (*static_cast<const Body*>(context))(item, thread);
    }, &body);
  }

 private:
  using Call = void (*)(const void* context, int64_t item, int thread);

  void run(int64_t num_items, Call call, const void* context);
  void work(int thread);
  void take_items(int thread);

  std::vector<std::thread> workers_;
  Call call_ = nullptr;
  const void* context_ = nullptr;
  struct alignas(64) Stretch {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  std::vector<Stretch> stretches_;  // one for each thread
  alignas(64) std::atomic<uint32_t> loops_begun_{0};
  alignas(64) std::atomic<bool> open_{false};
  std::atomic<int> num_inside_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace llmbench
