#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"

namespace laud {

// A tensor of the bundle in C order: floats, or the bytes of quantised weights.
struct View {
  const void* data;
  bool bytes;
  std::vector<std::int64_t> shape;
};

// Finds a tensor by its name; throws std::invalid_argument where there is none.
using Source = std::function<View(const std::string&)>;

// A convolution or linear layer, packed for one instruction set.
struct Weights {
  std::int64_t inputs = 0;   // channels per tap, padded
  std::int64_t outputs = 0;  // channels
  std::int64_t taps = 0;
  std::int64_t vectors = 0;  // of output channels, padding included
  std::int64_t panel_bytes = 0;
  const void* panels = nullptr;
  const float* scale = nullptr;  // u8 only
  const float* bias = nullptr;
  // The same sums finished in another way, for pixels that a projection alone writes (u8); else
  // equal to scale and bias.
  const float* skipped_scale = nullptr;
  const float* skipped_bias = nullptr;
  float residual = 0.0f;  // u8 only
  Segment whole{0, 0};    // all inputs
};

enum class Layer { convolution, projection, residual, rows, linear };

// Packs layers one after another, in execution order, into one allocation of huge pages.
class Packer {
 public:
  Packer(const Kernels& kernels, Source source) : kernels_(kernels), source_(std::move(source)) {}

  // Asks for `name`.weight and `name`.bias, quantised also for .scale and, of a residual layer,
  // .residual; of a projection for `name`:skipped.scale and .bias. `weights` is valid after `pack`.
  // The kernel is square; rows: a tap is a row of it, with its columns and channels as inputs.
  void add(const std::string& name, std::int64_t outputs, std::int64_t inputs, std::int64_t kernel,
           Layer kind, Weights& weights);

  // Fills `arena`. Throws std::invalid_argument for a tensor that is missing or of another shape.
  void pack(Buffer& arena);

  // The deepest layer's inputs, taps included, and the widest one's vectors of outputs.
  std::int64_t deepest() const { return deepest_; }
  std::int64_t most_vectors() const { return most_vectors_; }

  // A vector or matrix of floats, every row filled up with zeros to a multiple of 16.
  std::vector<float> rows(const std::string& name, const std::vector<std::int64_t>& shape) const;

 private:
  struct Entry {
    std::string name;
    std::int64_t channels, kernel;
    Layer kind;
    Weights* weights;
  };

  View find(const std::string& name, const std::vector<std::int64_t>& shape, bool bytes) const;
  void fill(const Entry& entry, unsigned char* panels) const;
  std::int64_t flat(const Weights& weights) const;
  std::int64_t panel_outputs() const { return kernels_.vector * kernels_.panel_vectors; }

  const Kernels& kernels_;
  Source source_;
  std::vector<Entry> entries_;
  std::int64_t deepest_ = 0, most_vectors_ = 0;
};

inline std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

// Half to even; a NaN stays one.
inline std::uint16_t to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return static_cast<std::uint16_t>((bits >> 16) | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float from_bf16(std::uint16_t value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

// The byte that stands for 0.0 in a map of bytes with numbers of either sign.
constexpr int kSignedZero = 128;

// Numbers of maps, whichever they are. Of bytes, which have a sign here: in steps, to the nearest,
// halves to even.
inline float to_float(float value) { return value; }
inline float to_float(std::uint16_t value) { return from_bf16(value); }
inline float to_float(std::uint8_t value) {
  return static_cast<float>(static_cast<int>(value) - kSignedZero);
}
inline void to_number(float value, float& number) { number = value; }
inline void to_number(float value, std::uint16_t& number) { number = to_bf16(value); }
inline void to_number(float value, std::uint8_t& number) {
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23 leaves whole numbers in the low bits
  value += static_cast<float>(kSignedZero);
  value = value > 0.0f ? value : 0.0f;
  value = (value < 255.0f ? value : 255.0f) + kRounder;
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  number = static_cast<std::uint8_t>(bits);
}

inline std::int64_t element_bytes(Element element) {
  return element == Element::f32 ? 4 : (element == Element::bf16 ? 2 : 1);
}

}  // namespace laud
