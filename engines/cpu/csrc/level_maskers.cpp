#include "level_maskers.hpp"

#include <algorithm>
#include <cstring>
#include <string>

namespace laud {

LevelMaskers::LevelMaskers(const std::vector<std::int64_t>& patches,
                           const std::vector<std::int64_t>& looks,
                           const std::vector<std::int64_t>& lasts,
                           const std::vector<double>& scales, const Backbone& backbone,
                           GemmTeam& gemms)
    : backbone_(backbone), gemms_(gemms), levels_(patches.size()) {
  for (std::size_t l = 0; l < patches.size(); ++l) {
    const auto look = static_cast<std::size_t>(looks[l]);
    levels_[l].patch = patches[l];
    // Each level's map is half the one before.
    levels_[l].window = look > l ? patches[l] >> (look - l) : patches[l] << (l - look);
    levels_[l].last = lasts[l];
    levels_[l].looked = lasts[look];
    levels_[l].scale = scales[look];
  }
}

void LevelMaskers::load(const Packer& packer, const BackboneSpec& spec) {
  for (std::size_t l = 0; l < levels_.size(); ++l) {
    const BlockSpec& block = spec.blocks[static_cast<std::size_t>(levels_[l].looked)];
    levels_[l].masker.load(packer, "pyramid.masker." + std::to_string(l), block.out_channels);
  }
}

void LevelMaskers::plan() {
  std::int64_t units = 0, places = 0;
  most_channels_ = 0;
  for (Level& level : levels_) {
    const Geometry& own = backbone_.geometry(level.last);
    const Geometry& g = backbone_.geometry(level.looked);
    level.windows = {nullptr, g.height, g.width, g.out_channels, level.window, level.window,
                     element_bytes(gemms_.kernels().element), level.scale};
    level.height = own.height;
    level.width = own.width;
    level.grid_width = (own.width + level.patch - 1) / level.patch;
    level.units = level.grid_width * ((own.height + level.patch - 1) / level.patch);
    level.first_unit = units;
    units += level.units;
    places += own.height * own.width;
    most_channels_ = std::max(most_channels_, g.out_channels);
  }
  means_.reserve(gemms_.size() * 2 * most_channels_ * 4);
  logits_.reserve(units * 4);
  units_.resize(static_cast<std::size_t>(units));
  order_.resize(static_cast<std::size_t>(units));
  places_.resize(static_cast<std::size_t>(places));
}

void LevelMaskers::look(int thread, std::int64_t image, const Wish* wishes) {
  std::int64_t total = 0;
  for (std::int64_t l = 0; l < count(); ++l) {
    if (wishes[l].asked()) total += levels_[static_cast<std::size_t>(l)].units;
  }
  if (total == 0) return;
  const std::int64_t chunks = gemms_.chunks_of(total);
  float* const mean = means_.data<float>() + thread * 2 * most_channels_;
  gemms_.team().share(thread, chunks, [&](std::int64_t chunk) {
    std::int64_t begin = total * chunk / chunks, end = total * (chunk + 1) / chunks;
    for (const Level& level : levels_) {
      if (!wishes[&level - levels_.data()].asked()) continue;
      Windows windows = level.windows;
      windows.map = backbone_.output(level.looked, image);
      float* const logits = logits_.data<float>() + level.first_unit;
      for (std::int64_t u = std::max<std::int64_t>(begin, 0); u < std::min(end, level.units); ++u) {
        windows.mean(gemms_.kernels(), u, mean);
        logits[u] = level.masker.logit(gemms_.kernels(), mean, mean + most_channels_);
      }
      // The next level's units follow.
      begin -= level.units;
      end -= level.units;
    }
  });
}

const std::uint8_t* LevelMaskers::decide(const Wish* wishes, const std::uint8_t* given,
                                         std::int64_t* active_units) {
  bool all = true;
  for (const Level& level : levels_) {
    const std::int64_t l = &level - levels_.data();
    std::uint8_t* const units = units_.data() + level.first_unit;
    if (given) {
      std::copy_n(given + level.first_unit, level.units, units);
      active_units[l] = level.units - std::count(units, units + level.units, std::uint8_t{0});
    } else if (wishes[l].asked()) {
      active_units[l] = laud::decide(logits_.data<float>() + level.first_unit, level.units,
                                     wishes[l], units, order_.data());
    } else {
      std::fill_n(units, level.units, std::uint8_t{1});
      active_units[l] = level.units;
    }
    all &= active_units[l] == level.units;
  }
  if (all) return nullptr;
  std::uint8_t* to = places_.data();
  for (const Level& level : levels_) {
    const std::int64_t width = level.width;
    for (std::int64_t y = 0; y < level.height; ++y, to += width) {
      const std::uint8_t* const row =
          units_.data() + level.first_unit + y / level.patch * level.grid_width;
      for (std::int64_t x = 0; x < width; x += level.patch) {
        std::memset(to + x, row[x / level.patch],
                    static_cast<std::size_t>(std::min(level.patch, width - x)));
      }
    }
  }
  return places_.data();
}

void LevelMaskers::each_buffer(void (*visit)(Buffer&)) {
  for (Buffer* each : {&means_, &logits_}) visit(*each);
}

}  // namespace laud
