// The Python module engines.cpu._native. Arguments are checked by engines/cpu/engine.py first; what
// is checked here keeps a wrong call from becoming a wrong memory access.
#include <vector>

#include "binding.hpp"
#include "network.hpp"
#include "shrink.hpp"

namespace laud {

void bind_measure(nb::module_& m);   // measure_binding.cpp
void bind_detector(nb::module_& m);  // detector_binding.cpp

namespace {

class Engine : public Guarded<Network> {
 public:
  Engine(const NetworkSpec& spec, const nb::dict& weights, const std::string& precision,
         const std::string& isa, int threads, bool poison)
      : Guarded(spec, weights, precision, isa, threads, poison) {}

  std::pair<double, double> infer(const Images& images, const Table<float>& thresholds,
                                  const Table<std::int64_t>& caps,
                                  const std::optional<Table<std::uint8_t>>& decisions,
                                  const Result<float, 2>& probabilities,
                                  const Result<float, 2>& scores,
                                  const Result<std::int64_t, 2>& active_units,
                                  const Result<std::int64_t, 3>& pixels,
                                  const std::optional<Result<std::uint8_t, 2>>& decided,
                                  const Result<double, 1>& parts_s) {
    return run([&](Network& network) -> std::pair<double, double> {
      const Backbone& backbone = network.backbone();
      Call call(backbone, images, thresholds, caps, active_units, pixels);
      Batch& batch = call.batch;
      Call::check(has_shape(probabilities, batch.n, network.num_classes()) &&
                  has_shape(scores, batch.n, network.num_classes()) &&
                  has_shape(parts_s, backbone.num_blocks() + 2));
      const auto misfits = [&](const auto& table) {
        return table &&
               !has_shape(*table, batch.n, backbone.num_units(batch.height, batch.width));
      };
      if (misfits(decisions) || misfits(decided)) {
        throw std::invalid_argument("decisions do not have one column per unit of all maskers");
      }
      batch.decisions = decisions ? decisions->data() : nullptr;
      call.trace.decisions = decided ? decided->data() : nullptr;
      Answer answer{probabilities.data(), scores.data(), call.trace, parts_s.data(), 0.0, 0.0};
      network.infer(batch, answer);
      return {answer.prepare_s, answer.network_s};
    });
  }
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
  nb::class_<BackboneSpec>(m, "BackboneSpec")
      .def(
          "__init__",
          [](BackboneSpec* self, std::int64_t stem_width, bool trailing_pool, bool stride_in_1x1,
             bool bgr, std::vector<float> mean, std::vector<float> std,
             std::vector<std::uint8_t> border, std::vector<BlockSpec> blocks) {
            new (self) BackboneSpec{stem_width,      trailing_pool,     stride_in_1x1,
                                    bgr,             std::move(mean),   std::move(std),
                                    std::move(border), std::move(blocks)};
          },
          nb::kw_only(), nb::arg("stem_width"), nb::arg("trailing_pool"), nb::arg("stride_in_1x1"),
          nb::arg("bgr"), nb::arg("mean"), nb::arg("std"), nb::arg("border"), nb::arg("blocks"));
  nb::class_<NetworkSpec>(m, "NetworkSpec")
      .def(
          "__init__",
          [](NetworkSpec* self, BackboneSpec backbone, std::int64_t classes, double output_scale,
             double feature_scale) {
            new (self) NetworkSpec{std::move(backbone), classes, output_scale, feature_scale};
          },
          nb::kw_only(), nb::arg("backbone"), nb::arg("classes"), nb::arg("output_scale"),
          nb::arg("feature_scale"));
  nb::class_<Engine>(m, "Engine")
      .def(nb::init<const NetworkSpec&, const nb::dict&, const std::string&, const std::string&,
                    int, bool>(),
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
  bind_detector(m);
  bind_measure(m);
}
