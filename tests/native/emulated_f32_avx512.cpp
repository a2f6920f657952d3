#include "f32_avx512.cpp"
