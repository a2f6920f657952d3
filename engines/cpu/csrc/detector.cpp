// Loading a detector and planning its memory; the pass is in pyramid.cpp and, behind the dense
// answers, in masks.cpp.
#include "detector.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

namespace laud {
namespace {

constexpr std::int64_t kMostWidth = 4096;
constexpr std::int64_t kStemStride = 4;

// Throws std::invalid_argument for what would read or write outside a map.
const DetectorSpec& checked(const DetectorSpec& s) {
  const auto blocks = static_cast<std::int64_t>(s.backbone.blocks.size());
  if (s.lasts.empty() || s.lasts.size() != s.units.size() || s.lasts.back() != blocks - 1) {
    throw std::invalid_argument("a pyramid needs a unit per level and to end at the last block");
  }
  for (std::size_t l = 0; l < s.lasts.size(); ++l) {
    const std::int64_t last = s.lasts[l], before = l ? s.lasts[l - 1] : -1;
    if (last <= before || last >= blocks) {
      throw std::invalid_argument("levels of the pyramid are not in order");
    }
    // Its map has to stay: the next block must not write where it lies.
    if (last + 1 < blocks && !s.backbone.blocks[static_cast<std::size_t>(last + 1)].projection) {
      throw std::invalid_argument("a level of the pyramid does not end a stage");
    }
  }
  if (!s.patches.empty() && s.patches.size() != s.lasts.size()) {
    throw std::invalid_argument("levels need a patch each, or none at all");
  }
  if (s.scales.size() != s.lasts.size()) {
    throw std::invalid_argument("levels need a scale each");
  }
  for (const std::int64_t patch : s.patches) {
    if (patch < 1 || patch > kMostWidth) {
      throw std::invalid_argument("a patch of a level is not between 1 and 4096");
    }
  }
  const auto levels = static_cast<std::int64_t>(s.lasts.size());
  if (s.looks.size() != s.lasts.size()) {
    throw std::invalid_argument("levels need a map each that their maskers look at");
  }
  for (std::int64_t l = 0; l < levels; ++l) {
    const auto at = static_cast<std::size_t>(l);
    const std::int64_t look = s.looks[at];
    if (look < 0 || look >= levels) {
      throw std::invalid_argument("a masker looks at a level that there is not");
    }
    if (!s.patches.empty() && look > l && s.patches[at] % (std::int64_t{1} << (look - l))) {
      throw std::invalid_argument("a patch of a level is not made of the pixels looked at");
    }
  }
  for (const std::int64_t count :
       {s.labels, s.width, s.head_convs, s.region, s.candidates, s.most}) {
    if (count < 1 || count > kMostWidth) {
      throw std::invalid_argument("a count of the detector is not between 1 and 4096");
    }
  }
  if (s.region > kMostRegion) {
    throw std::invalid_argument("a region has more than 32 pixels on a side");
  }
  if (s.mask_convs < 0 || s.mask_convs > kMostWidth || (s.mask_convs && s.width % 2)) {
    throw std::invalid_argument("mask_convs is not between 0 and 4096, or the width is odd");
  }
  return s;
}

// Calls visit(level, height, width) for the map of every level.
template <typename Visit>
void each_level(const DetectorSpec& s, std::int64_t height, std::int64_t width, Visit&& visit) {
  std::int64_t stride = kStemStride;
  std::size_t block = 0;
  for (std::size_t l = 0; l < s.lasts.size(); ++l) {
    for (; block <= static_cast<std::size_t>(s.lasts[l]); ++block) {
      stride *= s.backbone.blocks[block].stride;
    }
    visit(l, height / stride, width / stride);
  }
}

}  // namespace

Detector::Detector(const DetectorSpec& spec, const Source& source, const Kernels& kernels,
                   int threads, bool poison)
    : spec_(checked(spec)),
      kernels_(kernels),
      bytes_(element_bytes(kernels.element)),
      zero_(kernels.element == Element::u8 ? kSignedZero : 0),
      poison_(poison),
      chooser_(static_cast<std::int64_t>(spec.lasts.size()), spec.labels, spec.candidates,
               spec.most, spec.least_score, spec.overlap),
      gemms_(kernels, threads),
      backbone_(spec.backbone, gemms_, true),
      maskers_(spec.patches, spec.looks, spec.lasts, spec.scales, backbone_, gemms_) {
  Packer packer(kernels, source);
  backbone_.load(packer);
  maskers_.load(packer, spec.backbone);
  const std::int64_t width = spec.width;
  const std::size_t levels = spec.lasts.size();
  // In execution order: the coarsest level comes first.
  inner_weights_.resize(levels);
  outer_weights_.resize(levels);
  for (std::size_t l = levels; l-- > 0;) {
    const auto& block = spec.backbone.blocks[static_cast<std::size_t>(spec.lasts[l])];
    packer.add("pyramid.inner." + std::to_string(l), width, block.out_channels, 1,
               l + 1 < levels ? Layer::residual : Layer::convolution, inner_weights_[l]);
  }
  const auto stack = [&](const std::string& name, std::int64_t count,
                         std::vector<Weights>& layers) {
    layers.resize(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < layers.size(); ++i) {
      packer.add(name + std::to_string(i), width, width, 3, Layer::convolution, layers[i]);
    }
  };
  stack("pyramid.outer.", static_cast<std::int64_t>(levels), outer_weights_);
  stack("head.classes.", spec.head_convs, class_weights_);
  stack("head.boxes.", spec.head_convs, box_weights_);
  packer.add("head.classes.out", spec.labels, width, 3, Layer::convolution, class_out_weights_);
  packer.add("head.boxes.out", 5, width, 3, Layer::convolution, box_out_weights_);
  if (spec.mask_convs) {
    stack("mask.", spec.mask_convs, mask_weights_);
    for (int i = 0; i < kUps; ++i) {
      packer.add("mask.up." + std::to_string(i), width / 2, width, 1, Layer::convolution,
                 up_weights_[i]);
    }
    packer.add("mask.out", 1, width / 2, 1, Layer::convolution, mask_out_weights_);
  }
  packer.pack(arena_);
  gemms_.fit(packer);
  gemms_.reserve(static_cast<std::int64_t>(levels) + 2);
  if (spec.mask_convs) plan_masks();
}

std::int64_t Detector::num_places(std::int64_t height, std::int64_t width) const {
  std::int64_t places = 0;
  each_level(spec_, height, width,
             [&](std::size_t, std::int64_t h, std::int64_t w) { places += h * w; });
  return places;
}

std::int64_t Detector::num_level_units(std::int64_t height, std::int64_t width) const {
  std::int64_t units = 0;
  if (spec_.patches.empty()) return units;
  each_level(spec_, height, width, [&](std::size_t l, std::int64_t h, std::int64_t w) {
    const std::int64_t patch = spec_.patches[l];
    units += ((h + patch - 1) / patch) * ((w + patch - 1) / patch);
  });
  return units;
}

void Detector::plan(const DetectorBatch& batch) {
  const bool resized = backbone_.plan(batch.images);
  if (!resized && !class_rows_.empty()) return;
  class_rows_.clear();  // nothing is planned should memory end below
  std::vector<std::int64_t> heights, widths;
  stage_channels_.clear();
  for (const std::int64_t last : spec_.lasts) {
    const Geometry& g = backbone_.geometry(last);
    heights.push_back(g.height);
    widths.push_back(g.width);
    stage_channels_.push_back(g.out_channels);
  }
  canvas_.lay_out(heights, widths);
  const std::int64_t channels = gemms_.padded(spec_.width), places = canvas_.places();
  if (batch.images.height % heights[0] || batch.images.width % widths[0] ||
      places != num_places(batch.images.height, batch.images.width)) {
    throw std::invalid_argument("the image's sides are no multiples of the coarsest stride");
  }
  const std::int64_t bytes = canvas_.pixels() * channels * bytes_;
  for (Buffer* each : {&inner_, &pyramid_, &class_tower_[0], &box_tower_[0]}) each->reserve(bytes);
  if (spec_.head_convs > 1) {
    class_tower_[1].reserve(bytes);
    box_tower_[1].reserve(bytes);
  }
  const std::int64_t class_stride = gemms_.padded(spec_.labels), box_stride = gemms_.padded(5);
  class_out_.reserve(places * class_stride * 4);
  box_out_.reserve(places * box_stride * 4);
  taps_.clear();
  for (std::int64_t t = 0; t < 9; ++t) {
    taps_.push_back(((t / 3 - 1) * canvas_.width + t % 3 - 1) * channels);
  }
  maskers_.plan();
  marks_.resize(static_cast<std::size_t>(canvas_.pixels()));
  all_.reserve(canvas_);
  some_.reserve(canvas_);
  list_places(all_, canvas_, nullptr, channels, stage_channels_, marks_.data());
  box_rows_.clear();
  for (std::int64_t r = 0; r < places; ++r) box_rows_.push_back(r * box_stride);
  for (std::int64_t r = 0; r < places; ++r) class_rows_.push_back(r * class_stride);
}

// Maps of a region have a border of one pixel, which the 3x3 reads as zeros.
void Detector::plan_masks() {
  const std::int64_t size = spec_.region, bordered = size + 2;
  const std::int64_t channels = gemms_.padded(spec_.width), half = gemms_.padded(spec_.width / 2);
  const std::int64_t answer = gemms_.padded(1);
  map_bytes_ = bordered * bordered * channels * bytes_;
  up_bytes_ = size * size * kUps * half * bytes_;
  answer_bytes_ = size * size * kUps * answer * 4;
  regions_.reserve(gemms_.size() * 2 * map_bytes_);
  ups_.reserve(gemms_.size() * up_bytes_);
  answers_.reserve(gemms_.size() * answer_bytes_);
  for (std::int64_t t = 0; t < 9; ++t) {
    region_taps_.push_back(((t / 3 - 1) * bordered + t % 3 - 1) * channels);
  }
  for (std::int64_t i = 0; i < size * size; ++i) {
    region_pixels_.push_back(((i / size + 1) * bordered + i % size + 1) * channels);
    region_ups_.push_back(i * kUps * half);
  }
  for (std::int64_t i = 0; i < size * size * kUps; ++i) {
    up_pixels_.push_back(i * half);
    answer_rows_.push_back(i * answer);
  }
}

void Detector::infer(const DetectorBatch& batch, Objects& objects) {
  plan(batch);
  if (poison_) each_buffer([](Buffer& buffer) { buffer.poison(); });
  backbone_.begin(batch.images, objects.trace);
  batch_ = &batch;
  objects_ = &objects;
  PartClock clock(objects.parts_s);
  double* const own = objects.parts_s + backbone_.num_blocks() + 1;
  std::fill_n(own, 4, 0.0);
  gemms_.team().run([&](int thread) {
    backbone_.prepare(thread);
    clock.start(thread);
    backbone_.run(thread, clock);
    for (std::int64_t i = 0; i < batch.images.n; ++i) run_image(thread, i, clock, own);
  });
  objects.prepare_s = clock.preparation();
  objects.network_s = clock.total();
  if (!poison_) return;
  arena_.check_guards();
  each_buffer([](Buffer& buffer) { buffer.check_guards(); });
}

void Detector::run_image(int thread, std::int64_t image, PartClock& clock, double* parts) {
  maskers_.look(thread, image, batch_->levels + image * maskers_.count());
  if (thread == 0) list_image(image);
  gemms_.team().barrier();
  clear(thread);
  pyramid(thread, image);
  clock.add(thread, parts[0]);
  heads(thread);
  clock.add(thread, parts[1]);
  if (thread == 0) choose(image);
  gemms_.team().barrier();
  clock.add(thread, parts[2]);
  if (spec_.mask_convs) {
    gemms_.team().share(thread, objects_->counts[image],
                        [&](std::int64_t i) { draw_mask(thread, image, i); });
  }
  clock.add(thread, parts[3]);
}

// Which of its places are computed.
void Detector::list_image(std::int64_t image) {
  const std::int64_t first = image * maskers_.count(), unit = image * maskers_.num_units();
  const std::uint8_t* const given = batch_->level_decisions;
  const std::uint8_t* active =
      maskers_.decide(batch_->levels + first, given ? given + unit : nullptr,
                      objects_->level_units + first);
  if (objects_->level_decisions) maskers_.tell(objects_->level_decisions + unit);
  if (batch_->active) active = batch_->active + image * canvas_.places();
  lists_ = active ? &some_ : &all_;
  if (active) {
    list_places(some_, canvas_, active, gemms_.padded(spec_.width), stage_channels_, marks_.data());
  }
  const auto levels = static_cast<std::int64_t>(canvas_.levels.size());
  std::adjacent_difference(lists_->place_ends.begin() + 1, lists_->place_ends.end(),
                           objects_->level_pixels + image * levels);
}

void Detector::each_buffer(void (*visit)(Buffer&)) {
  backbone_.each_buffer(visit);
  maskers_.each_buffer(visit);
  for (Buffer* each :
       {&inner_, &pyramid_, &class_tower_[0], &class_tower_[1], &box_tower_[0], &box_tower_[1],
        &class_out_, &box_out_, &regions_, &ups_, &answers_, &gemms_.buffer()}) {
    visit(*each);
  }
}

}  // namespace laud
