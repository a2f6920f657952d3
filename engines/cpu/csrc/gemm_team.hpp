#pragma once

#include <cstdint>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "team.hpp"
#include "weights.hpp"

namespace laud {

// A GEMM that the threads share out, by rows or by panels.
struct Part {
  Gemm gemm;
  std::int64_t chunks;
  bool by_panel;
};
using Parts = std::vector<Part>;

// Threads that compute layers together: every member calls `run` with parts of its own that are
// alike.
class GemmTeam {
 public:
  GemmTeam(const Kernels& kernels, int threads);

  // Memory for the layers of `packer` and for lists of so many parts. Throws std::bad_alloc.
  void fit(const Packer& packer);
  void reserve(std::int64_t parts);

  // All channels of a layer and no rows yet.
  Gemm layer(const Weights& weights, const std::vector<std::int64_t>& taps) const;

  // Adds a GEMM to what runs together; without rows or outputs nothing is added.
  void add(Parts& parts, const Gemm& gemm) const;

  // Computes all parts; ends with a barrier.
  void run(int thread, Parts& parts);

  // Chunks into which work of `items` equal parts is cut: one for a thread alone, else several
  // each, so that a late thread's can be taken over.
  std::int64_t chunks_of(std::int64_t items) const;

  Parts& parts(int thread) { return parts_[static_cast<std::size_t>(thread)]; }
  void* scratch(int thread) { return scratch_.data() + thread * scratch_bytes_; }
  Team& team() { return team_; }
  int size() const { return team_.size(); }
  const Kernels& kernels() const { return kernels_; }
  std::int64_t padded(std::int64_t channels) const {
    return round_up(channels, kernels_.channel_unit);
  }
  Buffer& buffer() { return scratch_; }

 private:
  void run_chunk(const Part& part, std::int64_t chunk) const;

  const Kernels& kernels_;
  std::int64_t scratch_bytes_ = 0;
  Buffer scratch_;
  std::vector<std::int32_t> all_vectors_;  // 0, 1, 2, ...
  std::vector<Parts> parts_;               // per thread
  Team team_;                              // last: its threads use the rest
};

}  // namespace laud
