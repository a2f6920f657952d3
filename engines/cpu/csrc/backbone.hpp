#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "gemm_team.hpp"
#include "lists.hpp"
#include "maskers.hpp"
#include "weights.hpp"

namespace laud {

// Pixels around an image that the stem reads, and numbers behind the last row (with weights of
// zero).
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

struct BackboneSpec {
  std::int64_t stem_width;
  bool trailing_pool, stride_in_1x1, bgr;
  std::vector<float> mean, std;  // three each; floats only
  std::vector<std::uint8_t> border;  // u8 only: what surrounds an image, three
  std::vector<BlockSpec> blocks;
};

// Images uint8 (n, height, width, 3) in C order; wishes (n, maskers). decisions: null, or what
// every masker's units shall be whatever their logits, (n, all units) with the maskers side by
// side.
struct Batch {
  const std::uint8_t* images;
  std::int64_t n, height, width;
  const Wish* wishes;
  const std::uint8_t* decisions;
};

// What a backbone tells of a pass: active units per masker (n, maskers); active and dilated pixels
// per block (n, blocks, 2); decisions, null or as in Batch.
struct Trace {
  std::int64_t* active_units;
  std::int64_t* pixels;
  std::uint8_t* decisions;
};

// Seconds of consecutive parts of a pass, of the whole batch, as thread 0 came to their ends.
class PartClock {
 public:
  explicit PartClock(double* parts)
      : next_(parts), created_(Clock::now()), begin_(created_), last_(created_) {}
  // What was until now is preparation.
  void start(int thread) {
    if (thread == 0) begin_ = last_ = Clock::now();
  }
  void end(int thread) {
    if (thread) return;
    *next_++ = since_last();
  }
  // Adds to a part that comes again for every image.
  void add(int thread, double& part) {
    if (thread == 0) part += since_last();
  }
  double preparation() const { return seconds(created_, begin_); }
  // Of all parts together.
  double total() const { return seconds(begin_, last_); }

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
  }
  double since_last() {
    const Clock::time_point now = Clock::now();
    const double taken = seconds(last_, now);
    last_ = now;
    return taken;
  }

  double* next_;
  const Clock::time_point created_;
  Clock::time_point begin_, last_;
};

// Stem and blocks of a network, with their scratch memory. The threads of its team run it together.
class Backbone {
 public:
  // keeps_stages: the last map of every stage stays until the next pass, else only that of the
  // last. Throws std::invalid_argument for a specification that makes no network.
  Backbone(const BackboneSpec& spec, GemmTeam& gemms, bool keeps_stages);

  // Its layers and maskers, which hold once the packer has packed.
  void load(Packer& packer);

  // Memory and geometry for a batch of that size. Throws std::bad_alloc. True where the image size
  // is another than before.
  bool plan(const Batch& batch);

  // Before the threads run; both stay until they have.
  void begin(const Batch& batch, const Trace& trace);

  // Every thread together: the picture's rows, which the next part reads; then stem and blocks, one
  // part of the clock each.
  void prepare(int thread);
  void run(int thread, PartClock& clock);

  // Units of all maskers for an image size.
  std::int64_t num_units(std::int64_t height, std::int64_t width) const;
  std::int64_t num_maskers() const { return num_maskers_; }
  std::int64_t num_blocks() const { return static_cast<std::int64_t>(blocks_.size()); }

  // A block's output for the planned size, and where one image's begins.
  const Geometry& geometry(std::int64_t block) const;
  const unsigned char* output(std::int64_t block, std::int64_t image) const;

  void each_buffer(void (*visit)(Buffer&));

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
    bool keeps_means;      // it writes the windows that the next block's spatial masker pools
    std::size_t from, to;  // trunk buffers of its input and output; one without a projection
  };

  // What conv1's outputs and conv2's and conv3's inputs are for one image under a channel mask.
  struct ChannelLists {
    std::vector<std::int32_t> vectors;
    std::vector<Segment> segments;
    std::vector<float> keep;  // 1 or 0 per channel
  };

  void plan_stem(const Batch& batch);
  Geometry geometry_of(const Block& block, std::int64_t height, std::int64_t width) const;
  std::int64_t pooled(std::int64_t size) const;

  // The parts of one pass, run by every thread together.
  void prepare_row(std::int64_t row);
  void stem(int thread);
  void stem_band(int thread, std::int64_t begin, std::int64_t end);
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
  const Wish& wish(std::int64_t image, std::int64_t masker) const;
  bool asked(const Block& block, std::int64_t image, bool space) const;
  std::uint8_t* units(std::int64_t image, bool space);
  const std::uint8_t* units(std::int64_t image, bool space) const;
  std::int64_t padded(std::int64_t channels) const { return gemms_.padded(channels); }

  const BackboneSpec spec_;
  GemmTeam& gemms_;
  Team& team_;
  const Kernels& kernels_;
  const std::int64_t bytes_;  // of a number in a map
  std::int64_t num_maskers_ = 0;
  std::vector<Block> blocks_;
  Weights stem_;
  std::vector<float> levels_;  // (3, 256): a pixel's normalised value per channel
  std::vector<std::uint16_t> levels_bf16_;
  const std::vector<std::int64_t> one_tap_{0};

  // Planned for the largest batch so far.
  std::int64_t planned_height_ = 0, planned_width_ = 0, planned_n_ = 0, all_units_ = 0;
  std::int64_t conv_height_ = 0, conv_width_ = 0, pool_height_ = 0, pool_width_ = 0;
  std::int64_t most_units_ = 0, most_channels_ = 0, means_of_image_ = 0;
  Buffer pixels_, band_, inner_, compact_, means_, standardised_, hidden_, logits_;
  std::vector<Buffer> trunk_;
  std::vector<std::uint8_t> units_;  // (image, kind, unit)
  std::vector<std::int32_t> order_;
  std::vector<std::uint8_t> marks_;
  std::vector<ChannelLists> channel_lists_;  // per image of the batch
  std::vector<std::int64_t> stem_rows_, stem_out_, stem_taps_;
  PixelLists lists_;

  // Of the pass that runs.
  const Batch* batch_ = nullptr;
  const Trace* trace_ = nullptr;
  std::vector<std::uint8_t> all_active_;  // (image, kind): no mask, or one that skips nothing
  std::vector<std::uint8_t> has_means_;   // per image: of the last block's windows
};

}  // namespace laud
