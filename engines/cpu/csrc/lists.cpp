#include "lists.hpp"

#include <algorithm>
#include <cstring>

namespace laud {
namespace {

// The pixels of the inner map that conv1 computes; marks null: all of them.
void append_first(PixelLists& lists, const Geometry& g, const std::uint8_t* marks,
                  std::int64_t in_base, std::int64_t mid_base) {
  const std::int64_t bordered = g.width_mid + 2;
  for (std::int64_t y = 0; y < g.height_mid; ++y) {
    const std::uint8_t* const row = marks ? marks + (y + 1) * bordered + 1 : nullptr;
    std::int64_t x = 0;
    while (x < g.width_mid) {
      std::int64_t end = g.width_mid;
      if (row) {
        while (x < g.width_mid && !row[x]) ++x;
        end = x;
        while (end < g.width_mid && row[end]) ++end;
      }
      lists.first_out.append(mid_base + ((y + 1) * bordered + x + 1) * g.inner_channels,
                             g.inner_channels, end - x);
      lists.first_in.append(in_base + (y * g.width_in + x) * g.stride1 * g.in_channels,
                            g.stride1 * g.in_channels, end - x);
      x = end;
    }
  }
}

}  // namespace

void PixelLists::reserve(std::int64_t mid_pixels, std::int64_t out_pixels, std::int64_t images) {
  for (auto* list : {&first_in, &first_out}) list->reserve(mid_pixels);
  for (auto* list : {&taps_in, &compact, &out, &shortcut_in, &skipped_in, &skipped_out}) {
    list->reserve(out_pixels);
  }
  jobs.reserve(static_cast<std::size_t>(images) + 1);
}

void PixelLists::clear() {
  for (auto* list : {&first_in, &first_out, &taps_in, &compact, &out, &shortcut_in, &skipped_in,
                     &skipped_out}) {
    list->clear();
  }
  jobs.clear();
}

PixelCounts append_image(PixelLists& lists, const Geometry& g, const std::uint8_t* units,
                         std::int64_t place, std::int64_t image, std::uint8_t* marks) {
  const std::int64_t bordered = g.width_mid + 2, stride = g.stride1 * g.stride2;
  const std::int64_t in_base = image * g.in_numbers(), out_base = image * g.out_numbers();
  const std::int64_t mid_base = place * g.mid_numbers();
  const std::int64_t patch_h = g.patch ? g.patch : g.height, patch_w = g.patch ? g.patch : g.width;
  const std::int64_t active_before = lists.out.size(), first_before = lists.first_in.size();
  if (units) std::memset(marks, 0, static_cast<std::size_t>((g.height_mid + 2) * bordered));
  for (std::int64_t y = 0; y < g.height; ++y) {
    for (std::int64_t px = 0; px < g.grid_width; ++px) {
      const std::int64_t begin = px * patch_w, end = std::min(begin + patch_w, g.width);
      const std::int64_t count = end - begin;
      const std::int64_t out = out_base + (y * g.width + begin) * g.out_channels;
      const std::int64_t in = in_base + (y * g.width_in + begin) * stride * g.in_channels;
      if (units && !units[y / patch_h * g.grid_width + px]) {
        if (!g.projection) continue;
        lists.skipped_in.append(in, stride * g.in_channels, count);
        lists.skipped_out.append(out, g.out_channels, count);
        continue;
      }
      lists.compact.append(lists.out.size() * g.inner_channels, g.inner_channels, count);
      lists.out.append(out, g.out_channels, count);
      lists.taps_in.append(mid_base + (y * bordered + begin) * g.stride2 * g.inner_channels,
                           g.stride2 * g.inner_channels, count);
      if (g.projection) lists.shortcut_in.append(in, stride * g.in_channels, count);
      if (!units) continue;
      // The 3x3 neighbourhoods of this run of pixels, in the bordered map.
      const std::int64_t from = begin * g.stride2, to = (end - 1) * g.stride2 + 3;
      for (std::int64_t d = 0; d < 3; ++d) {
        std::memset(marks + (y * g.stride2 + d) * bordered + from, 1,
                    static_cast<std::size_t>(to - from));
      }
    }
  }
  if (lists.out.size() > active_before) {
    append_first(lists, g, units ? marks : nullptr, in_base, mid_base);
  }
  return {lists.out.size() - active_before, lists.first_in.size() - first_before};
}

}  // namespace laud
