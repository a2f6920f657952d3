// The timing loops touch only their own memory, whatever the shape, and refuse what makes no sense.
#include <stdexcept>

#include "check.hpp"
#include "measure.hpp"

namespace laud::testing {
namespace {

void positive(double seconds) {
  if (!(seconds > 0.0)) fail("took ", seconds, " seconds");
}

LAUD_TEST(measuring_layers_of_any_shape) {
  for (const Element element : {Element::f32, Element::bf16, Element::u8}) {
    for (const Kernels* kernels : kernels_of(element)) {
      for (const std::int64_t taps : {1, 9}) {
        for (const std::int64_t rows : {1, 7, 33}) {
          for (const std::int64_t group : {std::int64_t{0}, std::int64_t{kernels->input_unit}}) {
            const LayerShape shape{rows, 5, taps, 70, 37, taps == 1, group, 2};
            for (const double seconds : time_layer(*kernels, shape, 2, 3)) positive(seconds);
          }
        }
      }
    }
  }
}

LAUD_TEST(measuring_the_rest) {
  const Kernels& kernels = f32_baseline();
  for (const int threads : {1, 3}) {
    positive(time_reading(3 * 4096 + 100, threads, 2));
    positive(time_barriers(threads, 50));
  }
  positive(time_lists(13, 4, 3));
  for (const Element element : {Element::f32, Element::u8}) {
    for (const Kernels* each : kernels_of(element)) {
      for (const bool pools : {true, false}) positive(time_masker(*each, 7, 40, 3, pools, 2));
    }
  }
  const auto refused = [](const char* why, auto&& call) {
    expect_throw<std::invalid_argument>(call, why);
  };
  refused("at least 1", [&] { time_layer(kernels, {0, 1, 1, 1, 1, false, 0, 1}, 1, 1); });
  refused("taps must be 1 or 9", [&] { time_layer(kernels, {1, 1, 4, 1, 1, false, 0, 1}, 1, 1); });
  refused("a group must be", [&] { time_layer(u8_baseline(), {1, 1, 1, 8, 8, false, 3, 1}, 1, 1); });
  refused("4096 bytes", [&] { time_reading(4095, 1, 1); });
  refused("one thread", [&] { time_barriers(0, 1); });
  refused("at least 1", [&] { time_lists(4, 0, 1); });
  refused("at least 1", [&] { time_masker(kernels, 4, 4, 0, true, 1); });
}

}  // namespace
}  // namespace laud::testing
