// Pixel lists against their definition, for ragged maps, both strides and random masks.
#include <algorithm>
#include <set>

#include "check.hpp"
#include "lists.hpp"

namespace laud::testing {
namespace {

struct Shape {
  std::int64_t height, width, stride, patch;
  bool stride_in_first, projection;
};

void check_lists(const Shape& s, double rate, std::uint32_t seed) {
  Random random(seed);
  Geometry g{};
  g.height_in = s.height;
  g.width_in = s.width;
  g.stride1 = s.stride_in_first ? s.stride : 1;
  g.stride2 = s.stride_in_first ? 1 : s.stride;
  g.height_mid = (s.height + g.stride1 - 1) / g.stride1;
  g.width_mid = (s.width + g.stride1 - 1) / g.stride1;
  g.height = (s.height + s.stride - 1) / s.stride;
  g.width = (s.width + s.stride - 1) / s.stride;
  g.patch = s.patch;
  g.grid_height = s.patch ? (g.height + s.patch - 1) / s.patch : 1;
  g.grid_width = s.patch ? (g.width + s.patch - 1) / s.patch : 1;
  g.in_channels = 3;
  g.inner_channels = 5;
  g.out_channels = 7;
  g.projection = s.projection;
  std::vector<std::uint8_t> units;
  for (std::int64_t u = 0; u < g.patches(); ++u) units.push_back(random.chance(rate));
  PixelLists lists;
  lists.reserve(2 * g.height_mid * g.width_mid, 2 * g.height * g.width, 2);
  std::vector<std::uint8_t> marks(static_cast<std::size_t>((g.height_mid + 2) * (g.width_mid + 2)));
  lists.clear();
  append_image(lists, g, nullptr, 0, 3, marks.data());
  const std::int64_t before = lists.out.size(), first_before = lists.first_in.size();
  expect_equal(before, g.height * g.width, "all active");
  const PixelCounts counts = append_image(lists, g, units.data(), 1, 4, marks.data());
  std::set<std::int64_t> active, skipped, reached;
  for (std::int64_t y = 0; y < g.height; ++y) {
    for (std::int64_t x = 0; x < g.width; ++x) {
      const std::int64_t unit = s.patch ? y / s.patch * g.grid_width + x / s.patch : 0;
      const std::int64_t out = 4 * g.out_numbers() + (y * g.width + x) * 7;
      if (!units[static_cast<std::size_t>(unit)]) {
        skipped.insert(out);
        continue;
      }
      active.insert(out);
      for (std::int64_t d = 0; d < 9; ++d) {
        const std::int64_t my = y * g.stride2 + d / 3 - 1, mx = x * g.stride2 + d % 3 - 1;
        if (my < 0 || mx < 0 || my >= g.height_mid || mx >= g.width_mid) continue;
        reached.insert(g.mid_numbers() + ((my + 1) * (g.width_mid + 2) + mx + 1) * 5);
      }
    }
  }
  const auto tail = [](const Offsets& list, std::int64_t from) {
    return std::set<std::int64_t>(list.data() + from, list.data() + list.size());
  };
  if (tail(lists.out, before) != active) fail("active pixels");
  if (tail(lists.first_out, first_before) != reached) fail("pixels that the 3x3 reaches");
  if (s.projection && tail(lists.skipped_out, 0) != skipped) fail("skipped pixels");
  expect_equal(counts.active, static_cast<std::int64_t>(active.size()), "count of active pixels");
  expect_equal(counts.dilated, static_cast<std::int64_t>(reached.size()), "count of reached pixels");
  for (std::int64_t i = 0; i < lists.first_in.size(); ++i) {
    const std::int64_t image = i < first_before ? 3 : 4, place = image - 3;
    const std::int64_t mid = (lists.first_out.data()[i] - place * g.mid_numbers()) / 5;
    const std::int64_t y = mid / (g.width_mid + 2) - 1, x = mid % (g.width_mid + 2) - 1;
    expect_equal(lists.first_in.data()[i],
                 image * g.in_numbers() + (y * s.width + x) * g.stride1 * 3, "conv1's input");
  }
  for (std::int64_t i = 0; i < lists.out.size(); ++i) {
    const std::int64_t image = i < before ? 3 : 4, place = image - 3;
    const std::int64_t pixel = (lists.out.data()[i] - image * g.out_numbers()) / 7;
    const std::int64_t y = pixel / g.width, x = pixel % g.width;
    expect_equal(lists.compact.data()[i], i * 5, "compact row");
    expect_equal(lists.taps_in.data()[i],
                 place * g.mid_numbers() + (y * (g.width_mid + 2) + x) * g.stride2 * 5, "first tap");
    if (!s.projection) continue;
    expect_equal(lists.shortcut_in.data()[i],
                 image * g.in_numbers() + (y * s.width + x) * s.stride * 3, "shortcut's input");
  }
}

LAUD_TEST(lists_hold_active_pixels_and_what_their_3x3_reaches) {
  std::uint32_t seed = 0;
  for (const std::int64_t height : {1, 2, 7, 13}) {
    for (const std::int64_t width : {1, 3, 8}) {
      for (const std::int64_t patch : {0, 1, 2, 4}) {
        for (const double rate : {0.0, 0.3, 1.0}) {
          check_lists({height, width, 1, patch, false, false}, rate, ++seed);
          check_lists({height, width, 2, patch, false, true}, rate, ++seed);
          check_lists({height, width, 2, patch, true, true}, rate, ++seed);
        }
      }
    }
  }
}

}  // namespace
}  // namespace laud::testing
