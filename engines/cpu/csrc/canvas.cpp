#include "canvas.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace laud {
namespace {

// Calls run(begin, end) for every run of [from, to) in which `is(x)` holds.
template <typename Is, typename Run>
void each_run(std::int64_t from, std::int64_t to, Is&& is, Run&& run) {
  std::int64_t x = from;
  while (x < to) {
    while (x < to && !is(x)) ++x;
    const std::int64_t begin = x;
    while (x < to && is(x)) ++x;
    if (begin < x) run(begin, x);
  }
}

}  // namespace

// The finest level on top, the others side by side below it. Neighbours share their border.
void Canvas::lay_out(const std::vector<std::int64_t>& heights,
                     const std::vector<std::int64_t>& widths) {
  levels.clear();
  std::int64_t left = 1;
  for (std::size_t l = 0; l < heights.size(); ++l) {
    if (l && (heights[l - 1] != 2 * heights[l] || widths[l - 1] != 2 * widths[l])) {
      throw std::invalid_argument("a level of the pyramid is not half the one before");
    }
    levels.push_back({heights[l], widths[l], l ? heights[0] + 2 : 1, l ? left : 1});
    if (l) left += widths[l] + 1;
  }
  width = std::max(widths[0] + 2, left);
  height = heights[0] + 2 + (levels.size() > 1 ? heights[1] + 1 : 0);
}

std::int64_t Canvas::places() const {
  std::int64_t total = 0;
  for (const Level& level : levels) total += level.pixels();
  return total;
}

void PlaceLists::reserve(const Canvas& canvas) {
  for (Offsets* list : {&places, &indices, &needed, &needed_in, &parents}) {
    list->reserve(canvas.places());
  }
  std::int64_t runs = 0;
  for (const Level& level : canvas.levels) runs += (level.height + 2) * (level.width / 2 + 2);
  halo.reserve(static_cast<std::size_t>(runs));
  idle.reserve(static_cast<std::size_t>(runs));
  place_ends.reserve(canvas.levels.size() + 1);
  needed_ends.reserve(canvas.levels.size() + 1);
}

void list_places(PlaceLists& lists, const Canvas& canvas, const std::uint8_t* active,
                 std::int64_t channels, const std::vector<std::int64_t>& stage_channels,
                 std::uint8_t* marks) {
  for (Offsets* list :
       {&lists.places, &lists.indices, &lists.needed, &lists.needed_in, &lists.parents}) {
    list->clear();
  }
  lists.halo.clear();
  lists.idle.clear();
  lists.place_ends.assign(1, 0);
  lists.needed_ends.assign(1, 0);
  std::memset(marks, 0, static_cast<std::size_t>(canvas.pixels()));
  // Active places, and marks on their 3x3 neighbourhoods.
  const std::uint8_t* row = active;
  for (const Level& level : canvas.levels) {
    for (std::int64_t y = 0; y < level.height; ++y) {
      each_run(
          0, level.width, [&](std::int64_t x) { return !row || row[x]; },
          [&](std::int64_t begin, std::int64_t end) {
            const std::int64_t at = canvas.at(level, y, begin);
            lists.places.append(at * channels, channels, end - begin);
            lists.indices.append(y * level.width + begin, 1, end - begin);
            for (const std::int64_t d : {-canvas.width, std::int64_t{0}, canvas.width}) {
              std::memset(marks + at + d - 1, 1, static_cast<std::size_t>(end - begin + 2));
            }
          });
      if (row) row += level.width;
    }
    lists.place_ends.push_back(lists.places.size());
  }
  // What they need, the finest level first, since it needs pixels of the coarser ones too.
  for (std::size_t l = 0; l < canvas.levels.size(); ++l) {
    const Level& level = canvas.levels[l];
    const Level* const coarser = l + 1 < canvas.levels.size() ? &canvas.levels[l + 1] : nullptr;
    for (std::int64_t y = 0; y < level.height; ++y) {
      const std::uint8_t* const marked = marks + canvas.at(level, y, 0);
      each_run(
          0, level.width, [&](std::int64_t x) { return marked[x] != 0; },
          [&](std::int64_t begin, std::int64_t end) {
            lists.needed.append(canvas.at(level, y, begin) * channels, channels, end - begin);
            const std::int64_t in = stage_channels[l];
            lists.needed_in.append((y * level.width + begin) * in, in, end - begin);
            for (std::int64_t x = begin; coarser && x < end; ++x) {
              const std::int64_t parent = canvas.at(*coarser, y / 2, x / 2);
              marks[parent] = 1;
              lists.parents.append(parent * channels, 0, 1);
            }
          });
    }
    lists.needed_ends.push_back(lists.needed.size());
  }
  // What has to be zero: marked pixels that are not active, borders too; and unmarked ones.
  const std::uint8_t* of_level = active;
  for (const Level& level : canvas.levels) {
    for (std::int64_t y = -1; y <= level.height; ++y) {
      const std::int64_t base = canvas.at(level, y, 0);
      const bool inside = y >= 0 && y < level.height;
      const auto is_active = [&](std::int64_t x) {
        return inside && x >= 0 && x < level.width &&
               (!of_level || of_level[y * level.width + x]);
      };
      each_run(
          -1, level.width + 1,
          [&](std::int64_t x) { return marks[base + x] != 0 && !is_active(x); },
          [&](std::int64_t begin, std::int64_t end) {
            lists.halo.push_back({base + begin, end - begin});
          });
      if (!inside) continue;
      each_run(
          0, level.width, [&](std::int64_t x) { return marks[base + x] == 0; },
          [&](std::int64_t begin, std::int64_t end) {
            lists.idle.push_back({base + begin, end - begin});
          });
    }
    if (of_level) of_level += level.pixels();
  }
}

}  // namespace laud
