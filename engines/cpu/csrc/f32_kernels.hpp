// The fp32 kernels, once, in GCC vector extensions. A translation unit defines LAUD_VL (floats in a
// vector), LAUD_NV (vectors in a panel), LAUD_NAME and LAUD_FUNCTION, and is compiled for its
// instruction set. A tile is 6 rows x LAUD_NV vectors of accumulators.
#include <cstdint>

#include "kernels.hpp"
#include "lanes.hpp"

namespace laud {
namespace {

constexpr int kVector = LAUD_VL;
constexpr int kPanel = LAUD_NV;
constexpr int kRows = 6;
constexpr std::int64_t kStep = kVector * kPanel;
// Bytes of the input that one pass over the panels keeps in the second-level cache.
constexpr std::int64_t kBlockBytes = 192 * 1024;
// How far ahead of its use a panel is fetched into the first-level cache, in floats.
constexpr std::int64_t kAhead = 64 * kStep;
// Panels of smaller layers stay cached from call to call and need no fetching ahead.
constexpr std::int64_t kLargeWeights = 60000;

using Vec = Lanes<float, LAUD_VL>;

// NaN passes, as in torch, so that a read of unwritten memory shows.
inline Vec relu(Vec x) {
  const Vec zero = {};
  return x < zero ? zero : x;
}

struct Tile {
  const float* a[kRows];
  float* c[kRows];
  const float* b[kPanel];
  std::int64_t column[kPanel];
  const char* next;  // memory to fetch into the second-level cache, a line per step; may be null
};

template <int M, int V, bool Fetch>
void tile(const Gemm& g, const Tile& t) {
  Vec sum[M][V];
  const char* next = t.next;
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    const Vec bias = load<Vec>(g.bias + t.column[v]);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) sum[m][v] = bias;
  }
  for (std::int64_t tap = 0; tap < g.num_taps; ++tap) {
    for (std::int64_t s = 0; s < g.num_segments; ++s) {
      const std::int64_t begin = g.segments[s].begin, count = g.segments[s].end - begin;
      const float* a[M];
      const float* b[V];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) a[m] = t.a[m] + g.taps[tap] + begin;
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) b[v] = t.b[v] + (tap * g.depth + begin) * kStep;
      for (std::int64_t k = 0; k < count; ++k) {
        Vec w[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) w[v] = load<Vec>(b[v] + k * kStep);
        __builtin_prefetch(b[0] + k * kStep + kAhead);
        if (Fetch) {
          __builtin_prefetch(next, 0, 2);
          next += 64;
        }
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const float x = a[m][k];
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) sum[m][v] += x * w[v];
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      float* c = t.c[m] + t.column[v];
      Vec x = sum[m][v];
      if (g.epilogue == Epilogue::add_relu) x += load<Vec>(c);
      if (g.epilogue == Epilogue::add_relu || g.epilogue == Epilogue::relu) x = relu(x);
      store(c, x);
    }
  }
}

template <int V, bool Fetch>
void any_rows(int rows, const Gemm& g, const Tile& t) {
  switch (rows) {
    case 1: return tile<1, V, Fetch>(g, t);
    case 2: return tile<2, V, Fetch>(g, t);
    case 3: return tile<3, V, Fetch>(g, t);
    case 4: return tile<4, V, Fetch>(g, t);
    case 5: return tile<5, V, Fetch>(g, t);
    default: return tile<6, V, Fetch>(g, t);
  }
}

void any_tile(int rows, int vectors, const Gemm& g, const Tile& t) {
  switch (vectors) {
    case 1: return any_rows<1, false>(rows, g, t);
#if LAUD_NV > 2
    case 2: return any_rows<2, false>(rows, g, t);
    case 3: return any_rows<3, false>(rows, g, t);
#endif
    default:
      return t.next ? any_rows<kPanel, true>(rows, g, t) : any_rows<kPanel, false>(rows, g, t);
  }
}

void gemm(const Gemm& g) {
  const float* const input = static_cast<const float*>(g.a);
  float* const output = static_cast<float*>(g.c);
  const float* const panels = static_cast<const float*>(g.panels);
  const std::int64_t panel_floats = g.panel_bytes / 4;
  const std::int64_t lines = g.panel_bytes / 64, steps = g.num_taps * g.depth;
  const bool large = steps * g.num_vectors * kVector >= kLargeWeights;
  std::int64_t block = kBlockBytes / (g.depth * 4);
  block = block < 24 ? 24 : (block > 240 ? 240 : block);
  for (std::int64_t begin = g.row_begin; begin < g.row_end; begin += block) {
    const std::int64_t rows = g.row_end - begin < block ? g.row_end - begin : block;
    const std::int64_t tiles = (rows + kRows - 1) / kRows;
    for (std::int64_t n = 0; n < g.num_vectors; n += kPanel) {
      const int vectors = static_cast<int>(g.num_vectors - n < kPanel ? g.num_vectors - n : kPanel);
      Tile t;
      for (int v = 0; v < vectors; ++v) {
        const std::int64_t index = g.vectors[n + v];
        t.b[v] = panels + index / kPanel * panel_floats + index % kPanel * kVector;
        t.column[v] = index * kVector;
      }
      // What comes next in the arena: the next panel, or the next layer's first.
      const char* const next = reinterpret_cast<const char*>(t.b[0] + panel_floats);
      for (std::int64_t i = 0; i < tiles; ++i) {
        // Even heights: 13 rows are 5 + 4 + 4, not 6 + 6 + 1.
        const std::int64_t from = begin + rows * i / tiles, to = begin + rows * (i + 1) / tiles;
        for (std::int64_t r = from; r < to; ++r) {
          t.a[r - from] = input + g.a_offsets[r];
          t.c[r - from] = output + g.c_offsets[r];
        }
        const bool fetch = large && begin == g.row_begin && i * steps < lines;
        t.next = fetch ? next + i * steps * 64 : nullptr;
        any_tile(static_cast<int>(to - from), vectors, g, t);
      }
    }
  }
}

void means(const void* map, std::int64_t row_stride, std::int64_t pixel_stride, std::int64_t rows,
           std::int64_t columns, std::int64_t channels, float, float* out) {
  float_means<kVector>(static_cast<const float*>(map), row_stride, pixel_stride, rows, columns,
                       channels, out, [](const float* p) { return load<Vec>(p); });
}

bool prepare() { return true; }

std::int64_t scratch_bytes(std::int64_t) { return 0; }

constexpr Kernels kKernels = {LAUD_NAME, Element::f32, kVector,       kPanel, 1,            1,
                              1,         1,            16,            kRows,  prepare,      gemm,
                              scratch_bytes, means,
                              pool_row<float, kVector>, clipped_scores<kVector>,
                              lane_dot<kVector>};

}  // namespace

const Kernels& LAUD_FUNCTION() { return kKernels; }

}  // namespace laud
