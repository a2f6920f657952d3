#pragma once

#include <cstdint>
#include <vector>

#include "backbone.hpp"
#include "canvas.hpp"
#include "level_maskers.hpp"
#include "objects.hpp"

namespace laud {

struct DetectorSpec {
  BackboneSpec backbone;
  std::vector<std::int64_t> lasts;  // the blocks whose maps the pyramid stands on, the finest first
  std::vector<float> units;         // per level, of its distances, in pixels of the image
  std::vector<std::int64_t> patches;  // per level, places on a side of its masker's; or none
  std::vector<std::int64_t> looks;    // per level, that whose map its masker looks at
  std::vector<double> scales;  // u8 only: per level, value of a step of the map it stands on
  std::int64_t labels, width;       // width: channels of the pyramid and of the heads
  std::int64_t head_convs;          // of each of the two towers, one of classes and one of boxes
  std::int64_t mask_convs;          // 0: objects get no mask
  std::int64_t region;              // pixels on a side of what a mask, twice as large, is made from
  double overlap;                   // boxes of one label that overlap by more are one object
  float least_score;
  std::int64_t candidates, most;    // places of a level that compete; objects of an image
};

// levels: wishes of the levels' maskers (n, maskers). level_decisions: null, or what their units
// shall be whatever their logits, (n, all units) with the maskers side by side. active: null, or
// which places an image computes whatever they decide, (n, places) with the levels side by side, the
// finest first. What is not active is zero in the pyramid and in every layer of the heads, and no
// object.
struct DetectorBatch {
  Batch images;
  const Wish* levels;
  const std::uint8_t* level_decisions;
  const std::uint8_t* active;
};

// Written by Detector::infer: counts (n); boxes (n, most, 4), in pixels of the image, scores and
// labels (n, most), of which those behind an image's count are left as they were, as are masks,
// null or (n, most, 2 region, 2 region). places: null, or the dense answers (n, places, labels +
// 5): class logits, four distances in units, the centre's logit; -infinity and zeros where a place
// is not active. level_units: active ones of each level's masker (n, maskers); level_decisions:
// null, or as in DetectorBatch; level_pixels: active places of each level (n, levels). parts_s
// (blocks + 5): stem, every block, pyramid, heads, choice and masks, of the whole batch.
struct Objects {
  std::int64_t* counts;
  float* boxes;
  float* scores;
  std::int64_t* labels;
  float* masks;
  float* places;
  Trace trace;
  std::int64_t* level_units;
  std::uint8_t* level_decisions;
  std::int64_t* level_pixels;
  double* parts_s;
  double prepare_s, network_s;
};

// A loaded detector with its scratch memory and threads. One caller at a time.
class Detector {
 public:
  // In u8, pyramid and lateral sums have a sign, zero is kSignedZero; a lateral layer but the
  // coarsest has a residual, by which it takes the level above it. What is behind towers and masks
  // is floats. Throws std::invalid_argument for a specification that makes no detector and for a
  // tensor that is missing or of a wrong shape; std::bad_alloc. poison: as Network.
  Detector(const DetectorSpec& spec, const Source& source, const Kernels& kernels, int threads,
           bool poison);

  // Throws std::bad_alloc where the batch needs more memory than there is, and
  // std::invalid_argument for an image size whose maps do not halve from level to level.
  void infer(const DetectorBatch& batch, Objects& objects);

  const Backbone& backbone() const { return backbone_; }
  const DetectorSpec& spec() const { return spec_; }
  // Places of all levels, and units of all their maskers, for an image size that is a multiple of
  // the coarsest stride.
  std::int64_t num_places(std::int64_t height, std::int64_t width) const;
  std::int64_t num_level_units(std::int64_t height, std::int64_t width) const;
  std::int64_t num_level_maskers() const { return maskers_.count(); }
  void abandon() { gemms_.team().abandon(); }

 private:
  static constexpr int kUps = 4;  // pixels of a mask for one of its region

  void plan(const DetectorBatch& batch);
  void plan_masks();
  void each_buffer(void (*visit)(Buffer&));

  // Every thread together, for one image.
  void run_image(int thread, std::int64_t image, PartClock& clock, double* parts);
  void list_image(std::int64_t image);
  void clear(int thread);
  void pyramid(int thread, std::int64_t image);
  Gemm lateral(std::size_t level, std::int64_t image);
  void lateral_sums(int thread, std::int64_t image);
  void byte_sums(int thread, std::int64_t image);
  template <typename Each>
  void each_needed(int thread, std::size_t level, Each&& each);
  template <typename T>
  void add_coarser(int thread);
  void heads(int thread);
  Gemm over_places(const Weights& weights, const Buffer& from) const;
  void choose(std::int64_t image);
  void tell_places(std::int64_t image) const;

  // One thread alone, for one object.
  void draw_mask(int thread, std::int64_t image, std::int64_t object);
  template <typename T>
  void pool(const Box& box, T* region) const;
  void run_alone(int thread, Gemm gemm, const void* from, void* to);

  const DetectorSpec spec_;
  const Kernels& kernels_;
  const std::int64_t bytes_;  // of a number in a map
  const int zero_;            // every byte of a zero in maps whose numbers have a sign
  const bool poison_;
  Buffer arena_;
  std::vector<Weights> inner_weights_, outer_weights_, class_weights_, box_weights_, mask_weights_;
  Weights class_out_weights_, box_out_weights_, up_weights_[kUps], mask_out_weights_;
  const std::vector<std::int64_t> one_tap_{0};

  // Planned for the largest batch so far, of the same image size.
  Canvas canvas_;
  PlaceLists all_, some_;  // of an image that computes every place; of one that does not
  std::vector<std::uint8_t> marks_;
  std::vector<std::int64_t> taps_, stage_channels_, class_rows_, box_rows_;
  Buffer inner_, pyramid_, class_tower_[2], box_tower_[2], class_out_, box_out_;
  // Of a region: each thread has two maps with a border, four pixels for each of its own, and their
  // answers.
  std::int64_t map_bytes_ = 0, up_bytes_ = 0, answer_bytes_ = 0;
  std::vector<std::int64_t> region_taps_, region_pixels_, region_ups_, up_pixels_, answer_rows_;
  Buffer regions_, ups_, answers_;

  // Of the pass that runs.
  const DetectorBatch* batch_ = nullptr;
  Objects* objects_ = nullptr;
  const PlaceLists* lists_ = nullptr;
  Chooser chooser_;
  GemmTeam gemms_;
  Backbone backbone_;
  LevelMaskers maskers_;
};

}  // namespace laud
