// One block of a pass: maskers, decisions, lists, three convolutions. See stem.cpp.
#include <algorithm>
#include <cstring>

#include "backbone.hpp"

namespace laud {

void Backbone::run_block(int thread, Block& block, std::int64_t index) {
  const Block* const previous = index ? &blocks_[static_cast<std::size_t>(index - 1)] : nullptr;
  pool_inputs(thread, block, previous);
  if (thread == 0) decide_block(block);
  Parts& parts = gemms_.parts(thread);
  for (std::int64_t begin = 0; begin < batch_->n; begin += block.images_per_chunk) {
    const std::int64_t end = std::min(begin + block.images_per_chunk, batch_->n);
    if (thread == 0) list_chunk(block, index, begin, end);
    team_.barrier();
    // Looked at here, because thread 0 may write the next lists as soon as nothing is left to do.
    const bool active = lists_.out.size() > 0;
    if (active) clear_borders(thread, block, end - begin);
    first_convolution(block, parts);
    gemms_.run(thread, parts);
    if (!active) continue;
    second_convolution(block, parts);
    gemms_.run(thread, parts);
    third_convolution(block, parts);
    gemms_.run(thread, parts);
  }
}

// Logits of the maskers that a point asks. A patch, or an image's channel masker, goes to one thread.
void Backbone::pool_inputs(int thread, const Block& block, const Block* previous) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < batch_->n; ++i) {
    total += (asked(block, i, true) ? block.geometry.patches() : 0) + (asked(block, i, false) ? 1 : 0);
  }
  if (total == 0) return;
  const std::int64_t chunks =
      team_.size() == 1 ? 1 : std::min<std::int64_t>(total, 4 * team_.size());
  team_.share(thread, chunks, [&](std::int64_t chunk) {
    pool_items(thread, block, previous, total * chunk / chunks, total * (chunk + 1) / chunks);
  });
}

void Backbone::pool_items(int thread, const Block& block, const Block* previous, std::int64_t begin,
                         std::int64_t end) {
  const Geometry& g = block.geometry;
  float* const means = standardised_.data<float>() + thread * 2 * most_channels_;
  float* const scratch = means + most_channels_;
  std::int64_t item = 0;
  for (std::int64_t i = 0; i < batch_->n && item < end; ++i) {
    const Windows map{trunk_[block.from].data() + i * g.in_numbers() * bytes_,
                      g.height_in, g.width_in, g.in_channels, g.height_in, g.width_in,
                      bytes_, block.spec.input_scale};
    float* const logits = logits_.data<float>() + i * 2 * most_units_;
    if (asked(block, i, true)) {
      Windows patches = map;
      if (g.patch) patches.window_height = patches.window_width = g.patch * block.spec.stride;
      // What the previous block did not write has the mean that it had.
      const bool kept = previous && previous->keeps_means && has_means_[static_cast<std::size_t>(i)];
      const std::uint8_t* const written =
          kept && !all_active_[static_cast<std::size_t>(i * 2)] ? units(i, true) : nullptr;
      const std::int64_t first = std::max<std::int64_t>(begin - item, 0);
      const std::int64_t last = std::min(end - item, g.patches());
      for (std::int64_t u = first; u < last; ++u) {
        float* const mean = means_.data<float>() + i * means_of_image_ + u * g.in_channels;
        if (!written || written[u]) patches.mean(kernels_, u, mean);
        logits[u] = block.spatial.logit(kernels_, mean, scratch);
      }
      item += g.patches();
    }
    if (asked(block, i, false)) {
      if (item >= begin && item < end) {
        map.mean(kernels_, 0, means);
        block.channel.logits(kernels_, means, scratch,
                             hidden_.data<float>() + thread * block.channel.hidden_floats(),
                             logits + most_units_);
      }
      ++item;
    }
  }
}

void Backbone::decide_block(Block& block) {
  for (std::int64_t i = 0; i < batch_->n; ++i) {
    has_means_[static_cast<std::size_t>(i)] = asked(block, i, true);
    for (const bool space : {true, false}) {
      const std::int64_t total = space ? block.geometry.patches() : block.spec.groups;
      const std::int64_t masker = space ? block.first_masker : block.channel_masker;
      std::uint8_t& all = all_active_[static_cast<std::size_t>(i * 2 + !space)];
      all = 1;
      if (!(space ? block.spec.masks_space : block.spec.groups > 0)) continue;
      const std::int64_t place =
          i * all_units_ + block.first_unit +
          (!space && block.spec.masks_space ? block.geometry.patches() : 0);
      std::int64_t active = total;
      if (batch_->decisions) {
        std::uint8_t* const to = units(i, space);
        std::copy_n(batch_->decisions + place, total, to);
        active = total - std::count(to, to + total, std::uint8_t{0});
      } else if (asked(block, i, space)) {
        const float* const logits = logits_.data<float>() + (i * 2 + !space) * most_units_;
        active = decide(logits, total, wish(i, masker), units(i, space), order_.data());
      }
      all = active == total;
      if (trace_->decisions && all) std::fill_n(trace_->decisions + place, total, std::uint8_t{1});
      if (trace_->decisions && !all) std::copy_n(units(i, space), total, trace_->decisions + place);
      trace_->active_units[i * num_maskers_ + masker] = active;
    }
  }
}

// Images without a channel mask share a job, so that their weights are read once.
void Backbone::list_chunk(Block& block, std::int64_t index, std::int64_t begin, std::int64_t end) {
  lists_.clear();
  const auto append = [&](std::int64_t image) {
    const bool all = all_active_[static_cast<std::size_t>(image * 2)] != 0;
    const PixelCounts counts =
        append_image(lists_, block.geometry, all ? nullptr : units(image, true), image - begin, image,
                     marks_.data());
    std::int64_t* const pixels = trace_->pixels + (image * num_blocks() + index) * 2;
    pixels[0] = counts.active;
    pixels[1] = counts.dilated;
  };
  const auto masked = [&](std::int64_t image) {
    return all_active_[static_cast<std::size_t>(image * 2 + 1)] == 0;
  };
  for (std::int64_t image = begin; image < end; ++image) {
    if (!masked(image)) append(image);
  }
  lists_.jobs.push_back({0, lists_.first_in.size(), 0, lists_.out.size(), -1});
  for (std::int64_t image = begin; image < end; ++image) {
    if (!masked(image)) continue;
    const std::int64_t first = lists_.first_in.size(), active = lists_.out.size();
    append(image);
    list_channels(block, image, channel_lists_[static_cast<std::size_t>(image)]);
    lists_.jobs.push_back({first, lists_.first_in.size(), active, lists_.out.size(), image});
  }
}

// A vector that holds an active channel is computed whole. Where kernels read inputs in larger units
// than single channels, so is every vector of a unit, and `keep` makes inactive channels zero.
void Backbone::list_channels(const Block& block, std::int64_t image, ChannelLists& lists) const {
  const std::uint8_t* const active = units(image, false);
  const std::int64_t group = block.spec.width / block.spec.groups;
  const std::int64_t channels = block.geometry.inner_channels;
  std::int64_t unit = kernels_.input_unit;
  // Steps of inputs that straddle two taps cannot be left out.
  if (channels % unit) unit = channels;
  const std::int64_t vector = std::max<std::int64_t>(unit, kernels_.vector);
  lists.vectors.clear();
  lists.segments.clear();
  lists.keep.assign(static_cast<std::size_t>(round_up(channels, 64)), 0.0f);
  std::int64_t next = 0;  // the first channel of no listed vector
  for (std::int64_t g = 0; g < block.spec.groups; ++g) {
    if (!active[g]) continue;
    const std::int64_t begin = g * group, end = begin + group;
    std::fill_n(lists.keep.begin() + begin, group, 1.0f);
    const std::int64_t from = begin / unit * unit;
    const std::int64_t to = std::min(round_up(end, unit), channels);
    if (!lists.segments.empty() && lists.segments.back().end >= from) {
      lists.segments.back().end = to;
    } else {
      lists.segments.push_back({from, to});
    }
    const std::int64_t last = std::min(round_up(end, vector), channels);
    for (next = std::max(next, begin / vector * vector); next < last; next += kernels_.vector) {
      lists.vectors.push_back(static_cast<std::int32_t>(next / kernels_.vector));
    }
  }
}

void Backbone::limit_outputs(const Job& job, Gemm& gemm) const {
  if (job.channels < 0) return;
  const ChannelLists& lists = channel_lists_[static_cast<std::size_t>(job.channels)];
  gemm.vectors = lists.vectors.data();
  gemm.num_vectors = static_cast<std::int64_t>(lists.vectors.size());
  gemm.keep = lists.keep.data();
}

void Backbone::limit_inputs(const Job& job, Gemm& gemm) const {
  if (job.channels < 0) return;
  const ChannelLists& lists = channel_lists_[static_cast<std::size_t>(job.channels)];
  gemm.segments = lists.segments.data();
  gemm.num_segments = static_cast<std::int64_t>(lists.segments.size());
}

// The border of one pixel that the 3x3 reads as zeros.
void Backbone::clear_borders(int thread, const Block& block, std::int64_t images) {
  const Geometry& g = block.geometry;
  const auto pixel = static_cast<std::size_t>(g.inner_channels * bytes_);
  const std::size_t row = static_cast<std::size_t>(g.width_mid + 2) * pixel;
  const auto last = static_cast<std::size_t>(g.height_mid + 1);
  for (std::int64_t i = thread; i < images; i += team_.size()) {
    unsigned char* const map = inner_.data() + i * g.mid_numbers() * bytes_;
    std::memset(map, 0, row + pixel);
    for (std::size_t y = 1; y + 1 < last; ++y) {
      // A row's last pixel and the next row's first lie side by side.
      std::memset(map + (y + 1) * row - pixel, 0, 2 * pixel);
    }
    std::memset(map + last * row - pixel, 0, row + pixel);
  }
}

void Backbone::first_convolution(const Block& block, Parts& parts) {
  parts.clear();
  for (const Job& job : lists_.jobs) {
    Gemm gemm = gemms_.layer(block.conv1, one_tap_);
    gemm.a = trunk_[block.from].data();
    gemm.a_offsets = lists_.first_in.data();
    gemm.c = inner_.data();
    gemm.c_offsets = lists_.first_out.data();
    gemm.row_begin = job.first_begin;
    gemm.row_end = job.first_end;
    gemm.epilogue = Epilogue::relu;
    limit_outputs(job, gemm);
    gemms_.add(parts, gemm);
  }
  if (!block.spec.projection) return;
  Gemm gemm = gemms_.layer(block.projection, one_tap_);
  gemm.a = trunk_[block.from].data();
  gemm.c = trunk_[block.to].data();
  gemm.a_offsets = lists_.shortcut_in.data();
  gemm.c_offsets = lists_.out.data();
  gemm.row_end = lists_.shortcut_in.size();
  gemms_.add(parts, gemm);
  gemm.a_offsets = lists_.skipped_in.data();
  gemm.c_offsets = lists_.skipped_out.data();
  gemm.row_end = lists_.skipped_in.size();
  gemm.scale = block.projection.skipped_scale;
  gemm.bias = block.projection.skipped_bias;
  gemm.epilogue = Epilogue::relu;
  gemms_.add(parts, gemm);
}

void Backbone::second_convolution(const Block& block, Parts& parts) {
  parts.clear();
  for (const Job& job : lists_.jobs) {
    Gemm gemm = gemms_.layer(block.conv2, block.taps);
    gemm.a = inner_.data();
    gemm.a_offsets = lists_.taps_in.data();
    gemm.c = compact_.data();
    gemm.c_offsets = lists_.compact.data();
    gemm.row_begin = job.active_begin;
    gemm.row_end = job.active_end;
    gemm.epilogue = Epilogue::relu;
    limit_outputs(job, gemm);
    limit_inputs(job, gemm);
    gemms_.add(parts, gemm);
  }
}

void Backbone::third_convolution(const Block& block, Parts& parts) {
  parts.clear();
  for (const Job& job : lists_.jobs) {
    Gemm gemm = gemms_.layer(block.conv3, one_tap_);
    gemm.a = compact_.data();
    gemm.a_offsets = lists_.compact.data();
    gemm.c = trunk_[block.to].data();
    gemm.c_offsets = lists_.out.data();
    gemm.row_begin = job.active_begin;
    gemm.row_end = job.active_end;
    gemm.epilogue = Epilogue::add_relu;
    limit_inputs(job, gemm);
    gemms_.add(parts, gemm);
  }
}

const Wish& Backbone::wish(std::int64_t image, std::int64_t masker) const {
  return batch_->wishes[image * num_maskers_ + masker];
}

bool Backbone::asked(const Block& block, std::int64_t image, bool space) const {
  if (space) return block.spec.masks_space && wish(image, block.first_masker).asked();
  return block.spec.groups > 0 && wish(image, block.channel_masker).asked();
}

std::uint8_t* Backbone::units(std::int64_t image, bool space) {
  return units_.data() + static_cast<std::size_t>((image * 2 + !space) * most_units_);
}

const std::uint8_t* Backbone::units(std::int64_t image, bool space) const {
  return const_cast<Backbone*>(this)->units(image, space);
}

}  // namespace laud
