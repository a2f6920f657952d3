// Eight tiles of 16 rows x 64 bytes and their products, on AMX or, with LAUD_EMULATED, spelled out,
// so that machines without AMX test everything around the instructions.
#pragma once

#include <cstdint>
#include <cstring>

#if !defined(LAUD_EMULATED)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace laud {
namespace {

#if defined(LAUD_EMULATED)

struct Tiles {
  alignas(64) unsigned char bytes[8][16][64];
};
thread_local Tiles tiles;

inline bool allow_tiles() { return true; }

struct TileScope {
  TileScope() {}
};

template <int T>
inline void tile_zero() {
  std::memset(tiles.bytes[T], 0, sizeof tiles.bytes[T]);
}

template <int T>
inline void tile_load(const void* from, std::int64_t stride) {
  for (int r = 0; r < 16; ++r) {
    std::memcpy(tiles.bytes[T][r], static_cast<const char*>(from) + r * stride, 64);
  }
}

template <int T>
inline void tile_store(void* to) {
  std::memcpy(to, tiles.bytes[T], sizeof tiles.bytes[T]);
}

template <int C, int A, int B>
inline void tile_dot_u8() {
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      std::int32_t sum;
      std::memcpy(&sum, tiles.bytes[C][m] + n * 4, 4);
      for (int k = 0; k < 64; ++k) {
        const int w = static_cast<signed char>(tiles.bytes[B][k / 4][n * 4 + k % 4]);
        sum += tiles.bytes[A][m][k] * w;
      }
      std::memcpy(tiles.bytes[C][m] + n * 4, &sum, 4);
    }
  }
}

inline float widen_bf16(const unsigned char* p) {
  std::uint32_t bits = static_cast<std::uint32_t>(p[0] | p[1] << 8) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// The instruction keeps the sums of even and odd inputs apart until the end. (It also takes
// denormals for zero, which is not done here.)
template <int C, int A, int B>
inline void tile_dot_bf16() {
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      float sum, even = 0.0f, odd = 0.0f;
      std::memcpy(&sum, tiles.bytes[C][m] + n * 4, 4);
      for (int k = 0; k < 16; ++k) {
        even += widen_bf16(tiles.bytes[A][m] + k * 4) * widen_bf16(tiles.bytes[B][k] + n * 4);
        odd += widen_bf16(tiles.bytes[A][m] + k * 4 + 2) * widen_bf16(tiles.bytes[B][k] + n * 4 + 2);
      }
      sum += even + odd;
      std::memcpy(tiles.bytes[C][m] + n * 4, &sum, 4);
    }
  }
}

#else

// Linux hands out the tiles' registers on request only, once per process.
inline bool allow_tiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Tiles are configured for one call: an idle thread then has nothing to save.
class TileScope {
 public:
  TileScope() {
    Config config;
    for (int t = 0; t < 8; ++t) {
      config.row_bytes[t] = 64;
      config.rows[t] = 16;
    }
    // gcc 12's intrinsic says that 8 of the 64 bytes are read, and loses stores to the others.
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~TileScope() { asm volatile("tilerelease"); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;

 private:
  struct Config {
    unsigned char palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    unsigned char rows[16] = {};
  };
  static_assert(sizeof(Config) == 64);
};

// The numbers of the tiles are part of the instructions, and gcc's intrinsics are macros that paste
// them as text; the assembler takes them from template arguments.
template <int T>
inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(T));
}

template <int T>
inline void tile_load(const void* from, std::int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(T), "r"(from), "r"(stride) : "memory");
}

template <int T>
inline void tile_store(void* to) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(T), "r"(to), "r"(std::int64_t{64}) : "memory");
}

template <int C, int A, int B>
inline void tile_dot_u8() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

template <int C, int A, int B>
inline void tile_dot_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

#endif

}  // namespace
}  // namespace laud
