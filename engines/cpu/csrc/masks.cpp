// The masks of a detector's objects: each is made by one thread from beginning to end, in memory of
// its own, so that a region stays in the caches and nobody waits.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "detector.hpp"

namespace laud {

// The features of a box into the middle of a region's map.
template <typename T>
void Detector::pool(const Box& box, T* region) const {
  const std::int64_t channels = gemms_.padded(spec_.width), bordered = spec_.region + 2;
  const auto stride = static_cast<float>(batch_->images.width / canvas_.levels[0].width);
  const auto levels = static_cast<std::int64_t>(canvas_.levels.size());
  const std::int64_t finest = std::lround(std::log2(stride));
  const std::int64_t l = level_of(box, finest, levels);
  const Level& level = canvas_.levels[static_cast<std::size_t>(l)];
  const Features<T> features{pyramid_.data<T>() + canvas_.at(level, 0, 0) * channels, level.height,
                             level.width, canvas_.width * channels, channels,
                             std::ldexp(1.0f, -static_cast<int>(finest + l))};
  pool_region(features, box, spec_.region, channels, region + (bordered + 1) * channels,
              bordered * channels, channels, kernels_.vector);
}

void Detector::draw_mask(int thread, std::int64_t image, std::int64_t object) {
  const std::int64_t size = spec_.region, half = gemms_.padded(spec_.width / 2);
  const std::int64_t place = image * spec_.most + object;
  const float* const sides = objects_->boxes + place * 4;
  const Box box{sides[0], sides[1], sides[2], sides[3]};
  unsigned char* maps[2];
  const auto clear = [this](unsigned char* map, int byte) {
    std::memset(map, byte, static_cast<std::size_t>(map_bytes_));
  };
  for (int i = 0; i < 2; ++i) {
    maps[i] = regions_.data() + (thread * 2 + i) * map_bytes_;
    clear(maps[i], i ? 0 : zero_);
  }
  switch (kernels_.element) {
    case Element::f32: pool(box, reinterpret_cast<float*>(maps[0])); break;
    case Element::bf16: pool(box, reinterpret_cast<std::uint16_t*>(maps[0])); break;
    case Element::u8: pool(box, maps[0]); break;
  }
  std::size_t from = 0;
  for (const Weights& weights : mask_weights_) {
    Gemm gemm = gemms_.layer(weights, region_taps_);
    gemm.a_offsets = gemm.c_offsets = region_pixels_.data();
    gemm.row_end = size * size;
    gemm.epilogue = Epilogue::relu;
    run_alone(thread, gemm, maps[from], maps[1 - from]);
    // Around what a ReLU leaves, zero is the byte 0.
    if (zero_ && &weights == mask_weights_.data()) clear(maps[from], 0);
    from = 1 - from;
  }
  // The transposed 2x2 of stride 2: a 1x1 for each of the four pixels that one becomes.
  unsigned char* const ups = ups_.data() + thread * up_bytes_;
  for (int i = 0; i < kUps; ++i) {
    Gemm gemm = gemms_.layer(up_weights_[i], one_tap_);
    gemm.a_offsets = region_pixels_.data();
    gemm.c_offsets = region_ups_.data();
    gemm.row_end = size * size;
    gemm.epilogue = Epilogue::relu;
    run_alone(thread, gemm, maps[from], ups + i * half * bytes_);
  }
  auto* const answers = reinterpret_cast<float*>(answers_.data() + thread * answer_bytes_);
  Gemm gemm = gemms_.layer(mask_out_weights_, one_tap_);
  gemm.a_offsets = up_pixels_.data();
  gemm.c_offsets = answer_rows_.data();
  gemm.row_end = size * size * kUps;
  gemm.epilogue = Epilogue::raw;
  run_alone(thread, gemm, ups, answers);
  float* const mask = objects_->masks + place * kUps * size * size;
  for (std::int64_t i = 0; i < size * size * kUps; ++i) {
    const std::int64_t pixel = i / kUps, y = pixel / size * 2 + i % kUps / 2;
    const std::int64_t x = pixel % size * 2 + i % 2;
    mask[y * 2 * size + x] = sigmoid(answers[answer_rows_[static_cast<std::size_t>(i)]]);
  }
}

void Detector::run_alone(int thread, Gemm gemm, const void* from, void* to) {
  gemm.a = from;
  gemm.c = to;
  gemm.scratch = gemms_.scratch(thread);
  kernels_.gemm(gemm);
}

}  // namespace laud
