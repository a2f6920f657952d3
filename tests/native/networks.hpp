// Random weights by name, and small networks of every kind of block.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>

#include "check.hpp"
#include "network.hpp"

namespace laud::testing {

// Random tensors by name, quantised or not.
class Tensors {
 public:
  explicit Tensors(bool quantised) : random_(5), quantised_(quantised) {}

  void layer(const std::string& name, std::int64_t outputs, std::int64_t inputs, std::int64_t kernel,
             bool linear = false) {
    const std::int64_t depth = inputs * kernel * kernel;
    std::vector<std::int64_t> shape{outputs, inputs};
    if (!linear) shape.insert(shape.end(), 2, kernel);
    std::vector<float> weights(static_cast<std::size_t>(outputs * depth));
    for (float& each : weights) each = random_.normal() * std::sqrt(2.0f / static_cast<float>(depth));
    std::vector<std::int8_t> bytes;
    for (const float each : weights) {
      bytes.push_back(static_cast<std::int8_t>(std::clamp(each * 60.0f, -64.0f, 64.0f)));
    }
    if (quantised_) {
      bytes_[name + ".weight"] = {bytes, shape};
    } else {
      floats_[name + ".weight"] = {weights, shape};
    }
    vector(name + ".bias", outputs, quantised_ ? 20.0f : 0.1f, 0.0f);
    vector(name + ".scale", outputs, 0.002f, 0.01f);
    vector(name + ":skipped.bias", outputs, 20.0f, 0.0f);
    vector(name + ":skipped.scale", outputs, 0.002f, 0.01f);
    floats_[name + ".residual"] = {{0.6f}, {1}};
  }

  void vector(const std::string& name, std::int64_t length, float spread, float middle) {
    std::vector<float> values(static_cast<std::size_t>(length));
    for (float& each : values) each = middle + spread * random_.normal();
    floats_[name] = {values, {length}};
  }

  void matrix(const std::string& name, std::int64_t rows, std::int64_t columns) {
    vector(name, rows * columns, 0.5f, 0.0f);
    floats_[name].second = {rows, columns};
  }

  View find(const std::string& name) const {
    if (const auto at = bytes_.find(name); at != bytes_.end()) {
      return {at->second.first.data(), true, at->second.second};
    }
    const auto at = floats_.find(name);
    if (at == floats_.end()) throw std::invalid_argument("'" + name + "' is missing");
    return {at->second.first.data(), false, at->second.second};
  }

 private:
  template <typename T>
  using Store = std::map<std::string, std::pair<std::vector<T>, std::vector<std::int64_t>>>;
  Random random_;
  bool quantised_;
  Store<float> floats_;
  Store<std::int8_t> bytes_;
};

// Two stages, every way to skip, widths that fit no vector.
inline BackboneSpec small_backbone() {
  BackboneSpec spec{12, false, false, false, {120, 110, 100}, {60, 60, 60}, {120, 110, 100}, {}};
  std::int64_t in = 12;
  const auto block = [&](const char* name, std::int64_t width, std::int64_t stride, bool space,
                         std::int64_t patch, std::int64_t groups) {
    const std::int64_t out = width * 4;
    spec.blocks.push_back({name, in, width, out, stride, stride != 1 || in != out, space, patch,
                           groups, 16, 0.05});
    in = out;
  };
  block("layer1.0", 12, 1, true, 3, 0);
  block("layer1.1", 12, 1, true, 3, 4);
  block("layer1.2", 12, 1, true, 3, 0);
  block("layer2.0", 64, 2, true, 2, 16);
  block("layer2.1", 64, 1, false, 0, 4);
  block("layer2.2", 64, 1, true, 0, 0);
  return spec;
}

inline Tensors tensors_of(const BackboneSpec& spec, bool quantised) {
  Tensors tensors(quantised);
  tensors.layer("conv1", spec.stem_width, 3, 7);
  for (const BlockSpec& b : spec.blocks) {
    tensors.layer(b.name + ".conv1", b.width, b.in_channels, 1);
    tensors.layer(b.name + ".conv2", b.width, b.width, 3);
    tensors.layer(b.name + ".conv3", b.out_channels, b.width, 1);
    if (b.projection) tensors.layer(b.name + ".downsample.0", b.out_channels, b.in_channels, 1);
    if (b.masks_space) {
      tensors.vector(b.name + ".masker_spatial.mean", b.in_channels, 0.5f, 1.0f);
      tensors.vector(b.name + ".masker_spatial.std", b.in_channels, 0.0f, 1.5f);
      tensors.vector(b.name + ".masker_spatial.weight", b.in_channels, 1.0f, 0.0f);
    }
    if (!b.groups) continue;
    tensors.vector(b.name + ".masker_channel.mean", b.in_channels, 0.5f, 1.0f);
    tensors.vector(b.name + ".masker_channel.std", b.in_channels, 0.0f, 1.5f);
    tensors.matrix(b.name + ".masker_channel.hidden.weight", b.hidden, b.in_channels);
    tensors.vector(b.name + ".masker_channel.hidden.bias", b.hidden, 0.2f, 0.0f);
    tensors.matrix(b.name + ".masker_channel.out.weight", b.groups, b.hidden);
    tensors.vector(b.name + ".masker_channel.out.bias", b.groups, 0.2f, 0.0f);
  }
  return tensors;
}

inline std::vector<std::uint8_t> random_images(std::int64_t n, std::int64_t size) {
  Random random(11);
  std::vector<std::uint8_t> images(static_cast<std::size_t>(n * size * size * 3));
  for (std::uint8_t& each : images) each = static_cast<std::uint8_t>(random.between(0, 255));
  return images;
}

}  // namespace laud::testing
