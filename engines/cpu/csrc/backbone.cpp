// Loading a backbone, and planning its scratch memory for an image size. The pass is in stem.cpp
// and blocks.cpp.
#include "backbone.hpp"

#include <algorithm>
#include <stdexcept>

namespace laud {
namespace {

// Bytes of an inner map that a pass over a block keeps in the second-level cache.
constexpr std::int64_t kChunkBytes = 384 * 1024;
constexpr std::int64_t kStemKernel = 7;
constexpr std::int64_t kMostWidth = 14336;

std::size_t at_least_one(std::int64_t n) {
  return static_cast<std::size_t>(std::max<std::int64_t>(n, 1));
}

// Throws std::invalid_argument for what would read or write outside a map.
void check(const BackboneSpec& spec) {
  if (spec.mean.size() != 3 || spec.std.size() != 3 || spec.border.size() != 3 ||
      spec.blocks.empty()) {
    throw std::invalid_argument(
        "three means, deviations and border values and at least one block are needed");
  }
  if (spec.stem_width < 1) throw std::invalid_argument("stem_width must be at least 1");
  std::int64_t channels = spec.stem_width;
  for (const BlockSpec& s : spec.blocks) {
    // Sums of 9 * width products of bytes have to fit 32 bits.
    if (s.width < 1 || s.width > kMostWidth || s.out_channels < 1 ||
        s.in_channels > 4 * kMostWidth || s.patch < 0 || s.groups < 0 || s.hidden < 1) {
      throw std::invalid_argument(s.name + ": a width or count is out of range");
    }
    if (s.stride != 1 && s.stride != 2) throw std::invalid_argument(s.name + ": stride is not 1 or 2");
    if (s.in_channels != channels) {
      throw std::invalid_argument(s.name + ": in_channels are not those of the block before");
    }
    if (!s.projection && (s.stride != 1 || s.in_channels != s.out_channels)) {
      throw std::invalid_argument(s.name + ": needs a projection");
    }
    if (s.groups && s.width % s.groups) {
      throw std::invalid_argument(s.name + ": groups do not divide its width");
    }
    channels = s.out_channels;
  }
}

}  // namespace

Backbone::Backbone(const BackboneSpec& spec, GemmTeam& gemms, bool keeps_stages)
    : spec_(spec),
      gemms_(gemms),
      team_(gemms.team()),
      kernels_(gemms.kernels()),
      bytes_(element_bytes(kernels_.element)) {
  check(spec);
  blocks_.resize(spec.blocks.size());
  std::size_t trunk = 0, buffers = 1;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    Block& block = blocks_[i];
    const BlockSpec& s = block.spec = spec.blocks[i];
    block.from = trunk;
    // A projection writes beside its input: to the other buffer of two, or to one that is kept.
    if (s.projection) trunk = keeps_stages ? trunk + 1 : 1 - trunk;
    block.to = trunk;
    buffers = std::max(buffers, trunk + 1);
    block.first_masker = num_maskers_;
    block.channel_masker = num_maskers_ + (s.masks_space ? 1 : 0);
    num_maskers_ += (s.masks_space ? 1 : 0) + (s.groups ? 1 : 0);
  }
  trunk_.resize(buffers);
  for (std::size_t c = 0; c < 3; ++c) {
    for (int v = 0; v < 256; ++v) {
      levels_.push_back((static_cast<float>(v) - spec.mean[c]) / spec.std[c]);
      levels_bf16_.push_back(to_bf16(levels_.back()));
    }
  }
}

void Backbone::load(Packer& packer) {
  packer.add("conv1", spec_.stem_width, 3, kStemKernel, Layer::rows, stem_);
  for (Block& block : blocks_) {
    const BlockSpec& s = block.spec;
    packer.add(s.name + ".conv1", s.width, s.in_channels, 1, Layer::convolution, block.conv1);
    if (s.projection) {
      packer.add(s.name + ".downsample.0", s.out_channels, s.in_channels, 1, Layer::projection,
                 block.projection);
    }
    packer.add(s.name + ".conv2", s.width, s.width, 3, Layer::convolution, block.conv2);
    packer.add(s.name + ".conv3", s.out_channels, s.width, 1, Layer::residual, block.conv3);
    if (s.masks_space) block.spatial.load(packer, s.name + ".masker_spatial", s.in_channels);
    if (s.groups) {
      block.channel.load(packer, s.name + ".masker_channel", s.in_channels, s.hidden, s.groups);
    }
  }
}

const Geometry& Backbone::geometry(std::int64_t block) const {
  return blocks_[static_cast<std::size_t>(block)].geometry;
}

const unsigned char* Backbone::output(std::int64_t block, std::int64_t image) const {
  const Block& b = blocks_[static_cast<std::size_t>(block)];
  return trunk_[b.to].data() + image * b.geometry.out_numbers() * bytes_;
}

Geometry Backbone::geometry_of(const Block& block, std::int64_t height, std::int64_t width) const {
  const BlockSpec& s = block.spec;
  Geometry g{};
  g.height_in = height;
  g.width_in = width;
  g.stride1 = spec_.stride_in_1x1 ? s.stride : 1;
  g.stride2 = spec_.stride_in_1x1 ? 1 : s.stride;
  g.height_mid = (height + g.stride1 - 1) / g.stride1;
  g.width_mid = (width + g.stride1 - 1) / g.stride1;
  g.height = (height + s.stride - 1) / s.stride;
  g.width = (width + s.stride - 1) / s.stride;
  g.patch = s.patch;
  g.grid_height = s.patch ? (g.height + s.patch - 1) / s.patch : 1;
  g.grid_width = s.patch ? (g.width + s.patch - 1) / s.patch : 1;
  g.in_channels = padded(s.in_channels);
  g.inner_channels = padded(s.width);
  g.out_channels = padded(s.out_channels);
  g.projection = s.projection;
  return g;
}

std::int64_t Backbone::pooled(std::int64_t size) const {
  return spec_.trailing_pool ? std::max<std::int64_t>(size / 2, 1) : (size + 1) / 2;
}

std::int64_t Backbone::num_units(std::int64_t height, std::int64_t width) const {
  std::int64_t units = 0;
  height = pooled((height + 1) / 2);
  width = pooled((width + 1) / 2);
  for (const Block& block : blocks_) {
    const Geometry g = geometry_of(block, height, width);
    units += (block.spec.masks_space ? g.patches() : 0) + block.spec.groups;
    height = g.height;
    width = g.width;
  }
  return units;
}

void Backbone::plan_stem(const Batch& batch) {
  const std::int64_t channels = padded(spec_.stem_width);
  const std::int64_t row_numbers = (batch.width + 2 * kStemBorder) * 3;
  conv_height_ = (batch.height + 1) / 2;
  conv_width_ = (batch.width + 1) / 2;
  pool_height_ = pooled(conv_height_);
  pool_width_ = pooled(conv_width_);
  pixels_.reserve((batch.n * (batch.height + 2 * kStemBorder) * row_numbers + kRowSlack) * bytes_);
  band_.reserve(team_.size() * 4 * conv_width_ * channels * bytes_);
  stem_rows_.clear();
  stem_out_.clear();
  for (std::int64_t x = 0; x < conv_width_; ++x) {
    stem_rows_.push_back(x * 2 * 3);
    stem_out_.push_back(x * channels);
  }
  stem_taps_.clear();
  for (std::int64_t t = 0; t < kStemKernel; ++t) stem_taps_.push_back(t * row_numbers);
}

bool Backbone::plan(const Batch& batch) {
  const bool same = batch.height == planned_height_ && batch.width == planned_width_;
  if (same && batch.n <= planned_n_) return false;
  planned_n_ = 0;  // nothing is planned should memory end below
  const std::int64_t n = batch.n, threads = team_.size();
  plan_stem(batch);
  std::int64_t height = pool_height_, width = pool_width_;
  std::int64_t inner = 0, compact = 0, marks = 0;
  std::vector<std::int64_t> trunk(trunk_.size());
  trunk[0] = height * width * padded(spec_.stem_width);
  std::int64_t mid_pixels = 0, out_pixels = 0, hidden = 0;
  most_units_ = 1;
  most_channels_ = padded(spec_.stem_width);
  all_units_ = means_of_image_ = 0;
  for (Block& block : blocks_) {
    const Geometry& g = block.geometry = geometry_of(block, height, width);
    const BlockSpec& s = block.spec;
    const std::int64_t weights = s.width * (s.in_channels + 9 * s.width + s.out_channels) * bytes_;
    const std::int64_t chunk = std::clamp<std::int64_t>(
        std::max(kChunkBytes, weights) / (g.mid_numbers() * bytes_), 1, n);
    block.images_per_chunk = chunk;
    block.taps.clear();
    for (std::int64_t t = 0; t < 9; ++t) {
      block.taps.push_back((t / 3 * (g.width_mid + 2) + t % 3) * g.inner_channels);
    }
    block.first_unit = all_units_;
    all_units_ += (s.masks_space ? g.patches() : 0) + s.groups;
    trunk[block.to] = std::max(trunk[block.to], g.out_numbers());
    inner = std::max(inner, chunk * g.mid_numbers());
    compact = std::max(compact, chunk * g.height * g.width * g.inner_channels);
    marks = std::max(marks, (g.height_mid + 2) * (g.width_mid + 2));
    mid_pixels = std::max(mid_pixels, chunk * g.height_mid * g.width_mid);
    out_pixels = std::max(out_pixels, chunk * g.height * g.width);
    most_units_ = std::max({most_units_, g.patches(), s.groups});
    most_channels_ = std::max({most_channels_, g.in_channels, g.out_channels});
    if (s.masks_space) means_of_image_ = std::max(means_of_image_, g.patches() * g.in_channels);
    hidden = std::max(hidden, round_up(s.hidden, 16));
    height = g.height;
    width = g.width;
  }
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    Block& block = blocks_[i];
    const Block* const next = i + 1 < blocks_.size() ? &blocks_[i + 1] : nullptr;
    block.keeps_means = next && block.spec.masks_space && next->spec.masks_space &&
                        !block.spec.projection && next->spec.stride == 1 &&
                        block.spec.patch == next->spec.patch;
  }
  for (std::size_t i = 0; i < trunk_.size(); ++i) trunk_[i].reserve(n * trunk[i] * bytes_);
  inner_.reserve(inner * bytes_);
  compact_.reserve(compact * bytes_);
  means_.reserve(n * means_of_image_ * 4);
  standardised_.reserve(threads * 2 * most_channels_ * 4);
  hidden_.reserve(threads * hidden * 4);
  logits_.reserve(n * 2 * most_units_ * 4);
  units_.resize(at_least_one(n * 2 * most_units_));
  all_active_.resize(at_least_one(n * 2));
  has_means_.resize(at_least_one(n));
  order_.resize(at_least_one(most_units_));
  marks_.resize(at_least_one(marks));
  lists_.reserve(mid_pixels, out_pixels, n);
  gemms_.reserve(n + 3);
  channel_lists_.resize(at_least_one(n));
  for (ChannelLists& lists : channel_lists_) {
    lists.vectors.reserve(at_least_one(most_channels_ / kernels_.vector));
    lists.segments.reserve(at_least_one(most_units_));
    lists.keep.reserve(at_least_one(round_up(most_channels_, 64)));
  }
  planned_height_ = batch.height;
  planned_width_ = batch.width;
  planned_n_ = n;
  return !same;
}

void Backbone::each_buffer(void (*visit)(Buffer&)) {
  for (Buffer* each : {&pixels_, &band_, &inner_, &compact_, &means_, &standardised_, &hidden_,
                       &logits_}) {
    visit(*each);
  }
  for (Buffer& each : trunk_) visit(each);
}

}  // namespace laud
