#include "u8_amx.cpp"
