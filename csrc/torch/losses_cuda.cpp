// random_bits, unit_vectors, squared_norm and ce_kl on CUDA.
#include "cuda.h"

namespace atlas_fast::binding {
namespace {

Tensor random_bits(const Tensor& rng, int64_t samples, int64_t n, int64_t purpose, int64_t sample_offset) {
  const Launch launch(rng, "random_bits");
  Tensor out = torch::stable::new_empty(rng, {samples, n});
  launch.check(cuda::random_bits(output<int64_t>(out), samples, n, noise_of(rng, purpose, sample_offset, "random_bits"),
                                 launch.stream));
  return out;
}

Tensor unit_vectors(const Tensor& rng, int64_t samples, int64_t classes, int64_t draws, int64_t purpose,
                    int64_t sample_offset) {
  const Launch launch(rng, "unit_vectors");
  Tensor out = torch::stable::new_empty(rng, {draws, samples, classes}, ScalarType::Float);
  launch.check(cuda::unit_vectors(output<float>(out), draws, samples, classes,
                                  noise_of(rng, purpose, sample_offset, "unit_vectors"), launch.stream));
  return out;
}

std::tuple<Tensor, Tensor> squared_norm(const Tensor& g, double scale, double weight,
                                        const std::optional<Tensor>& weight_tensor, bool with_gradient) {
  const Launch launch(g, "squared_norm");
  const int64_t blocks = cuda::squared_norm_blocks(g.numel());
  Tensor gradient = with_gradient ? torch::stable::empty_like(g) : torch::stable::new_empty(g, {0});
  // The order of the elements does not matter, so any dense tensor is read as it lies.
  const Tensor dense = with_strides_of(g, with_gradient ? gradient : torch::stable::empty_like(g));
  const auto type = compute_type(g);
  Tensor value = torch::stable::new_empty(g, {}, type), partial = torch::stable::new_empty(g, {blocks}, type);
  dispatch(g, "squared_norm", [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    using C = compute_t<T>;
    launch.check(cuda::squared_norm<T>(input<T>(dense), with_gradient ? output<T>(gradient) : nullptr,
                                       output<C>(partial), output<C>(value), g.numel(), scale,
                                       scalar_of<T>(weight, weight_tensor, "squared_norm"), launch.stream));
  });
  return {value, gradient};
}

std::tuple<Tensor, Tensor, Tensor> ce_kl(const Tensor& first_, const std::optional<Tensor>& second_,
                                         const Tensor& target_, double beta, const std::optional<Tensor>& beta_tensor,
                                         bool reverse, double label_smoothing) {
  check_logits(first_, second_, target_);
  STD_TORCH_CHECK(target_.is_cuda(), "ce_kl: targets must be on the GPU");
  const Launch launch(first_, "ce_kl");
  const Tensor first = torch::stable::contiguous(first_), target = torch::stable::contiguous(target_);
  const Tensor second = second_ ? torch::stable::contiguous(*second_) : first;
  const int64_t samples = first.size(0), classes = first.size(1);
  const auto type = compute_type(first);
  Tensor terms = torch::stable::new_empty(first, {3}, type), rows = torch::stable::new_empty(first, {2, samples}, type);
  Tensor d_first = torch::stable::new_empty(first, {samples, classes});
  Tensor d_second = second_ ? torch::stable::new_empty(first, {samples, classes}) : torch::stable::new_empty(first, {0});
  dispatch(first, "ce_kl", [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    using C = compute_t<T>;
    launch.check(cuda::ce_kl<T>(input<T>(first), second_ ? input<T>(second) : nullptr, input<int64_t>(target),
                                output<T>(d_first), second_ ? output<T>(d_second) : nullptr, output<C>(rows),
                                output<C>(terms), samples, classes, scalar_of<T>(beta, beta_tensor, "ce_kl"), reverse,
                                label_smoothing, launch.stream));
  });
  return {terms, d_first, d_second};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(atlas_fast, CUDA, m) {
  m.impl("random_bits", TORCH_BOX(&random_bits));
  m.impl("unit_vectors", TORCH_BOX(&unit_vectors));
  m.impl("squared_norm", TORCH_BOX(&squared_norm));
  m.impl("ce_kl", TORCH_BOX(&ce_kl));
}

}  // namespace atlas_fast::binding
