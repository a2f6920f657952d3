#include "weights.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace laud {
namespace {

constexpr std::int64_t kLine = 64;
constexpr std::int64_t kFetchedAhead = 16384;

// How an OIHW tensor lies in its panels.
struct Order {
  std::int64_t channels, kernel, depth, outputs, interleave, panel_elements;
  bool rows;
};

template <typename From, typename To, typename Convert>
void reorder(const From* from, To* to, std::int64_t count, const Order& o, Convert convert) {
  const std::int64_t area = o.kernel * o.kernel;
  for (std::int64_t n = 0; n < count; ++n) {
    To* const panel = to + n / o.outputs * o.panel_elements + n % o.outputs * o.interleave;
    for (std::int64_t k = 0; k < o.channels; ++k) {
      for (std::int64_t t = 0; t < area; ++t) {
        const std::int64_t flat = o.rows ? t / o.kernel * o.depth + t % o.kernel * o.channels + k
                                         : t * o.depth + k;
        panel[flat / o.interleave * o.outputs * o.interleave + flat % o.interleave] =
            convert(*from++);
      }
    }
  }
}

}  // namespace

void Packer::add(const std::string& name, std::int64_t outputs, std::int64_t inputs,
                 std::int64_t kernel, Layer kind, Weights& weights) {
  const bool rows = kind == Layer::rows;
  // Rows of three channels a pixel need no whole lines: eight numbers are enough for every kernel.
  const std::int64_t unit = rows ? std::min(kernels_.depth_unit, 8) : kernels_.depth_unit;
  weights.outputs = outputs;
  weights.inputs = round_up(rows ? inputs * kernel : inputs, unit);
  weights.whole = {0, weights.inputs};
  weights.taps = rows ? kernel : kernel * kernel;
  weights.vectors = round_up(outputs, kernels_.channel_unit) / kernels_.vector;
  weights.panel_bytes = flat(weights) * panel_outputs() * element_bytes(kernels_.element);
  deepest_ = std::max(deepest_, weights.inputs * weights.taps);
  most_vectors_ = std::max(most_vectors_, weights.vectors);
  entries_.push_back({name, inputs, kernel, kind, &weights});
}

std::int64_t Packer::flat(const Weights& weights) const {
  return round_up(weights.taps * weights.inputs, kernels_.panel_unit);
}

void Packer::pack(Buffer& arena) {
  const auto panels = [this](const Weights& w) {
    return round_up(w.vectors, kernels_.panel_vectors) / kernels_.panel_vectors;
  };
  const auto vector_bytes = [&](const Weights& w) {
    return round_up(panels(w) * panel_outputs() * 4, kLine);
  };
  std::int64_t size = 0;
  for (const Entry& entry : entries_) {
    const Weights& w = *entry.weights;
    size += round_up(panels(w) * w.panel_bytes, kLine) + 4 * vector_bytes(w);
  }
  // Kernels prefetch what lies up to a panel behind their own: here there has to be memory as well.
  std::int64_t largest = 0;
  for (const Entry& entry : entries_) largest = std::max(largest, entry.weights->panel_bytes);
  size += 2 * largest + kFetchedAhead;
  arena.reserve(size);
  std::memset(arena.data(), 0, static_cast<std::size_t>(size));
  unsigned char* next = arena.data();
  for (const Entry& entry : entries_) {
    Weights& w = *entry.weights;
    fill(entry, next);
    w.panels = next;
    next += round_up(panels(w) * w.panel_bytes, kLine);
    const auto floats = [&](const std::string& name) {
      const View view = find(name, {w.outputs}, false);
      float* const to = reinterpret_cast<float*>(next);
      std::copy_n(static_cast<const float*>(view.data), w.outputs, to);
      next += vector_bytes(w);
      return static_cast<const float*>(to);
    };
    const bool quantised = kernels_.element == Element::u8;
    if (quantised) w.scale = floats(entry.name + ".scale");
    w.bias = floats(entry.name + ".bias");
    w.skipped_scale = w.scale;
    w.skipped_bias = w.bias;
    if (quantised && entry.kind == Layer::projection) {
      w.skipped_scale = floats(entry.name + ":skipped.scale");
      w.skipped_bias = floats(entry.name + ":skipped.bias");
    }
    if (quantised && entry.kind == Layer::residual) {
      w.residual = *static_cast<const float*>(find(entry.name + ".residual", {1}, false).data);
    }
  }
}

void Packer::fill(const Entry& entry, unsigned char* panels) const {
  const Weights& w = *entry.weights;
  std::vector<std::int64_t> shape{w.outputs, entry.channels};
  if (entry.kind != Layer::linear) shape.insert(shape.end(), 2, entry.kernel);
  const bool quantised = kernels_.element == Element::u8;
  const View weight = find(entry.name + ".weight", shape, quantised);
  const Order order{entry.channels, entry.kernel,        w.inputs,
                    panel_outputs(), kernels_.interleave, flat(w) * panel_outputs(),
                    entry.kind == Layer::rows};
  if (quantised) {
    reorder(static_cast<const std::int8_t*>(weight.data), reinterpret_cast<std::int8_t*>(panels),
            w.outputs, order, [](std::int8_t x) { return x; });
  } else if (kernels_.element == Element::bf16) {
    reorder(static_cast<const float*>(weight.data), reinterpret_cast<std::uint16_t*>(panels),
            w.outputs, order, to_bf16);
  } else {
    reorder(static_cast<const float*>(weight.data), reinterpret_cast<float*>(panels), w.outputs,
            order, [](float x) { return x; });
  }
}

std::vector<float> Packer::rows(const std::string& name,
                                const std::vector<std::int64_t>& shape) const {
  const View view = find(name, shape, false);
  const std::int64_t length = shape.back(), count = shape.size() == 2 ? shape.front() : 1;
  const std::int64_t padded = round_up(length, 16);
  std::vector<float> filled(static_cast<std::size_t>(count * padded), 0.0f);
  for (std::int64_t i = 0; i < count; ++i) {
    std::copy_n(static_cast<const float*>(view.data) + i * length, length,
                filled.data() + i * padded);
  }
  return filled;
}

View Packer::find(const std::string& name, const std::vector<std::int64_t>& shape,
                  bool bytes) const {
  View view = source_(name);
  if (view.shape != shape) throw std::invalid_argument("'" + name + "' has another shape");
  if (view.bytes != bytes) {
    throw std::invalid_argument("'" + name + "' must be " + (bytes ? "int8" : "float32"));
  }
  return view;
}

}  // namespace laud
