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

// Sixteen sums side by side and then one over them: an order that no vector width changes.
float lane_dot(const float* a, const float* b, std::int64_t channels) {
  using V = Lanes<float, 16>;
  V sum = {};
  for (std::int64_t c = 0; c < channels; c += 16) sum += load<V>(a + c) * load<V>(b + c);
  float total = 0.0f;
  for (int v = 0; v < 16; ++v) total += sum[v];
  return total;
}

}  // namespace
}  // namespace laud
