// What the bindings of both networks share. Arguments are checked in Python first; what is checked
// here keeps a wrong call from becoming a wrong memory access.
#pragma once

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
#include <string>
#include <unistd.h>
#include <vector>

#include "backbone.hpp"
#include "isa.hpp"

namespace laud {

namespace nb = nanobind;

using Images = nb::ndarray<const std::uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Table = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T, std::size_t D>
using Result = nb::ndarray<T, nb::ndim<D>, nb::c_contig, nb::device::cpu>;

// Whether an array has that shape.
template <typename Array, typename... Sizes>
bool has_shape(const Array& array, Sizes... sizes) {
  const std::int64_t wanted[] = {static_cast<std::int64_t>(sizes)...};
  for (std::size_t d = 0; d < sizeof...(sizes); ++d) {
    if (static_cast<std::int64_t>(array.shape(d)) != wanted[d]) return false;
  }
  return true;
}

// A backbone's part of a call, checked; `behind` maskers come after its own in thresholds and caps.
class Call {
 public:
  // Throws std::invalid_argument.
  Call(const Backbone& backbone, const Images& images, const Table<float>& thresholds,
       const Table<std::int64_t>& caps, const Result<std::int64_t, 2>& active_units,
       const Result<std::int64_t, 3>& pixels, std::int64_t behind = 0)
      : batch{images.data(), static_cast<std::int64_t>(images.shape(0)),
              static_cast<std::int64_t>(images.shape(1)),
              static_cast<std::int64_t>(images.shape(2)), nullptr, nullptr},
        trace{active_units.data(), pixels.data(), nullptr} {
    const std::int64_t n = batch.n, maskers = backbone.num_maskers();
    const std::int64_t all = maskers + behind;
    check(n > 0 && batch.height > 0 && batch.width > 0 && images.shape(3) == 3 &&
          has_shape(thresholds, n, all) && has_shape(caps, n, all) &&
          has_shape(active_units, n, maskers) && has_shape(pixels, n, backbone.num_blocks(), 2));
    for (std::int64_t i = 0; i < n * all; ++i) {
      (i % all < maskers ? wishes_ : behind_).push_back({thresholds.data()[i], caps.data()[i]});
    }
    batch.wishes = wishes_.data();
  }
  Call(const Call&) = delete;

  static void check(bool fits) {
    if (fits) return;
    throw std::invalid_argument("an array's shape does not fit the images or the network");
  }

  // (n, behind).
  const Wish* wishes_behind() const { return behind_.data(); }

  Batch batch;
  Trace trace;

 private:
  std::vector<Wish> wishes_, behind_;
};

// A network that may be called from several threads, is closed once, and refuses to run in a fork.
template <typename Network>
class Guarded {
 public:
  template <typename Spec>
  Guarded(const Spec& spec, const nb::dict& weights, const std::string& precision,
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

  ~Guarded() {
    if (!network_ || getpid() == process_) return;
    network_->abandon();
  }

  // Runs work(network) without the GIL, one call at a time.
  template <typename Work>
  auto run(Work&& work) {
    // Before the mutex, which a thread that the fork left behind may hold.
    if (getpid() != process_) {
      throw std::runtime_error("the engine was loaded before a fork; load one in each process");
    }
    nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!network_) throw std::runtime_error("the engine has been closed");
    return work(*network_);
  }

  // Waits for a call that runs.
  void close() {
    if (getpid() != process_) return;
    nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    network_.reset();
  }

 private:
  using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
  using Bytes = nb::ndarray<const std::int8_t, nb::c_contig, nb::device::cpu>;
  static constexpr int kMostThreads = 1024;

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

}  // namespace laud
