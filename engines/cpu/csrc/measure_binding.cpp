// The timing loops of measure.hpp for Python; engines/latency/host_measuring.py calls them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <map>

#include "isa.hpp"
#include "measure.hpp"
#include "weights.hpp"

namespace nb = nanobind;

namespace laud {

void bind_measure(nb::module_& m) {
  using Release = nb::call_guard<nb::gil_scoped_release>;
  m.def(
      "time_layer",
      [](const std::string& precision, const std::string& isa, std::int64_t rows,
         std::int64_t columns, std::int64_t taps, std::int64_t inputs, std::int64_t outputs,
         bool residual, std::int64_t group, std::int64_t copies, int threads, std::int64_t calls) {
        const LayerShape shape{rows, columns, taps, inputs, outputs, residual, group, copies};
        return time_layer(choose_kernels(element_of(precision), isa), shape, threads, calls);
      },
      nb::arg("precision"), nb::arg("isa"), nb::kw_only(), nb::arg("rows"), nb::arg("columns"),
      nb::arg("taps"), nb::arg("inputs"), nb::arg("outputs"), nb::arg("residual"),
      nb::arg("group"), nb::arg("copies"), nb::arg("threads"), nb::arg("calls"), Release());
  m.def(
      "kernel_units",
      [](const std::string& precision, const std::string& isa) {
        const Kernels& k = choose_kernels(element_of(precision), isa);
        return std::map<std::string, std::int64_t>{
            {"element_bytes", element_bytes(k.element)}, {"vector", k.vector},
            {"panel", k.vector * k.panel_vectors},       {"tile_rows", k.tile_rows},
            {"input_unit", k.input_unit},                {"depth_unit", k.depth_unit},
            {"channel_unit", k.channel_unit}};
      },
      nb::arg("precision"), nb::arg("isa"));
  m.def("time_reading", &time_reading, nb::kw_only(), nb::arg("num_bytes"), nb::arg("threads"),
        nb::arg("passes"), Release());
  m.def("time_barriers", &time_barriers, nb::kw_only(), nb::arg("threads"), nb::arg("count"),
        Release());
  m.def("time_lists", &time_lists, nb::kw_only(), nb::arg("size"), nb::arg("patch"),
        nb::arg("calls"), Release());
  m.def(
      "time_masker",
      [](const std::string& precision, const std::string& isa, std::int64_t size,
         std::int64_t channels, std::int64_t patch, bool pools, std::int64_t calls) {
        const Kernels& kernels = choose_kernels(element_of(precision), isa);
        return time_masker(kernels, size, channels, patch, pools, calls);
      },
      nb::arg("precision"), nb::arg("isa"), nb::kw_only(), nb::arg("size"), nb::arg("channels"),
      nb::arg("patch"), nb::arg("pools"), nb::arg("calls"), Release());
}

}  // namespace laud
