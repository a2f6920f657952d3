#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace laud {

// Threads that run one function together and meet at barriers. Waiting spins briefly, then sleeps.
class Team {
 public:
  explicit Team(int size);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // Runs work(0 .. size-1), number 0 on the calling thread; returns when all are done. `work` must
  // not throw. One caller at a time.
  void run(const std::function<void(int)>& work);

  // Every member must call it equally often.
  void barrier();

  // Calls part(i) once for every i in [0, count), then meets at a barrier. A member starts with its
  // own range and then takes what others, held up, have not begun. Every member calls it with the
  // same count.
  template <typename Part>
  void share(int member, std::int64_t count, Part&& part) {
    if (size_ == 1) {
      for (std::int64_t i = 0; i < count; ++i) part(i);
      return;
    }
    Member& self = members_[static_cast<std::size_t>(member)];
    const int turn = self.turn;
    self.turn = 1 - turn;
    // Nobody looks at the other turn's counters between two barriers.
    self.next[1 - turn].store(0, std::memory_order_relaxed);
    for (int v = 0; v < size_; ++v) {
      const int owner = (member + v) % size_;
      const std::int64_t begin = count * owner / size_, end = count * (owner + 1) / size_;
      std::atomic<std::int64_t>& next = members_[static_cast<std::size_t>(owner)].next[turn];
      while (next.load(std::memory_order_relaxed) < end - begin) {
        const std::int64_t i = begin + next.fetch_add(1, std::memory_order_relaxed);
        if (i >= end) break;
        part(i);
      }
    }
    barrier();
  }

  // In a forked child, where the threads do not exist: forget them instead of joining.
  void abandon();

 private:
  struct alignas(64) Member {
    std::atomic<std::int64_t> next[2]{0, 0};
    int turn = 0;
  };

  void serve(int member);
  void end();

  const int size_;
  std::vector<Member> members_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<std::uint32_t> round_{0};
  std::atomic<bool> ended_{false};
  std::atomic<int> arrived_{0};
  std::atomic<std::uint32_t> generation_{0};
};

}  // namespace laud
