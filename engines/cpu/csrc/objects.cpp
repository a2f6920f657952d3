#include "objects.hpp"

#include <algorithm>
#include <cmath>

#include "weights.hpp"

namespace laud {
namespace {

constexpr std::int64_t kSamples = 2;
constexpr std::int64_t kBlock = 16;  // channels that are summed side by side
constexpr std::int64_t kStrip = 64;  // and those that rows are kept of
// Boxes of this size come from the level whose stride is 2^kCanonicalLevel.
constexpr float kCanonicalSize = 224.0f, kCanonicalLevel = 4.0f, kLevelSlack = 1e-6f;

float area(const Box& b) { return (b.right - b.left) * (b.bottom - b.top); }

bool overlaps(const Box& a, const Box& b, double overlap) {
  const float width = std::max(0.0f, std::min(a.right, b.right) - std::max(a.left, b.left));
  const float height = std::max(0.0f, std::min(a.bottom, b.bottom) - std::max(a.top, b.top));
  const float shared = width * height;
  return shared / (area(a) + area(b) - shared) > overlap;
}

// Where a sample lies between two pixels of a row or column, and their weights; `outside`: it
// counts as 0.
struct Sample {
  std::int64_t low, high;
  float low_weight, high_weight;
  bool outside;
};

Sample sample(float at, std::int64_t size) {
  // Not a number is outside as well.
  if (!(at >= -1.0f && at <= static_cast<float>(size))) return {0, 0, 0.0f, 0.0f, true};
  at = std::max(at, 0.0f);
  const auto low = static_cast<std::int64_t>(at);
  if (low >= size - 1) return {size - 1, size - 1, 1.0f, 0.0f, false};
  const float above = at - static_cast<float>(low);
  return {low, low + 1, 1.0f - above, above, false};
}

// What a bin reads along one side: the pixels that its samples lie between, each once, with the sum
// of its weights. Bins of small objects lie between two or three.
struct Reach {
  std::int64_t pixels[2 * kSamples];
  float weights[2 * kSamples];
  int count = 0;

  void add(std::int64_t pixel, float weight) {
    for (int i = 0; i < count; ++i) {
      if (pixels[i] != pixel) continue;
      weights[i] += weight;
      return;
    }
    pixels[count] = pixel;
    weights[count++] = weight;
  }
};

Reach reach(float first, float bin, std::int64_t index, std::int64_t size) {
  Reach found;
  for (std::int64_t i = 0; i < kSamples; ++i) {
    const float within = (static_cast<float>(i) + 0.5f) * bin / static_cast<float>(kSamples);
    const Sample at = sample(first + static_cast<float>(index) * bin + within, size);
    if (at.outside) continue;
    found.add(at.low, at.low_weight);
    found.add(at.high, at.high_weight);
  }
  return found;
}

}  // namespace

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

std::int64_t suppress(const Box* boxes, const std::int64_t* labels, std::int64_t count,
                      double overlap, std::int64_t most, std::int64_t* kept) {
  std::int64_t found = 0;
  for (std::int64_t i = 0; i < count && found < most; ++i) {
    const bool stays = std::none_of(kept, kept + found, [&](std::int64_t k) {
      return labels[k] == labels[i] && overlaps(boxes[k], boxes[i], overlap);
    });
    if (stays) kept[found++] = i;
  }
  return found;
}

Chooser::Chooser(std::int64_t levels, std::int64_t labels, std::int64_t candidates,
                 std::int64_t most, float least_score, double overlap)
    : labels_(labels),
      most_(most),
      most_candidates_(static_cast<std::size_t>(candidates)),
      least_score_(least_score),
      overlap_(overlap) {
  // A score is the root of two shares' product: it cannot reach `least_score` where the class alone
  // does not reach its square. With some room for rounding.
  const double least = static_cast<double>(least_score) * least_score;
  const double logit = std::log(least / (1.0 - least));
  least_logit_ = static_cast<float>(logit - 1e-3 * (1.0 + std::fabs(logit)));
  const auto all = static_cast<std::size_t>(levels) * most_candidates_;
  candidates_.reserve(all + 2 * most_candidates_);
  boxes_.reserve(all);
  sorted_.reserve(all);
  sorted_labels_.reserve(all);
  kept_.resize(static_cast<std::size_t>(most));
}

void Chooser::begin(std::int64_t height, std::int64_t width) {
  height_ = static_cast<float>(height);
  width_ = static_cast<float>(width);
  next_order_ = 0;
  candidates_.clear();
  boxes_.clear();
}

// Keeps the surest of the level whose candidates begin at `first`.
void Chooser::prune(std::size_t first) {
  if (candidates_.size() - first <= most_candidates_) return;
  const auto begin = candidates_.begin() + static_cast<std::ptrdiff_t>(first);
  std::nth_element(begin, begin + static_cast<std::ptrdiff_t>(most_candidates_), candidates_.end(),
                   surer);
  candidates_.resize(first + most_candidates_);
}

void Chooser::add(const LevelAnswers& level) {
  const std::size_t first = candidates_.size();
  for (std::int64_t r = 0; r < level.rows; ++r) {
    const float* const classes = level.classes + r * level.class_stride;
    float centre = -1.0f;  // of this place, once it is known
    for (std::int64_t c = 0; c < labels_; ++c) {
      if (!(classes[c] >= least_logit_)) continue;
      if (centre < 0.0f) centre = sigmoid(level.sides[r * level.side_stride + 4]);
      const float score = std::sqrt(sigmoid(classes[c]) * centre);
      if (!(score >= least_score_)) continue;
      if (candidates_.size() == first + 2 * most_candidates_) prune(first);
      candidates_.push_back({score, next_order_ + level.indices[r] * labels_ + c, r});
    }
  }
  prune(first);
  for (std::size_t i = first; i < candidates_.size(); ++i) {
    Candidate& each = candidates_[i];
    const std::int64_t index = level.indices[each.row];
    const float x = static_cast<float>(index % level.width) * level.stride;
    const float y = static_cast<float>(index / level.width) * level.stride;
    const float* const sides = level.sides + each.row * level.side_stride;
    const auto side = [&](int s) { return (sides[s] < 0.0f ? 0.0f : sides[s]) * level.unit; };
    boxes_.push_back({std::clamp(x - side(0), 0.0f, width_), std::clamp(y - side(1), 0.0f, height_),
                      std::clamp(x + side(2), 0.0f, width_),
                      std::clamp(y + side(3), 0.0f, height_)});
    each.row = static_cast<std::int64_t>(i);  // from now on: of its box
  }
  // More than the places of any level: orders of levels do not mix.
  next_order_ += std::int64_t{1} << 40;
}

std::int64_t Chooser::finish(float* boxes, float* scores, std::int64_t* labels) {
  std::sort(candidates_.begin(), candidates_.end(), surer);
  sorted_.clear();
  sorted_labels_.clear();
  for (const Candidate& each : candidates_) {
    sorted_.push_back(boxes_[static_cast<std::size_t>(each.row)]);
    sorted_labels_.push_back(each.order % (std::int64_t{1} << 40) % labels_);
  }
  const std::int64_t found =
      suppress(sorted_.data(), sorted_labels_.data(), static_cast<std::int64_t>(sorted_.size()),
               overlap_, most_, kept_.data());
  for (std::int64_t i = 0; i < found; ++i) {
    const auto k = static_cast<std::size_t>(kept_[static_cast<std::size_t>(i)]);
    const Box& box = sorted_[k];
    for (const float side : {box.left, box.top, box.right, box.bottom}) *boxes++ = side;
    scores[i] = candidates_[k].score;
    labels[i] = sorted_labels_[k];
  }
  return found;
}

std::int64_t level_of(const Box& box, std::int64_t first, std::int64_t levels) {
  const float level =
      std::floor(kCanonicalLevel + std::log2(std::sqrt(area(box)) / kCanonicalSize) + kLevelSlack);
  const auto low = static_cast<float>(first), high = static_cast<float>(first + levels - 1);
  // Not a number, of a box without one, is the finest.
  if (!(level > low)) return 0;
  return static_cast<std::int64_t>(std::min(level, high)) - first;
}

namespace {

// Sums of `count` weighted rows of `channels`, at most kBlock: as many as registers hold.
template <typename T>
[[gnu::always_inline]] inline void weigh(const T* const* from, const float* weights, int count,
                                         std::int64_t first, std::int64_t channels, float* out) {
  float sums[kBlock] = {};
  if (channels >= kBlock) {
    for (int i = 0; i < count; ++i) {
      const T* const row = from[i] + first;
      for (std::int64_t c = 0; c < kBlock; ++c) sums[c] += weights[i] * to_float(row[c]);
    }
  } else {
    for (int i = 0; i < count; ++i) {
      const T* const row = from[i] + first;
      for (std::int64_t c = 0; c < channels; ++c) sums[c] += weights[i] * to_float(row[c]);
    }
  }
  for (std::int64_t c = 0; c < kBlock; ++c) out[c] = sums[c];
}

// A row of the features, pooled across all bins, kStrip channels each.
struct PooledRow {
  std::int64_t row;
  float bins[kMostRegion * kStrip];
};

// Rows that neighbouring bins share are pooled once. A bin reads at most 2 * kSamples rows, and of
// those of the bin above it at most one lies below its own first: what is replaced is not in use.
constexpr int kPooledRows = 4 * kSamples;

[[gnu::always_inline]] inline PooledRow& oldest(PooledRow* rows) {
  PooledRow* found = rows;
  for (int i = 1; i < kPooledRows; ++i) found = rows[i].row < found->row ? rows + i : found;
  return *found;
}

[[gnu::always_inline]] inline const PooledRow* kept(const PooledRow* rows, std::int64_t row) {
  for (int i = 0; i < kPooledRows; ++i) {
    if (rows[i].row == row) return rows + i;
  }
  return nullptr;
}

template <typename T>
[[gnu::always_inline]] inline void pool_across(const T* row, std::int64_t pixel_stride,
                                               const Reach* across, std::int64_t size,
                                               std::int64_t channels, float* bins) {
  for (std::int64_t x = 0; x < size; ++x) {
    const T* from[2 * kSamples];
    for (int k = 0; k < across[x].count; ++k) from[k] = row + across[x].pixels[k] * pixel_stride;
    for (std::int64_t c = 0; c < channels; c += kBlock) {
      weigh(from, across[x].weights, across[x].count, c, channels - c, bins + x * kStrip + c);
    }
  }
}

// channels: at most kStrip.
template <typename T>
[[gnu::always_inline]] inline void pool_strip(const Features<T>& f, const Reach* across,
                                              const Reach* down, std::int64_t size,
                                              std::int64_t channels, PooledRow* rows, T* out,
                                              std::int64_t row_stride, std::int64_t pixel_stride) {
  for (int i = 0; i < kPooledRows; ++i) rows[i].row = -1;
  for (std::int64_t y = 0; y < size; ++y) {
    const float* above[2 * kSamples];
    for (int i = 0; i < down[y].count; ++i) {
      const std::int64_t row = down[y].pixels[i];
      const PooledRow* found = kept(rows, row);
      if (!found) {
        PooledRow& fresh = oldest(rows);
        fresh.row = row;
        pool_across(f.first + row * f.row_stride, f.pixel_stride, across, size, channels,
                    fresh.bins);
        found = &fresh;
      }
      above[i] = found->bins;
    }
    for (std::int64_t x = 0; x < size; ++x) {
      T* const to = out + y * row_stride + x * pixel_stride;
      for (std::int64_t c = 0; c < channels; c += kBlock) {
        float sums[kBlock];
        weigh(above, down[y].weights, down[y].count, x * kStrip + c, kBlock, sums);
        const std::int64_t some = std::min(kBlock, channels - c);
        for (std::int64_t k = 0; k < some; ++k) {
          to_number(sums[k] / (kSamples * kSamples), to[c + k]);
        }
      }
    }
  }
}

template <typename T>
[[gnu::always_inline]] inline void pool(const Features<T>& f, const Box& box, std::int64_t size,
                                        std::int64_t channels, T* out, std::int64_t row_stride,
                                        std::int64_t pixel_stride) {
  const float left = box.left * f.scale, top = box.top * f.scale;
  const float width = std::max(box.right * f.scale - left, 1.0f) / static_cast<float>(size);
  const float height = std::max(box.bottom * f.scale - top, 1.0f) / static_cast<float>(size);
  Reach across[kMostRegion], down[kMostRegion];
  for (std::int64_t i = 0; i < size; ++i) {
    across[i] = reach(left, width, i, f.width);
    down[i] = reach(top, height, i, f.height);
  }
  PooledRow rows[kPooledRows];
  for (std::int64_t n = 0; n < channels; n += kStrip) {
    Features<T> strip = f;
    strip.first += n;
    pool_strip(strip, across, down, size, std::min(kStrip, channels - n), rows, out + n, row_stride,
               pixel_stride);
  }
}

#if defined(LAUD_X86)
template <typename T>
[[gnu::target("avx2")]] void pool_avx2(const Features<T>& f, const Box& box, std::int64_t size,
                                       std::int64_t channels, T* out, std::int64_t row_stride,
                                       std::int64_t pixel_stride) {
  pool(f, box, size, channels, out, row_stride, pixel_stride);
}
#endif

}  // namespace

template <typename T>
void pool_region(const Features<T>& f, const Box& box, std::int64_t size, std::int64_t channels,
                 T* out, std::int64_t row_stride, std::int64_t pixel_stride, int vector) {
#if defined(LAUD_X86)
  // The same bits: no product is fused with a sum in this file. Emulated kernels have wide vectors
  // on any CPU.
  if (vector >= 8 && __builtin_cpu_supports("avx2")) {
    return pool_avx2(f, box, size, channels, out, row_stride, pixel_stride);
  }
#endif
  pool(f, box, size, channels, out, row_stride, pixel_stride);
}

template void pool_region(const Features<float>&, const Box&, std::int64_t, std::int64_t, float*,
                          std::int64_t, std::int64_t, int);
template void pool_region(const Features<std::uint16_t>&, const Box&, std::int64_t, std::int64_t,
                          std::uint16_t*, std::int64_t, std::int64_t, int);
template void pool_region(const Features<std::uint8_t>&, const Box&, std::int64_t, std::int64_t,
                          std::uint8_t*, std::int64_t, std::int64_t, int);

}  // namespace laud
