// Vectors in GCC's extensions and what kernels of every precision do with them. Everything here is
// in the including file's own unnamed namespace: it is compiled once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

namespace laud {
namespace {

template <typename T, int N>
struct LanesOf {
  typedef T type __attribute__((vector_size(N * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <typename T, int N>
using Lanes = typename LanesOf<T, N>::type;

template <typename V, typename T>
inline V load(const T* p) {
  return *reinterpret_cast<const V*>(p);
}

template <typename V, typename T>
inline void store(T* p, V v) {
  *reinterpret_cast<V*>(p) = v;
}

template <typename T, int N>
void pool_row(const void* const* rows, std::int64_t num_rows, std::int64_t width,
              std::int64_t first, std::int64_t outputs, std::int64_t channels, void* result) {
  using V = Lanes<T, N>;
  T* const out = static_cast<T*>(result);
  for (std::int64_t i = 0; i < outputs; ++i) {
    const std::int64_t left = first + 2 * i;
    const std::int64_t begin = left < 0 ? 0 : left, end = left + 3 < width ? left + 3 : width;
    for (std::int64_t c = 0; c < channels; c += N) {
      V best = load<V>(static_cast<const T*>(rows[0]) + begin * channels + c);
      for (std::int64_t y = 0; y < num_rows; ++y) {
        for (std::int64_t p = begin; p < end; ++p) {
          const V x = load<V>(static_cast<const T*>(rows[y]) + p * channels + c);
          best = best < x ? x : best;
        }
      }
      store(out + i * channels + c, best);
    }
  }
}

// Sixteen sums side by side and then one over them: an order that no vector width (W) changes.
template <int W>
float lane_dot(const float* a, const float* b, std::int64_t channels) {
  using V = Lanes<float, W>;
  V sum[16 / W] = {};
  for (std::int64_t c = 0; c < channels; c += 16) {
#pragma GCC unroll 4
    for (int i = 0; i < 16 / W; ++i) sum[i] += load<V>(a + c + i * W) * load<V>(b + c + i * W);
  }
  float lanes[16];
  for (int i = 0; i < 16 / W; ++i) store(lanes + i * W, sum[i]);
  float total = 0.0f;
  for (int i = 0; i < 16; ++i) total += lanes[i];
  return total;
}

// (mean - mu) / sigma, clipped at +-5.
template <int W>
void clipped_scores(const float* means, const float* mu, const float* sigma, std::int64_t channels,
                    float* out) {
  using V = Lanes<float, W>;
  const V high = V{} + 5.0f, low = -high;
  for (std::int64_t c = 0; c < channels; c += W) {
    V z = (load<V>(means + c) - load<V>(mu + c)) / load<V>(sigma + c);
    z = z < low ? low : z;
    z = z > high ? high : z;
    store(out + c, z);
  }
}

// Means over a rectangle of pixels, four vectors of channels at a time where there are as many.
// `widen` loads W numbers as floats. A sum per row comes first: fewer roundings than one long sum.
template <int W, typename T, typename Widen>
void float_means(const T* x, std::int64_t row_stride, std::int64_t pixel_stride, std::int64_t rows,
                 std::int64_t columns, std::int64_t channels, float* out, Widen widen) {
  using V = Lanes<float, W>;
  const float count = static_cast<float>(rows * columns);
  const auto some = [&]<int K>(std::int64_t c) {
    V total[K] = {};
    for (std::int64_t y = 0; y < rows; ++y) {
      V sum[K] = {};
      const T* p = x + y * row_stride + c;
      for (std::int64_t i = 0; i < columns; ++i, p += pixel_stride) {
#pragma GCC unroll 4
        for (int k = 0; k < K; ++k) sum[k] += widen(p + k * W);
      }
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) total[k] += sum[k];
    }
    for (int k = 0; k < K; ++k) store(out + c + k * W, total[k] / count);
  };
  std::int64_t c = 0;
  for (; c + 4 * W <= channels; c += 4 * W) some.template operator()<4>(c);
  for (; c < channels; c += W) some.template operator()<1>(c);
}

}  // namespace
}  // namespace laud
