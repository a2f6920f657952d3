// Levels on one canvas, and its lists against their definition, for random places.
#include <map>
#include <set>

#include "canvas.hpp"
#include "check.hpp"

namespace laud::testing {
namespace {

Canvas canvas_of(std::int64_t height, std::int64_t width, std::size_t levels) {
  std::vector<std::int64_t> heights, widths;
  for (std::size_t l = 0; l < levels; ++l) {
    heights.push_back(height << (levels - 1 - l));
    widths.push_back(width << (levels - 1 - l));
  }
  Canvas canvas;
  canvas.lay_out(heights, widths);
  return canvas;
}

LAUD_TEST(no_pixel_of_a_level_touches_another_level_or_the_edge) {
  for (const std::size_t levels : {1, 2, 4}) {
    for (const std::int64_t height : {1, 2, 5}) {
      for (const std::int64_t width : {1, 3, 8}) {
        const Canvas canvas = canvas_of(height, width, levels);
        std::map<std::int64_t, std::size_t> owner;
        for (std::size_t l = 0; l < levels; ++l) {
          for (std::int64_t y = 0; y < canvas.levels[l].height; ++y) {
            for (std::int64_t x = 0; x < canvas.levels[l].width; ++x) {
              owner[canvas.at(canvas.levels[l], y, x)] = l;
            }
          }
        }
        expect_equal(static_cast<std::int64_t>(owner.size()), canvas.places(), "pixels of levels");
        for (const auto& [pixel, level] : owner) {
          const std::int64_t y = pixel / canvas.width, x = pixel % canvas.width;
          if (y < 1 || x < 1 || y > canvas.height - 2 || x > canvas.width - 2) fail("at the edge");
          for (std::int64_t d = 0; d < 9; ++d) {
            const auto at = owner.find(pixel + (d / 3 - 1) * canvas.width + d % 3 - 1);
            if (at != owner.end() && at->second != level) fail("levels touch at ", pixel);
          }
        }
      }
    }
  }
}

LAUD_TEST(levels_that_do_not_halve_are_refused) {
  Canvas canvas;
  expect_throw<std::invalid_argument>([&] { canvas.lay_out({6, 3}, {6, 2}); }, "not half");
  expect_throw<std::invalid_argument>([&] { canvas.lay_out({5, 2}, {4, 2}); }, "not half");
}

std::set<std::int64_t> pixels_of(const std::vector<Run>& runs) {
  std::set<std::int64_t> pixels;
  for (const Run& run : runs) {
    for (std::int64_t i = 0; i < run.count; ++i) pixels.insert(run.begin + i);
  }
  return pixels;
}

void check_places(const Canvas& canvas, double rate, std::uint32_t seed) {
  constexpr std::int64_t channels = 3;
  Random random(seed);
  std::vector<std::uint8_t> active;
  for (std::int64_t i = 0; i < canvas.places(); ++i) active.push_back(random.chance(rate));
  std::vector<std::int64_t> stage_channels;
  for (std::size_t l = 0; l < canvas.levels.size(); ++l) {
    stage_channels.push_back(5 + static_cast<std::int64_t>(l));
  }
  std::vector<std::uint8_t> marks(static_cast<std::size_t>(canvas.pixels()), 7);
  PlaceLists lists;
  lists.reserve(canvas);
  // Twice: what the first call left must not matter.
  list_places(lists, canvas, nullptr, channels, stage_channels, marks.data());
  expect_equal(lists.places.size(), canvas.places(), "all places");
  if (!lists.idle.empty()) fail("all are active, and some are idle");
  list_places(lists, canvas, rate == 1.0 ? nullptr : active.data(), channels, stage_channels,
              marks.data());

  std::set<std::int64_t> inside, on, near, needed;
  std::size_t place = 0, row = 0;
  for (const Level& level : canvas.levels) {
    for (std::int64_t i = 0; i < level.pixels(); ++i) {
      const std::int64_t pixel = canvas.at(level, i / level.width, i % level.width);
      inside.insert(pixel);
      if (!active[place++]) continue;
      on.insert(pixel);
      expect_equal(lists.places.data()[row], pixel * channels, "place");
      expect_equal(lists.indices.data()[row], i, "its index");
      ++row;
      for (std::int64_t d = 0; d < 9; ++d) {
        near.insert(pixel + (d / 3 - 1) * canvas.width + d % 3 - 1);
      }
    }
  }
  expect_equal(static_cast<std::size_t>(lists.places.size()), row, "count of places");
  row = 0;
  for (std::size_t l = 0; l < canvas.levels.size(); ++l) {
    const Level& level = canvas.levels[l];
    expect_equal(static_cast<std::size_t>(lists.needed_ends[l]), row, "begin of a level");
    for (std::int64_t i = 0; i < level.pixels(); ++i) {
      const std::int64_t y = i / level.width, x = i % level.width, pixel = canvas.at(level, y, x);
      bool wanted = near.count(pixel) > 0;
      if (l) {
        const Level& finer = canvas.levels[l - 1];
        for (std::int64_t d = 0; d < 4; ++d) {
          wanted = wanted || needed.count(canvas.at(finer, 2 * y + d / 2, 2 * x + d % 2)) > 0;
        }
      }
      if (!wanted) continue;
      needed.insert(pixel);
      expect_equal(lists.needed.data()[row], pixel * channels, "needed pixel");
      expect_equal(lists.needed_in.data()[row], i * stage_channels[l], "in the stage's map");
      if (l + 1 < canvas.levels.size()) {
        expect_equal(lists.parents.data()[row],
                     canvas.at(canvas.levels[l + 1], y / 2, x / 2) * channels, "parent");
      }
      ++row;
    }
  }
  expect_equal(static_cast<std::size_t>(lists.needed.size()), row, "count of needed pixels");
  const std::set<std::int64_t> halo = pixels_of(lists.halo), idle = pixels_of(lists.idle);
  for (std::int64_t pixel = 0; pixel < canvas.pixels(); ++pixel) {
    const bool zero = halo.count(pixel) || idle.count(pixel);
    if (on.count(pixel) && zero) fail("an active pixel is cleared");
    if (near.count(pixel) && !on.count(pixel) && !halo.count(pixel)) fail("read, but not cleared");
    if (inside.count(pixel) && !on.count(pixel) && !zero) fail("a pixel is left as it was");
  }
}

LAUD_TEST(lists_hold_active_places_what_they_need_and_what_is_zero) {
  std::uint32_t seed = 0;
  for (const std::size_t levels : {1, 2, 4}) {
    for (const std::int64_t width : {1, 3, 4}) {
      const Canvas canvas = canvas_of(2, width, levels);
      for (const double rate : {0.0, 0.05, 0.5, 1.0}) check_places(canvas, rate, ++seed);
    }
  }
}

}  // namespace
}  // namespace laud::testing
