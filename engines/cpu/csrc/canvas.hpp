#pragma once

#include <cstdint>
#include <vector>

#include "lists.hpp"

namespace laud {

// One level of a pyramid, and where on the canvas its first pixel is.
struct Level {
  std::int64_t height, width, top, left;
  std::int64_t pixels() const { return height * width; }
};

// One map for all levels, with pixels of border around each: lists over several levels, and layers
// that levels share, then need one table of taps.
struct Canvas {
  std::vector<Level> levels;  // the finest first, each half the one before
  std::int64_t height = 0, width = 0;

  // Throws std::invalid_argument for sizes that do not halve.
  void lay_out(const std::vector<std::int64_t>& heights, const std::vector<std::int64_t>& widths);

  std::int64_t pixels() const { return height * width; }
  std::int64_t places() const;
  std::int64_t at(const Level& level, std::int64_t y, std::int64_t x) const {
    return (level.top + y) * width + level.left + x;
  }
};

// Consecutive pixels of a canvas.
struct Run {
  std::int64_t begin, count;
};

// Which pixels of a pyramid one image computes. Offsets count numbers; lists go level by level,
// those of level l from `*_ends[l]` to `*_ends[l + 1]`.
struct PlaceLists {
  Offsets places;     // active ones, on a canvas
  Offsets indices;    // the same within their level: y * width + x
  Offsets needed;     // pixels in reach of an active place of their level or below a finer one's
  Offsets needed_in;  // the same in the map of the stage
  Offsets parents;    // the pixels above them on the canvas; none for the coarsest level
  std::vector<std::int64_t> place_ends, needed_ends;
  std::vector<Run> halo;  // what a 3x3 of active places reads beside them
  std::vector<Run> idle;  // pixels of the levels that are neither

  void reserve(const Canvas& canvas);
};

// Fills the lists. active: one byte per place, levels one after another; null: all. `channels`,
// padded, of the canvas and of each stage's map. `marks`: scratch of one byte per pixel of the
// canvas.
void list_places(PlaceLists& lists, const Canvas& canvas, const std::uint8_t* active,
                 std::int64_t channels, const std::vector<std::int64_t>& stage_channels,
                 std::uint8_t* marks);

}  // namespace laud
