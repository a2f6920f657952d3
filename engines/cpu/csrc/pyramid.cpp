// The dense half of a detector behind its backbone, for one image: pyramid and heads, at active
// places only. Every thread runs every function here with its own number.
#include <algorithm>
#include <cstring>
#include <limits>

#include "detector.hpp"

namespace laud {

// Zeros where a 3x3 or a region reads what no layer writes.
void Detector::clear(int thread) {
  const auto pixel = static_cast<std::size_t>(gemms_.padded(spec_.width) * bytes_);
  const auto zero = [&](Buffer& map, const std::vector<Run>& runs) {
    const int byte = &map == &pyramid_ || &map == &inner_ ? zero_ : 0;
    for (const Run& run : runs) {
      std::memset(map.data() + static_cast<std::size_t>(run.begin) * pixel, byte,
                  static_cast<std::size_t>(run.count) * pixel);
    }
  };
  Buffer* const maps[] = {&pyramid_,      &inner_,        &class_tower_[0],
                          &box_tower_[0], &class_tower_[1], &box_tower_[1]};
  gemms_.team().share(thread, spec_.head_convs > 1 ? 6 : 4, [&](std::int64_t i) {
    zero(*maps[i], lists_->halo);
    // Regions of objects may lie anywhere.
    if (i == 0) zero(pyramid_, lists_->idle);
  });
}

// Laterals of all levels, the coarser ones added to the finer, and a 3x3 over each sum.
void Detector::pyramid(int thread, std::int64_t image) {
  if (kernels_.element == Element::u8) {
    byte_sums(thread, image);
  } else {
    lateral_sums(thread, image);
  }
  Parts& parts = gemms_.parts(thread);
  parts.clear();
  for (std::size_t l = 0; l < canvas_.levels.size(); ++l) {
    Gemm gemm = over_places(outer_weights_[l], inner_);
    gemm.c = pyramid_.data();
    gemm.row_begin = lists_->place_ends[l];
    gemm.row_end = lists_->place_ends[l + 1];
    gemms_.add(parts, gemm);
  }
  gemms_.run(thread, parts);
}

// The 1x1 from a stage's map to what its level needs of the sums.
Gemm Detector::lateral(std::size_t level, std::int64_t image) {
  Gemm gemm = gemms_.layer(inner_weights_[level], one_tap_);
  gemm.a = backbone_.output(spec_.lasts[level], image);
  gemm.a_offsets = lists_->needed_in.data();
  gemm.c = inner_.data();
  gemm.c_offsets = lists_->needed.data();
  gemm.row_begin = lists_->needed_ends[level];
  gemm.row_end = lists_->needed_ends[level + 1];
  return gemm;
}

void Detector::lateral_sums(int thread, std::int64_t image) {
  Parts& parts = gemms_.parts(thread);
  parts.clear();
  for (std::size_t l = canvas_.levels.size(); l-- > 0;) gemms_.add(parts, lateral(l, image));
  gemms_.run(thread, parts);
  if (kernels_.element == Element::f32) {
    add_coarser<float>(thread);
  } else {
    add_coarser<std::uint16_t>(thread);
  }
}

// Level by level: the one above is copied to where the lateral adds to it, so that a sum is rounded
// once.
void Detector::byte_sums(int thread, std::int64_t image) {
  const auto channels = static_cast<std::size_t>(gemms_.padded(spec_.width));
  const std::size_t coarsest = canvas_.levels.size() - 1;
  Parts& parts = gemms_.parts(thread);
  for (std::size_t l = coarsest + 1; l-- > 0;) {
    Gemm gemm = lateral(l, image);
    if (l < coarsest) {
      each_needed(thread, l, [&](std::int64_t to, std::int64_t from) {
        std::memcpy(inner_.data() + to, inner_.data() + from, channels);
      });
      gemm.epilogue = Epilogue::add_relu;
    }
    parts.clear();
    gemms_.add(parts, gemm);
    gemms_.run(thread, parts);
  }
}

// Shares out what a level needs: each(offset of a pixel, offset of that above it).
template <typename Each>
void Detector::each_needed(int thread, std::size_t level, Each&& each) {
  const std::int64_t begin = lists_->needed_ends[level];
  const std::int64_t rows = lists_->needed_ends[level + 1] - begin;
  const std::int64_t chunks = gemms_.chunks_of(rows);
  gemms_.team().share(thread, chunks, [&](std::int64_t chunk) {
    const std::int64_t end = begin + rows * (chunk + 1) / chunks;
    for (std::int64_t r = begin + rows * chunk / chunks; r < end; ++r) {
      each(lists_->needed.data()[r], lists_->parents.data()[r]);
    }
  });
}

template <typename T>
void Detector::add_coarser(int thread) {
  const std::int64_t channels = gemms_.padded(spec_.width);
  T* const inner = inner_.data<T>();
  for (std::size_t l = canvas_.levels.size() - 1; l-- > 0;) {
    each_needed(thread, l, [&](std::int64_t to, std::int64_t from) {
      for (std::int64_t c = 0; c < channels; ++c) {
        to_number(to_float(inner[to + c]) + to_float(inner[from + c]), inner[to + c]);
      }
    });
  }
}

// Both towers side by side; levels share their weights and run as one list.
void Detector::heads(int thread) {
  Parts& parts = gemms_.parts(thread);
  const Buffer* classes = &pyramid_;
  const Buffer* boxes = &pyramid_;
  for (std::size_t i = 0; i < class_weights_.size(); ++i) {
    parts.clear();
    const auto layer = [&](const Weights& weights, const Buffer*& from, Buffer& to) {
      Gemm gemm = over_places(weights, *from);
      gemm.c = to.data();
      gemm.epilogue = Epilogue::relu;
      gemms_.add(parts, gemm);
      from = &to;
    };
    layer(class_weights_[i], classes, class_tower_[i % 2]);
    layer(box_weights_[i], boxes, box_tower_[i % 2]);
    gemms_.run(thread, parts);
  }
  parts.clear();
  const auto answer = [&](const Weights& weights, const Buffer& from, Buffer& to,
                          const std::vector<std::int64_t>& rows) {
    Gemm gemm = over_places(weights, from);
    gemm.c = to.data();
    gemm.c_offsets = rows.data();
    // Nobody reads the padding behind the last answer.
    gemm.num_vectors = (weights.outputs + kernels_.vector - 1) / kernels_.vector;
    gemm.epilogue = Epilogue::raw;
    gemms_.add(parts, gemm);
  };
  answer(class_out_weights_, *classes, class_out_, class_rows_);
  answer(box_out_weights_, *boxes, box_out_, box_rows_);
  gemms_.run(thread, parts);
}

// A 3x3 over a canvas at all active places, onto the same places of another.
Gemm Detector::over_places(const Weights& weights, const Buffer& from) const {
  Gemm gemm = gemms_.layer(weights, taps_);
  gemm.a = from.data();
  gemm.a_offsets = lists_->places.data();
  gemm.c_offsets = lists_->places.data();
  gemm.row_end = lists_->places.size();
  return gemm;
}

void Detector::choose(std::int64_t image) {
  chooser_.begin(batch_->images.height, batch_->images.width);
  const std::int64_t class_stride = gemms_.padded(spec_.labels), side_stride = gemms_.padded(5);
  for (std::size_t l = 0; l < canvas_.levels.size(); ++l) {
    const Level& level = canvas_.levels[l];
    const std::int64_t begin = lists_->place_ends[l];
    chooser_.add({class_out_.data<float>() + begin * class_stride, class_stride,
                  box_out_.data<float>() + begin * side_stride, side_stride,
                  lists_->indices.data() + begin, lists_->place_ends[l + 1] - begin, level.width,
                  static_cast<float>(batch_->images.width / level.width), spec_.units[l]});
  }
  const std::int64_t first = image * spec_.most;
  objects_->counts[image] = chooser_.finish(objects_->boxes + first * 4, objects_->scores + first,
                                            objects_->labels + first);
  if (objects_->places) tell_places(image);
}

void Detector::tell_places(std::int64_t image) const {
  const std::int64_t labels = spec_.labels, row = labels + 5;
  float* to = objects_->places + image * canvas_.places() * row;
  for (std::size_t l = 0; l < canvas_.levels.size(); ++l) {
    for (std::int64_t i = 0; i < canvas_.levels[l].pixels(); ++i) {
      std::fill_n(to + i * row, labels, -std::numeric_limits<float>::infinity());
      std::fill_n(to + i * row + labels, 5, 0.0f);
    }
    for (std::int64_t r = lists_->place_ends[l]; r < lists_->place_ends[l + 1]; ++r) {
      float* const place = to + lists_->indices.data()[r] * row;
      const float* const sides = box_out_.data<float>() + box_rows_[static_cast<std::size_t>(r)];
      const float* const classes =
          class_out_.data<float>() + class_rows_[static_cast<std::size_t>(r)];
      std::copy_n(classes, labels, place);
      for (int s = 0; s < 4; ++s) place[labels + s] = sides[s] < 0.0f ? 0.0f : sides[s];
      place[labels + 4] = sides[4];
    }
    to += canvas_.levels[l].pixels() * row;
  }
}

}  // namespace laud
