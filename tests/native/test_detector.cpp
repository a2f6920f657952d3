// Whole detectors in poisoned memory: an answer depends on neither batch mates nor threads, what is
// not active is neither computed nor found. That the answers are right is tested against torch and,
// of bytes, against numpy.
#include <algorithm>
#include <cmath>
#include <limits>

#include "detector.hpp"
#include "networks.hpp"

namespace laud::testing {
namespace {

constexpr std::int64_t kSize = 48, kMost = 40, kRegion = 6, kLabels = 2;
constexpr float kAll = -std::numeric_limits<float>::infinity();

DetectorSpec small_detector(std::int64_t head_convs, std::int64_t mask_convs) {
  return {small_backbone(), {2, 5}, {2.0f, 4.0f}, {5, 2}, {0, 1}, {0.02, 0.03}, kLabels, 8,
          head_convs, mask_convs, kRegion, 0.5, 0.3f, 30, kMost};
}

Tensors detector_tensors(const DetectorSpec& s, bool quantised) {
  Tensors tensors = tensors_of(s.backbone, quantised);
  const auto layer = [&](const std::string& name, std::int64_t outputs, std::int64_t inputs,
                         std::int64_t kernel) { tensors.layer(name, outputs, inputs, kernel); };
  for (std::size_t l = 0; l < s.lasts.size(); ++l) {
    const auto& block = s.backbone.blocks[static_cast<std::size_t>(s.lasts[l])];
    layer("pyramid.inner." + std::to_string(l), s.width, block.out_channels, 1);
    layer("pyramid.outer." + std::to_string(l), s.width, s.width, 3);
    const std::string masker = "pyramid.masker." + std::to_string(l);
    tensors.vector(masker + ".mean", block.out_channels, 0.5f, 1.0f);
    tensors.vector(masker + ".std", block.out_channels, 0.0f, 1.5f);
    tensors.vector(masker + ".weight", block.out_channels, 1.0f, 0.0f);
  }
  for (std::int64_t i = 0; i < s.head_convs; ++i) {
    layer("head.classes." + std::to_string(i), s.width, s.width, 3);
    layer("head.boxes." + std::to_string(i), s.width, s.width, 3);
  }
  layer("head.classes.out", s.labels, s.width, 3);
  layer("head.boxes.out", 5, s.width, 3);
  for (std::int64_t i = 0; i < s.mask_convs; ++i) {
    layer("mask." + std::to_string(i), s.width, s.width, 3);
  }
  for (int i = 0; i < 4; ++i) layer("mask.up." + std::to_string(i), s.width / 2, s.width, 1);
  layer("mask.out", 1, s.width / 2, 1);
  return tensors;
}

struct Found {
  std::vector<std::int64_t> counts, labels, active_units, pixels, level_units, level_pixels;
  std::vector<float> boxes, scores, masks, places;
  std::vector<double> parts_s;
  double network_s;
  std::vector<std::uint8_t> level_decisions;
};

class Runner {
 public:
  Runner(const Kernels& kernels, int threads, std::int64_t head_convs = 2,
         std::int64_t mask_convs = 2)
      : spec_(small_detector(head_convs, mask_convs)),
        tensors_(detector_tensors(spec_, kernels.element == Element::u8)),
        detector_(spec_, [this](const std::string& name) { return tensors_.find(name); }, kernels,
                  threads, true) {}

  Found run(const std::uint8_t* images, std::int64_t n, std::int64_t size = kSize,
            const std::uint8_t* active = nullptr, const std::vector<Wish>& levels = {},
            const std::uint8_t* level_decisions = nullptr) {
    const auto count = static_cast<std::size_t>(n);
    const auto maskers = static_cast<std::size_t>(detector_.backbone().num_maskers());
    const auto blocks = static_cast<std::size_t>(detector_.backbone().num_blocks());
    const auto places = static_cast<std::size_t>(detector_.num_places(size, size));
    Found f{};
    f.counts.resize(count);
    f.labels.resize(count * kMost);
    f.active_units.resize(count * maskers);
    f.pixels.resize(count * blocks * 2);
    f.boxes.resize(count * kMost * 4);
    f.scores.resize(count * kMost);
    f.masks.resize(count * kMost * 4 * kRegion * kRegion);
    f.places.resize(count * places * (kLabels + 5));
    f.parts_s.resize(blocks + 5);
    const std::vector<Wish> wishes(count * maskers, Wish{kAll, -1});
    const std::vector<Wish> all(count * 2, Wish{kAll, -1});
    const std::vector<Wish>& of_levels = levels.empty() ? all : levels;
    f.level_units.resize(count * 2);
    f.level_pixels.resize(count * 2);
    f.level_decisions.resize(
        count * static_cast<std::size_t>(detector_.num_level_units(size, size)));
    Objects objects{f.counts.data(), f.boxes.data(), f.scores.data(), f.labels.data(),
                    spec_.mask_convs ? f.masks.data() : nullptr, f.places.data(),
                    {f.active_units.data(), f.pixels.data(), nullptr}, f.level_units.data(),
                    f.level_decisions.data(), f.level_pixels.data(), f.parts_s.data(), 0, 0};
    detector_.infer({{images, n, size, size, wishes.data(), nullptr},
                     of_levels.data(),
                     level_decisions,
                     active},
                    objects);
    f.network_s = objects.network_s;
    return f;
  }

  Detector& detector() { return detector_; }

 private:
  DetectorSpec spec_;
  Tensors tensors_;
  Detector detector_;
};

template <typename T>
std::vector<T> part(const std::vector<T>& all, std::int64_t i, std::int64_t n) {
  const auto size = static_cast<std::ptrdiff_t>(all.size()) / n;
  return {all.begin() + i * size, all.begin() + (i + 1) * size};
}

void expect_same(const Found& batch, std::int64_t i, std::int64_t n, const Found& alone,
                 const std::string& where) {
  if (part(batch.places, i, n) != alone.places) fail(where, ": dense answers");
  expect_equal(batch.counts[static_cast<std::size_t>(i)], alone.counts[0], where, ": count");
  if (part(batch.boxes, i, n) != alone.boxes) fail(where, ": boxes");
  if (part(batch.scores, i, n) != alone.scores) fail(where, ": scores");
  if (part(batch.labels, i, n) != alone.labels) fail(where, ": labels");
  if (part(batch.masks, i, n) != alone.masks) fail(where, ": masks");
}

LAUD_TEST(objects_depend_on_neither_batch_mates_nor_threads) {
  const std::int64_t n = 3;
  const std::vector<std::uint8_t> images = random_images(n, kSize);
  const std::int64_t bytes = static_cast<std::int64_t>(images.size()) / n;
  std::vector<const Kernels*> all = kernels_of(Element::f32);
  for (const Kernels* each : kernels_of(Element::bf16)) all.push_back(each);
  for (const Kernels* each : kernels_of(Element::u8)) all.push_back(each);
  for (const Kernels* kernels : all) {
    std::vector<Found> alone;
    {
      Runner single(*kernels, 1);
      for (std::int64_t i = 0; i < n; ++i) {
        alone.push_back(single.run(images.data() + i * bytes, 1));
      }
    }
    for (const Found& each : alone) {
      if (each.counts[0] < 3) fail("too little is found for a test: ", each.counts[0]);
      for (const float value : each.masks) {
        if (!(value >= 0.0f && value <= 1.0f)) fail("a mask has ", value);
      }
    }
    for (const int threads : {1, 3}) {
      Runner runner(*kernels, threads);
      const Found batch = runner.run(images.data(), n);
      for (std::int64_t i = 0; i < n; ++i) {
        expect_same(batch, i, n, alone[static_cast<std::size_t>(i)],
                    std::string(kernels->name) + " image " + std::to_string(i));
      }
    }
  }
}

LAUD_TEST(dense_answers_in_bf16_are_close_to_fp32) {
  const std::vector<std::uint8_t> images = random_images(1, kSize);
  const Found wanted = Runner(*kernels_of(Element::f32).front(), 1).run(images.data(), 1);
  for (const Kernels* kernels : kernels_of(Element::bf16)) {
    const Found got = Runner(*kernels, 2).run(images.data(), 1);
    double error = 0.0, size = 0.0;
    for (std::size_t i = 0; i < wanted.places.size(); ++i) {
      error += std::pow(got.places[i] - wanted.places[i], 2.0);
      size += std::pow(wanted.places[i], 2.0);
    }
    const double share = std::sqrt(error / size);
    if (!(share < 0.03)) fail(kernels->name, ": error is ", share, " of the answers");
  }
}

LAUD_TEST(objects_do_not_depend_on_what_ran_before) {
  const std::vector<std::uint8_t> images = random_images(2, 64);
  for (const Element element : {Element::f32, Element::u8}) {
    // Three layers of the mask head, so that one writes where the pooled region was.
    Runner runner(*kernels_of(element).front(), 2, 1, 3);
    const Found first = runner.run(images.data(), 1);
    runner.run(images.data(), 1, 64);
    runner.run(images.data(), 2, 8);
    runner.run(images.data(), 2, 32);
    expect_same(runner.run(images.data(), 1), 0, 1, first, "again");
  }
}

LAUD_TEST(bytes_give_the_same_objects_on_every_instruction_set) {
  const std::vector<std::uint8_t> images = random_images(2, kSize);
  const std::vector<const Kernels*> all = kernels_of(Element::u8);
  const Found wanted = Runner(*all.front(), 1, 2, 3).run(images.data(), 2);
  if (wanted.counts[0] < 3) fail("too little is found for a test: ", wanted.counts[0]);
  for (const Kernels* kernels : all) {
    const Found got = Runner(*kernels, 2, 2, 3).run(images.data(), 2);
    for (std::int64_t i = 0; i < 2; ++i) {
      const Found alone{{wanted.counts[static_cast<std::size_t>(i)]}, part(wanted.labels, i, 2),
                        {}, {}, {}, {},
                        part(wanted.boxes, i, 2), part(wanted.scores, i, 2),
                        part(wanted.masks, i, 2), part(wanted.places, i, 2), {}, 0, {}};
      expect_same(got, i, 2, alone, kernels->name);
    }
  }
}

LAUD_TEST(no_object_is_where_nothing_is_active) {
  const std::int64_t n = 3;
  const std::vector<std::uint8_t> images = random_images(n, kSize);
  Runner runner(*kernels_of(Element::f32).front(), 2);
  const std::int64_t places = runner.detector().num_places(kSize, kSize);
  expect_equal(places, 12 * 12 + 6 * 6, "places");
  std::vector<std::uint8_t> active(static_cast<std::size_t>(n * places), 1);
  const Found everything = runner.run(images.data(), n);
  const Found all = runner.run(images.data(), n, kSize, active.data());
  for (std::int64_t i = 0; i < n; ++i) {
    const Found alone{{all.counts[static_cast<std::size_t>(i)]}, part(all.labels, i, n),
                      {}, {}, {}, {},
                      part(all.boxes, i, n), part(all.scores, i, n), part(all.masks, i, n),
                      part(all.places, i, n), {}, 0, {}};
    expect_same(everything, i, n, alone, "all active");
  }
  // The second image computes a part, the third nothing.
  Random random(9);
  for (std::int64_t p = 0; p < places; ++p) {
    active[static_cast<std::size_t>(places + p)] = random.chance(0.3);
    active[static_cast<std::size_t>(2 * places + p)] = 0;
  }
  const Found some = runner.run(images.data(), n, kSize, active.data());
  expect_equal(some.counts[2], 0, "objects of nothing");
  if (part(some.places, 0, n) != part(everything.places, 0, n)) fail("the first image");
  if (some.counts[1] < 1) fail("a part of the places finds nothing");
  for (std::int64_t p = 0; p < n * places; ++p) {
    const float logit = some.places[static_cast<std::size_t>(p * (kLabels + 5))];
    if (std::isfinite(logit) != (active[static_cast<std::size_t>(p)] != 0)) fail("place ", p);
  }
}

LAUD_TEST(maskers_of_levels_decide_for_each_image_by_itself) {
  const std::int64_t n = 4, bytes = kSize * kSize * 3;
  const std::vector<std::uint8_t> images = random_images(n, kSize);
  constexpr float kNone = std::numeric_limits<float>::infinity();
  // Not asked; the coarser level empty; a cap and a threshold; nothing.
  const std::vector<Wish> wishes{{kAll, -1}, {kAll, -1}, {kAll, -1}, {kNone, -1},
                                 {kAll, 4},  {0.0f, -1}, {kNone, -1}, {kNone, -1}};
  for (const Kernels* kernels : kernels_of(Element::f32)) {
    for (const int threads : {1, 3}) {
      Runner runner(*kernels, threads), single(*kernels, 1);
      const Found batch = runner.run(images.data(), n, kSize, nullptr, wishes);
      for (std::int64_t i = 0; i < n; ++i) {
        const Found alone = single.run(images.data() + i * bytes, 1, kSize, nullptr,
                                       {wishes.begin() + 2 * i, wishes.begin() + 2 * i + 2});
        expect_same(batch, i, n, alone, std::string(kernels->name) + " image " + std::to_string(i));
        if (part(batch.level_units, i, n) != alone.level_units) fail("units of image ", i);
      }
      // Maps of 12 and 6 pixels in patches of 5 and 2: of four patches the last ends at the border.
      const std::vector<std::int64_t> pixels{144, 36, 144, 0, batch.level_pixels[4],
                                             batch.level_pixels[5], 0, 0};
      if (batch.level_pixels != pixels) fail("active places");
      expect_equal(batch.level_units[0], 9, "patches of the finer level");
      expect_equal(batch.level_units[4], 4, "units under a cap");
      expect_equal(batch.level_pixels[5], 4 * batch.level_units[5], "places of whole patches");
      if (batch.level_units[5] < 1 || batch.level_units[5] > 8) fail("a threshold of no use");
      expect_equal(batch.counts[3], 0, "objects of nothing");
    }
  }
}

LAUD_TEST(decisions_of_levels_are_told_and_hold_where_they_are_given) {
  const std::int64_t n = 3;
  const std::vector<std::uint8_t> images = random_images(n, kSize);
  // The third is not asked.
  const std::vector<Wish> wishes{{0.0f, -1}, {kAll, 2},  {kAll, 4},
                                 {0.0f, -1}, {kAll, -1}, {kAll, -1}};
  for (const int threads : {1, 3}) {
    Runner runner(*kernels_of(Element::f32).front(), threads);
    const Found asked = runner.run(images.data(), n, kSize, nullptr, wishes);
    const std::int64_t units = runner.detector().num_level_units(kSize, kSize);
    expect_equal(units, 9 + 9, "patches of 5 of 12 pixels, and of 2 of 6");
    for (std::int64_t i = 0; i < n; ++i) {
      const std::vector<std::uint8_t> told = part(asked.level_decisions, i, n);
      for (std::int64_t l = 0; l < 2; ++l) {
        const auto begin = told.begin() + l * 9;
        expect_equal(std::count(begin, begin + 9, std::uint8_t{1}),
                     asked.level_units[static_cast<std::size_t>(i * 2 + l)], "told units");
      }
    }
    const Found given =
        runner.run(images.data(), n, kSize, nullptr, {}, asked.level_decisions.data());
    if (given.level_decisions != asked.level_decisions) fail("others are told than were given");
    if (given.level_units != asked.level_units) fail("units that were given");
    if (given.level_pixels != asked.level_pixels) fail("places that were given");
    if (given.places != asked.places) fail("answers under the decisions that were given");
  }
}

LAUD_TEST(parts_of_a_detector_add_up) {
  const std::vector<std::uint8_t> images = random_images(2, kSize);
  Runner runner(*kernels_of(Element::f32).front(), 2, 3, 0);
  const Found got = runner.run(images.data(), 2);
  double sum = 0.0;
  for (const double each : got.parts_s) {
    if (!(each >= 0.0)) fail("a part took ", each, " s");
    sum += each;
  }
  if (!(std::abs(sum - got.network_s) < 1e-9)) fail("parts sum to ", sum, " of ", got.network_s);
}

LAUD_TEST(specifications_that_make_no_detector_are_refused) {
  const Kernels& kernels = *kernels_of(Element::f32).front();
  const DetectorSpec right = small_detector(1, 1);
  const Tensors tensors = detector_tensors(right, false);
  const auto build = [&](const DetectorSpec& spec) {
    Detector(spec, [&](const std::string& name) { return tensors.find(name); }, kernels, 1, false);
  };
  build(right);
  const auto refused = [&](auto change, const std::string& says) {
    DetectorSpec spec = right;
    change(spec);
    expect_throw<std::invalid_argument>([&] { build(spec); }, says);
  };
  refused([](DetectorSpec& s) { s.lasts = {}; }, "unit per level");
  refused([](DetectorSpec& s) { s.units = {1.0f}; }, "unit per level");
  refused([](DetectorSpec& s) { s.lasts = {2, 4}; }, "end at the last block");
  refused([](DetectorSpec& s) { s.lasts = {5, 5}; }, "not in order");
  refused([](DetectorSpec& s) { s.lasts = {1, 5}; }, "does not end a stage");
  refused([](DetectorSpec& s) { s.patches = {2}; }, "a patch each");
  refused([](DetectorSpec& s) { s.scales = {1.0}; }, "a scale each");
  refused([](DetectorSpec& s) { s.patches = {2, 0}; }, "between 1 and 4096");
  refused([](DetectorSpec& s) { s.labels = 0; }, "between 1 and 4096");
  refused([](DetectorSpec& s) { s.most = 1 << 20; }, "between 1 and 4096");
  refused([](DetectorSpec& s) { s.mask_convs = -1; }, "mask_convs");
  refused([](DetectorSpec& s) { s.width = 7; }, "the width is odd");
  refused([](DetectorSpec& s) { s.width = 16; }, "another shape");
  refused([](DetectorSpec& s) { s.head_convs = 2; }, "is missing");
}

LAUD_TEST(images_whose_maps_do_not_halve_are_refused) {
  const std::vector<std::uint8_t> images = random_images(1, kSize);
  Runner runner(*kernels_of(Element::f32).front(), 1);
  const Found first = runner.run(images.data(), 1);
  for (const std::int64_t size : {1, 4, 36, 47}) {
    expect_throw<std::invalid_argument>([&] { runner.run(images.data(), 1, size); }, "");
  }
  expect_same(runner.run(images.data(), 1), 0, 1, first, "behind a refusal");
}

}  // namespace
}  // namespace laud::testing
