// Which units are active: logit >= threshold; under a cap higher logits first, ties to the lower
// index.
#include <limits>

#include "check.hpp"
#include "maskers.hpp"

namespace laud::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::string decided(const std::vector<float>& logits, Wish wish) {
  std::vector<std::uint8_t> active(logits.size());
  std::vector<std::int32_t> order(logits.size());
  const auto units = static_cast<std::int64_t>(logits.size());
  const std::int64_t count = decide(logits.data(), units, wish, active.data(), order.data());
  std::string text;
  for (const std::uint8_t each : active) text += each ? '1' : '0';
  std::int64_t ones = 0;
  for (const char each : text) ones += each == '1';
  expect_equal(count, ones, "count of ", text);
  return text;
}

LAUD_TEST(a_unit_at_the_threshold_is_active) {
  if (decided({-1.0f, 0.0f, 1.0f}, {0.0f, -1}) != "011") fail("threshold 0");
  if (decided({-1.0f, 0.0f, 1.0f}, {kInfinity, -1}) != "000") fail("threshold infinity");
  if (decided({-1.0f, 0.0f, 1.0f}, {-kInfinity, -1}) != "111") fail("threshold -infinity");
}

LAUD_TEST(a_cap_keeps_the_highest_logits_and_the_lower_index_of_equal_ones) {
  if (decided({1.0f, 3.0f, 3.0f, 2.0f}, {-kInfinity, 1}) != "0100") fail("cap 1");
  if (decided({1.0f, 3.0f, 3.0f, 2.0f}, {-kInfinity, 3}) != "0111") fail("cap 3");
  if (decided({1.0f, 1.0f, 1.0f}, {-kInfinity, 2}) != "110") fail("all equal");
  if (decided({1.0f, 2.0f}, {-kInfinity, 0}) != "00") fail("cap 0");
  if (decided({1.0f, 2.0f}, {1.5f, 5}) != "01") fail("cap above what there is");
}

}  // namespace
}  // namespace laud::testing
