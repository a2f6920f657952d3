// The Python module engines.cpu._native. Arguments are checked by engines/cpu/engine.py first; what
// is checked here keeps a wrong call from becoming a wrong memory access.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <unistd.h>
#include <vector>

#include "isa.hpp"
#include "network.hpp"
#include "shrink.hpp"

namespace nb = nanobind;

namespace laud {

void bind_measure(nb::module_& m);  // measure_binding.cpp

namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const std::int8_t, nb::c_contig, nb::device::cpu>;
using Images = nb::ndarray<const std::uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Table = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T, std::size_t D>
using Result = nb::ndarray<T, nb::ndim<D>, nb::c_contig, nb::device::cpu>;

constexpr int kMostThreads = 1024;

// A network that may be called from several threads, is closed once, and refuses to run in a fork.
class Engine {
 public:
  Engine(const NetworkSpec& spec, const nb::dict& weights, const std::string& precision,
         const std::string& isa, int threads, bool poison)
      : process_(getpid()) {
    if (threads < 1 || threads > kMostThreads) {
      throw std::invalid_argument("threads must be 1 to 1024");
    }
    const auto source = [&weights](const std::string& name) -> View {
      if (!weights.contains(name.c_str())) {
        throw std::invalid_argument("'" + name + "' is missing");
      }
      const nb::object tensor = weights[name.c_str()];
      Floats floats;
      if (nb::try_cast(tensor, floats, false)) return view_of(floats, false);
      Bytes bytes;
      if (nb::try_cast(tensor, bytes, false)) return view_of(bytes, true);
      throw std::invalid_argument("'" + name + "' is no contiguous float32 or int8 array");
    };
    network_ = std::make_unique<Network>(spec, source, choose_kernels(element_of(precision), isa),
                                         threads, poison);
  }

  ~Engine() {
    if (!network_ || getpid() == process_) return;
    network_->abandon();
  }

  std::pair<double, double> infer(const Images& images, const Table<float>& thresholds,
                                  const Table<std::int64_t>& caps,
                                  const std::optional<Table<std::uint8_t>>& decisions,
                                  const Result<float, 2>& probabilities,
                                  const Result<float, 2>& scores,
                                  const Result<std::int64_t, 2>& active_units,
                                  const Result<std::int64_t, 3>& pixels,
                                  const std::optional<Result<std::uint8_t, 2>>& decided,
                                  const Result<double, 1>& parts_s) {
    // Before the mutex, which a thread that the fork left behind may hold.
    if (getpid() != process_) {
      throw std::runtime_error("the engine was loaded before a fork; load one in each process");
    }
    nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!network_) throw std::runtime_error("the engine has been closed");
    const std::size_t n = images.shape(0);
    const auto maskers = static_cast<std::size_t>(network_->num_maskers());
    const auto blocks = static_cast<std::size_t>(network_->num_blocks());
    const auto classes = static_cast<std::size_t>(network_->num_classes());
    if (n == 0 || images.shape(1) == 0 || images.shape(2) == 0 || images.shape(3) != 3 ||
        thresholds.shape(0) != n || thresholds.shape(1) != maskers || caps.shape(0) != n ||
        caps.shape(1) != maskers || probabilities.shape(0) != n ||
        probabilities.shape(1) != classes || scores.shape(0) != n || scores.shape(1) != classes ||
        active_units.shape(0) != n ||
        active_units.shape(1) != maskers || pixels.shape(0) != n || pixels.shape(1) != blocks ||
        pixels.shape(2) != 2 || parts_s.shape(0) != blocks + 2) {
      throw std::invalid_argument("an array's shape does not fit the images or the network");
    }
    const auto height = static_cast<std::int64_t>(images.shape(1));
    const auto width = static_cast<std::int64_t>(images.shape(2));
    const auto misfits = [&](const auto& table) {
      return table && (table->shape(0) != n || static_cast<std::int64_t>(table->shape(1)) !=
                                                   network_->num_units(height, width));
    };
    if (misfits(decisions) || misfits(decided)) {
      throw std::invalid_argument("decisions do not have one column per unit of all maskers");
    }
    std::vector<Wish> wishes(n * maskers);
    for (std::size_t i = 0; i < wishes.size(); ++i) wishes[i] = {thresholds.data()[i], caps.data()[i]};
    const Batch batch{images.data(), static_cast<std::int64_t>(n),          height,
                      width,         wishes.data(), decisions ? decisions->data() : nullptr};
    Answer answer{probabilities.data(), scores.data(), active_units.data(), pixels.data(),
                  decided ? decided->data() : nullptr, parts_s.data(), 0.0, 0.0};
    network_->infer(batch, answer);
    return {answer.prepare_s, answer.network_s};
  }

  // Waits for a call that runs.
  void close() {
    if (getpid() != process_) return;
    nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    network_.reset();
  }

 private:
  template <typename Array>
  static View view_of(const Array& array, bool bytes) {
    View view{array.data(), bytes, {}};
    for (std::size_t d = 0; d < array.ndim(); ++d) {
      view.shape.push_back(static_cast<std::int64_t>(array.shape(d)));
    }
    return view;
  }

  const pid_t process_;
  std::mutex mutex_;
  std::unique_ptr<Network> network_;
};

void shrink_images(const Images& images,
                   const nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig,
                                     nb::device::cpu>& first,
                   const Table<std::uint16_t>& weights, const Result<std::uint8_t, 4>& copies) {
  const auto n = static_cast<std::int64_t>(images.shape(0));
  const auto source = static_cast<std::int64_t>(images.shape(1));
  const Taps taps{first.data(), weights.data(), static_cast<std::int64_t>(first.shape(0)),
                  static_cast<std::int64_t>(weights.shape(1))};
  if (images.shape(2) != images.shape(1) || images.shape(3) != 3 ||
      weights.shape(0) != first.shape(0) || copies.shape(0) != images.shape(0) ||
      copies.shape(1) != first.shape(0) || copies.shape(2) != first.shape(0) ||
      copies.shape(3) != 3) {
    throw std::invalid_argument("an array's shape does not fit the images or their copies");
  }
  for (std::int64_t i = 0; i < taps.size; ++i) {
    if (taps.first[i] < 0 || taps.first[i] + taps.count > source) {
      throw std::invalid_argument("a tap lies outside the images");
    }
  }
  nb::gil_scoped_release release;
  shrink(images.data(), n, source, taps, copies.data());
}

}  // namespace
}  // namespace laud

NB_MODULE(_native, m) {
  using namespace laud;
  // A child that is forked while a call runs ends with that call's arguments still held.
  nb::set_leak_warnings(false);
  m.doc() = "The native engine; use engines.cpu.engine.CpuEngine.";
  nb::class_<BlockSpec>(m, "BlockSpec")
      .def(
          "__init__",
          [](BlockSpec* self, std::string name, std::int64_t in_channels, std::int64_t width,
             std::int64_t out_channels, std::int64_t stride, bool projection, bool masks_space,
             std::int64_t patch, std::int64_t groups, std::int64_t hidden, double input_scale) {
            new (self) BlockSpec{std::move(name), in_channels, width,  out_channels, stride,
                                 projection,      masks_space, patch,  groups,       hidden,
                                 input_scale};
          },
          nb::kw_only(), nb::arg("name"), nb::arg("in_channels"), nb::arg("width"),
          nb::arg("out_channels"), nb::arg("stride"), nb::arg("projection"),
          nb::arg("masks_space"), nb::arg("patch"), nb::arg("groups"), nb::arg("hidden"),
          nb::arg("input_scale"));
  nb::class_<NetworkSpec>(m, "NetworkSpec")
      .def(
          "__init__",
          [](NetworkSpec* self, std::int64_t stem_width, std::int64_t classes, bool trailing_pool,
             bool stride_in_1x1, bool bgr, std::vector<float> mean, std::vector<float> std,
             std::vector<std::uint8_t> border, double output_scale, double feature_scale,
             std::vector<BlockSpec> blocks) {
            new (self) NetworkSpec{stem_width,        classes,         trailing_pool, stride_in_1x1,
                                   bgr,               std::move(mean), std::move(std),
                                   std::move(border), output_scale,    feature_scale,
                                   std::move(blocks)};
          },
          nb::kw_only(), nb::arg("stem_width"), nb::arg("classes"), nb::arg("trailing_pool"),
          nb::arg("stride_in_1x1"), nb::arg("bgr"), nb::arg("mean"), nb::arg("std"),
          nb::arg("border"), nb::arg("output_scale"), nb::arg("feature_scale"), nb::arg("blocks"));
  nb::class_<Engine>(m, "Engine")
      .def(nb::init<const NetworkSpec&, const nb::dict&, const std::string&, const std::string&, int,
                    bool>(),
           nb::arg("spec"), nb::arg("weights"), nb::arg("precision"), nb::arg("isa"),
           nb::arg("threads"), nb::arg("poison"))
      .def("infer", &Engine::infer, nb::arg("images").noconvert(),
           nb::arg("thresholds").noconvert(), nb::arg("caps").noconvert(),
           nb::arg("decisions").noconvert().none(), nb::arg("probabilities").noconvert(),
           nb::arg("scores").noconvert(), nb::arg("active_units").noconvert(),
           nb::arg("pixels").noconvert(), nb::arg("decided").noconvert().none(),
           nb::arg("parts_s").noconvert())
      .def("close", &Engine::close);
  m.def("shrink", &shrink_images, nb::arg("images").noconvert(), nb::arg("first").noconvert(),
        nb::arg("weights").noconvert(), nb::arg("copies").noconvert(),
        "Small copies of square images; engines/shrinking.py has the taps.");
  m.def(
      "supported_isas",
      [](const std::string& precision) { return supported_isas(element_of(precision)); },
      nb::arg("precision"), "Instruction sets with kernels for it on this machine, best first.");
  m.def(
      "chosen_isa",
      [](const std::string& precision, const std::string& most) {
        return std::string(choose_kernels(element_of(precision), most).name);
      },
      nb::arg("precision"), nb::arg("most"));
  bind_measure(m);
}
