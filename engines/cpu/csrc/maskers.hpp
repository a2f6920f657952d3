#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "weights.hpp"

namespace laud {

// What one image's point wishes of a masker: threshold -inf leaves every unit active, cap -1 is none.
struct Wish {
  float threshold;
  std::int64_t cap;
  bool asked() const;
};

// active = logit >= threshold; under a cap higher logits first, ties to the lower index. `order` is
// scratch of `units` numbers. Returns how many are active.
std::int64_t decide(const float* logits, std::int64_t units, Wish wish, std::uint8_t* active,
                    std::int32_t* order);

// A map cut into windows of pixels row by row, partial ones at its right and bottom edge.
struct Windows {
  const unsigned char* map;
  std::int64_t height, width, channels;  // channels as they lie, padded
  std::int64_t window_height, window_width;
  std::int64_t bytes;  // of a number
  double scale;        // u8 only: value of a step

  // Of all channels over window u, to `out`.
  void mean(const Kernels& kernels, std::int64_t u, float* out) const;
};

// (x - mean) / std per channel, clipped at +-5.
class Standardise {
 public:
  void load(const Packer& packer, const std::string& name, std::int64_t channels);
  // `means`, padded, to `out`.
  void apply(const Kernels& kernels, const float* means, float* out) const;

 private:
  std::vector<float> mean_, std_;
};

// One logit per patch: weight . standardised mean / sqrt(channels).
class SpatialMasker {
 public:
  void load(const Packer& packer, const std::string& name, std::int64_t channels);
  // `means` over the patch, padded to a multiple of 16; `scratch`: as many numbers.
  float logit(const Kernels& kernels, const float* means, float* scratch) const;

 private:
  Standardise standardise_;
  std::vector<float> weight_;
  float root_ = 1.0f;
};

// One logit per channel group: global mean -> linear, ReLU -> linear.
class ChannelMasker {
 public:
  void load(const Packer& packer, const std::string& name, std::int64_t channels,
            std::int64_t hidden, std::int64_t groups);
  // `hidden`: scratch of `hidden_floats()` numbers.
  void logits(const Kernels& kernels, const float* means, float* scratch, float* hidden,
              float* logits) const;
  std::int64_t hidden_floats() const { return hidden_padded_; }

 private:
  Standardise standardise_;
  std::vector<float> in_weight_, in_bias_, out_weight_, out_bias_;
  std::int64_t channels_ = 0, hidden_ = 0, hidden_padded_ = 0, groups_ = 0;
};

}  // namespace laud
