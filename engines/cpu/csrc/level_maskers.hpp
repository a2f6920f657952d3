#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "backbone.hpp"

namespace laud {

// The maskers of a pyramid's levels: which places of an image are computed, from the maps that the
// pyramid stands on. Nothing allocates behind `plan`.
class LevelMaskers {
 public:
  // patches: of each level, places on a side of what one decision covers, the finest level first;
  // none: there are no maskers. looks: of each, the level whose map it looks at. lasts: the blocks
  // whose maps those are; scales: u8 only, the value of a step of them.
  LevelMaskers(const std::vector<std::int64_t>& patches, const std::vector<std::int64_t>& looks,
               const std::vector<std::int64_t>& lasts, const std::vector<double>& scales,
               const Backbone& backbone, GemmTeam& gemms);

  void load(const Packer& packer, const BackboneSpec& spec);

  // For the size that the backbone has planned for. Throws std::bad_alloc.
  void plan();

  std::int64_t count() const { return static_cast<std::int64_t>(levels_.size()); }
  // Of all of them, for the planned size.
  std::int64_t num_units() const { return static_cast<std::int64_t>(units_.size()); }

  // Every thread together: logits of one image where `wishes`, one per masker, ask for them.
  void look(int thread, std::int64_t image, const Wish* wishes);

  // One thread, behind it: one byte per place, levels one after another, or null where all are
  // active. Writes how many units of each masker are. given: null, or what units shall be.
  const std::uint8_t* decide(const Wish* wishes, const std::uint8_t* given,
                             std::int64_t* active_units);

  // What was decided last, the maskers side by side.
  void tell(std::uint8_t* to) const { std::copy(units_.begin(), units_.end(), to); }

  void each_buffer(void (*visit)(Buffer&));

 private:
  struct Level {
    std::int64_t patch, window;  // of places; of pixels that are looked at
    std::int64_t last, looked;   // blocks: the level's own, and whose map is looked at
    double scale;
    SpatialMasker masker;
    Windows windows{};  // without a map
    std::int64_t height = 0, width = 0, grid_width = 0, units = 0, first_unit = 0;
  };

  const Backbone& backbone_;
  GemmTeam& gemms_;
  std::vector<Level> levels_;
  std::int64_t most_channels_ = 0;
  Buffer means_, logits_;
  std::vector<std::uint8_t> units_, places_;
  std::vector<std::int32_t> order_;
};

}  // namespace laud
