// Every kernel against sums that are spelled out: random rows and taps, padded and ragged channels,
// channel masks, every epilogue, more rows than a block holds, and nothing written anywhere else.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "check.hpp"
#include "weights.hpp"

namespace laud::testing {
namespace {

struct Problem {
  std::int64_t outputs, inputs, taps, rows;
  double rate;  // of the inputs and outputs that take part; 1: all
  Epilogue epilogue;
  std::int64_t gap = 0;   // numbers between two pixels, so that taps do not touch
  float loudness = 1.0f;  // times the scales (u8)
};

float rounded_bf16(float value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(to_bf16(value)) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

// Maps in the kernel's element, seen as numbers.
class Map {
 public:
  Map(Element element, std::int64_t size) : element_(element), bytes_(element_bytes(element)) {
    buffer_.reserve(size * bytes_);
    buffer_.poison();
  }
  void set(std::int64_t i, float value) {
    if (element_ == Element::f32) buffer_.data<float>()[i] = value;
    if (element_ == Element::bf16) buffer_.data<std::uint16_t>()[i] = to_bf16(value);
    if (element_ == Element::u8) buffer_.data()[i] = static_cast<std::uint8_t>(value);
  }
  float get(std::int64_t i) const {
    if (element_ == Element::f32) return buffer_.data<float>()[i];
    if (element_ == Element::u8) return buffer_.data()[i];
    const std::uint32_t bits = static_cast<std::uint32_t>(buffer_.data<std::uint16_t>()[i]) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  std::vector<unsigned char> bytes(std::int64_t from, std::int64_t count) const {
    const unsigned char* p = buffer_.data() + from * bytes_;
    return {p, p + count * bytes_};
  }
  Buffer& buffer() { return buffer_; }

 private:
  Element element_;
  std::int64_t bytes_;
  Buffer buffer_;
};

class Case {
 public:
  Case(const Kernels& kernels, const Problem& problem, std::uint32_t seed)
      : k_(kernels), p_(problem), random_(seed), element_(kernels.element) {
    kernel_ = p_.taps == 9 ? 3 : 1;
    pack();
    choose_channels();
  }

  void run() {
    const std::int64_t stride = w_.inputs + p_.gap, width = p_.rows + 4;
    // Three rows of pixels, so that nine taps reach into each.
    Map input(element_, 3 * width * stride + 16);
    for (std::int64_t i = 0; i < 3 * width * stride; ++i) {
      if (i % stride >= w_.inputs) continue;
      const bool in_mask = needed_[static_cast<std::size_t>(i % stride)];
      const bool kept = active_in_[static_cast<std::size_t>(i % stride)];
      // Inputs of units that are not read stay poisoned; in units that are, inactive ones are zero.
      if (in_mask) input.set(i, kept ? value() : 0.0f);
    }
    const std::int64_t channels = round_up(p_.outputs, k_.channel_unit);
    const bool raw = p_.epilogue == Epilogue::raw;
    Map output(raw ? Element::f32 : element_, p_.rows * 2 * channels);
    std::vector<std::int64_t> a, c;
    // Every second pixel: what lies between must stay as it is. Some rows lie at a constant stride,
    // which AMX reads in place.
    for (std::int64_t r = 0; r < p_.rows; ++r) {
      a.push_back((random_.chance(0.02) ? random_.between(0, p_.rows - 1) : r) * stride);
      c.push_back(2 * r * channels);
    }
    for (std::int64_t i = 0; i < p_.rows * 2 * channels; ++i) {
      if (p_.epilogue == Epilogue::add_relu) output.set(i, value());
    }
    const std::vector<unsigned char> before = output.bytes(0, p_.rows * 2 * channels);
    std::vector<float> residual(static_cast<std::size_t>(p_.rows * channels));
    for (std::int64_t r = 0; r < p_.rows; ++r) {
      for (std::int64_t n = 0; n < channels; ++n) {
        residual[static_cast<std::size_t>(r * channels + n)] =
            output.get(c[static_cast<std::size_t>(r)] + n);
      }
    }
    std::vector<std::int64_t> taps;
    for (std::int64_t t = 0; t < p_.taps; ++t) taps.push_back((t / 3 * width + t % 3) * stride);
    Buffer scratch;
    scratch.reserve(k_.scratch_bytes(w_.inputs * w_.taps));
    scratch.poison();
    Gemm g{};
    g.a = input.buffer().data();
    g.a_offsets = a.data();
    g.c = output.buffer().data();
    g.c_offsets = c.data();
    g.row_begin = 1;
    g.row_end = p_.rows;
    g.taps = taps.data();
    g.num_taps = p_.taps;
    g.segments = segments_.data();
    g.num_segments = static_cast<std::int64_t>(segments_.size());
    g.panels = w_.panels;
    g.scale = w_.scale;
    g.bias = w_.bias;
    g.keep = p_.rate < 1.0 ? keep_.data() : nullptr;
    g.residual = w_.residual;
    g.depth = w_.inputs;
    g.panel_bytes = w_.panel_bytes;
    g.vectors = vectors_.data();
    g.num_vectors = static_cast<std::int64_t>(vectors_.size());
    g.epilogue = p_.epilogue;
    g.scratch = scratch.data();
    k_.gemm(g);
    scratch.check_guards();
    output.buffer().check_guards();
    compare(input, output, a, c, taps, residual, before);
  }

 private:
  float value() {
    if (element_ == Element::u8) return static_cast<float>(random_.between(0, 255));
    const float x = random_.normal();
    return element_ == Element::bf16 ? rounded_bf16(x) : x;
  }

  void pack() {
    Packer packer(k_, [this](const std::string& name) -> View {
      const std::int64_t o = p_.outputs;
      if (name == "l.weight") {
        const std::vector<std::int64_t> shape{o, p_.inputs, kernel_, kernel_};
        if (element_ == Element::u8) return {bytes_.data(), true, shape};
        return {floats_.data(), false, shape};
      }
      if (name == "l.residual") return {&residual_scale_, false, {1}};
      return {(name == "l.scale" ? scale_ : bias_).data(), false, {o}};
    });
    for (std::int64_t i = 0; i < p_.outputs * p_.inputs * p_.taps; ++i) {
      bytes_.push_back(static_cast<std::int8_t>(random_.between(-127, 127)));
      floats_.push_back(element_ == Element::bf16 ? rounded_bf16(random_.normal())
                                                  : random_.normal());
    }
    // No two neighbours of one sign exceed 128, as weights are quantised; extremes are there.
    const std::int64_t depth = p_.inputs * p_.taps;
    for (std::int64_t i = 0; i < p_.outputs * depth; ++i) {
      if (i % depth / p_.taps % 2 == 0) continue;
      std::int8_t& second = bytes_[static_cast<std::size_t>(i)];
      const int first = bytes_[static_cast<std::size_t>(i - p_.taps)];
      second = static_cast<std::int8_t>(std::clamp<int>(second, -128 - first, 128 - first));
      second = std::max<std::int8_t>(second, -127);
    }
    for (std::int64_t n = 0; n < p_.outputs; ++n) {
      scale_.push_back(p_.loudness * 0.002f * (1.0f + std::fabs(random_.normal())) /
                       std::sqrt(static_cast<float>(p_.inputs * p_.taps)));
      bias_.push_back(element_ == Element::u8 ? 60.0f * random_.normal() : random_.normal());
    }
    packer.add("l", p_.outputs, p_.inputs, kernel_, Layer::residual, w_);
    packer.pack(arena_);
  }

  // Random input and output channels, rounded to the units that the kernel reads and writes.
  void choose_channels() {
    const std::int64_t channels = round_up(p_.outputs, k_.channel_unit);
    active_in_.assign(static_cast<std::size_t>(w_.inputs), 0);
    needed_.assign(static_cast<std::size_t>(w_.inputs), 0);
    std::int64_t unit = k_.input_unit;
    if (w_.inputs % unit) unit = w_.inputs;
    for (std::int64_t i = 0; i < p_.inputs; ++i) {
      if (p_.rate < 1.0 && !random_.chance(p_.rate)) continue;
      active_in_[static_cast<std::size_t>(i)] = 1;
      std::fill_n(needed_.begin() + i / unit * unit, unit, 1);
    }
    if (p_.rate == 1.0) std::fill(needed_.begin(), needed_.end(), 1);
    for (std::int64_t i = 0; i < w_.inputs; ++i) {
      if (!needed_[static_cast<std::size_t>(i)]) continue;
      if (!segments_.empty() && segments_.back().end == i) {
        ++segments_.back().end;
      } else {
        segments_.push_back({i, i + 1});
      }
    }
    keep_.assign(static_cast<std::size_t>(round_up(channels, 64)), 0.0f);
    for (std::int64_t v = 0; v < channels / k_.vector; ++v) {
      if (p_.rate < 1.0 && !random_.chance(p_.rate)) continue;
      vectors_.push_back(static_cast<std::int32_t>(v));
      for (std::int64_t n = v * k_.vector; n < (v + 1) * k_.vector; ++n) {
        keep_[static_cast<std::size_t>(n)] = random_.chance(0.7) ? 1.0f : 0.0f;
      }
    }
  }

  double sum(const Map& input, std::int64_t offset, const std::vector<std::int64_t>& taps,
             std::int64_t n, double& size) const {
    double total = 0.0;
    size = 0.0;
    for (std::int64_t t = 0; t < p_.taps; ++t) {
      for (std::int64_t i = 0; i < p_.inputs; ++i) {
        if (!active_in_[static_cast<std::size_t>(i)]) continue;
        const auto at = static_cast<std::size_t>((n * p_.inputs + i) * p_.taps + t);
        const double weight = element_ == Element::u8 ? bytes_[at] : floats_[at];
        const double product = weight * input.get(offset + taps[static_cast<std::size_t>(t)] + i);
        total += product;
        size += std::fabs(product);
      }
    }
    return total;
  }

  // int8 as defined: every operation rounded to float by itself.
  float finished_u8(double total, std::int64_t n, float residual) const {
    volatile float y = static_cast<float>(static_cast<std::int32_t>(total));
    y = y * scale_[static_cast<std::size_t>(n)];
    y = y + bias_[static_cast<std::size_t>(n)];
    if (p_.rate < 1.0) y = y * keep_[static_cast<std::size_t>(n)];
    if (p_.epilogue == Epilogue::raw) return y;
    if (p_.epilogue == Epilogue::add_relu) {
      volatile float r = residual * residual_scale_;
      y = y + r;
    }
    return std::nearbyintf(std::min(std::max(static_cast<float>(y), 0.0f), 255.0f));
  }

  double finished(double total, std::int64_t n, float residual) const {
    double y = total + bias_[static_cast<std::size_t>(n)];
    if (p_.rate < 1.0 && element_ == Element::bf16) y *= keep_[static_cast<std::size_t>(n)];
    if (p_.epilogue == Epilogue::add_relu) y += residual;
    if (p_.epilogue == Epilogue::relu || p_.epilogue == Epilogue::add_relu) y = std::max(y, 0.0);
    return y;
  }

  void compare(const Map& input, const Map& output, const std::vector<std::int64_t>& a,
               const std::vector<std::int64_t>& c, const std::vector<std::int64_t>& taps,
               const std::vector<float>& residual, const std::vector<unsigned char>& before) const {
    const std::int64_t channels = round_up(p_.outputs, k_.channel_unit);
    const std::int64_t bytes = static_cast<std::int64_t>(before.size()) / (p_.rows * 2 * channels);
    std::vector<char> written(static_cast<std::size_t>(p_.rows * 2 * channels), 0);
    for (std::int64_t r = 1; r < p_.rows; ++r) {
      const std::int64_t at = c[static_cast<std::size_t>(r)];
      for (const std::int32_t v : vectors_) {
        std::fill_n(written.begin() + at + v * k_.vector, k_.vector, 1);
        for (std::int64_t n = v * k_.vector; n < std::min<std::int64_t>((v + 1) * k_.vector, p_.outputs);
             ++n) {
          double size;
          const double total = sum(input, a[static_cast<std::size_t>(r)], taps, n, size);
          const float got = output.get(at + n);
          const float old = residual[static_cast<std::size_t>(r * channels + n)];
          if (element_ == Element::u8) {
            expect_equal(got, finished_u8(total, n, old), where(), " row ", r, " channel ", n);
            continue;
          }
          const double wanted = finished(total, n, old);
          // Rounding of the sums in fp32; of the result in bf16 (half of 2^-8).
          const double bound = 1e-6 * (size + std::fabs(wanted) + 1.0) +
                               (element_ == Element::bf16 && p_.epilogue != Epilogue::raw
                                    ? std::fabs(wanted) / 256.0
                                    : 0.0);
          if (!(std::fabs(got - wanted) <= bound)) {
            fail(where(), " row ", r, " channel ", n, ": got ", got, ", wanted ", wanted);
          }
        }
      }
    }
    const std::vector<unsigned char> after = output.bytes(0, p_.rows * 2 * channels);
    for (std::size_t i = 0; i < written.size(); ++i) {
      const auto from = static_cast<std::ptrdiff_t>(static_cast<std::int64_t>(i) * bytes);
      if (!written[i] && !std::equal(before.begin() + from, before.begin() + from + bytes,
                                     after.begin() + from)) {
        fail(where(), ": number ", i, " was written");
      }
    }
  }

  std::string where() const {
    std::ostringstream text;
    text << k_.name << " outputs " << p_.outputs << " inputs " << p_.inputs << " taps " << p_.taps
         << " rows " << p_.rows << " rate " << p_.rate << " epilogue " << static_cast<int>(p_.epilogue);
    return text.str();
  }

  const Kernels& k_;
  const Problem p_;
  Random random_;
  const Element element_;
  std::int64_t kernel_ = 1;
  Weights w_;
  Buffer arena_;
  std::vector<std::int8_t> bytes_;
  std::vector<float> floats_, scale_, bias_;
  float residual_scale_ = 0.37f;
  std::vector<char> active_in_, needed_;
  std::vector<Segment> segments_;
  std::vector<float> keep_;
  std::vector<std::int32_t> vectors_;
};

void check_gemm(Element element) {
  std::uint32_t seed = 1;
  for (const Kernels* kernels : kernels_of(element)) {
    for (const std::int64_t inputs : {1, 5, 16, 24, 64, 96, 128}) {
      for (const std::int64_t outputs : {1, 12, 32, 70}) {
        for (const std::int64_t taps : {1, 9}) {
          for (const Epilogue epilogue :
               {Epilogue::store, Epilogue::relu, Epilogue::add_relu, Epilogue::raw}) {
            for (const double rate : {1.0, 0.4}) {
              const std::int64_t rows = seed % 5 == 0 ? 70 : 2 + seed % 40;
              Case(*kernels, {outputs, inputs, taps, rows, rate, epilogue}, seed).run();
              ++seed;
            }
          }
        }
      }
    }
    // More rows than one block of any kernel, and a layer deep enough to make blocks small.
    Case(*kernels, {33, 20, 1, 530, 1.0, Epilogue::relu}, 7).run();
    Case(*kernels, {16, 512, 9, 60, 0.9, Epilogue::relu}, 8).run();
    for (const std::int64_t inputs : {5, 24, 64}) {
      Case(*kernels, {70, inputs, 9, 23, 1.0, Epilogue::relu, 8}, 9).run();
    }
  }
}

LAUD_TEST(fp32_kernels_equal_spelled_out_sums) { check_gemm(Element::f32); }
LAUD_TEST(int8_kernels_equal_spelled_out_sums_bit_for_bit) { check_gemm(Element::u8); }
LAUD_TEST(int8_results_far_beyond_a_byte_become_its_ends) {
  for (const Kernels* kernels : kernels_of(Element::u8)) {
    // Beyond 16 bits, and beyond 32.
    for (const float loudness : {1e3f, 1e9f}) {
      for (const Epilogue epilogue : {Epilogue::relu, Epilogue::add_relu}) {
        Case(*kernels, {70, 16, 1, 23, 1.0, epilogue, 0, loudness}, 10).run();
      }
    }
  }
}
LAUD_TEST(bf16_kernels_equal_spelled_out_sums) { check_gemm(Element::bf16); }

LAUD_TEST(means_over_windows_are_means) {
  for (const Element element : {Element::f32, Element::bf16, Element::u8}) {
    for (const Kernels* kernels : kernels_of(element)) {
      Random random(3);
      const std::int64_t height = 5, width = 300, channels = 32;
      Map map(element, height * width * channels);
      for (std::int64_t i = 0; i < height * width * channels; ++i) {
        map.set(i, element == Element::u8 ? static_cast<float>(random.between(0, 255))
                                          : random.normal());
      }
      std::vector<float> means(channels);
      const float factor = 0.0123f;
      kernels->means(map.buffer().data(), width * channels, channels, height, width, channels, factor,
                     means.data());
      for (std::int64_t c = 0; c < channels; ++c) {
        double sum = 0.0;
        for (std::int64_t p = 0; p < height * width; ++p) sum += map.get(p * channels + c);
        if (element == Element::u8) {
          expect_equal(means[static_cast<std::size_t>(c)], static_cast<float>(sum) * factor, "u8");
        } else if (std::fabs(means[static_cast<std::size_t>(c)] - sum / (height * width)) > 1e-5) {
          fail(kernels->name, " channel ", c);
        }
      }
    }
  }
}

LAUD_TEST(dot_products_have_the_same_bits_on_every_instruction_set) {
  Random random(4);
  std::vector<float> a(96), b(96);
  for (std::size_t i = 0; i < a.size(); ++i) {
    a[i] = random.normal();
    b[i] = random.normal();
  }
  volatile float lanes[16] = {};
  for (std::size_t i = 0; i < a.size(); ++i) {
    volatile float product = a[i] * b[i];
    lanes[i % 16] = lanes[i % 16] + product;
  }
  volatile float wanted = 0.0f;
  for (const float lane : lanes) wanted = wanted + lane;
  for (const Kernels* kernels : kernels_of(Element::u8)) {
    expect_equal(kernels->dot(a.data(), b.data(), 96), static_cast<float>(wanted), kernels->name);
  }
}

}  // namespace
}  // namespace laud::testing
