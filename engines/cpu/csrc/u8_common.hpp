// What the int8 kernels of every instruction set share. Compiled with -ffp-contract=off: products
// and sums round separately, so that every machine (and numpy) gets the same bits.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>

#include "kernels.hpp"
#include "lanes.hpp"

namespace laud {
namespace {

// 1.5 * 2^23: adding it leaves a number of 0..255 in the low bits, rounded half to even.
constexpr float kRounder = 12582912.0f;

template <int N>
inline Lanes<float, N> widen(const std::uint8_t* p) {
  const auto bytes = load<Lanes<std::uint8_t, N>>(p);
  return __builtin_convertvector(__builtin_convertvector(bytes, Lanes<std::int32_t, N>),
                                 Lanes<float, N>);
}

// To 0..255, rounded half to even.
template <int N>
inline void store_bytes(std::uint8_t* to, Lanes<float, N> y) {
  using I = Lanes<std::int32_t, N>;
  const Lanes<float, N> low = {}, high = low + 255.0f;
  y = y > low ? y : low;
  y = y < high ? y : high;
  const I bits = reinterpret_cast<I>(y + kRounder) & 255;
  store(to, __builtin_convertvector(bits, Lanes<std::uint8_t, N>));
}

// gcc 12 takes conversions between bytes and 32-bit numbers apart; these two do the same.
#if defined(__AVX2__)
template <>
inline Lanes<float, 8> widen<8>(const std::uint8_t* p) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return reinterpret_cast<Lanes<float, 8>>(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)));
}

template <>
inline void store_bytes<8>(std::uint8_t* to, Lanes<float, 8> y) {
  const __m256 clamped = _mm256_min_ps(
      _mm256_max_ps(reinterpret_cast<__m256>(y), _mm256_setzero_ps()), _mm256_set1_ps(255.0f));
  const __m256i whole = _mm256_castps_si256(_mm256_add_ps(clamped, _mm256_set1_ps(kRounder)));
  const __m256i lowest = _mm256_shuffle_epi8(whole, _mm256_set1_epi32(0x0c080400));
  const __m128i bytes =
      _mm_unpacklo_epi32(_mm256_castsi256_si128(lowest), _mm256_extracti128_si256(lowest, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), bytes);
}
#endif
#if defined(__AVX512BW__)
template <>
inline Lanes<float, 16> widen<16>(const std::uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return reinterpret_cast<Lanes<float, 16>>(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)));
}

template <>
inline void store_bytes<16>(std::uint8_t* to, Lanes<float, 16> y) {
  const __m512 clamped = _mm512_min_ps(
      _mm512_max_ps(reinterpret_cast<__m512>(y), _mm512_setzero_ps()), _mm512_set1_ps(255.0f));
  const __m512i whole = _mm512_castps_si512(_mm512_add_ps(clamped, _mm512_set1_ps(kRounder)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(whole));
}
#endif

// Four vectors as store_bytes rounds them, the first two at `low` and the others at `high`. Numbers
// become integers as they are rounded, and saturate where they are narrowed.
template <int N>
inline void store_four(std::uint8_t* low, std::uint8_t* high, const Lanes<float, N> (&y)[4]) {
  store_bytes<N>(low, y[0]);
  store_bytes<N>(low + N, y[1]);
  store_bytes<N>(high, y[2]);
  store_bytes<N>(high + N, y[3]);
}

#if defined(__AVX2__)
template <>
inline void store_four<8>(std::uint8_t* low, std::uint8_t* high, const Lanes<float, 8> (&y)[4]) {
  const auto whole = [](Lanes<float, 8> x) {
    // The other order of operands would make a NaN 255.
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(255.0f), reinterpret_cast<__m256>(x)));
  };
  const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(whole(y[0]), whole(y[1])),
                                            _mm256_packs_epi32(whole(y[2]), whole(y[3])));
  // Each half holds its quarter of every vector.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i sorted = _mm256_permutevar8x32_epi32(bytes, order);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(low), _mm256_castsi256_si128(sorted));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(high), _mm256_extracti128_si256(sorted, 1));
}
#endif
#if defined(__AVX512BW__)
template <>
inline void store_four<16>(std::uint8_t* low, std::uint8_t* high, const Lanes<float, 16> (&y)[4]) {
  const auto whole = [](Lanes<float, 16> x) {
    return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_set1_ps(255.0f), reinterpret_cast<__m512>(x)));
  };
  const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(whole(y[0]), whole(y[1])),
                                            _mm512_packs_epi32(whole(y[2]), whole(y[3])));
  const __m512i order =
      _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i sorted = _mm512_permutexvar_epi32(order, bytes);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(low), _mm512_castsi512_si256(sorted));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(high), _mm512_extracti64x4_epi64(sorted, 1));
}
#endif

template <int N>
inline Lanes<float, N> scaled(const Gemm& g, Lanes<std::int32_t, N> sum, std::int64_t column) {
  using F = Lanes<float, N>;
  const F y = __builtin_convertvector(sum, F) * load<F>(g.scale + column);
  return y + load<F>(g.bias + column);
}

// One vector of sums to where it goes; `c` is the row's first channel.
template <int N>
inline void finish(const Gemm& g, Lanes<std::int32_t, N> sum, void* c, std::int64_t column) {
  using F = Lanes<float, N>;
  F y = scaled<N>(g, sum, column);
  if (g.keep) y = y * load<F>(g.keep + column);
  if (g.epilogue == Epilogue::raw) return store(static_cast<float*>(c) + column, y);
  std::uint8_t* const out = static_cast<std::uint8_t*>(c) + column;
  if (g.epilogue == Epilogue::add_relu) {
    const F shortcut = widen<N>(out) * g.residual;
    y = y + shortcut;
  }
  store_bytes<N>(out, y);
}

// What `finish` does with every vector of a tile, of M rows `c` and V vectors side by side from
// `column` on, where results are bytes and all are kept.
template <int N, int M, int V, bool Add>
[[gnu::always_inline]] inline void finish_bytes(const Gemm& g,
                                                const Lanes<std::int32_t, N> (&sum)[M][V],
                                                void* const* c, std::int64_t column) {
  using F = Lanes<float, N>;
  const auto at = [&](int m, int v) { return static_cast<std::uint8_t*>(c[m]) + column + v * N; };
  const auto number = [&](int m, int v) {
    const F y = scaled<N>(g, sum[m][v], column + v * N);
    if (!Add) return y;
    const F shortcut = widen<N>(at(m, v)) * g.residual;
    return y + shortcut;
  };
  static_assert(V == 2 || V == 4);
  if constexpr (V == 4) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      store_four<N>(at(m, 0), at(m, 2), {number(m, 0), number(m, 1), number(m, 2), number(m, 3)});
    }
    return;
  }
#pragma GCC unroll 8
  for (int m = 0; m + 1 < M; m += 2) {
    store_four<N>(at(m, 0), at(m + 1, 0),
                  {number(m, 0), number(m, 1), number(m + 1, 0), number(m + 1, 1)});
  }
  if constexpr (M % 2) {
    store_bytes<N>(at(M - 1, 0), number(M - 1, 0));
    store_bytes<N>(at(M - 1, 1), number(M - 1, 1));
  }
}

inline void* row_output(const Gemm& g, std::int64_t row) {
  return g.epilogue == Epilogue::raw
             ? static_cast<void*>(static_cast<float*>(g.c) + g.c_offsets[row])
             : static_cast<void*>(static_cast<std::uint8_t*>(g.c) + g.c_offsets[row]);
}

inline Lanes<std::uint16_t, 16> widen_to_words(const std::uint8_t* p) {
#if defined(__AVX2__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return reinterpret_cast<Lanes<std::uint16_t, 16>>(_mm256_cvtepu8_epi16(bytes));
#else
  return __builtin_convertvector(load<Lanes<std::uint8_t, 16>>(p), Lanes<std::uint16_t, 16>);
#endif
}

// Sums of K * 16 channels over a rectangle of at most 256 pixels, which fit 16 bits, added to totals.
template <int K>
void add_sums(const std::uint8_t* x, std::int64_t row_stride, std::int64_t pixel_stride,
              std::int64_t rows, std::int64_t columns, std::int32_t* totals) {
  using Words = Lanes<std::uint16_t, 16>;
  Words sum[K] = {};
  for (std::int64_t y = 0; y < rows; ++y) {
    const std::uint8_t* p = x + y * row_stride;
    for (std::int64_t i = 0; i < columns; ++i, p += pixel_stride) {
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) sum[k] += widen_to_words(p + k * 16);
    }
  }
  std::uint16_t words[K * 16];
  for (int k = 0; k < K; ++k) store(words + k * 16, sum[k]);
  for (int i = 0; i < K * 16; ++i) totals[i] += words[i];
}

template <int K>
void some_means(const std::uint8_t* x, std::int64_t row_stride, std::int64_t pixel_stride,
                std::int64_t rows, std::int64_t columns, float factor, float* out) {
  constexpr std::int64_t kMost = 256;
  std::int32_t totals[K * 16] = {};
  const std::int64_t width = columns < kMost ? columns : kMost;
  const std::int64_t height = kMost / width;
  for (std::int64_t top = 0; top < rows; top += height) {
    const std::int64_t tall = rows - top < height ? rows - top : height;
    for (std::int64_t left = 0; left < columns; left += width) {
      const std::int64_t wide = columns - left < width ? columns - left : width;
      add_sums<K>(x + top * row_stride + left * pixel_stride, row_stride, pixel_stride, tall, wide,
                  totals);
    }
  }
  for (int i = 0; i < K * 16; ++i) out[i] = static_cast<float>(totals[i]) * factor;
}

// Sums are exact in any order while there are fewer than 2^23 pixels.
void means(const void* map, std::int64_t row_stride, std::int64_t pixel_stride, std::int64_t rows,
           std::int64_t columns, std::int64_t channels, float factor, float* out) {
  const std::uint8_t* x = static_cast<const std::uint8_t*>(map);
  std::int64_t c = 0;
  for (; c + 64 <= channels; c += 64) {
    some_means<4>(x + c, row_stride, pixel_stride, rows, columns, factor, out + c);
  }
  for (; c < channels; c += 16) {
    some_means<1>(x + c, row_stride, pixel_stride, rows, columns, factor, out + c);
  }
}

inline bool prepare_nothing() { return true; }

}  // namespace
}  // namespace laud
