// int8 on every machine: even and odd bytes apart, as 16-bit numbers, whose products are summed in
// pairs to 32 bits.
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <cstdint>

#include "lanes.hpp"

namespace laud {
namespace {

using Sums = Lanes<std::int32_t, 4>;
using Words = Lanes<std::int16_t, 8>;

struct Inputs {
  Words even, odd;
};
using Prepared = Inputs;

inline Prepared prepare_weights(Sums weights) {
  const Words pairs = reinterpret_cast<Words>(weights);
  return {(pairs << 8) >> 8, pairs >> 8};
}

inline Inputs prepare_inputs(std::int32_t quad) {
  const Sums x = Sums{} + quad;
  const Sums low = Sums{} + 0x00ff00ff;
  return {reinterpret_cast<Words>(x & low), reinterpret_cast<Words>((x >> 8) & low)};
}

inline Sums multiply_pairs(Words a, Words b) {
#if defined(__SSE2__)
  return reinterpret_cast<Sums>(
      _mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  const Sums x = reinterpret_cast<Sums>(a), y = reinterpret_cast<Sums>(b);
  return ((x << 16) >> 16) * ((y << 16) >> 16) + (x >> 16) * (y >> 16);
#endif
}

inline void add_products(Sums& sum, const Inputs& x, const Prepared& weights) {
  sum += multiply_pairs(x.even, weights.even) + multiply_pairs(x.odd, weights.odd);
}

}  // namespace
}  // namespace laud

#define LAUD_VL 4
#define LAUD_NV 2
#define LAUD_ROWS 4
#define LAUD_NAME "baseline"
#define LAUD_FUNCTION u8_baseline
#include "u8_quads.hpp"
