// What a translation unit built for one instruction set offers. Plain pointers and integers only: a
// standard template instantiated there could be linked into code that runs on every machine.
#pragma once

#include <cstdint>

namespace laud {

enum class Element : int { f32, bf16, u8 };

// What becomes of a sum y. store and add_* end in the map's element; raw keeps a float.
// u8: y = float(acc) * scale + bias; relu and store round and clamp to 0..255 alike.
enum class Epilogue : int { store, relu, add_relu, raw };

// Input channels [begin, end) that take part in the sums; the others are not read. Both are
// multiples of `Kernels::input_unit`, or the end of the map's channels.
struct Segment {
  std::int64_t begin, end;
};

// Indirect GEMM: for every row r and output channel n of the chosen vectors,
//   c[c_offsets[r] + n] = epilogue(sum over taps t and segment channels k of
//                                  a[a_offsets[r] + taps[t] + k] * w[t][k][n], scale[n], bias[n])
// Offsets count elements. One order of sums per element, whatever the rows or vectors beside it.
struct Gemm {
  const void* a;
  const std::int64_t* a_offsets;
  void* c;
  const std::int64_t* c_offsets;
  std::int64_t row_begin, row_end;
  const std::int64_t* taps;
  std::int64_t num_taps;
  const Segment* segments;
  std::int64_t num_segments;
  const void* panels;   // [panel][tap][depth / interleave][panel outputs][interleave]
  const float* scale;   // u8 only; padded to whole panels, as is bias
  const float* bias;
  const float* keep;    // 1 or 0 per output channel, or null: zeroes inactive channels (not f32)
  float residual;       // u8 only: a residual's value is residual * q
  std::int64_t depth;   // input channels per tap, a multiple of `Kernels::depth_unit`
  std::int64_t panel_bytes;
  const std::int32_t* vectors;  // indices of the output vectors to compute, ascending
  std::int64_t num_vectors;
  Epilogue epilogue;
  void* scratch;        // of this thread, `Kernels::scratch_bytes` long
};

struct Kernels {
  const char* name;
  Element element;
  int vector;         // output channels of a vector
  int panel_vectors;  // vectors of a panel
  int interleave;     // consecutive input channels that lie side by side in a panel
  int depth_unit;     // a layer's input channels are padded to it
  int panel_unit;     // rows of interleaved inputs of a whole panel are padded to it
  int input_unit;     // of `Segment`
  int channel_unit;   // channels of a map are padded to it
  int tile_rows;      // rows are best shared out in multiples of it
  // Once per process; false where the system refuses the instructions.
  bool (*prepare)();
  void (*gemm)(const Gemm&);
  // For the deepest layer of a network, taps times depth.
  std::int64_t (*scratch_bytes)(std::int64_t depth);
  // out[c] = the mean over a rectangle of pixels of the map's numbers: sum / count for floats, and
  // float(sum) * factor for u8.
  void (*means)(const void* x, std::int64_t row_stride, std::int64_t pixel_stride,
                std::int64_t rows, std::int64_t columns, std::int64_t channels, float factor,
                float* out);
  // One row of a max pool of width 3 and stride 2 over up to three rows of numbers >= 0; columns
  // outside are left out. `first` is the leftmost column of the first window.
  void (*max_pool_row)(const void* const* rows, std::int64_t num_rows, std::int64_t width,
                       std::int64_t first, std::int64_t outputs, std::int64_t channels, void* out);
  // out[c] = (means[c] - mu[c]) / sigma[c], clipped at +-5; channels is a multiple of 16.
  void (*standardise)(const float* means, const float* mu, const float* sigma,
                      std::int64_t channels, float* out);
  // Dot product in 16 lanes; channels is a multiple of 16.
  float (*dot)(const float* a, const float* b, std::int64_t channels);
};

const Kernels& f32_baseline();
const Kernels& u8_baseline();
#if defined(LAUD_X86)
const Kernels& f32_avx2();
const Kernels& f32_avx512();
const Kernels& u8_avx2();
const Kernels& u8_vnni();
const Kernels& u8_amx();
const Kernels& bf16_amx();
#endif

}  // namespace laud
