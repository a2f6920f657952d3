// What comes behind the dense answers, against its definition spelled out.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>

#include "check.hpp"
#include "objects.hpp"
#include "weights.hpp"

namespace laud::testing {
namespace {

double overlap_of(const Box& a, const Box& b) {
  const double width = std::min(a.right, b.right) - std::max(a.left, b.left);
  const double height = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
  const double shared = std::max(width, 0.0) * std::max(height, 0.0);
  const auto area = [](const Box& x) {
    return (static_cast<double>(x.right) - x.left) * (static_cast<double>(x.bottom) - x.top);
  };
  return shared / (area(a) + area(b) - shared);
}

// Whole numbers, so that areas are exact and ties of overlaps are ties.
Box random_box(Random& random, std::int64_t size) {
  const auto left = static_cast<float>(random.between(0, size - 2));
  const auto top = static_cast<float>(random.between(0, size - 2));
  return {left, top, left + static_cast<float>(random.between(0, size / 2)),
          top + static_cast<float>(random.between(1, size / 2))};
}

LAUD_TEST(a_box_goes_where_a_surer_one_of_its_label_overlaps_it) {
  Random random(1);
  for (const std::int64_t count : {0, 1, 2, 40, 300}) {
    for (const double overlap : {0.25, 0.5, 0.7}) {
      std::vector<Box> boxes;
      std::vector<std::int64_t> labels;
      for (std::int64_t i = 0; i < count; ++i) {
        boxes.push_back(random_box(random, 20));
        labels.push_back(random.between(0, 2));
      }
      std::vector<std::int64_t> wanted;
      std::vector<char> gone(boxes.size());
      for (std::size_t i = 0; i < boxes.size(); ++i) {
        if (gone[i]) continue;
        wanted.push_back(static_cast<std::int64_t>(i));
        for (std::size_t j = i + 1; j < boxes.size(); ++j) {
          if (labels[i] == labels[j] && overlap_of(boxes[i], boxes[j]) > overlap) gone[j] = 1;
        }
      }
      for (const std::int64_t most : {std::int64_t{1}, std::int64_t{7}, count + 1}) {
        std::vector<std::int64_t> kept(static_cast<std::size_t>(most));
        kept.resize(static_cast<std::size_t>(
            suppress(boxes.data(), labels.data(), count, overlap, most, kept.data())));
        std::vector<std::int64_t> first(wanted);
        first.resize(std::min(first.size(), static_cast<std::size_t>(most)));
        if (kept != first) fail(count, " boxes, overlap ", overlap, ", most ", most);
      }
    }
  }
}

struct Object {
  float score;
  Box box;
  std::int64_t label;
};

// Dense answers of levels whose places are all there, as the chooser and as its definition take
// them.
struct Scene {
  std::int64_t labels, height, width;
  std::vector<std::vector<float>> classes, sides;
  std::vector<std::vector<std::int64_t>> indices;
};

Scene random_scene(std::int64_t labels, std::int64_t height, std::int64_t width, Random& random) {
  Scene scene{labels, height, width, {}, {}, {}};
  for (const std::int64_t stride : {4, 8}) {
    const std::int64_t places = (height / stride) * (width / stride);
    std::vector<float> classes, sides;
    for (std::int64_t i = 0; i < places; ++i) {
      // Few different numbers: many scores are equal.
      for (std::int64_t c = 0; c < labels; ++c) {
        classes.push_back(static_cast<float>(random.between(-4, 3)));
      }
      for (int s = 0; s < 4; ++s) sides.push_back(static_cast<float>(random.between(-2, 9)) / 2.0f);
      sides.push_back(static_cast<float>(random.between(-1, 1)));
    }
    std::vector<std::int64_t> indices(static_cast<std::size_t>(places));
    std::iota(indices.begin(), indices.end(), 0);
    scene.classes.push_back(classes);
    scene.sides.push_back(sides);
    scene.indices.push_back(indices);
  }
  return scene;
}

std::vector<Object> defined(const Scene& scene, std::size_t candidates, std::size_t most,
                            float least, double overlap) {
  std::vector<Object> all;
  std::int64_t stride = 4;
  for (std::size_t l = 0; l < scene.classes.size(); ++l, stride *= 2) {
    std::vector<Object> level;
    for (std::size_t i = 0; i < scene.indices[l].size(); ++i) {
      const float* const sides = scene.sides[l].data() + i * 5;
      const auto unit = static_cast<float>(stride) / 2.0f;
      const std::int64_t columns = scene.width / stride;
      const auto x = static_cast<float>(scene.indices[l][i] % columns * stride);
      const auto y = static_cast<float>(scene.indices[l][i] / columns * stride);
      const auto side = [&](int s) { return std::max(sides[s], 0.0f) * unit; };
      const Box box{std::max(x - side(0), 0.0f), std::max(y - side(1), 0.0f),
                    std::min(x + side(2), static_cast<float>(scene.width)),
                    std::min(y + side(3), static_cast<float>(scene.height))};
      for (std::int64_t c = 0; c < scene.labels; ++c) {
        const float logit = scene.classes[l].data()[static_cast<std::int64_t>(i) * scene.labels + c];
        const float score = std::sqrt(sigmoid(logit) * sigmoid(sides[4]));
        if (score >= least) level.push_back({score, box, c});
      }
    }
    // Stable: of equal ones the lower place comes first, then the lower label.
    const auto surer = [](const Object& a, const Object& b) { return a.score > b.score; };
    std::stable_sort(level.begin(), level.end(), surer);
    if (level.size() > candidates) level.resize(candidates);
    all.insert(all.end(), level.begin(), level.end());
    std::stable_sort(all.begin(), all.end(), surer);
  }
  std::vector<Object> kept;
  for (const Object& each : all) {
    const bool gone = std::any_of(kept.begin(), kept.end(), [&](const Object& other) {
      return other.label == each.label && overlap_of(other.box, each.box) > overlap;
    });
    if (!gone && kept.size() < most) kept.push_back(each);
  }
  return kept;
}

void check_scene(const Scene& scene, std::int64_t candidates, std::int64_t most, float least) {
  Chooser chooser(2, scene.labels, candidates, most, least, 0.5);
  std::vector<float> boxes(static_cast<std::size_t>(most * 4));
  std::vector<float> scores(static_cast<std::size_t>(most));
  std::vector<std::int64_t> labels(static_cast<std::size_t>(most));
  // Twice: what the first image left must not matter.
  for (int round = 0; round < 2; ++round) {
    chooser.begin(scene.height, scene.width);
    std::int64_t stride = 4;
    for (std::size_t l = 0; l < scene.classes.size(); ++l, stride *= 2) {
      chooser.add({scene.classes[l].data(), scene.labels, scene.sides[l].data(), 5,
                   scene.indices[l].data(), static_cast<std::int64_t>(scene.indices[l].size()),
                   scene.width / stride, static_cast<float>(stride),
                   static_cast<float>(stride) / 2.0f});
    }
    const auto found =
        static_cast<std::size_t>(chooser.finish(boxes.data(), scores.data(), labels.data()));
    const std::vector<Object> wanted =
        defined(scene, static_cast<std::size_t>(candidates), static_cast<std::size_t>(most), least,
                0.5);
    expect_equal(found, wanted.size(), "objects of ", scene.labels, " labels");
    for (std::size_t i = 0; i < found; ++i) {
      expect_equal(scores[i], wanted[i].score, "score ", i);
      expect_equal(labels[i], wanted[i].label, "label ", i);
      expect_equal(boxes[4 * i], wanted[i].box.left, "left of ", i);
      expect_equal(boxes[4 * i + 1], wanted[i].box.top, "top of ", i);
      expect_equal(boxes[4 * i + 2], wanted[i].box.right, "right of ", i);
      expect_equal(boxes[4 * i + 3], wanted[i].box.bottom, "bottom of ", i);
    }
  }
}

LAUD_TEST(the_surest_places_become_objects) {
  Random random(2);
  for (const std::int64_t labels : {1, 3}) {
    for (const std::int64_t size : {8, 40, 64}) {
      const Scene scene = random_scene(labels, size, size + 8, random);
      check_scene(scene, 1000, 500, 0.05f);
      check_scene(scene, 20, 500, 0.05f);
      check_scene(scene, 7, 5, 0.3f);
      check_scene(scene, 1, 1, 0.6f);
      check_scene(scene, 1000, 500, 0.999f);
    }
  }
}

LAUD_TEST(a_score_at_the_threshold_counts) {
  // The least score itself, of one place whose class alone would not be certain.
  const float classes[] = {-2.0f}, sides[] = {1.0f, 1.0f, 1.0f, 1.0f, 30.0f};
  const std::int64_t index[] = {0};
  const float score = std::sqrt(sigmoid(classes[0]) * sigmoid(sides[4]));
  for (const float least : {score, std::nextafter(score, 1.0f)}) {
    Chooser chooser(1, 1, 10, 10, least, 0.5);
    float boxes[40], scores[10];
    std::int64_t labels[10];
    chooser.begin(4, 4);
    chooser.add({classes, 1, sides, 5, index, 1, 1, 4.0f, 2.0f});
    expect_equal(chooser.finish(boxes, scores, labels), least == score ? 1 : 0, "objects");
  }
}

LAUD_TEST(numbers_that_are_none_are_no_objects_and_no_wrong_access) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float classes[] = {nan, 3.0f, infinity};
  const float sides[] = {1, 1, 1, 1, 1, nan, infinity, nan, 1, 1, 1, 1, 1, 1, nan};
  const std::int64_t indices[] = {0, 1, 2};
  Chooser chooser(1, 1, 10, 10, 0.1f, 0.5);
  float boxes[40], scores[10];
  std::int64_t labels[10];
  chooser.begin(4, 12);
  chooser.add({classes, 1, sides, 5, indices, 3, 3, 4.0f, 2.0f});
  expect_equal(chooser.finish(boxes, scores, labels), 1, "objects");
  const std::vector<float> map(16, 1.0f);
  std::vector<float> region(4);
  const Box box{boxes[0], boxes[1], boxes[2], boxes[3]};
  const Features<float> features{map.data(), 4, 4, 4, 1, 0.25f};
  pool_region(features, box, 2, 1, region.data(), 2, 1, 4);
  pool_region(features, {-infinity, 0, infinity, 4}, 2, 1, region.data(), 2, 1, 4);
  for (const Box& each : {box, Box{0, 0, 0, 0}, Box{0, 0, infinity, 1}}) {
    const std::int64_t level = level_of(each, 2, 4);
    if (level < 0 || level > 3) fail("level ", level);
  }
}

LAUD_TEST(an_objects_level_follows_its_size) {
  const auto level = [](float side) { return level_of({0, 0, side, side}, 2, 4); };
  // 112 and 224 are the first sizes of strides 8 and 16.
  expect_equal(level(1.0f), 0, "1");
  expect_equal(level(111.9f), 0, "111.9");
  expect_equal(level(112.0f), 1, "112");
  expect_equal(level(224.0f), 2, "224");
  expect_equal(level(223.9f), 1, "223.9");
  expect_equal(level(448.0f), 3, "448");
  expect_equal(level(4000.0f), 3, "4000");
}

// A pixel between four others, or nothing where it lies more than one outside.
double interpolated(const std::vector<float>& map, std::int64_t height, std::int64_t width,
                    std::int64_t channels, std::int64_t channel, double y, double x) {
  if (y < -1.0 || y > static_cast<double>(height) || x < -1.0 || x > static_cast<double>(width)) {
    return 0.0;
  }
  y = std::clamp(y, 0.0, static_cast<double>(height - 1));
  x = std::clamp(x, 0.0, static_cast<double>(width - 1));
  double total = 0.0;
  for (std::int64_t d = 0; d < 4; ++d) {
    const std::int64_t py = std::min(static_cast<std::int64_t>(y) + d / 2, height - 1);
    const std::int64_t px = std::min(static_cast<std::int64_t>(x) + d % 2, width - 1);
    const double wy = d / 2 ? y - std::floor(y) : 1.0 - (y - std::floor(y));
    const double wx = d % 2 ? x - std::floor(x) : 1.0 - (x - std::floor(x));
    total += wy * wx * map[static_cast<std::size_t>((py * width + px) * channels + channel)];
  }
  return total;
}

LAUD_TEST(a_region_is_the_mean_of_four_samples_a_bin) {
  Random random(3);
  const std::int64_t height = 6, width = 9, channels = 5, size = 4;
  std::vector<float> map;
  for (std::int64_t i = 0; i < height * width * channels; ++i) map.push_back(random.normal());
  const float scale = 0.25f;
  std::vector<std::uint16_t> rounded;
  for (const float each : map) rounded.push_back(to_bf16(each));
  std::vector<Box> boxes{
      {0, 0, 36, 24}, {3, 2, 3, 2}, {30, 20, 36, 24}, {-30, -20, 60, 50}, {1, 1, 2, 23}};
  for (int i = 0; i < 30; ++i) boxes.push_back(random_box(random, 30));
  const std::int64_t row = width * channels;
  const Features<float> floats{map.data(), height, width, row, channels, scale};
  const Features<std::uint16_t> bf16{rounded.data(), height, width, row, channels, scale};
  for (const Box& box : boxes) {
    std::vector<float> region(static_cast<std::size_t>(size * size * channels), -7.0f);
    pool_region(floats, box, size, channels, region.data(), size * channels, channels, 4);
    std::vector<std::uint16_t> halves(region.size(), 0xffa5);
    pool_region(bf16, box, size, channels, halves.data(), size * channels, channels, 4);
    const double left = box.left * scale, top = box.top * scale;
    const double w = std::max(box.right * scale - left, 1.0) / size;
    const double h = std::max(box.bottom * scale - top, 1.0) / size;
    for (std::int64_t i = 0; i < size * size * channels; ++i) {
      const std::int64_t y = i / channels / size, x = i / channels % size, c = i % channels;
      double wanted = 0.0;
      for (int s = 0; s < 4; ++s) {
        wanted += interpolated(map, height, width, channels, c,
                               top + (static_cast<double>(y) + 0.25 + 0.5 * (s / 2)) * h,
                               left + (static_cast<double>(x) + 0.25 + 0.5 * (s % 2)) * w) /
                  4.0;
      }
      if (!(std::fabs(region[static_cast<std::size_t>(i)] - wanted) < 1e-4)) {
        fail("bin ", i, ": got ", region[static_cast<std::size_t>(i)], ", wanted ", wanted);
      }
      // Numbers and their mean are rounded to 8 bits each.
      const float half = from_bf16(halves[static_cast<std::size_t>(i)]);
      if (!(std::fabs(half - wanted) < 0.02)) fail("bf16 bin ", i, ": ", half, ", not ", wanted);
    }
  }
}

template <typename T>
void check_same_bits(Random& random, const std::vector<T>& map, std::int64_t height,
                     std::int64_t width, std::int64_t channels) {
  const Features<T> features{map.data(), height, width, width * channels, channels, 0.25f};
  for (const std::int64_t size : {1, 7, 14}) {
    for (int i = 0; i < 20; ++i) {
      const Box box = random_box(random, 4 * height);
      std::vector<T> plain(static_cast<std::size_t>(size * size * channels)), wide(plain.size());
      pool_region(features, box, size, channels, plain.data(), size * channels, channels, 4);
      pool_region(features, box, size, channels, wide.data(), size * channels, channels, 8);
      if (std::memcmp(plain.data(), wide.data(), plain.size() * sizeof(T))) {
        fail("the bits of a region of ", size, " depend on the instruction set");
      }
    }
  }
}

LAUD_TEST(every_instruction_set_makes_the_same_bits_of_a_region) {
  Random random(9);
  for (const std::int64_t channels : {5, 16, 72}) {
    const std::int64_t height = 9, width = 11;
    std::vector<float> map;
    for (std::int64_t i = 0; i < height * width * channels; ++i) {
      map.push_back(static_cast<float>(random.between(-1000, 1000)) / 7.0f);
    }
    std::vector<std::uint16_t> halves;
    std::vector<std::uint8_t> bytes;
    for (const float each : map) {
      halves.push_back(to_bf16(each));
      bytes.push_back(static_cast<std::uint8_t>(random.between(0, 255)));
    }
    check_same_bits(random, map, height, width, channels);
    check_same_bits(random, halves, height, width, channels);
    check_same_bits(random, bytes, height, width, channels);
  }
}

}  // namespace
}  // namespace laud::testing
