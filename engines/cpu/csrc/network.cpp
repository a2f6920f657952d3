// The classifier: a backbone, and behind it average pool, linear layer and softmax.
#include "network.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace laud {

Network::Network(const NetworkSpec& spec, const Source& source, const Kernels& kernels, int threads,
                 bool poison)
    : spec_(spec),
      kernels_(kernels),
      bytes_(element_bytes(kernels.element)),
      poison_(poison),
      gemms_(kernels, threads),
      backbone_(spec.backbone, gemms_, false) {
  if (spec.classes < 1) throw std::invalid_argument("classes must be at least 1");
  Packer packer(kernels, source);
  backbone_.load(packer);
  packer.add("fc", spec.classes, spec.backbone.blocks.back().out_channels, 1, Layer::linear,
             classifier_);
  packer.pack(arena_);
  gemms_.fit(packer);
}

void Network::plan(const Batch& batch) {
  backbone_.plan(batch);
  const std::int64_t n = batch.n;
  const std::int64_t features = gemms_.padded(spec_.backbone.blocks.back().out_channels);
  if (n <= planned_n_) return;
  planned_n_ = 0;  // nothing is planned should memory end below
  means_.reserve(gemms_.size() * features * 4);
  features_.reserve(n * features * bytes_);
  scores_.reserve(n * gemms_.padded(spec_.classes) * 4);
  feature_rows_.clear();
  score_rows_.clear();
  for (std::int64_t i = 0; i < n; ++i) {
    feature_rows_.push_back(i * features);
    score_rows_.push_back(i * gemms_.padded(spec_.classes));
  }
  planned_n_ = n;
}

void Network::infer(const Batch& batch, Answer& answer) {
  plan(batch);
  if (poison_) each_buffer([](Buffer& buffer) { buffer.poison(); });
  backbone_.begin(batch, answer.trace);
  PartClock clock(answer.parts_s);
  gemms_.team().run([&](int thread) {
    backbone_.prepare(thread);
    clock.start(thread);
    backbone_.run(thread, clock);
    classify(thread, batch.n, answer);
  });
  clock.end(0);
  answer.prepare_s = clock.preparation();
  answer.network_s = clock.total();
  if (!poison_) return;
  arena_.check_guards();
  each_buffer([](Buffer& buffer) { buffer.check_guards(); });
}

// Average pool, linear layer, softmax in double.
void Network::classify(int thread, std::int64_t n, Answer& answer) {
  const std::int64_t last = backbone_.num_blocks() - 1;
  const Geometry& g = backbone_.geometry(last);
  const float factor = static_cast<float>(
      spec_.output_scale / (static_cast<double>(g.height * g.width) * spec_.feature_scale));
  gemms_.team().share(thread, n, [&](std::int64_t i) {
    float* const means = means_.data<float>() + thread * g.out_channels;
    kernels_.means(backbone_.output(last, i), g.width * g.out_channels, g.out_channels, g.height,
                   g.width, g.out_channels, factor, means);
    const std::int64_t at = i * g.out_channels;
    for (std::int64_t c = 0; c < g.out_channels; ++c) {
      if (kernels_.element == Element::f32) features_.data<float>()[at + c] = means[c];
      if (kernels_.element == Element::bf16) {
        features_.data<std::uint16_t>()[at + c] = to_bf16(means[c]);
      }
      if (kernels_.element == Element::u8) {
        const float q = std::min(std::max(means[c], 0.0f), 255.0f);
        features_.data()[at + c] = static_cast<std::uint8_t>(std::nearbyintf(q));
      }
    }
  });
  Gemm gemm = gemms_.layer(classifier_, one_tap_);
  gemm.a = features_.data();
  gemm.a_offsets = feature_rows_.data();
  gemm.c = scores_.data();
  gemm.c_offsets = score_rows_.data();
  gemm.row_end = n;
  gemm.epilogue = Epilogue::raw;
  Parts& parts = gemms_.parts(thread);
  parts.clear();
  gemms_.add(parts, gemm);
  gemms_.run(thread, parts);
  if (thread != 0) return;
  for (std::int64_t i = 0; i < n; ++i) {
    const float* const scores = scores_.data<float>() + score_rows_[static_cast<std::size_t>(i)];
    float* const out = answer.probabilities + i * spec_.classes;
    std::copy_n(scores, spec_.classes, answer.scores + i * spec_.classes);
    const double top = *std::max_element(scores, scores + spec_.classes);
    double total = 0.0;
    for (std::int64_t c = 0; c < spec_.classes; ++c) total += std::exp(scores[c] - top);
    for (std::int64_t c = 0; c < spec_.classes; ++c) {
      out[c] = static_cast<float>(std::exp(scores[c] - top) / total);
    }
  }
}

void Network::each_buffer(void (*visit)(Buffer&)) {
  backbone_.each_buffer(visit);
  for (Buffer* each : {&means_, &features_, &scores_, &gemms_.buffer()}) visit(*each);
}

}  // namespace laud
