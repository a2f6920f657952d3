// int8 with AVX-512-VNNI: four products of bytes summed to 32 bits in one instruction. Compiled with
// -mavx512f -mavx512bw -mavx512vnni. With LAUD_EMULATED the instruction is spelled out, so that
// machines without it test the rest.
#include <cstdint>

#include "lanes.hpp"

namespace laud {
namespace {

using Sums = Lanes<std::int32_t, 16>;
using Inputs = Sums;
using Prepared = Sums;

inline Prepared prepare_weights(Sums weights) { return weights; }

inline Inputs prepare_inputs(std::int32_t quad) { return Sums{} + quad; }

inline void add_products(Sums& sum, Inputs x, Prepared weights) {
#if defined(LAUD_EMULATED)
  for (int byte = 0; byte < 4; ++byte) {
    sum += ((x >> (8 * byte)) & 255) * ((weights << (24 - 8 * byte)) >> 24);
  }
#else
  // gcc 12 copies the accumulators around the intrinsic, which halves the speed.
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(weights));
#endif
}

}  // namespace
}  // namespace laud

#define LAUD_VL 16
#define LAUD_NV 4
#define LAUD_ROWS 6
#define LAUD_NAME "avx512-vnni"
#if defined(LAUD_EMULATED)
#define LAUD_FUNCTION u8_vnni_emulated
#else
#define LAUD_FUNCTION u8_vnni
#endif
#include "u8_quads.hpp"
