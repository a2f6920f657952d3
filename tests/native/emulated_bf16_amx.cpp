#include "bf16_amx.cpp"
