#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lists.hpp"
#include "maskers.hpp"
#include "team.hpp"
#include "weights.hpp"

namespace laud {

// Pixels around an image that the stem reads, and numbers behind the last row (with weights of zero).
constexpr std::int64_t kStemBorder = 3, kRowSlack = 16;

struct BlockSpec {
  std::string name;
  std::int64_t in_channels, width, out_channels, stride;
  bool projection, masks_space;
  std::int64_t patch;   // output pixels; 0: the whole map
  std::int64_t groups;  // of its channel masker; 0: none
  std::int64_t hidden;  // units of its channel masker
  double input_scale;   // u8 only: value of a step of its input
};

struct NetworkSpec {
  std::int64_t stem_width, classes;
  bool trailing_pool, stride_in_1x1, bgr;
  std::vector<float> mean, std;  // three each; floats only
  std::vector<std::uint8_t> border;  // u8 only: what surrounds an image, three
  double output_scale, feature_scale;  // u8 only: of the last map and of its pooled features
  std::vector<BlockSpec> blocks;
};

// Images uint8 (n, height, width, 3) in C order; wishes (n, maskers). decisions: null, or what every
// masker's units shall be whatever their logits, (n, all units) with the maskers side by side.
struct Batch {
  const std::uint8_t* images;
  std::int64_t n, height, width;
  const Wish* wishes;
  const std::uint8_t* decisions;
};

// Written by Network::infer: probabilities and scores (n, classes); active units per masker (n,
// maskers); active and dilated pixels per block (n, blocks, 2); decisions, null or as in Batch;
// seconds, of the whole batch: parts (blocks + 2) has the stem, every block and the head, as thread 0
// came to their ends, and sums to network_s.
struct Answer {
  float* probabilities;
  float* scores;
  std::int64_t* active_units;
  std::int64_t* pixels;
  std::uint8_t* decisions;
  double* parts_s;
  double prepare_s, network_s;
};

// A loaded network with its scratch memory and threads. One caller at a time.
class Network {
 public:
  // Throws std::invalid_argument for a tensor that is missing or of a wrong shape, std::bad_alloc.
  // poison: scratch memory is filled with NaN before each call and guard zones are checked after it.
  Network(const NetworkSpec& spec, const Source& source, const Kernels& kernels, int threads,
          bool poison);

  // Throws std::bad_alloc where the batch needs more memory than there is.
  void infer(const Batch& batch, Answer& answer);

  // Units of all maskers for an image size.
  std::int64_t num_units(std::int64_t height, std::int64_t width) const;
  std::int64_t num_maskers() const { return num_maskers_; }
  std::int64_t num_blocks() const { return static_cast<std::int64_t>(blocks_.size()); }
  std::int64_t num_classes() const { return spec_.classes; }
  int threads() const { return team_.size(); }
  void abandon() { team_.abandon(); }

 private:
  struct Block {
    BlockSpec spec;
    Weights conv1, conv2, conv3, projection;
    SpatialMasker spatial;
    ChannelMasker channel;
    std::int64_t first_masker;  // its spatial masker, or its channel masker without one
    std::int64_t channel_masker;
    std::int64_t first_unit;         // of its maskers among all units, for the planned size
    std::vector<std::int64_t> taps;  // of the 3x3, for the planned size
    Geometry geometry;
    std::int64_t images_per_chunk;
    bool keeps_means;  // it writes the windows that the next block's spatial masker pools
    int from, to;  // trunk buffers of its input and output; one and the same without a projection
  };

  // What conv1's outputs and conv2's and conv3's inputs are for one image under a channel mask.
  struct ChannelLists {
    std::vector<std::int32_t> vectors;
    std::vector<Segment> segments;
    std::vector<float> keep;  // 1 or 0 per channel
  };

  // A GEMM that the threads share out, by rows or by panels.
  struct Part {
    Gemm gemm;
    std::int64_t chunks;
    bool by_panel;
  };
  using Parts = std::vector<Part>;

  void plan(const Batch& batch);
  void plan_stem(const Batch& batch);
  Geometry geometry_of(const Block& block, std::int64_t height, std::int64_t width) const;
  std::int64_t pooled(std::int64_t size) const;
  void check_guards();
  void each_buffer(void (*visit)(Buffer&));

  // The parts of one pass, run by every thread together.
  void prepare_rows(int thread);
  void prepare_row(std::int64_t row);
  void stem(int thread);
  void stem_band(int thread, std::int64_t begin, std::int64_t end);
  void classify(int thread);
  void run_block(int thread, Block& block, std::int64_t index);
  void pool_inputs(int thread, const Block& block, const Block* previous);
  void pool_items(int thread, const Block& block, const Block* previous, std::int64_t begin,
                  std::int64_t end);
  void decide_block(Block& block);
  void list_chunk(Block& block, std::int64_t index, std::int64_t begin, std::int64_t end);
  void list_channels(const Block& block, std::int64_t image, ChannelLists& lists) const;
  void clear_borders(int thread, const Block& block, std::int64_t images);
  void first_convolution(const Block& block, Parts& parts);
  void second_convolution(const Block& block, Parts& parts);
  void third_convolution(const Block& block, Parts& parts);

  void limit_outputs(const Job& job, Gemm& gemm) const;
  void limit_inputs(const Job& job, Gemm& gemm) const;
  Gemm layer(const Weights& weights, const std::vector<std::int64_t>& taps) const;
  void add(Parts& parts, const Gemm& gemm) const;
  void run(int thread, Parts& parts);
  void run_chunk(const Part& part, std::int64_t chunk) const;
  const Wish& wish(std::int64_t image, std::int64_t masker) const;
  bool asked(const Block& block, std::int64_t image, bool space) const;
  std::uint8_t* units(std::int64_t image, bool space);
  const std::uint8_t* units(std::int64_t image, bool space) const;
  std::int64_t padded(std::int64_t channels) const {
    return round_up(channels, kernels_.channel_unit);
  }
  void* scratch(int thread) { return scratch_.data() + thread * scratch_bytes_; }

  const NetworkSpec spec_;
  const Kernels& kernels_;
  const std::int64_t bytes_;  // of a number in a map
  const bool poison_;
  std::int64_t num_maskers_ = 0, scratch_bytes_ = 0;
  std::vector<Block> blocks_;
  Buffer arena_;
  Weights stem_, classifier_;
  std::vector<float> levels_;              // (3, 256): a pixel's normalised value per channel
  std::vector<std::uint16_t> levels_bf16_;
  std::vector<std::int32_t> all_vectors_;  // 0, 1, 2, ...
  const std::vector<std::int64_t> one_tap_{0};

  // Planned for the largest batch so far.
  std::int64_t planned_height_ = 0, planned_width_ = 0, planned_n_ = 0, all_units_ = 0;
  std::int64_t conv_height_ = 0, conv_width_ = 0, pool_height_ = 0, pool_width_ = 0;
  std::int64_t most_units_ = 0, most_channels_ = 0, means_of_image_ = 0;
  Buffer pixels_, band_, trunk_[2], inner_, compact_, means_, standardised_, hidden_, logits_;
  Buffer features_, scores_, scratch_;
  std::vector<std::uint8_t> units_;  // (image, kind, unit)
  std::vector<std::int32_t> order_;
  std::vector<std::uint8_t> marks_;
  std::vector<ChannelLists> channel_lists_;  // per image of the batch
  std::vector<std::int64_t> stem_rows_, stem_out_, stem_taps_, feature_rows_, score_rows_;
  PixelLists lists_;
  std::vector<Parts> parts_;  // per thread

  // Of the pass that runs.
  const Batch* batch_ = nullptr;
  Answer* answer_ = nullptr;
  std::vector<std::uint8_t> all_active_;  // (image, kind): no mask, or one that skips nothing
  std::vector<std::uint8_t> has_means_;   // per image: of the last block's windows
  Team team_;                             // last: its threads use the rest
};

}  // namespace laud
