#pragma once

#include <cstdint>
#include <vector>

#include "backbone.hpp"

namespace laud {

struct NetworkSpec {
  BackboneSpec backbone;
  std::int64_t classes;
  double output_scale, feature_scale;  // u8 only: of the last map and of its pooled features
};

// Written by Network::infer: probabilities and scores (n, classes); seconds, of the whole batch:
// parts (blocks + 2) has the stem, every block and the head, and sums to network_s.
struct Answer {
  float* probabilities;
  float* scores;
  Trace trace;
  double* parts_s;
  double prepare_s, network_s;
};

// A loaded classifier with its scratch memory and threads. One caller at a time.
class Network {
 public:
  // Throws std::invalid_argument for a tensor that is missing or of a wrong shape, std::bad_alloc.
  // poison: scratch memory is filled with NaN before each call and guard zones are checked after
  // it.
  Network(const NetworkSpec& spec, const Source& source, const Kernels& kernels, int threads,
          bool poison);

  // Throws std::bad_alloc where the batch needs more memory than there is.
  void infer(const Batch& batch, Answer& answer);

  const Backbone& backbone() const { return backbone_; }
  std::int64_t num_classes() const { return spec_.classes; }
  void abandon() { gemms_.team().abandon(); }

 private:
  void plan(const Batch& batch);
  void classify(int thread, std::int64_t n, Answer& answer);
  void each_buffer(void (*visit)(Buffer&));

  const NetworkSpec spec_;
  const Kernels& kernels_;
  const std::int64_t bytes_;  // of a number in a map
  const bool poison_;
  Buffer arena_;
  Weights classifier_;
  const std::vector<std::int64_t> one_tap_{0};

  // Planned for the largest batch so far.
  std::int64_t planned_n_ = 0;
  Buffer means_, features_, scores_;
  std::vector<std::int64_t> feature_rows_, score_rows_;
  GemmTeam gemms_;
  Backbone backbone_;
};

}  // namespace laud
