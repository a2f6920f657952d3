// The indirect GEMM on AMX tiles, for any element. The including file defines
//   struct Format { using Input; static dot<C, A, B>(); static finish(g, sums, c, column); }
// A step is 64 bytes of inputs times two vectors of 16 outputs. Tiles need inputs at a constant
// stride: 16 rows are gathered into [step][row][64 bytes] unless they lie so already.
#pragma once

#include <cstdint>
#include <cstring>

#include "amx_tiles.hpp"
#include "kernels.hpp"

namespace laud {
namespace {

constexpr std::int64_t kTileRows = 16;
constexpr std::int64_t kLine = 64;
constexpr std::int64_t kTileBytes = kTileRows * kLine;
constexpr std::int64_t kColumns = 16;
// Two vectors of outputs side by side: the stride of a panel's rows.
constexpr std::int64_t kPanelRow = 2 * kLine;
constexpr std::int64_t kPanelStep = kTileRows * kPanelRow;
constexpr std::int64_t kSumBytes = 4 * kTileBytes;
constexpr std::int64_t kGatherBytes = 1200 * 1024;
constexpr std::int64_t kMostPairs = 8;
constexpr std::int64_t kLargeWeights = 60000;

// Where the inputs of up to 16 rows lie: at `base` with the given strides, or gathered.
struct RowTile {
  const char* base;
  std::int64_t row_stride, step_stride;
  bool gathered;
};

template <typename Format>
class TileGemm {
 public:
  static void run(const Gemm& g) {
    const TileScope scope;
    TileGemm(g).run();
  }

  static std::int64_t scratch_bytes(std::int64_t flat) {
    const std::int64_t steps = (flat + kInputs - 1) / kInputs;
    const std::int64_t needed = 2 * steps * kTileBytes;
    const std::int64_t wanted = kMostPairs * needed;
    const std::int64_t gather = wanted < kGatherBytes ? wanted
                                : (needed > kGatherBytes ? needed : kGatherBytes);
    return kSumBytes + gather;
  }

 private:
  using Input = typename Format::Input;
  static constexpr std::int64_t kBytes = sizeof(Input);
  static constexpr std::int64_t kInputs = kLine / kBytes;

  explicit TileGemm(const Gemm& g)
      : g_(g),
        input_(static_cast<const char*>(g.a)),
        flat_(g.num_taps * g.depth),
        steps_((flat_ + kInputs - 1) / kInputs),
        // Steps that straddle taps cannot be skipped and have to be gathered.
        whole_(g.depth % kInputs == 0),
        sums_(static_cast<char*>(g.scratch)),
        gathered_(sums_ + kSumBytes) {}

  void run() const {
    std::int64_t pairs = kGatherBytes / (2 * steps_ * kTileBytes);
    pairs = pairs < 1 ? 1 : (pairs > kMostPairs ? kMostPairs : pairs);
    const std::int64_t block = pairs * 2 * kTileRows;
    for (std::int64_t begin = g_.row_begin; begin < g_.row_end; begin += block) {
      const std::int64_t end = begin + block < g_.row_end ? begin + block : g_.row_end;
      RowTile rows[2 * kMostPairs];
      std::int64_t count = 0;
      for (std::int64_t r = begin; r < end; r += kTileRows) {
        rows[count] = place(r, end - r < kTileRows ? end - r : kTileRows, count);
        ++count;
      }
      for (std::int64_t n = 0; n < g_.num_vectors; n += 2) {
        const bool two = n + 1 < g_.num_vectors;
        const std::int64_t first = g_.vectors[n], second = g_.vectors[two ? n + 1 : n];
        for (std::int64_t i = 0; i < count; i += 2) {
          const std::int64_t row = begin + i * kTileRows;
          const char* fetch = next_panel(first, begin == g_.row_begin ? i / 2 : -1);
          if (i + 1 < count) {
            multiply<true>(rows[i], rows[i + 1], first, second, two, fetch);
          } else {
            multiply<false>(rows[i], rows[i], first, second, two, fetch);
          }
          finish(row, end, first, second, two, i + 1 < count);
        }
      }
    }
  }

  // The part of the next panel to fetch during the `index`-th pair of tiles, or null.
  const char* next_panel(std::int64_t vector, std::int64_t index) const {
    if (index < 0 || index >= 4 || flat_ * g_.num_vectors * kColumns < kLargeWeights) return nullptr;
    return panel(vector / 2 * 2) + g_.panel_bytes + index * steps_ * (kPanelStep / 4);
  }

  const char* panel(std::int64_t vector) const {
    return static_cast<const char*>(g_.panels) + vector / 2 * g_.panel_bytes + vector % 2 * kLine;
  }

  RowTile place(std::int64_t row, std::int64_t height, std::int64_t index) const {
    const std::int64_t* offsets = g_.a_offsets + row;
    if (whole_ && height == kTileRows) {
      const std::int64_t stride = offsets[1] - offsets[0];
      bool even = true;
      for (std::int64_t i = 2; i < kTileRows; ++i) even &= offsets[i] - offsets[i - 1] == stride;
      if (even) return {input_ + offsets[0] * kBytes, stride * kBytes, kLine, false};
    }
    char* const to = gathered_ + index * steps_ * kTileBytes;
    for (std::int64_t i = 0; i < height; ++i) gather(offsets[i], to + i * kLine);
    return {to, kLine, kTileBytes, true};
  }

  void gather(std::int64_t offset, char* to) const {
    for (std::int64_t tap = 0; tap < g_.num_taps; ++tap) {
      const char* from = input_ + (offset + g_.taps[tap]) * kBytes;
      if (whole_) {
        char* const lines = to + tap * (g_.depth / kInputs) * kTileBytes;
        for (std::int64_t s = 0; s < g_.num_segments; ++s) {
          for (std::int64_t k = g_.segments[s].begin; k < g_.segments[s].end; k += kInputs) {
            std::memcpy(lines + k / kInputs * kTileBytes, from + k * kBytes, kLine);
          }
        }
        continue;
      }
      // Eight bytes divide a depth and a line.
      for (std::int64_t k = 0; k < g_.depth * kBytes; k += 8) {
        const std::int64_t at = tap * g_.depth * kBytes + k;
        std::memcpy(to + at / kLine * kTileBytes + at % kLine, from + k, 8);
      }
    }
    const std::int64_t filled = flat_ * kBytes;
    if (filled % kLine) {
      // A NaN left here would survive a weight of zero.
      std::memset(to + filled / kLine * kTileBytes + filled % kLine, 0,
                  static_cast<std::size_t>(kLine - filled % kLine));
    }
  }

  template <bool Two>
  void multiply(const RowTile& top, const RowTile& bottom, std::int64_t first, std::int64_t second,
                bool two, const char* fetch) const {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    const char* const b0 = panel(first);
    const char* const b1 = panel(second);
    if (g_.num_segments == 0) return;
    if (!whole_) {
      for (std::int64_t s = 0; s < steps_; ++s) {
        step<Two>(top.base + s * kTileBytes, bottom.base + s * kTileBytes, kLine, kLine,
                  b0 + s * kPanelStep, b1 + s * kPanelStep, two, fetch);
      }
      return;
    }
    const std::int64_t per_tap = g_.depth / kInputs;
    for (std::int64_t tap = 0; tap < g_.num_taps; ++tap) {
      const char* const a0 = start(top, tap, per_tap);
      const char* const a1 = start(bottom, tap, per_tap);
      for (std::int64_t i = 0; i < g_.num_segments; ++i) {
        const std::int64_t last = g_.segments[i].end / kInputs;
        for (std::int64_t s = g_.segments[i].begin / kInputs; s < last; ++s) {
          const std::int64_t at = (tap * per_tap + s) * kPanelStep;
          step<Two>(a0 + s * top.step_stride, a1 + s * bottom.step_stride, top.row_stride,
                    bottom.row_stride, b0 + at, b1 + at, two, fetch);
        }
      }
    }
  }

  const char* start(const RowTile& rows, std::int64_t tap, std::int64_t per_tap) const {
    return rows.base + (rows.gathered ? tap * per_tap * kTileBytes : g_.taps[tap] * kBytes);
  }

  template <bool Two>
  static void step(const char* a0, const char* a1, std::int64_t stride0, std::int64_t stride1,
                   const char* b0, const char* b1, bool two, const char*& fetch) {
    tile_load<6>(b0, kPanelRow);
    tile_load<4>(a0, stride0);
    if (Two) tile_load<5>(a1, stride1);
    if (fetch) {
      for (int line = 0; line < 8; ++line) __builtin_prefetch(fetch + line * kLine, 0, 2);
      fetch += 8 * kLine;
    }
    Format::template dot<0, 4, 6>();
    if (Two) Format::template dot<2, 5, 6>();
    if (two) {
      tile_load<7>(b1, kPanelRow);
      Format::template dot<1, 4, 7>();
      if (Two) Format::template dot<3, 5, 7>();
    }
  }

  void finish(std::int64_t row, std::int64_t end, std::int64_t first, std::int64_t second, bool two,
              bool two_tiles) const {
    tile_store<0>(sums_);
    if (two) tile_store<1>(sums_ + kTileBytes);
    if (two_tiles) tile_store<2>(sums_ + 2 * kTileBytes);
    if (two_tiles && two) tile_store<3>(sums_ + 3 * kTileBytes);
    for (std::int64_t half = 0; half < (two_tiles ? 2 : 1); ++half) {
      const std::int64_t from = row + half * kTileRows;
      for (std::int64_t r = from; r < from + kTileRows && r < end; ++r) {
        const char* const sums = sums_ + half * 2 * kTileBytes + (r - from) * kLine;
        Format::finish(g_, sums, r, first * kColumns);
        if (two) Format::finish(g_, sums + kTileBytes, r, second * kColumns);
      }
    }
  }

  const Gemm& g_;
  const char* const input_;
  const std::int64_t flat_, steps_;
  const bool whole_;
  char* const sums_;
  char* const gathered_;
};

}  // namespace
}  // namespace laud
