// Runs on every machine: vectors of 16 bytes, 12 accumulators of the 16 registers.
#define LAUD_VL 4
#define LAUD_NV 2
#define LAUD_NAME "baseline"
#define LAUD_FUNCTION f32_baseline
#include "f32_kernels.hpp"
