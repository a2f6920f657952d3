// bf16 on AMX tiles, sums in fp32. Compiled with -mavx512f -mavx512bw -mamx-tile -mamx-bf16.
#include "amx_gemm.hpp"
#include "lanes.hpp"

namespace laud {
namespace {

constexpr int kVector = 16;
using Floats = Lanes<float, kVector>;
using Words = Lanes<std::uint32_t, kVector>;
using Halves = Lanes<std::uint16_t, kVector>;

inline Floats widen(const std::uint16_t* p) {
  return reinterpret_cast<Floats>(__builtin_convertvector(load<Halves>(p), Words) << 16);
}

// Half to even. A NaN must not become infinity, so that a read of unwritten memory shows.
inline Halves narrow(Floats x) {
  const Words bits = reinterpret_cast<Words>(x);
  const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Words kept = (bits >> 16) | 0x40;
  return __builtin_convertvector(x == x ? rounded : kept, Halves);
}

struct Format {
  using Input = std::uint16_t;

  template <int C, int A, int B>
  static void dot() {
    tile_dot_bf16<C, A, B>();
  }

  static void finish(const Gemm& g, const char* sums, std::int64_t row, std::int64_t column) {
    Floats y = load<Floats>(reinterpret_cast<const float*>(sums)) + load<Floats>(g.bias + column);
    if (g.keep) y *= load<Floats>(g.keep + column);
    if (g.epilogue == Epilogue::raw) {
      return store(static_cast<float*>(g.c) + g.c_offsets[row] + column, y);
    }
    std::uint16_t* const c = static_cast<std::uint16_t*>(g.c) + g.c_offsets[row] + column;
    if (g.epilogue == Epilogue::add_relu) y += widen(c);
    const Floats zero = {};
    if (g.epilogue != Epilogue::store) y = y < zero ? zero : y;
    store(c, narrow(y));
  }
};

void means(const void* map, std::int64_t row_stride, std::int64_t pixel_stride, std::int64_t rows,
           std::int64_t columns, std::int64_t channels, float, float* out) {
  float_means<kVector>(static_cast<const std::uint16_t*>(map), row_stride, pixel_stride, rows,
                       columns, channels, out, widen);
}

constexpr Kernels kKernels = {"amx",
                              Element::bf16,
                              kVector,
                              2,
                              2,
                              16,
                              32,
                              32,
                              16,
                              2 * kTileRows,
                              allow_tiles,
                              TileGemm<Format>::run,
                              TileGemm<Format>::scratch_bytes,
                              means,
                              // Numbers >= 0 in bf16 are ordered as their bits are.
                              pool_row<std::uint16_t, kVector>,
                              clipped_scores<kVector>,
                              lane_dot<kVector>};

}  // namespace

#if defined(LAUD_EMULATED)
const Kernels& bf16_amx_emulated() { return kKernels; }
#else
const Kernels& bf16_amx() { return kKernels; }
#endif

}  // namespace laud
