#include "u8_vnni.cpp"
