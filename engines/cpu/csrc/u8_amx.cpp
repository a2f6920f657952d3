// int8 on AMX tiles. Compiled with -mavx512f -mavx512bw -mamx-tile -mamx-int8.
#include "amx_gemm.hpp"
#include "u8_common.hpp"

namespace laud {
namespace {

struct Format {
  using Input = std::uint8_t;

  template <int C, int A, int B>
  static void dot() {
    tile_dot_u8<C, A, B>();
  }

  static void finish(const Gemm& g, const char* sums, std::int64_t row, std::int64_t column) {
    using Sums = Lanes<std::int32_t, 16>;
    laud::finish<16>(g, load<Sums>(reinterpret_cast<const std::int32_t*>(sums)),
                     row_output(g, row), column);
  }
};

constexpr Kernels kKernels = {"amx",
                              Element::u8,
                              16,
                              2,
                              4,
                              16,
                              64,
                              64,
                              16,
                              2 * kTileRows,
                              allow_tiles,
                              TileGemm<Format>::run,
                              TileGemm<Format>::scratch_bytes,
                              means,
                              pool_row<std::uint8_t, 16>,
                              clipped_scores<16>,
                              lane_dot<16>};

}  // namespace

#if defined(LAUD_EMULATED)
const Kernels& u8_amx_emulated() { return kKernels; }
#else
const Kernels& u8_amx() { return kKernels; }
#endif

}  // namespace laud
