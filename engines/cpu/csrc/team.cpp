#include "team.hpp"

#include <utility>

namespace laud {
namespace {

// A balanced barrier is over within the pauses. After them the core is offered to others, which may
// be the very thread that is waited for, and in the end this one sleeps.
constexpr int kPauses = 50;
constexpr int kYields = 20;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Until `value` is no longer `old`.
void wait_for_change(std::atomic<std::uint32_t>& value, std::uint32_t old) {
  for (int i = 0; i < kPauses + kYields; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    if (i < kPauses) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

Team::Team(int size) : size_(size), members_(static_cast<std::size_t>(size)) {
  try {
    for (int member = 1; member < size; ++member) {
      threads_.emplace_back([this, member] { serve(member); });
    }
  } catch (...) {
    end();
    throw;
  }
}

Team::~Team() { end(); }

void Team::end() {
  ended_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::run(const std::function<void(int)>& work) {
  if (size_ > 1) {
    work_ = &work;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }
  work(0);
  barrier();
}

void Team::barrier() {
  if (size_ == 1) return;
  const std::uint32_t generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    return;
  }
  wait_for_change(generation_, generation);
}

void Team::abandon() {
  // Neither joining nor detaching a thread that does not exist is defined: the handles are left.
  new std::vector<std::thread>(std::move(threads_));
  threads_.clear();
}

void Team::serve(int member) {
  std::uint32_t round = 0;
  for (;;) {
    wait_for_change(round_, round);
    ++round;
    if (ended_) return;
    (*work_)(member);
    barrier();
  }
}

}  // namespace laud
