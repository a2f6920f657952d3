// A pass up to the first block, whose map is that of a pool. Every thread runs every function here
// with its own number; barriers lie between parts that read what other threads wrote. Nothing here
// allocates: memory is planned beforehand.
#include <algorithm>
#include <cstring>

#include "backbone.hpp"

namespace laud {

void Backbone::begin(const Batch& batch, const Trace& trace) {
  batch_ = &batch;
  trace_ = &trace;
  std::fill(has_means_.begin(), has_means_.end(), std::uint8_t{0});
}

void Backbone::run(int thread, PartClock& clock) {
  stem(thread);
  clock.end(thread);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    run_block(thread, blocks_[i], static_cast<std::int64_t>(i));
    clock.end(thread);
  }
}

void Backbone::prepare(int thread) {
  const std::int64_t rows = batch_->n * (batch_->height + 2 * kStemBorder);
  const std::int64_t chunks = gemms_.chunks_of(rows);
  if (thread == 0) {
    // Behind the last row, where the stem reads on with weights of zero.
    const std::int64_t end = rows * (batch_->width + 2 * kStemBorder) * 3;
    std::memset(pixels_.data() + end * bytes_, 0, static_cast<std::size_t>(kRowSlack * bytes_));
  }
  team_.share(thread, chunks, [&](std::int64_t chunk) {
    for (std::int64_t r = rows * chunk / chunks; r < rows * (chunk + 1) / chunks; ++r) {
      prepare_row(r);
    }
  });
}

// uint8 to a map (n, height + 6, width + 6, 3): normalised floats with a border of zeros, or the
// bytes themselves with a border of the mean.
void Backbone::prepare_row(std::int64_t row) {
  const std::int64_t rows = batch_->height + 2 * kStemBorder, width = batch_->width;
  const std::int64_t numbers = (width + 2 * kStemBorder) * 3, margin = kStemBorder * 3;
  const std::int64_t image = row / rows, y = row % rows - kStemBorder;
  unsigned char* const out = pixels_.data() + row * numbers * bytes_;
  const bool inside = y >= 0 && y < batch_->height;
  const std::uint8_t* const in =
      inside ? batch_->images + (image * batch_->height + y) * width * 3 : nullptr;
  if (kernels_.element == Element::u8) {
    const auto surround = [this](unsigned char* to, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) to[i] = spec_.border[static_cast<std::size_t>(i % 3)];
    };
    if (!inside) return surround(out, numbers);
    surround(out, margin);
    std::memcpy(out + margin, in, static_cast<std::size_t>(width * 3));
    return surround(out + margin + width * 3, margin);
  }
  if (!inside) {
    std::memset(out, 0, static_cast<std::size_t>(numbers * bytes_));
    return;
  }
  const auto look_up = [&](auto* to, const auto& levels) {
    std::fill_n(to, margin, 0);
    std::fill_n(to + margin + width * 3, margin, 0);
    to += margin;
    for (std::int64_t c = 0; c < 3; ++c) {
      const auto* const level = levels.data() + c * 256;
      const std::int64_t from = spec_.bgr ? 2 - c : c;
      for (std::int64_t x = 0; x < width; ++x) to[x * 3 + c] = level[in[x * 3 + from]];
    }
  };
  if (kernels_.element == Element::f32) {
    look_up(reinterpret_cast<float*>(out), levels_);
  } else {
    look_up(reinterpret_cast<std::uint16_t*>(out), levels_bf16_);
  }
}

void Backbone::stem(int thread) {
  const std::int64_t rows = batch_->n * pool_height_;
  const std::int64_t chunks = gemms_.chunks_of(rows);
  team_.share(thread, chunks, [&](std::int64_t chunk) {
    stem_band(thread, rows * chunk / chunks, rows * (chunk + 1) / chunks);
  });
}

// The 7x7/2 convolution, row by row into a ring of four rows, and the max pool over it: rows
// [begin, end) of all images' pooled maps.
void Backbone::stem_band(int thread, std::int64_t begin, std::int64_t end) {
  const std::int64_t channels = padded(spec_.stem_width);
  const std::int64_t row_bytes = (batch_->width + 2 * kStemBorder) * 3 * bytes_;
  const std::int64_t conv_bytes = conv_width_ * channels * bytes_;
  const std::int64_t first = spec_.trailing_pool ? 0 : -1;
  unsigned char* const ring = band_.data() + thread * 4 * conv_bytes;
  std::int64_t computed_image = -1, computed = -1;
  Gemm gemm = gemms_.layer(stem_, stem_taps_);
  gemm.a_offsets = stem_rows_.data();
  gemm.c_offsets = stem_out_.data();
  gemm.row_end = conv_width_;
  gemm.epilogue = Epilogue::relu;
  gemm.scratch = gemms_.scratch(thread);
  for (std::int64_t r = begin; r < end; ++r) {
    const std::int64_t image = r / pool_height_, top = r % pool_height_ * 2 + first;
    if (image != computed_image) {
      computed_image = image;
      computed = -1;
    }
    const void* rows[3];
    std::int64_t count = 0;
    for (std::int64_t y = std::max<std::int64_t>(top, 0); y < std::min(top + 3, conv_height_); ++y) {
      unsigned char* const row = ring + y % 4 * conv_bytes;
      if (y > computed) {
        gemm.a = pixels_.data() + (image * (batch_->height + 2 * kStemBorder) + y * 2) * row_bytes;
        gemm.c = row;
        kernels_.gemm(gemm);
        computed = y;
      }
      rows[count++] = row;
    }
    kernels_.max_pool_row(rows, count, conv_width_, first, pool_width_, channels,
                          trunk_[0].data() + r * pool_width_ * channels * bytes_);
  }
}

}  // namespace laud
