// Small copies against sums written out, in buffers that end where their data does.
#include <vector>

#include "check.hpp"
#include "shrink.hpp"

namespace laud::testing {
namespace {

struct Case {
  std::int64_t source, size, count;
};

void check_copies(const Case& c, std::uint32_t seed) {
  Random random(seed);
  const std::int64_t n = 2;
  std::vector<std::uint8_t> images(static_cast<std::size_t>(n * c.source * c.source * 3));
  for (auto& value : images) value = static_cast<std::uint8_t>(random.between(0, 255));
  std::vector<std::int32_t> first;
  std::vector<std::uint16_t> weights;
  for (std::int64_t i = 0; i < c.size; ++i) {
    // The first and the last tap of a row are both used.
    const bool at_an_end = i == 0 || i == c.size - 1;
    const std::int64_t most = c.source - c.count;
    first.push_back(
        static_cast<std::int32_t>(at_an_end ? (i == 0 ? 0 : most) : random.between(0, most)));
    std::int64_t left = 256;
    for (std::int64_t k = 0; k < c.count; ++k) {
      const std::int64_t part = k == c.count - 1 ? left : random.between(0, left);
      weights.push_back(static_cast<std::uint16_t>(part));
      left -= part;
    }
  }
  std::vector<std::uint8_t> copies(static_cast<std::size_t>(n * c.size * c.size * 3), 77);
  const Taps taps{first.data(), weights.data(), c.size, c.count};
  shrink(images.data(), n, c.source, taps, copies.data());

  const auto pixel = [&](std::int64_t image, std::int64_t y, std::int64_t x, std::int64_t channel) {
    return images[static_cast<std::size_t>(((image * c.source + y) * c.source + x) * 3 + channel)];
  };
  std::size_t place = 0;
  for (std::int64_t image = 0; image < n; ++image) {
    for (std::int64_t y = 0; y < c.size; ++y) {
      for (std::int64_t x = 0; x < c.size; ++x) {
        for (std::int64_t channel = 0; channel < 3; ++channel, ++place) {
          int across = 128;
          for (std::int64_t k = 0; k < c.count; ++k) {
            int down = 128;
            for (std::int64_t j = 0; j < c.count; ++j) {
              down += weights[static_cast<std::size_t>(y * c.count + j)] *
                      pixel(image, first[static_cast<std::size_t>(y)] + j,
                            first[static_cast<std::size_t>(x)] + k, channel);
            }
            across += weights[static_cast<std::size_t>(x * c.count + k)] * (down >> 8);
          }
          expect_equal(static_cast<int>(copies[place]), across >> 8, c.source, " to ", c.size,
                       " with ", c.count, " taps, at ", place);
        }
      }
    }
  }
}

LAUD_TEST(copies_are_weighted_sums_rounded_after_each_pass) {
  std::uint32_t seed = 0;
  // Rows shorter and longer than a block of sums, odd and even numbers of taps.
  for (const Case& c : {Case{1, 1, 1}, {2, 1, 2}, {3, 2, 2}, {5, 3, 3}, {21, 13, 4}, {22, 20, 1},
                        {23, 9, 5}, {43, 40, 3}, {64, 32, 2}}) {
    check_copies(c, ++seed);
  }
}

}  // namespace
}  // namespace laud::testing
