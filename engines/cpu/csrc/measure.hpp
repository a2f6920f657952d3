// Timing loops around single parts of the engine, from which a machine is described and networks are
// costed before they are built. All answers are seconds; nothing here is used by a pass. Every function
// throws std::invalid_argument for a count or shape that makes no sense, and std::bad_alloc.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.hpp"

namespace laud {

// A layer as the engine runs it: rows are the pixels of a map `columns` wide, taps 1 or 9.
struct LayerShape {
  std::int64_t rows, columns, taps, inputs, outputs;
  bool residual;        // adds to what its outputs held
  std::int64_t group;   // 0, or: every second run of so many inputs takes part, the others do not
  std::int64_t copies;  // of the weights, used in turns: more than a cache holds makes them stream
};

// One call of the layer on each of `threads` threads at once, each with its own data: mean of `calls`
// calls, once per thread.
std::vector<double> time_layer(const Kernels& kernels, const LayerShape& shape, int threads,
                               std::int64_t calls);

// Reading `bytes` once on each of `threads` threads at once, a part of them each: mean of `passes`.
double time_reading(std::int64_t bytes, int threads, std::int64_t passes);

// One barrier of a team of so many threads: mean of `count`.
double time_barriers(int threads, std::int64_t count);

// The lists of one image whose map is `size` pixels on a side and has every second patch active: mean
// of `calls`.
double time_lists(std::int64_t size, std::int64_t patch, std::int64_t calls);

// One logit per window of `patch` pixels on a side, as a spatial masker gives them; pools: from the
// map, else from means that were kept. Mean of `calls`.
double time_masker(const Kernels& kernels, std::int64_t size, std::int64_t channels,
                   std::int64_t patch, bool pools, std::int64_t calls);

}  // namespace laud
