// Detectors in the Python module engines.cpu._native, and what they do behind the dense answers.
#include <algorithm>

#include "binding.hpp"
#include "detector.hpp"
#include "isa.hpp"

namespace laud {
namespace {

template <typename T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Map = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

class DetectorEngine : public Guarded<Detector> {
 public:
  DetectorEngine(const DetectorSpec& spec, const nb::dict& weights, const std::string& precision,
                 const std::string& isa, int threads, bool poison)
      : Guarded(spec, weights, precision, isa, threads, poison) {}

  std::pair<double, double> infer(const Images& images, const Table<float>& thresholds,
                                  const Table<std::int64_t>& caps,
                                  const std::optional<Table<std::uint8_t>>& decisions,
                                  const std::optional<Table<std::uint8_t>>& level_decisions,
                                  const std::optional<Table<std::uint8_t>>& active,
                                  const Result<std::int64_t, 1>& counts,
                                  const Result<float, 3>& boxes, const Result<float, 2>& scores,
                                  const Result<std::int64_t, 2>& labels,
                                  const std::optional<Result<float, 4>>& masks,
                                  const std::optional<Result<float, 3>>& places,
                                  const Result<std::int64_t, 2>& active_units,
                                  const Result<std::int64_t, 3>& pixels,
                                  const std::optional<Result<std::uint8_t, 2>>& decided,
                                  const Result<std::int64_t, 2>& level_units,
                                  const std::optional<Result<std::uint8_t, 2>>& level_decided,
                                  const Result<std::int64_t, 2>& level_pixels,
                                  const Result<double, 1>& parts_s) {
    return run([&](Detector& detector) -> std::pair<double, double> {
      const DetectorSpec& spec = detector.spec();
      Call call(detector.backbone(), images, thresholds, caps, active_units, pixels,
                detector.num_level_maskers());
      const std::int64_t n = call.batch.n, side = 2 * spec.region;
      const std::int64_t all = detector.num_places(call.batch.height, call.batch.width);
      const std::int64_t own = detector.backbone().num_units(call.batch.height, call.batch.width);
      const std::int64_t behind = detector.num_level_units(call.batch.height, call.batch.width);
      Call::check(has_shape(counts, n) && has_shape(boxes, n, spec.most, 4) &&
                  has_shape(scores, n, spec.most) && has_shape(labels, n, spec.most) &&
                  masks.has_value() == (spec.mask_convs > 0) &&
                  (!masks || has_shape(*masks, n, spec.most, side, side)) &&
                  (!decisions || has_shape(*decisions, n, own)) &&
                  (!level_decisions || has_shape(*level_decisions, n, behind)) &&
                  (!decided || has_shape(*decided, n, own)) &&
                  (!level_decided || has_shape(*level_decided, n, behind)) &&
                  (!active || has_shape(*active, n, all)) &&
                  (!places || has_shape(*places, n, all, spec.labels + 5)) &&
                  has_shape(level_units, n, detector.num_level_maskers()) &&
                  has_shape(level_pixels, n, spec.lasts.size()) &&
                  has_shape(parts_s, detector.backbone().num_blocks() + 5));
      const auto data = [](const auto& given) { return given ? given->data() : nullptr; };
      call.batch.decisions = data(decisions);
      call.trace.decisions = data(decided);
      Objects objects{counts.data(), boxes.data(), scores.data(), labels.data(), data(masks),
                      data(places), call.trace, level_units.data(), data(level_decided),
                      level_pixels.data(), parts_s.data(), 0.0, 0.0};
      detector.infer({call.batch, call.wishes_behind(), data(level_decisions), data(active)},
                     objects);
      return {objects.prepare_s, objects.network_s};
    });
  }
};

std::int64_t suppress_boxes(const Table<float>& boxes, const Vector<std::int64_t>& labels,
                            double overlap, const Result<std::int64_t, 1>& kept) {
  if (boxes.shape(1) != 4 || labels.shape(0) != boxes.shape(0)) {
    throw std::invalid_argument("boxes must have four numbers and a label each");
  }
  std::vector<Box> sorted;
  for (std::size_t i = 0; i < boxes.shape(0); ++i) {
    const float* const b = boxes.data() + 4 * i;
    sorted.push_back({b[0], b[1], b[2], b[3]});
  }
  return suppress(sorted.data(), labels.data(), static_cast<std::int64_t>(sorted.size()), overlap,
                  static_cast<std::int64_t>(kept.shape(0)), kept.data());
}

std::int64_t level_of_box(const Vector<float>& box, std::int64_t first, std::int64_t levels) {
  if (box.shape(0) != 4 || levels < 1) throw std::invalid_argument("a box has four numbers");
  const float* const b = box.data();
  return level_of({b[0], b[1], b[2], b[3]}, first, levels);
}

void pool_box(const Map& features, const Vector<float>& box, float scale,
              const Result<float, 3>& region) {
  if (box.shape(0) != 4 || region.shape(0) != region.shape(1) ||
      region.shape(0) > static_cast<std::size_t>(kMostRegion) ||
      region.shape(2) != features.shape(2) || features.shape(0) < 1 || features.shape(1) < 1) {
    throw std::invalid_argument("an array's shape does not fit the features or the region");
  }
  const auto channels = static_cast<std::int64_t>(features.shape(2));
  const auto width = static_cast<std::int64_t>(features.shape(1));
  const auto size = static_cast<std::int64_t>(region.shape(0));
  const float* const b = box.data();
  pool_region(Features<float>{features.data(), static_cast<std::int64_t>(features.shape(0)), width,
                              width * channels, channels, scale},
              {b[0], b[1], b[2], b[3]}, size, channels, region.data(), size * channels, channels,
              choose_kernels(Element::f32, "").vector);
}

}  // namespace

void bind_detector(nb::module_& m) {
  nb::class_<DetectorSpec>(m, "DetectorSpec")
      .def(
          "__init__",
          [](DetectorSpec* self, BackboneSpec backbone, std::vector<std::int64_t> lasts,
             std::vector<float> units, std::vector<std::int64_t> patches,
             std::vector<std::int64_t> looks, std::vector<double> scales, std::int64_t labels,
             std::int64_t width, std::int64_t head_convs, std::int64_t mask_convs,
             std::int64_t region, double overlap, float least_score, std::int64_t candidates,
             std::int64_t most) {
            new (self) DetectorSpec{std::move(backbone), std::move(lasts), std::move(units),
                                    std::move(patches), std::move(looks), std::move(scales),
                                    labels, width,
                                    head_convs, mask_convs, region, overlap, least_score,
                                    candidates, most};
          },
          nb::kw_only(), nb::arg("backbone"), nb::arg("lasts"), nb::arg("units"),
          nb::arg("patches"), nb::arg("looks"), nb::arg("scales"), nb::arg("labels"),
          nb::arg("width"),
          nb::arg("head_convs"), nb::arg("mask_convs"), nb::arg("region"), nb::arg("overlap"),
          nb::arg("least_score"), nb::arg("candidates"), nb::arg("most"));
  nb::class_<DetectorEngine>(m, "DetectorEngine")
      .def(nb::init<const DetectorSpec&, const nb::dict&, const std::string&, const std::string&,
                    int, bool>(),
           nb::arg("spec"), nb::arg("weights"), nb::arg("precision"), nb::arg("isa"),
           nb::arg("threads"), nb::arg("poison"))
      .def("infer", &DetectorEngine::infer, nb::arg("images").noconvert(),
           nb::arg("thresholds").noconvert(), nb::arg("caps").noconvert(),
           nb::arg("decisions").noconvert().none(), nb::arg("level_decisions").noconvert().none(),
           nb::arg("active").noconvert().none(), nb::arg("counts").noconvert(),
           nb::arg("boxes").noconvert(), nb::arg("scores").noconvert(),
           nb::arg("labels").noconvert(), nb::arg("masks").noconvert().none(),
           nb::arg("places").noconvert().none(), nb::arg("active_units").noconvert(),
           nb::arg("pixels").noconvert(), nb::arg("decided").noconvert().none(),
           nb::arg("level_units").noconvert(), nb::arg("level_decided").noconvert().none(),
           nb::arg("level_pixels").noconvert(), nb::arg("parts_s").noconvert())
      .def("close", &DetectorEngine::close);
  m.def("suppress", &suppress_boxes, nb::arg("boxes").noconvert(), nb::arg("labels").noconvert(),
        nb::arg("overlap"), nb::arg("kept").noconvert(),
        "Non-maximum suppression of boxes (D, 4), the surest first: indices that stay, at most as "
        "many as `kept` holds; returns how many.");
  m.def("level_of", &level_of_box, nb::arg("box").noconvert(), nb::arg("first"), nb::arg("levels"),
        "Which of the levels, the finest of stride 2^first, an object's features come from.");
  m.def("pool_region", &pool_box, nb::arg("features").noconvert(), nb::arg("box").noconvert(),
        nb::arg("scale"), nb::arg("region").noconvert(),
        "RoIAlign of one box on features (H, W, C), to a region (S, S, C).");
}

}  // namespace laud
