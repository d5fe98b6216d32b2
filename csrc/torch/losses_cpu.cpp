// random_bits, unit_vectors, squared_norm and ce_kl on the CPU.
#include <atomic>
#include <numeric>
#include <vector>

#include "cpu.h"

namespace atlas_fast::binding {
namespace {

Tensor random_bits(const Tensor& rng, int64_t samples, int64_t n, int64_t purpose, int64_t sample_offset) {
  const Stream stream = read_stream(rng, purpose, "random_bits");
  Tensor out = torch::stable::new_empty(rng, {samples, n});
  torch::stable::parallel_for(0, samples, std::max<int64_t>(1, 16384 / (n + 1)), [&](int64_t begin, int64_t end) {
    cpu::random_bits(output<int64_t>(out), n, stream, sample_offset, begin, end);
  });
  return out;
}

Tensor unit_vectors(const Tensor& rng, int64_t samples, int64_t classes, int64_t draws, int64_t purpose,
                    int64_t sample_offset) {
  const Stream stream = read_stream(rng, purpose, "unit_vectors");
  Tensor out = torch::stable::new_empty(rng, {draws, samples, classes}, ScalarType::Float);
  const int64_t grain = std::max<int64_t>(1, 8192 / (classes + 1));
  torch::stable::parallel_for(0, draws * samples, grain, [&](int64_t begin, int64_t end) {
    cpu::unit_vectors(output<float>(out), samples, classes, stream, sample_offset, begin, end);
  });
  return out;
}

std::tuple<Tensor, Tensor> squared_norm(const Tensor& g, double scale, double weight,
                                        const std::optional<Tensor>& weight_tensor, bool with_gradient) {
  Tensor value = torch::stable::new_empty(g, {}, compute_type(g));
  Tensor gradient = with_gradient ? torch::stable::empty_like(g) : torch::stable::new_empty(g, {0});
  // The order of the elements does not matter, so any dense tensor is read as it lies.
  const Tensor like = with_gradient ? gradient : torch::stable::empty_like(g);
  const Tensor dense = with_strides_of(g, like);
  const int64_t n = g.numel(), chunks = (n + cpu::squared_norm_chunk - 1) / cpu::squared_norm_chunk;
  std::vector<double> partial(chunks);
  dispatch(g, "squared_norm", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    using C = compute_t<T>;
    const C factor = static_cast<C>(2 * scale) * read_scalar<C>(weight, weight_tensor, "squared_norm");
    torch::stable::parallel_for(0, chunks, 2, [&](int64_t begin, int64_t end) {
      cpu::squared_norm<T>(input<T>(dense), with_gradient ? output<T>(gradient) : nullptr, partial.data(), n, factor,
                           begin, end);
    });
    *output<C>(value) = static_cast<C>(scale * std::accumulate(partial.begin(), partial.end(), 0.0));
  });
  return {value, gradient};
}

std::tuple<Tensor, Tensor, Tensor> ce_kl(const Tensor& first_, const std::optional<Tensor>& second_,
                                         const Tensor& target_, double beta, const std::optional<Tensor>& beta_tensor,
                                         bool reverse, double label_smoothing) {
  check_logits(first_, second_, target_);
  const Tensor first = torch::stable::contiguous(first_), target = torch::stable::contiguous(target_);
  const Tensor second = second_ ? torch::stable::contiguous(*second_) : first;
  const int64_t samples = first.size(0), classes = first.size(1);
  Tensor terms = torch::stable::new_empty(first, {3}, compute_type(first));
  Tensor d_first = torch::stable::new_empty(first, {samples, classes});
  Tensor d_second = second_ ? torch::stable::new_empty(first, {samples, classes}) : torch::stable::new_empty(first, {0});
  std::vector<double> rows(2 * samples);
  std::atomic<int64_t> bad{-1};
  dispatch(first, "ce_kl", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    using C = compute_t<T>;
    const C weight = read_scalar<C>(beta, beta_tensor, "ce_kl");
    const int64_t grain = std::max<int64_t>(1, 4096 / (classes + 1));
    torch::stable::parallel_for(0, samples, grain, [&](int64_t begin, int64_t end) {
      const int64_t row = cpu::ce_kl<T>(input<T>(first), second_ ? input<T>(second) : nullptr, input<int64_t>(target),
                                        output<T>(d_first), second_ ? output<T>(d_second) : nullptr, rows.data(),
                                        rows.data() + samples, samples, classes, weight, reverse,
                                        static_cast<C>(label_smoothing), begin, end);
      if (row >= 0) bad = row;
    });
    const double ce = std::accumulate(rows.begin(), rows.begin() + samples, 0.0) / samples;
    const double kl = std::accumulate(rows.begin() + samples, rows.end(), 0.0) / samples;
    C* out = output<C>(terms);
    out[0] = static_cast<C>(ce + weight * kl);
    out[1] = static_cast<C>(ce);
    out[2] = static_cast<C>(kl);
  });
  STD_TORCH_CHECK(bad < 0, "ce_kl: target ", input<int64_t>(target)[bad.load()], " of sample ", bad.load(),
                  " is not in 0..", classes - 1);
  return {terms, d_first, d_second};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(atlas_fast, CPU, m) {
  m.impl("random_bits", TORCH_BOX(&random_bits));
  m.impl("unit_vectors", TORCH_BOX(&unit_vectors));
  m.impl("squared_norm", TORCH_BOX(&squared_norm));
  m.impl("ce_kl", TORCH_BOX(&ce_kl));
}

}  // namespace atlas_fast::binding
