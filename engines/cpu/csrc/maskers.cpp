#include "maskers.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace laud {
namespace {

// NaN is the greatest, as torch sorts it.
bool greater(float a, float b) { return std::isnan(a) ? !std::isnan(b) : a > b; }

}  // namespace

bool Wish::asked() const {
  return cap >= 0 || threshold != -std::numeric_limits<float>::infinity();
}

std::int64_t decide(const float* logits, std::int64_t units, Wish wish, std::uint8_t* active,
                    std::int32_t* order) {
  for (std::int64_t u = 0; u < units; ++u) active[u] = logits[u] >= wish.threshold;
  if (wish.cap >= 0 && wish.cap < units) {
    for (std::int64_t u = 0; u < units; ++u) order[u] = static_cast<std::int32_t>(u);
    // Ties by index: a total order, so that no stable (allocating) sort is needed.
    std::sort(order, order + units, [logits](std::int32_t a, std::int32_t b) {
      if (greater(logits[a], logits[b])) return true;
      if (greater(logits[b], logits[a])) return false;
      return a < b;
    });
    for (std::int64_t r = wish.cap; r < units; ++r) active[order[r]] = 0;
  }
  return std::count(active, active + units, std::uint8_t{1});
}

void Windows::mean(const Kernels& kernels, std::int64_t u, float* out) const {
  const std::int64_t columns = (width + window_width - 1) / window_width, row = width * channels;
  const std::int64_t top = u / columns * window_height, left = u % columns * window_width;
  const std::int64_t h = std::min(window_height, height - top);
  const std::int64_t w = std::min(window_width, width - left);
  kernels.means(map + (top * row + left * channels) * bytes, row, channels, h, w, channels,
                static_cast<float>(scale / static_cast<double>(h * w)), out);
}

void Standardise::load(const Packer& packer, const std::string& name, std::int64_t channels) {
  mean_ = packer.rows(name + ".mean", {channels});
  std_ = packer.rows(name + ".std", {channels});
  // Padding becomes (0 - 0) / 1.
  std::fill(std_.begin() + channels, std_.end(), 1.0f);
}

void Standardise::apply(const Kernels& kernels, const float* means, float* out) const {
  kernels.standardise(means, mean_.data(), std_.data(), static_cast<std::int64_t>(mean_.size()), out);
}

void SpatialMasker::load(const Packer& packer, const std::string& name, std::int64_t channels) {
  standardise_.load(packer, name, channels);
  weight_ = packer.rows(name + ".weight", {channels});
  root_ = static_cast<float>(std::sqrt(static_cast<double>(channels)));
}

float SpatialMasker::logit(const Kernels& kernels, const float* means, float* scratch) const {
  standardise_.apply(kernels, means, scratch);
  return kernels.dot(scratch, weight_.data(), static_cast<std::int64_t>(weight_.size())) / root_;
}

void ChannelMasker::load(const Packer& packer, const std::string& name, std::int64_t channels,
                         std::int64_t hidden, std::int64_t groups) {
  standardise_.load(packer, name, channels);
  in_weight_ = packer.rows(name + ".hidden.weight", {hidden, channels});
  in_bias_ = packer.rows(name + ".hidden.bias", {hidden});
  out_weight_ = packer.rows(name + ".out.weight", {groups, hidden});
  out_bias_ = packer.rows(name + ".out.bias", {groups});
  channels_ = static_cast<std::int64_t>(in_weight_.size()) / hidden;
  hidden_ = hidden;
  hidden_padded_ = static_cast<std::int64_t>(out_weight_.size()) / groups;
  groups_ = groups;
}

void ChannelMasker::logits(const Kernels& kernels, const float* means, float* scratch,
                           float* hidden, float* logits) const {
  standardise_.apply(kernels, means, scratch);
  std::fill_n(hidden, hidden_padded_, 0.0f);
  for (std::int64_t h = 0; h < hidden_; ++h) {
    const float x =
        kernels.dot(in_weight_.data() + h * channels_, scratch, channels_) + in_bias_[h];
    hidden[h] = x < 0.0f ? 0.0f : x;
  }
  for (std::int64_t g = 0; g < groups_; ++g) {
    logits[g] =
        kernels.dot(out_weight_.data() + g * hidden_padded_, hidden, hidden_padded_) + out_bias_[g];
  }
}

}  // namespace laud
