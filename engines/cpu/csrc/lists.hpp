#pragma once

#include <cstdint>
#include <vector>

#include "kernels.hpp"

namespace laud {

// Sizes and strides of one block for one image size. Offsets count numbers.
struct Geometry {
  std::int64_t height_in, width_in;    // of the block's input
  std::int64_t height_mid, width_mid;  // between the first 1x1 and the 3x3
  std::int64_t height, width;          // of its output
  std::int64_t stride1, stride2;       // of the first 1x1 and of the 3x3
  std::int64_t patch;                  // output pixels; 0: the whole map is one patch
  std::int64_t grid_height, grid_width;
  std::int64_t in_channels, inner_channels, out_channels;  // padded
  bool projection;

  std::int64_t in_numbers() const { return height_in * width_in * in_channels; }
  std::int64_t mid_numbers() const { return (height_mid + 2) * (width_mid + 2) * inner_channels; }
  std::int64_t out_numbers() const { return height * width * out_channels; }
  std::int64_t patches() const { return grid_height * grid_width; }
};

// Rows of a list that share their channels: one image under a channel mask, or all without one.
struct Job {
  std::int64_t first_begin, first_end;    // rows of conv1's lists
  std::int64_t active_begin, active_end;  // rows of the other lists
  std::int64_t channels;                  // index of its channel lists; -1: all channels
};

// Offsets, appended in runs of equal steps. Its memory is reserved beforehand.
class Offsets {
 public:
  void reserve(std::int64_t size) {
    if (static_cast<std::size_t>(size) > values_.size()) values_.resize(static_cast<std::size_t>(size));
  }
  void clear() { size_ = 0; }
  void append(std::int64_t first, std::int64_t step, std::int64_t count) {
    std::int64_t* const to = values_.data() + size_;
    for (std::int64_t i = 0; i < count; ++i) to[i] = first + i * step;
    size_ += count;
  }
  const std::int64_t* data() const { return values_.data(); }
  std::int64_t size() const { return size_; }

 private:
  std::vector<std::int64_t> values_;
  std::int64_t size_ = 0;
};

// The pixels that a block computes for a few images, as offsets.
struct PixelLists {
  Offsets first_in, first_out;      // conv1: input map -> bordered inner map
  Offsets taps_in, compact;         // conv2: inner map -> compact rows
  Offsets out;                      // conv3: compact rows -> output map
  Offsets shortcut_in;              // projection of active pixels (into `out`)
  Offsets skipped_in, skipped_out;  // projection of the others
  std::vector<Job> jobs;

  void reserve(std::int64_t mid_pixels, std::int64_t out_pixels, std::int64_t images);
  void clear();
};

// Which pixels one image computed.
struct PixelCounts {
  std::int64_t active, dilated;
};

// Appends one image to the lists. `units`: its patch decisions, null when all are active. `place`:
// its index in the lists' inner maps; `image`: in the batch. `marks`: scratch of one byte per pixel
// of the bordered inner map.
PixelCounts append_image(PixelLists& lists, const Geometry& g, const std::uint8_t* units,
                         std::int64_t place, std::int64_t image, std::uint8_t* marks);

}  // namespace laud
