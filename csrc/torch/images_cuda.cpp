// random_start, pgd_step and fgsm on CUDA.
#include "cuda.h"

namespace atlas_fast::binding {
namespace {

Tensor random_start(const Tensor& x, double eps, const std::optional<Tensor>& eps_tensor, const Tensor& rng,
                    int64_t purpose, int64_t sample_offset) {
  const Launch launch(x, "random_start");
  const cuda::Noise noise = noise_of(rng, purpose, sample_offset, "random_start");
  return elementwise(x, [&](const Tensor& x, const Tensor& out, const Layout& l) {
    dispatch(x, "random_start", [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      launch.check(cuda::random_start<T>(input<T>(x), output<T>(out), {l.samples, l.channels, l.spatial}, noise,
                                         scalar_of<T>(eps, eps_tensor, "random_start"), launch.stream));
    });
  });
}

Tensor pgd_step(const Tensor& x, const Tensor& x_adv, const Tensor& grad, double eps,
                const std::optional<Tensor>& eps_tensor, double step_size, const std::optional<Tensor>& step_tensor) {
  check_same(x, x_adv, "pgd_step");
  check_same(x, grad, "pgd_step");
  const Launch launch(x, "pgd_step");
  Tensor out = torch::stable::empty_like(x);
  const Tensor a = with_strides_of(x, out), b = with_strides_of(x_adv, out), g = with_strides_of(grad, out);
  dispatch(x, "pgd_step", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    launch.check(cuda::pgd_step<T>(input<T>(a), input<T>(b), input<T>(g), output<T>(out), x.numel(),
                                   scalar_of<T>(eps, eps_tensor, "pgd_step"),
                                   scalar_of<T>(step_size, step_tensor, "pgd_step"), launch.stream));
  });
  return out;
}

Tensor fgsm(const Tensor& x, const Tensor& grad, double eps, const std::optional<Tensor>& eps_tensor, double step_size,
            const std::optional<Tensor>& step_tensor, const Tensor& rng, int64_t purpose, int64_t sample_offset) {
  check_same(x, grad, "fgsm");
  const Launch launch(x, "fgsm");
  const cuda::Noise noise = noise_of(rng, purpose, sample_offset, "fgsm");
  return elementwise(x, [&](const Tensor& x, const Tensor& out, const Layout& l) {
    const Tensor g = with_strides_of(grad, out);
    dispatch(x, "fgsm", [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      launch.check(cuda::fgsm<T>(input<T>(x), input<T>(g), output<T>(out), {l.samples, l.channels, l.spatial}, noise,
                                 scalar_of<T>(eps, eps_tensor, "fgsm"), scalar_of<T>(step_size, step_tensor, "fgsm"),
                                 launch.stream));
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(atlas_fast, CUDA, m) {
  m.impl("random_start", TORCH_BOX(&random_start));
  m.impl("pgd_step", TORCH_BOX(&pgd_step));
  m.impl("fgsm", TORCH_BOX(&fgsm));
}

}  // namespace atlas_fast::binding
