#include "gemm_team.hpp"

#include <algorithm>
#include <numeric>

namespace laud {

GemmTeam::GemmTeam(const Kernels& kernels, int threads)
    : kernels_(kernels), parts_(static_cast<std::size_t>(threads)), team_(threads) {}

void GemmTeam::fit(const Packer& packer) {
  scratch_bytes_ = round_up(kernels_.scratch_bytes(packer.deepest()), 64);
  scratch_.reserve(scratch_bytes_ * size());
  all_vectors_.resize(static_cast<std::size_t>(packer.most_vectors()));
  std::iota(all_vectors_.begin(), all_vectors_.end(), 0);
}

void GemmTeam::reserve(std::int64_t parts) {
  for (Parts& each : parts_) each.reserve(static_cast<std::size_t>(parts));
}

std::int64_t GemmTeam::chunks_of(std::int64_t items) const {
  return size() == 1 ? 1 : std::min<std::int64_t>(items, 4 * size());
}

Gemm GemmTeam::layer(const Weights& weights, const std::vector<std::int64_t>& taps) const {
  Gemm gemm{};
  gemm.taps = taps.data();
  gemm.num_taps = static_cast<std::int64_t>(taps.size());
  gemm.segments = &weights.whole;
  gemm.num_segments = 1;
  gemm.panels = weights.panels;
  gemm.scale = weights.scale;
  gemm.bias = weights.bias;
  gemm.residual = weights.residual;
  gemm.depth = weights.inputs;
  gemm.panel_bytes = weights.panel_bytes;
  gemm.vectors = all_vectors_.data();
  gemm.num_vectors = weights.vectors;
  gemm.epilogue = Epilogue::store;
  return gemm;
}

// Cuts a GEMM into chunks of rows, or of panels where weights outweigh what the rows hold.
void GemmTeam::add(Parts& parts, const Gemm& gemm) const {
  const std::int64_t rows = gemm.row_end - gemm.row_begin;
  const std::int64_t panels =
      (gemm.num_vectors + kernels_.panel_vectors - 1) / kernels_.panel_vectors;
  if (rows <= 0 || panels <= 0) return;
  const std::int64_t outputs = gemm.num_vectors * kernels_.vector, threads = size();
  const bool by_panel = panels >= threads && gemm.num_taps * gemm.depth * outputs >
                                              2 * rows * (gemm.depth + outputs);
  // Inputs are gathered anew for every chunk of panels: two per thread; rows: four.
  const std::int64_t most = by_panel ? std::min(panels, 2 * threads)
                                     : std::min(rows / (2 * kernels_.tile_rows) + 1, 4 * threads);
  parts.push_back({gemm, threads == 1 ? 1 : most, by_panel});
}

void GemmTeam::run(int thread, Parts& parts) {
  std::int64_t total = 0;
  for (Part& part : parts) {
    part.gemm.scratch = scratch(thread);
    total += part.chunks;
  }
  team_.share(thread, total, [&](std::int64_t chunk) {
    for (const Part& part : parts) {
      if (chunk < part.chunks) return run_chunk(part, chunk);
      chunk -= part.chunks;
    }
  });
}

void GemmTeam::run_chunk(const Part& part, std::int64_t chunk) const {
  Gemm gemm = part.gemm;
  if (part.by_panel) {
    const std::int64_t unit = kernels_.panel_vectors;
    const std::int64_t panels = (gemm.num_vectors + unit - 1) / unit;
    const std::int64_t begin = panels * chunk / part.chunks * unit;
    const std::int64_t end = panels * (chunk + 1) / part.chunks * unit;
    gemm.vectors += begin;
    gemm.num_vectors = std::min(end, gemm.num_vectors) - begin;
  } else {
    const std::int64_t unit = kernels_.tile_rows, begin = gemm.row_begin;
    const std::int64_t tiles = (gemm.row_end - begin + unit - 1) / unit;
    gemm.row_end = std::min(gemm.row_end, begin + tiles * (chunk + 1) / part.chunks * unit);
    gemm.row_begin = begin + tiles * chunk / part.chunks * unit;
  }
  if (gemm.row_begin < gemm.row_end && gemm.num_vectors > 0) kernels_.gemm(gemm);
}

}  // namespace laud
