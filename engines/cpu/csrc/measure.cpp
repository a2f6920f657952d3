#include "measure.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "lanes.hpp"
#include "lists.hpp"
#include "memory.hpp"
#include "team.hpp"
#include "weights.hpp"

namespace laud {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void check(bool fits, const char* what) {
  if (!fits) throw std::invalid_argument(what);
}

// What a kernel may prefetch behind the last panel.
constexpr std::int64_t kBehind = 16384;

// Small numbers, floats of both signs: sums neither grow without bound nor vanish, since
// arithmetic on zeros or on denormals may be of another speed.
void fill(Buffer& buffer, std::int64_t numbers, Element element) {
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < numbers; ++i) {
    state = state * 1664525u + 1013904223u;
    const float value = (static_cast<float>(state >> 24) - 127.5f) / 1024.0f;
    if (element == Element::f32) buffer.data<float>()[i] = value;
    if (element == Element::bf16) buffer.data<std::uint16_t>()[i] = to_bf16(value);
    if (element == Element::u8) buffer.data<std::int8_t>()[i] = static_cast<std::int8_t>(state >> 26);
  }
}

// One layer with its data.
class Trial {
 public:
  Trial(const Kernels& kernels, const LayerShape& s) : kernels_(kernels), copies_(s.copies) {
    const std::int64_t size = element_bytes(kernels.element);
    const std::int64_t inputs = round_up(s.inputs, kernels.depth_unit);
    const std::int64_t outputs = round_up(s.outputs, kernels.channel_unit);
    const std::int64_t panel_outputs = kernels.vector * kernels.panel_vectors;
    const std::int64_t panels = (outputs + panel_outputs - 1) / panel_outputs;
    const std::int64_t height = (s.rows + s.columns - 1) / s.columns;
    const std::int64_t border = s.taps == 9 ? 2 : 0, row = (s.columns + border) * inputs;
    Gemm& g = gemm_;
    g = Gemm{};
    g.panel_bytes = round_up(s.taps * inputs, kernels.panel_unit) * panel_outputs * size;
    copy_bytes_ = panels * g.panel_bytes;
    const std::int64_t map = (height + border) * row;
    input_.reserve(map * size);
    output_.reserve(s.rows * outputs * 4);
    weights_.reserve(copies_ * copy_bytes_ + 2 * g.panel_bytes + kBehind);
    scales_.reserve(round_up(panels * panel_outputs, 64) * 8);
    scratch_.reserve(kernels.scratch_bytes(s.taps * inputs));
    fill(input_, map, kernels.element);
    fill(weights_, copy_bytes_ / size, kernels.element);
    for (std::int64_t i = 1; i < copies_; ++i) {
      std::memcpy(weights_.data() + i * copy_bytes_, weights_.data(),
                  static_cast<std::size_t>(copy_bytes_));
    }
    std::fill_n(output_.data(), s.rows * outputs * 4, static_cast<unsigned char>(0));
    std::fill_n(scales_.data<float>(), round_up(panels * panel_outputs, 64) * 2, 0.001f);
    for (std::int64_t r = 0; r < s.rows; ++r) {
      from_.push_back(r / s.columns * row + r % s.columns * inputs);
      to_.push_back(r * outputs);
    }
    for (std::int64_t t = 0; t < s.taps; ++t) {
      taps_.push_back(s.taps == 1 ? 0 : t / 3 * row + t % 3 * inputs);
    }
    vectors_.resize(static_cast<std::size_t>(outputs / kernels.vector));
    std::iota(vectors_.begin(), vectors_.end(), 0);
    const std::int64_t run = s.group ? s.group : inputs;
    for (std::int64_t k = 0; k < inputs; k += 2 * run) {
      segments_.push_back({k, std::min(k + run, inputs)});
    }
    g.a = input_.data();
    g.a_offsets = from_.data();
    g.c = output_.data();
    g.c_offsets = to_.data();
    g.row_end = s.rows;
    g.taps = taps_.data();
    g.num_taps = s.taps;
    g.segments = segments_.data();
    g.num_segments = static_cast<std::int64_t>(segments_.size());
    g.scale = scales_.data<float>();
    g.bias = g.scale + round_up(panels * panel_outputs, 64);
    g.residual = 0.5f;
    g.depth = inputs;
    g.vectors = vectors_.data();
    g.num_vectors = static_cast<std::int64_t>(vectors_.size());
    g.epilogue = s.residual ? Epilogue::add_relu : Epilogue::relu;
    g.scratch = scratch_.data();
  }

  void call() {
    gemm_.panels = weights_.data() + next_ * copy_bytes_;
    next_ = (next_ + 1) % copies_;
    kernels_.gemm(gemm_);
  }

 private:
  const Kernels& kernels_;
  const std::int64_t copies_;
  std::int64_t copy_bytes_ = 0, next_ = 0;
  Buffer input_, output_, weights_, scales_, scratch_;
  std::vector<std::int64_t> from_, to_, taps_;
  std::vector<std::int32_t> vectors_;
  std::vector<Segment> segments_;
  Gemm gemm_{};
};

// Sums of eight independent streams of lines, so that loads and not additions are the limit. A
// function each, because the baseline's loads are half as wide as AVX2's and a quarter of AVX-512's.
#define LAUD_READER(name, target, lanes)                                                     \
  target std::uint64_t name(const unsigned char* from, std::int64_t bytes) {                 \
    using V = Lanes<std::uint64_t, lanes>;                                                   \
    constexpr std::int64_t step = 8 * static_cast<std::int64_t>(sizeof(V));                  \
    V sum[8] = {};                                                                           \
    for (std::int64_t i = 0; i + step <= bytes; i += step) {                                 \
      _Pragma("GCC unroll 8") for (int k = 0; k < 8; ++k) {                                  \
        V x;                                                                                 \
        __builtin_memcpy(&x, from + i + k * static_cast<std::int64_t>(sizeof(V)), sizeof x); \
        sum[k] += x;                                                                         \
      }                                                                                      \
    }                                                                                        \
    V total = sum[0];                                                                        \
    for (int k = 1; k < 8; ++k) total += sum[k];                                             \
    std::uint64_t all = 0;                                                                   \
    for (int i = 0; i < lanes; ++i) all += total[i];                                         \
    return all;                                                                              \
  }

LAUD_READER(read_baseline, , 2)
#if defined(LAUD_X86)
LAUD_READER(read_avx2, __attribute__((target("avx2"))), 4)
LAUD_READER(read_avx512, __attribute__((target("avx512f"))), 8)
#endif
#undef LAUD_READER

using Reader = std::uint64_t (*)(const unsigned char*, std::int64_t);

Reader best_reader() {
#if defined(LAUD_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return read_avx512;
  if (__builtin_cpu_supports("avx2")) return read_avx2;
#endif
  return read_baseline;
}

// What was read goes somewhere, so that no compiler leaves the reading out.
std::atomic<std::uint64_t> g_seen{0};

}  // namespace

std::vector<double> time_layer(const Kernels& kernels, const LayerShape& shape, int threads,
                               std::int64_t calls) {
  check(shape.rows > 0 && shape.columns > 0 && shape.inputs > 0 && shape.outputs > 0 &&
            shape.copies > 0 && threads > 0 && calls > 0,
        "rows, columns, inputs, outputs, copies, threads and calls must be at least 1");
  check(shape.taps == 1 || shape.taps == 9, "taps must be 1 or 9");
  check(shape.group >= 0 && shape.group % kernels.input_unit == 0,
        "a group must be a multiple of the unit in which the kernel reads inputs");
  std::vector<std::unique_ptr<Trial>> layers;
  for (int t = 0; t < threads; ++t) layers.push_back(std::make_unique<Trial>(kernels, shape));
  std::vector<double> taken(static_cast<std::size_t>(threads));
  Team team(threads);
  team.run([&](int thread) {
    const auto t = static_cast<std::size_t>(thread);
    layers[t]->call();
    team.barrier();
    const Clock::time_point begin = Clock::now();
    for (std::int64_t i = 0; i < calls; ++i) layers[t]->call();
    taken[t] = seconds_since(begin) / static_cast<double>(calls);
  });
  return taken;
}

double time_reading(std::int64_t bytes, int threads, std::int64_t passes) {
  check(bytes >= 4096 * threads && threads > 0 && passes > 0,
        "4096 bytes for a thread, one thread and one pass at least are needed");
  const Reader read = best_reader();
  const std::int64_t share = bytes / threads / 64 * 64;
  Buffer buffer;
  buffer.reserve(share * threads);
  std::fill_n(buffer.data(), share * threads, static_cast<unsigned char>(1));
  Team team(threads);
  Clock::time_point begin;
  team.run([&](int thread) {
    const unsigned char* const from = buffer.data() + thread * share;
    g_seen = read(from, share);
    team.barrier();
    if (thread == 0) begin = Clock::now();
    for (std::int64_t i = 0; i < passes; ++i) g_seen = read(from, share);
  });
  return seconds_since(begin) / static_cast<double>(passes);
}

double time_barriers(int threads, std::int64_t count) {
  check(threads > 0 && count > 0, "one thread and one barrier at least are needed");
  Team team(threads);
  double taken = 0.0;
  team.run([&](int thread) {
    team.barrier();
    const Clock::time_point begin = Clock::now();
    for (std::int64_t i = 0; i < count; ++i) team.barrier();
    if (thread == 0) taken = seconds_since(begin) / static_cast<double>(count);
  });
  return taken;
}

double time_lists(std::int64_t size, std::int64_t patch, std::int64_t calls) {
  check(size > 0 && patch > 0 && calls > 0, "size, patch and calls must be at least 1");
  constexpr std::int64_t channels = 64;
  Geometry g{};
  g.height_in = g.width_in = g.height_mid = g.width_mid = g.height = g.width = size;
  g.stride1 = g.stride2 = 1;
  g.patch = patch;
  g.grid_height = g.grid_width = (size + patch - 1) / patch;
  g.in_channels = g.inner_channels = g.out_channels = channels;
  std::vector<std::uint8_t> units(static_cast<std::size_t>(g.patches()));
  for (std::int64_t u = 0; u < g.patches(); ++u) {
    units[static_cast<std::size_t>(u)] = (u / g.grid_width + u % g.grid_width) % 2 == 0;
  }
  std::vector<std::uint8_t> marks(static_cast<std::size_t>((size + 2) * (size + 2)));
  PixelLists lists;
  lists.reserve(size * size, size * size, 1);
  const Clock::time_point begin = Clock::now();
  for (std::int64_t i = 0; i < calls; ++i) {
    lists.clear();
    append_image(lists, g, units.data(), 0, 0, marks.data());
  }
  return seconds_since(begin) / static_cast<double>(calls);
}

double time_masker(const Kernels& kernels, std::int64_t size, std::int64_t channels,
                   std::int64_t patch, bool pools, std::int64_t calls) {
  check(size > 0 && channels > 0 && patch > 0 && calls > 0,
        "size, channels, patch and calls must be at least 1");
  const std::int64_t padded = round_up(channels, std::max(kernels.channel_unit, 16));
  const std::int64_t bytes = element_bytes(kernels.element), row = size * padded;
  Buffer map;
  map.reserve(size * row * bytes);
  fill(map, size * row, kernels.element);
  const std::vector<float> ones(static_cast<std::size_t>(padded), 1.0f);
  std::vector<float> means(ones), scores(ones);
  float logits = 0.0f;
  const Clock::time_point begin = Clock::now();
  for (std::int64_t i = 0; i < calls; ++i) {
    for (std::int64_t top = 0; top < size; top += patch) {
      for (std::int64_t left = 0; left < size; left += patch) {
        const std::int64_t height = std::min(patch, size - top), width = std::min(patch, size - left);
        if (pools) {
          kernels.means(map.data() + (top * row + left * padded) * bytes, row, padded, height, width,
                        padded, 1.0f / static_cast<float>(height * width), means.data());
        }
        kernels.standardise(means.data(), ones.data(), ones.data(), padded, scores.data());
        logits += kernels.dot(scores.data(), ones.data(), padded);
      }
    }
  }
  const double taken = seconds_since(begin) / static_cast<double>(calls);
  g_seen = logits > 0.0f;
  return taken;
}

}  // namespace laud
