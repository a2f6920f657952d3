// Compiled with -mavx512f: 24 accumulators of the 32 registers.
#define LAUD_VL 16
#define LAUD_NV 4
#define LAUD_NAME "avx512"
#define LAUD_FUNCTION f32_avx512
#include "f32_kernels.hpp"
