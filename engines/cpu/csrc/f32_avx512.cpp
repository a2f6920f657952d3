// Compiled for AVX-512: 24 accumulators of the 32 registers. With LAUD_EMULATED the compiler takes
// the vectors apart, so that machines without it test the rest.
#define LAUD_VL 16
#define LAUD_NV 4
#define LAUD_NAME "avx512"
#if defined(LAUD_EMULATED)
#define LAUD_FUNCTION f32_avx512_emulated
#else
#define LAUD_FUNCTION f32_avx512
#endif
#include "f32_kernels.hpp"
