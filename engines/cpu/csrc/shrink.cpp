#include "shrink.hpp"

#include <array>
#include <cstring>
#include <vector>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace laud {
namespace {

constexpr std::int64_t kChannels = 3;
constexpr std::uint16_t kHalf = 128;
constexpr int kShift = 8;  // weights are 256ths: 255 x 256 + 128 fits 16 bits

constexpr std::int64_t kBlock = 64;  // bytes whose sums stay in registers

// Eight 16-bit lanes. The three operations that gcc 12 spells badly are spelled out where they can be.
using Lanes = std::uint16_t __attribute__((vector_size(16)));

#ifdef __SSE2__

Lanes load(const std::uint8_t* bytes) {
  const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
  return reinterpret_cast<Lanes>(_mm_unpacklo_epi8(eight, _mm_setzero_si128()));
}

std::uint64_t packed(Lanes lanes) {
  const __m128i whole = reinterpret_cast<__m128i>(lanes);
  return static_cast<std::uint64_t>(_mm_cvtsi128_si64(_mm_packus_epi16(whole, whole)));
}

Lanes second_pixel(Lanes lanes) {
  return reinterpret_cast<Lanes>(_mm_srli_si128(reinterpret_cast<__m128i>(lanes), 6));
}

#else

Lanes load(const std::uint8_t* bytes) {
  Lanes lanes;
  for (int i = 0; i < 8; ++i) lanes[i] = bytes[i];
  return lanes;
}

std::uint64_t packed(Lanes lanes) {
  std::uint64_t whole = 0;
  for (int i = 0; i < 8; ++i) whole |= static_cast<std::uint64_t>(lanes[i]) << (8 * i);
  return whole;
}

Lanes second_pixel(Lanes lanes) {
  return Lanes{lanes[3], lanes[4], lanes[5], lanes[6], lanes[7], 0, 0, 0};
}

#endif

// One row of the copy from `count` whole rows below each other: every byte on its own.
void mix_rows(const std::uint8_t* rows, std::int64_t bytes, const std::uint16_t* weights,
              std::int64_t count, std::uint8_t* out) {
  std::int64_t j = 0;
  for (; j + kBlock <= bytes; j += kBlock) {
    std::array<Lanes, kBlock / 8> sums;
    sums.fill(Lanes{} + kHalf);
    for (std::int64_t k = 0; k < count; ++k) {
      for (std::size_t v = 0; v < sums.size(); ++v) {
        sums[v] += load(rows + k * bytes + j + 8 * static_cast<std::int64_t>(v)) * weights[k];
      }
    }
    for (std::size_t v = 0; v < sums.size(); ++v) {
      const std::uint64_t whole = packed(sums[v] >> kShift);
      std::memcpy(out + j + 8 * static_cast<std::int64_t>(v), &whole, sizeof whole);
    }
  }
  for (; j < bytes; ++j) {
    std::uint32_t sum = kHalf;
    for (std::int64_t k = 0; k < count; ++k) sum += weights[k] * rows[k * bytes + j];
    out[j] = static_cast<std::uint8_t>(sum >> kShift);
  }
}

// Two neighbours at a time: six of eight lanes, three channels each.
void mix_columns(const std::uint8_t* row, const Taps& taps, const Lanes* weights,
                 std::uint8_t* out) {
  const std::int64_t pairs = (taps.count + 1) / 2;
  for (std::int64_t i = 0; i < taps.size; ++i, weights += pairs, out += kChannels) {
    const std::uint8_t* from = row + taps.first[i] * kChannels;
    Lanes sum{};
    for (std::int64_t p = 0; p < pairs; ++p) {
      sum += load(from + 2 * kChannels * p) * weights[p];
    }
    const std::uint64_t whole = packed((sum + second_pixel(sum) + kHalf) >> kShift);
    std::memcpy(out, &whole, kChannels);
  }
}

}  // namespace

void shrink(const std::uint8_t* images, std::int64_t n, std::int64_t source, const Taps& taps,
            std::uint8_t* copies) {
  const std::int64_t bytes = source * kChannels, pairs = (taps.count + 1) / 2;
  std::vector<Lanes> weights(static_cast<std::size_t>(taps.size * pairs), Lanes{});
  for (std::int64_t i = 0; i < taps.size; ++i) {
    for (std::int64_t k = 0; k < taps.count; ++k) {
      Lanes& pair = weights[static_cast<std::size_t>(i * pairs + k / 2)];
      for (int c = 0; c < kChannels; ++c) {
        pair[(k % 2) * kChannels + c] = taps.weights[i * taps.count + k];
      }
    }
  }
  // Pairs are loaded eight bytes at a time: past a row's end by an odd tap and two bytes.
  std::vector<std::uint8_t> row(static_cast<std::size_t>(bytes + kChannels + 2), 0);
  for (std::int64_t image = 0; image < n; ++image, images += source * bytes) {
    for (std::int64_t y = 0; y < taps.size; ++y, copies += taps.size * kChannels) {
      mix_rows(images + taps.first[y] * bytes, bytes, taps.weights + y * taps.count, taps.count,
               row.data());
      mix_columns(row.data(), taps, weights.data(), copies);
    }
  }
}

}  // namespace laud
