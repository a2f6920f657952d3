// From dense answers to objects. Plain loops: the same bits whatever the threads, the batch mates
// and the place in the batch. Between machines they may differ: exp and log2 are the C library's.
#pragma once

#include <cstdint>
#include <vector>

namespace laud {

struct Box {
  float left, top, right, bottom;
};

// Greedy non-maximum suppression of boxes that are sorted, the surest first: a box stays unless one
// of its label that stayed before it overlaps it by more than `overlap` (IoU). Writes the indices
// of at most `most` that stay, ascending, and returns how many.
std::int64_t suppress(const Box* boxes, const std::int64_t* labels, std::int64_t count,
                      double overlap, std::int64_t most, std::int64_t* kept);

// The dense answers of one level at some places, one row each: class logits; distances to the four
// sides in units, of which those below 0 count as 0, and the logit of the centre.
struct LevelAnswers {
  const float* classes;
  std::int64_t class_stride;
  const float* sides;
  std::int64_t side_stride;
  const std::int64_t* indices;  // y * width + x, ascending
  std::int64_t rows, width;
  float stride, unit;  // pixels of the image between places, and of a distance of 1
};

// Chooses the objects of one image. Nothing allocates behind the constructor.
class Chooser {
 public:
  // Per level the `candidates` surest of those that reach `least_score` compete; ties go to the
  // lower place, then to the lower label. At most `most` objects.
  Chooser(std::int64_t levels, std::int64_t labels, std::int64_t candidates, std::int64_t most,
          float least_score, double overlap);

  // Of an image of that size in pixels; levels follow, the finest first.
  void begin(std::int64_t height, std::int64_t width);
  void add(const LevelAnswers& level);

  // Boxes (most, 4) in pixels, scores and labels (most), the surest first. Returns how many.
  std::int64_t finish(float* boxes, float* scores, std::int64_t* labels);

 private:
  // `order`: its place among all of the image, then its label.
  struct Candidate {
    float score;
    std::int64_t order, row;
  };
  static bool surer(const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score > b.score : a.order < b.order;
  }
  void prune(std::size_t first);

  const std::int64_t labels_, most_;
  const std::size_t most_candidates_;
  const float least_score_;
  const double overlap_;
  float least_logit_, height_ = 0.0f, width_ = 0.0f;
  std::int64_t next_order_ = 0;
  std::vector<Candidate> candidates_;  // of a level while it is added, sorted by `finish`
  std::vector<Box> boxes_, sorted_;
  std::vector<std::int64_t> sorted_labels_, kept_;
};

// One level's features of an image, floats, bf16 or bytes with a sign: pixels `pixel_stride` numbers apart,
// `row_stride` a row.
template <typename T>
struct Features {
  const T* first;
  std::int64_t height, width, row_stride, pixel_stride;
  float scale;  // its pixels for one of the image
};

// Which level an object's features come from (FPN, arXiv:1612.03144, eq. 1): `first` is the
// exponent of the finest level's stride. Between 0 and levels - 1.
std::int64_t level_of(const Box& box, std::int64_t first, std::int64_t levels);

inline constexpr std::int64_t kMostRegion = 32;

// RoIAlign (arXiv:1703.06870) with two samples a side and bin, corners not shifted by half a pixel:
// means over size x size bins of the box, size at most kMostRegion, `channels` each, at `out` with
// the given strides. Sums are floats, along rows first; bytes stay in their steps. `vector`: of the
// kernels beside it, whose instruction set it keeps to; the bits do not depend on it.
template <typename T>
void pool_region(const Features<T>& features, const Box& box, std::int64_t size,
                 std::int64_t channels, T* out, std::int64_t row_stride, std::int64_t pixel_stride,
                 int vector);

// 1 / (1 + exp(-x)).
float sigmoid(float x);

}  // namespace laud
