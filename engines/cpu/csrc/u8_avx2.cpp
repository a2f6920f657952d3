// int8 without dot-product instructions: products of bytes are summed in pairs to 16 bits, and those
// in pairs to 32. The first sum saturates in general; weights are quantised so that it cannot (no
// two neighbours of one sign exceed 128 together: 128 * 255 fits). Compiled with -mavx2.
#include <immintrin.h>

#include <cstdint>

#include "lanes.hpp"

namespace laud {
namespace {

using Sums = Lanes<std::int32_t, 8>;
using Inputs = __m256i;
using Prepared = __m256i;

inline Prepared prepare_weights(Sums weights) { return reinterpret_cast<__m256i>(weights); }

inline Inputs prepare_inputs(std::int32_t quad) { return _mm256_set1_epi32(quad); }

inline void add_products(Sums& sum, Inputs x, Prepared weights) {
  const __m256i pairs = _mm256_maddubs_epi16(x, weights);
  sum += reinterpret_cast<Sums>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

}  // namespace
}  // namespace laud

#define LAUD_VL 8
#define LAUD_NV 2
#define LAUD_ROWS 5
#define LAUD_NAME "avx2"
#define LAUD_FUNCTION u8_avx2
#include "u8_quads.hpp"
