// Whole networks: int8 gives the same bits on every instruction set, with emulations of those that
// the machine lacks; every precision gives the same bits whatever the batch and the threads.
#include <cmath>
#include <limits>

#include "networks.hpp"

namespace laud::testing {
namespace {

constexpr float kAll = -std::numeric_limits<float>::infinity();

NetworkSpec small_network() { return {small_backbone(), 10, 0.05, 0.04}; }

Tensors network_tensors(const NetworkSpec& spec, bool quantised) {
  Tensors tensors = tensors_of(spec.backbone, quantised);
  tensors.layer("fc", spec.classes, spec.backbone.blocks.back().out_channels, 1, true);
  return tensors;
}

struct Result {
  std::vector<float> probabilities, scores;
  std::vector<std::int64_t> active, pixels;
  std::vector<double> parts_s;
  double network_s;
};

class Runner {
 public:
  Runner(const Kernels& kernels, int threads)
      : spec_(small_network()),
        tensors_(network_tensors(spec_, kernels.element == Element::u8)),
        network_(spec_, [this](const std::string& name) { return tensors_.find(name); }, kernels,
                 threads, true) {}

  Result run(const std::vector<std::uint8_t>& images, std::int64_t n, std::int64_t size,
             const std::vector<Wish>& wishes) {
    const auto count = static_cast<std::size_t>(n);
    const auto maskers = static_cast<std::size_t>(network_.backbone().num_maskers());
    const auto blocks = static_cast<std::size_t>(network_.backbone().num_blocks());
    Result r{std::vector<float>(count * 10), std::vector<float>(count * 10),
             std::vector<std::int64_t>(count * maskers), std::vector<std::int64_t>(count * blocks * 2),
             std::vector<double>(blocks + 2), 0};
    const Trace trace{r.active.data(), r.pixels.data(), nullptr};
    Answer answer{r.probabilities.data(), r.scores.data(), trace, r.parts_s.data(), 0, 0};
    network_.infer({images.data(), n, size, size, wishes.data(), nullptr}, answer);
    r.network_s = answer.network_s;
    return r;
  }

  std::int64_t num_maskers() const { return network_.backbone().num_maskers(); }

 private:
  NetworkSpec spec_;
  Tensors tensors_;
  Network network_;
};

constexpr std::int64_t kSize = 37;

// A different wish per image: everything, thresholds at zero, caps, nothing.
std::vector<Wish> wishes_of(std::int64_t n, std::int64_t maskers) {
  std::vector<Wish> wishes;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t m = 0; m < maskers; ++m) {
      const Wish all[] = {{kAll, -1}, {0.0f, -1}, {kAll, 1 + (i + m) % 3}, {1e9f, -1}};
      wishes.push_back(all[i % 4]);
    }
  }
  return wishes;
}

LAUD_TEST(int8_has_the_same_bits_on_every_instruction_set) {
  const std::vector<std::uint8_t> images = random_images(5, kSize);
  std::vector<float> wanted;
  for (const Kernels* kernels : kernels_of(Element::u8)) {
    Runner runner(*kernels, 1);
    const Result got = runner.run(images, 5, kSize, wishes_of(5, runner.num_maskers()));
    if (wanted.empty()) wanted = got.scores;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      expect_equal(got.scores[i], wanted[i], kernels->name, " score ", i);
    }
  }
  // Images differ, so the scores are not all one constant.
  if (std::equal(wanted.begin(), wanted.begin() + 10, wanted.begin() + 10)) fail("scores are constant");
}

LAUD_TEST(bf16_is_close_to_fp32) {
  const std::vector<std::uint8_t> images = random_images(1, kSize);
  Runner exact(*kernels_of(Element::f32).front(), 1);
  const std::vector<Wish> all = wishes_of(1, exact.num_maskers());
  const Result wanted = exact.run(images, 1, kSize, all);
  for (const Kernels* kernels : kernels_of(Element::bf16)) {
    Runner runner(*kernels, 2);
    const Result got = runner.run(images, 1, kSize, all);
    double error = 0.0, size = 0.0;
    for (std::size_t i = 0; i < wanted.scores.size(); ++i) {
      error += std::pow(got.scores[i] - wanted.scores[i], 2.0);
      size += std::pow(wanted.scores[i], 2.0);
    }
    // Twenty layers, each of which rounds to 8 bits: 2^-9 of a number, or 1 %, on the average.
    const double share = std::sqrt(error / size);
    if (!(share < 0.03)) fail(kernels->name, ": error is ", share, " of the scores");
  }
}

LAUD_TEST(an_answer_depends_on_neither_batch_mates_nor_threads) {
  const std::int64_t n = 5;
  const std::vector<std::uint8_t> images = random_images(n, kSize);
  const std::size_t bytes = images.size() / static_cast<std::size_t>(n);
  for (const Element element : {Element::f32, Element::bf16, Element::u8}) {
    for (const Kernels* kernels : kernels_of(element)) {
      Runner single(*kernels, 1);
      const std::int64_t maskers = single.num_maskers();
      const std::vector<Wish> wishes = wishes_of(n, maskers);
      for (const int threads : {1, 2, 3}) {
        Runner runner(*kernels, threads);
        const Result batch = runner.run(images, n, kSize, wishes);
        for (std::int64_t i = 0; i < n; ++i) {
          const auto at = static_cast<std::ptrdiff_t>(i);
          const std::vector<std::uint8_t> image(
              images.begin() + at * static_cast<std::ptrdiff_t>(bytes),
              images.begin() + (at + 1) * static_cast<std::ptrdiff_t>(bytes));
          const std::vector<Wish> wish(wishes.begin() + at * maskers,
                                       wishes.begin() + (at + 1) * maskers);
          const Result alone = single.run(image, 1, kSize, wish);
          for (std::size_t c = 0; c < 10; ++c) {
            expect_equal(batch.scores[static_cast<std::size_t>(i) * 10 + c], alone.scores[c],
                         kernels->name, " threads ", threads, " image ", i, " class ", c);
          }
        }
      }
    }
  }
}

LAUD_TEST(parts_add_up_to_the_network) {
  const std::vector<std::uint8_t> images = random_images(2, kSize);
  for (const int threads : {1, 3}) {
    Runner runner(*kernels_of(Element::f32).front(), threads);
    const Result got = runner.run(images, 2, kSize, wishes_of(2, runner.num_maskers()));
    double sum = 0.0;
    for (const double part : got.parts_s) {
      if (!(part >= 0.0)) fail("a part took ", part, " s");
      sum += part;
    }
    if (!(std::abs(sum - got.network_s) < 1e-9)) fail("parts sum to ", sum, " of ", got.network_s);
  }
}

LAUD_TEST(a_missing_or_misshapen_tensor_is_named) {
  const Kernels& kernels = *kernels_of(Element::f32).front();
  const NetworkSpec spec = small_network();
  const Tensors tensors = network_tensors(spec, false);
  expect_throw<std::invalid_argument>(
      [&] {
        Network(spec,
                [&](const std::string& name) -> View {
                  if (name == "layer1.1.conv2.bias") throw std::invalid_argument("no " + name);
                  return tensors.find(name);
                },
                kernels, 1, false);
      },
      "layer1.1.conv2.bias");
  expect_throw<std::invalid_argument>(
      [&] {
        Network(spec,
                [&](const std::string& name) {
                  View view = tensors.find(name);
                  if (name == "fc.weight") std::swap(view.shape[0], view.shape[1]);
                  return view;
                },
                kernels, 1, false);
      },
      "'fc.weight' has another shape");
}

}  // namespace
}  // namespace laud::testing
