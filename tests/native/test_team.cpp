// The thread pool: every part runs once, what a member wrote before a barrier is seen behind it, and
// a late member's share is taken over.
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>

#include "check.hpp"
#include "team.hpp"

namespace laud::testing {
namespace {

LAUD_TEST(every_part_runs_once) {
  for (const int size : {1, 2, 3, 5}) {
    Team team(size);
    for (const std::int64_t count : {0, 1, 2, 7, 100}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(count));
      for (int round = 0; round < 50; ++round) {
        team.run([&](int member) {
          for (int turn = 0; turn < 3; ++turn) {
            team.share(member, count, [&](std::int64_t i) { ++runs[static_cast<std::size_t>(i)]; });
          }
        });
      }
      for (const std::atomic<int>& each : runs) expect_equal(each.load(), 150, "runs of a part");
    }
  }
}

LAUD_TEST(writes_before_a_barrier_are_seen_behind_it) {
  Team team(3);
  std::vector<std::int64_t> numbers(999), sums(3);
  team.run([&](int member) {
    for (std::int64_t turn = 0; turn < 100; ++turn) {
      team.share(member, 999, [&](std::int64_t i) { numbers[static_cast<std::size_t>(i)] = turn + i; });
      sums[static_cast<std::size_t>(member)] =
          std::accumulate(numbers.begin(), numbers.end(), std::int64_t{0});
      expect_equal(sums[static_cast<std::size_t>(member)], 999 * turn + 999 * 998 / 2, "sum");
      team.barrier();
    }
  });
}

LAUD_TEST(a_late_members_share_is_taken_over) {
  Team team(2);
  std::atomic<int> by_first{0};
  std::atomic<bool> go{false};
  team.run([&](int member) {
    team.share(member, 16, [&](std::int64_t i) {
      if (member == 1) {
        // Held up in its first part until the other one has done all the rest.
        while (!go) std::this_thread::yield();
        return;
      }
      if (i >= 0 && ++by_first == 15) go = true;
    });
    if (member == 0 && by_first == 16) go = true;
  });
  if (by_first < 15) fail("the first member did ", by_first.load(), " of 16 parts");
}

LAUD_TEST(a_team_sleeps_and_wakes_up_again) {
  Team team(2);
  std::atomic<int> runs{0};
  for (int round = 0; round < 3; ++round) {
    team.run([&](int) { ++runs; });
    // Longer than anybody spins.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  expect_equal(runs.load(), 6, "runs");
}

LAUD_TEST(teams_run_side_by_side_and_end) {
  for (int round = 0; round < 20; ++round) {
    Team one(3), two(2);
    std::atomic<int> runs{0};
    std::thread other([&] { two.run([&](int) { ++runs; }); });
    one.run([&](int) { ++runs; });
    other.join();
    expect_equal(runs.load(), 5, "runs");
  }
}

}  // namespace
}  // namespace laud::testing
