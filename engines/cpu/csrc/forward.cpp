// One pass: image to first map, blocks (in blocks.cpp), classifier. Every thread runs every function
// here with its own number; barriers lie between parts that read what other threads wrote. Nothing
// here allocates: memory is planned beforehand.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "network.hpp"

namespace laud {
namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// Chunks into which work of `items` equal parts is cut: one for a thread alone, else several each,
// so that a late thread's can be taken over.
std::int64_t chunks_of(std::int64_t items, int threads) {
  return threads == 1 ? 1 : std::min<std::int64_t>(items, 4 * threads);
}

}  // namespace

void Network::infer(const Batch& batch, Answer& answer) {
  plan(batch);
  if (poison_) each_buffer([](Buffer& buffer) { buffer.poison(); });
  batch_ = &batch;
  answer_ = &answer;
  std::fill(has_means_.begin(), has_means_.end(), std::uint8_t{0});
  const Clock::time_point begin = Clock::now();
  Clock::time_point prepared = begin, last = begin;
  team_.run([&](int thread) {
    double* part = answer.parts_s;
    const auto end_part = [&] {
      if (thread) return;
      const Clock::time_point now = Clock::now();
      *part++ = seconds(last, now);
      last = now;
    };
    prepare_rows(thread);
    if (thread == 0) prepared = last = Clock::now();
    stem(thread);
    end_part();
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      run_block(thread, blocks_[i], static_cast<std::int64_t>(i));
      end_part();
    }
    classify(thread);
  });
  const Clock::time_point end = Clock::now();
  answer.parts_s[blocks_.size() + 1] = seconds(last, end);
  answer.prepare_s = seconds(begin, prepared);
  answer.network_s = seconds(prepared, end);
  if (poison_) check_guards();
}

void Network::prepare_rows(int thread) {
  const std::int64_t rows = batch_->n * (batch_->height + 2 * kStemBorder);
  const std::int64_t chunks = chunks_of(rows, team_.size());
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
void Network::prepare_row(std::int64_t row) {
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

void Network::stem(int thread) {
  const std::int64_t rows = batch_->n * pool_height_;
  const std::int64_t chunks = chunks_of(rows, team_.size());
  team_.share(thread, chunks, [&](std::int64_t chunk) {
    stem_band(thread, rows * chunk / chunks, rows * (chunk + 1) / chunks);
  });
}

// The 7x7/2 convolution, row by row into a ring of four rows, and the max pool over it: rows [begin,
// end) of all images' pooled maps.
void Network::stem_band(int thread, std::int64_t begin, std::int64_t end) {
  const std::int64_t channels = padded(spec_.stem_width);
  const std::int64_t row_bytes = (batch_->width + 2 * kStemBorder) * 3 * bytes_;
  const std::int64_t conv_bytes = conv_width_ * channels * bytes_;
  const std::int64_t first = spec_.trailing_pool ? 0 : -1;
  unsigned char* const ring = band_.data() + thread * 4 * conv_bytes;
  std::int64_t computed_image = -1, computed = -1;
  Gemm gemm = layer(stem_, stem_taps_);
  gemm.a_offsets = stem_rows_.data();
  gemm.c_offsets = stem_out_.data();
  gemm.row_end = conv_width_;
  gemm.epilogue = Epilogue::relu;
  gemm.scratch = scratch(thread);
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

// Average pool, linear layer, softmax in double.
void Network::classify(int thread) {
  const Geometry& g = blocks_.back().geometry;
  const std::int64_t n = batch_->n;
  const float factor = static_cast<float>(
      spec_.output_scale / (static_cast<double>(g.height * g.width) * spec_.feature_scale));
  const unsigned char* const x = trunk_[blocks_.back().to].data();
  team_.share(thread, n, [&](std::int64_t i) {
    float* const means = standardised_.data<float>() + thread * 2 * most_channels_;
    kernels_.means(x + i * g.out_numbers() * bytes_, g.width * g.out_channels, g.out_channels,
                   g.height, g.width, g.out_channels, factor, means);
    const std::int64_t at = i * most_channels_;
    for (std::int64_t c = 0; c < g.out_channels; ++c) {
      if (kernels_.element == Element::f32) features_.data<float>()[at + c] = means[c];
      if (kernels_.element == Element::bf16) {
        features_.data<std::uint16_t>()[at + c] = to_bf16(means[c]);
      }
      if (kernels_.element == Element::u8) {
        const float q = std::min(std::max(means[c], 0.0f), 255.0f);
        features_.data()[at + c] = static_cast<std::uint8_t>(std::nearbyintf(q));
      }
    }
  });
  Gemm gemm = layer(classifier_, one_tap_);
  gemm.a = features_.data();
  gemm.a_offsets = feature_rows_.data();
  gemm.c = scores_.data();
  gemm.c_offsets = score_rows_.data();
  gemm.row_end = n;
  gemm.epilogue = Epilogue::raw;
  Parts& parts = parts_[static_cast<std::size_t>(thread)];
  parts.clear();
  add(parts, gemm);
  run(thread, parts);
  if (thread != 0) return;
  for (std::int64_t i = 0; i < n; ++i) {
    const float* const scores = scores_.data<float>() + score_rows_[static_cast<std::size_t>(i)];
    float* const out = answer_->probabilities + i * spec_.classes;
    std::copy_n(scores, spec_.classes, answer_->scores + i * spec_.classes);
    const double top = *std::max_element(scores, scores + spec_.classes);
    double total = 0.0;
    for (std::int64_t c = 0; c < spec_.classes; ++c) total += std::exp(scores[c] - top);
    for (std::int64_t c = 0; c < spec_.classes; ++c) {
      out[c] = static_cast<float>(std::exp(scores[c] - top) / total);
    }
  }
}

// All channels of a layer and no rows yet.
Gemm Network::layer(const Weights& weights, const std::vector<std::int64_t>& taps) const {
  Gemm gemm{};
  gemm.taps = taps.data();
  gemm.num_taps = static_cast<std::int64_t>(taps.size());
  gemm.segments = &weights.whole;
  gemm.num_segments = 1;
  gemm.panels = weights.panels;
  gemm.scale = weights.scale;
  gemm.bias = weights.bias;
  gemm.residual = weights.residual;
  gemm.depth = weights.inputs;
  gemm.panel_bytes = weights.panel_bytes;
  gemm.vectors = all_vectors_.data();
  gemm.num_vectors = weights.vectors;
  gemm.epilogue = Epilogue::store;
  return gemm;
}

// Cuts a GEMM into chunks of rows, or of panels where weights outweigh what the rows hold.
void Network::add(Parts& parts, const Gemm& gemm) const {
  const std::int64_t rows = gemm.row_end - gemm.row_begin;
  const std::int64_t panels =
      (gemm.num_vectors + kernels_.panel_vectors - 1) / kernels_.panel_vectors;
  if (rows <= 0 || panels <= 0) return;
  const std::int64_t outputs = gemm.num_vectors * kernels_.vector, size = team_.size();
  const bool by_panel = panels >= size && gemm.num_taps * gemm.depth * outputs >
                                              2 * rows * (gemm.depth + outputs);
  // Inputs are gathered anew for every chunk of panels: two per thread; rows: four.
  const std::int64_t most = by_panel ? std::min(panels, 2 * size)
                                     : std::min(rows / (2 * kernels_.tile_rows) + 1, 4 * size);
  parts.push_back({gemm, size == 1 ? 1 : most, by_panel});
}

void Network::run(int thread, Parts& parts) {
  std::int64_t total = 0;
  for (Part& part : parts) {
    part.gemm.scratch = scratch(thread);
    total += part.chunks;
  }
  team_.share(thread, total, [&](std::int64_t chunk) {
    for (const Part& part : parts) {
      if (chunk < part.chunks) return run_chunk(part, chunk);
      chunk -= part.chunks;
    }
  });
}

void Network::run_chunk(const Part& part, std::int64_t chunk) const {
  Gemm gemm = part.gemm;
  if (part.by_panel) {
    const std::int64_t unit = kernels_.panel_vectors;
    const std::int64_t panels = (gemm.num_vectors + unit - 1) / unit;
    const std::int64_t begin = panels * chunk / part.chunks * unit;
    const std::int64_t end = panels * (chunk + 1) / part.chunks * unit;
    gemm.vectors += begin;
    gemm.num_vectors = std::min(end, gemm.num_vectors) - begin;
  } else {
    const std::int64_t unit = kernels_.tile_rows, begin = gemm.row_begin;
    const std::int64_t tiles = (gemm.row_end - begin + unit - 1) / unit;
    gemm.row_end = std::min(gemm.row_end, begin + tiles * (chunk + 1) / part.chunks * unit);
    gemm.row_begin = begin + tiles * chunk / part.chunks * unit;
  }
  if (gemm.row_begin < gemm.row_end && gemm.num_vectors > 0) kernels_.gemm(gemm);
}

}  // namespace laud
