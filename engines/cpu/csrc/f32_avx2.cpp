// Compiled with -mavx2 -mfma: 12 accumulators of the 16 registers.
#define LAUD_VL 8
#define LAUD_NV 2
#define LAUD_NAME "avx2"
#define LAUD_FUNCTION f32_avx2
#include "f32_kernels.hpp"
