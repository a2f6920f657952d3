// int8 kernels on rows where they lie: four products of bytes, summed to 32 bits, per step. A
// translation unit defines LAUD_VL (sums in a vector), LAUD_NV (vectors in a panel), LAUD_ROWS (rows
// in a tile), LAUD_NAME and LAUD_FUNCTION, and gives `Prepared prepare_weights(Sums)`,
// `Inputs prepare_inputs(int32)` and `void add_products(Sums&, Inputs, Prepared)`.
#include <cstdint>

#include "u8_common.hpp"

namespace laud {
namespace {

constexpr int kVector = LAUD_VL;
constexpr int kPanel = LAUD_NV;
constexpr int kRows = LAUD_ROWS;
constexpr int kQuad = 4;
constexpr std::int64_t kStepBytes = kVector * kPanel * kQuad;
// Bytes of the input that one pass over the panels keeps in the second-level cache.
constexpr std::int64_t kBlockBytes = 192 * 1024;
constexpr std::int64_t kAhead = 4096;
constexpr std::int64_t kMostRows = 240;
// Panels of smaller layers stay cached from call to call and need no fetching ahead.
constexpr std::int64_t kLargeWeights = 60000;

struct Tile {
  const std::uint8_t* a[kRows];
  void* c[kRows];
  const std::int8_t* b[kPanel];
  std::int64_t column[kPanel];
  bool side_by_side;  // the vectors' columns are
  const char* next;   // memory to fetch into the second-level cache; may be null
};

// Results that are not bytes.
template <int M, int V>
[[gnu::always_inline]] inline void finish_floats(const Gemm& g, const Tile& t,
                                                 const Sums (&sum)[M][V]) {
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      float* const to = static_cast<float*>(t.c[m]) + t.column[v];
      store(to, scaled<kVector>(g, sum[m][v], t.column[v]));
    }
  }
}

// Any results of a tile of any size. One function, which sums go to through memory: inlined into
// every tile it would be most of the code, and only layers with inactive channels end in it, and
// tiles of one or three vectors.
[[gnu::noinline]] void finish_each(const Gemm& g, const Tile& t, const Sums* sums, int rows,
                                   int vectors) {
  for (int m = 0; m < rows; ++m) {
    for (int v = 0; v < vectors; ++v) finish<kVector>(g, *sums++, t.c[m], t.column[v]);
  }
}

template <int M, int V, bool Fetch>
void tile(const Gemm& g, const Tile& t) {
  Sums sum[M][V] = {};
  const char* next = t.next;
  for (std::int64_t tap = 0; tap < g.num_taps; ++tap) {
    for (std::int64_t s = 0; s < g.num_segments; ++s) {
      const std::int64_t begin = g.segments[s].begin;
      const std::int64_t count = (g.segments[s].end - begin) / kQuad;
      const std::uint8_t* a[M];
      const std::int8_t* b[V];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) a[m] = t.a[m] + g.taps[tap] + begin;
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) b[v] = t.b[v] + (tap * g.depth + begin) / kQuad * kStepBytes;
      for (std::int64_t k = 0; k < count; ++k) {
        Prepared w[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          const auto* const at = reinterpret_cast<const std::int32_t*>(b[v] + k * kStepBytes);
          w[v] = prepare_weights(load<Sums>(at));
        }
#pragma GCC unroll 4
        for (int line = 0; line < V * kVector * kQuad / 64; ++line) {
          __builtin_prefetch(b[0] + k * kStepBytes + kAhead + line * 64);
        }
        if (Fetch) {
          __builtin_prefetch(next, 0, 2);
          next += 64;
        }
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          std::int32_t quad;
          std::memcpy(&quad, a[m] + k * kQuad, sizeof quad);
          const Inputs x = prepare_inputs(quad);
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) add_products(sum[m][v], x, w[v]);
        }
      }
    }
  }
  if (!g.keep && g.epilogue == Epilogue::raw) return finish_floats(g, t, sum);
  if constexpr (V == 2 || V == 4) {
    if (!g.keep && t.side_by_side) {
      return g.epilogue == Epilogue::add_relu
                 ? finish_bytes<kVector, M, V, true>(g, sum, t.c, t.column[0])
                 : finish_bytes<kVector, M, V, false>(g, sum, t.c, t.column[0]);
    }
  }
  Sums copy[M][V];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) copy[m][v] = sum[m][v];
  }
  finish_each(g, t, copy[0], M, V);
}

template <int V, bool Fetch>
void any_rows(int rows, const Gemm& g, const Tile& t) {
  switch (rows) {
    case 1: return tile<1, V, Fetch>(g, t);
    case 2: return tile<2, V, Fetch>(g, t);
    case 3: return tile<3, V, Fetch>(g, t);
#if LAUD_ROWS > 4
    case 4: return tile<4, V, Fetch>(g, t);
#endif
#if LAUD_ROWS > 5
    case 5: return tile<5, V, Fetch>(g, t);
#endif
    default: return tile<kRows, V, Fetch>(g, t);
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

// Taps whose inputs lie one behind the other, such as those of a row of a 3x3, as one longer tap: a
// loop over few channels is too short.
class MergedTaps {
 public:
  // `g` then points into this object.
  void apply(Gemm& g) {
    if (g.num_taps > kMostTaps || g.num_segments != 1) return;
    if (g.segments[0].end - g.segments[0].begin != g.depth) return;
    std::int64_t run = 1;
    while (run < g.num_taps && g.taps[run] == g.taps[0] + run * g.depth) ++run;
    if (run == 1 || g.num_taps % run) return;
    for (std::int64_t t = 0; t < g.num_taps; ++t) {
      const std::int64_t first = t / run * run;
      if (g.taps[t] != g.taps[first] + (t - first) * g.depth) return;
      taps_[t / run] = g.taps[first];
    }
    g.taps = taps_;
    g.num_taps /= run;
    g.depth *= run;
    all_ = {0, g.depth};
    g.segments = &all_;
  }

 private:
  static constexpr std::int64_t kMostTaps = 16;
  std::int64_t taps_[kMostTaps];
  Segment all_;
};

std::int64_t rows_of_block(std::int64_t depth) {
  const std::int64_t rows = kBlockBytes / depth;
  return rows < 24 ? 24 : (rows > kMostRows ? kMostRows : rows);
}

void gemm(const Gemm& given) {
  const std::uint8_t* const input = static_cast<const std::uint8_t*>(given.a);
  const std::int8_t* const panels = static_cast<const std::int8_t*>(given.panels);
  const std::int64_t flat = given.num_taps * given.depth, steps = flat / kQuad;
  const std::int64_t lines = given.panel_bytes / 64;
  const bool large = flat * given.num_vectors * kVector >= kLargeWeights;
  Gemm g = given;
  MergedTaps merged;
  merged.apply(g);
  const std::int64_t block = rows_of_block(given.depth);
  for (std::int64_t begin = g.row_begin; begin < g.row_end; begin += block) {
    const std::int64_t rows = g.row_end - begin < block ? g.row_end - begin : block;
    const std::int64_t tiles = (rows + kRows - 1) / kRows;
    const std::int64_t least = rows / tiles, more = rows % tiles;
    for (std::int64_t n = 0; n < g.num_vectors; n += kPanel) {
      const int vectors = static_cast<int>(g.num_vectors - n < kPanel ? g.num_vectors - n : kPanel);
      Tile t;
      t.side_by_side = true;
      for (int v = 0; v < vectors; ++v) {
        const std::int64_t index = g.vectors[n + v];
        t.side_by_side = t.side_by_side && index == g.vectors[n] + v;
        t.b[v] = panels + index / kPanel * g.panel_bytes + index % kPanel * kVector * kQuad;
        t.column[v] = index * kVector;
      }
      // What comes next in the arena: the next panel, or the next layer's first.
      const char* const next = reinterpret_cast<const char*>(t.b[0] + g.panel_bytes);
      std::int64_t row = begin;
      for (std::int64_t i = 0; i < tiles; ++i) {
        // Even heights: 11 rows are 4 + 4 + 3, not 5 + 5 + 1.
        const int height = static_cast<int>(i < more ? least + 1 : least);
        for (int m = 0; m < height; ++m, ++row) {
          t.a[m] = input + g.a_offsets[row];
          t.c[m] = row_output(g, row);
        }
        const bool fetch = large && begin == g.row_begin && i * steps < lines;
        t.next = fetch ? next + i * steps * 64 : nullptr;
        any_tile(height, vectors, g, t);
      }
    }
  }
}

std::int64_t scratch_bytes(std::int64_t) { return 0; }

constexpr Kernels kKernels = {LAUD_NAME, Element::u8, kVector, kPanel, kQuad,           16,
                              kQuad,     kQuad,       16,      kRows,  prepare_nothing, gemm,
                              scratch_bytes, means,   pool_row<std::uint8_t, 16>, clipped_scores<kVector>,
                              lane_dot<kVector>};

}  // namespace

const Kernels& LAUD_FUNCTION() { return kKernels; }

}  // namespace laud
