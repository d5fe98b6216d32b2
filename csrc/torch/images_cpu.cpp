// random_start, pgd_step and fgsm on the CPU.
#include "cpu.h"

namespace atlas_fast::binding {
namespace {

constexpr int64_t grain = 32768;  // elements a thread should get at least

template <class Body>
void parallel_tiles(const Layout& layout, Body body) {
  const int64_t tile = cpu::tile_size(layout) * layout.channels;
  torch::stable::parallel_for(0, cpu::tiles(layout), std::max<int64_t>(1, grain / tile), body);
}

Tensor random_start(const Tensor& x, double eps, const std::optional<Tensor>& eps_tensor, const Tensor& rng,
                    int64_t purpose, int64_t sample_offset) {
  const Stream stream = read_stream(rng, purpose, "random_start");
  return elementwise(x, [&](const Tensor& x, const Tensor& out, const Layout& layout) {
    dispatch(x, "random_start", [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      const auto radius = read_scalar<compute_t<T>>(eps, eps_tensor, "random_start");
      parallel_tiles(layout, [&](int64_t begin, int64_t end) {
        cpu::random_start<T>(input<T>(x), output<T>(out), layout, stream, sample_offset, radius, begin, end);
      });
    });
  });
}

Tensor pgd_step(const Tensor& x, const Tensor& x_adv, const Tensor& grad, double eps,
                const std::optional<Tensor>& eps_tensor, double step_size, const std::optional<Tensor>& step_tensor) {
  check_same(x, x_adv, "pgd_step");
  check_same(x, grad, "pgd_step");
  Tensor out = torch::stable::empty_like(x);
  const Tensor a = with_strides_of(x, out), b = with_strides_of(x_adv, out), g = with_strides_of(grad, out);
  dispatch(x, "pgd_step", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto radius = read_scalar<compute_t<T>>(eps, eps_tensor, "pgd_step");
    const auto step = read_scalar<compute_t<T>>(step_size, step_tensor, "pgd_step");
    torch::stable::parallel_for(0, x.numel(), grain, [&](int64_t begin, int64_t end) {
      cpu::pgd_step<T>(input<T>(a), input<T>(b), input<T>(g), output<T>(out), radius, step, begin, end);
    });
  });
  return out;
}

Tensor fgsm(const Tensor& x, const Tensor& grad, double eps, const std::optional<Tensor>& eps_tensor, double step_size,
            const std::optional<Tensor>& step_tensor, const Tensor& rng, int64_t purpose, int64_t sample_offset) {
  check_same(x, grad, "fgsm");
  const Stream stream = read_stream(rng, purpose, "fgsm");
  return elementwise(x, [&](const Tensor& x, const Tensor& out, const Layout& layout) {
    const Tensor g = with_strides_of(grad, out);
    dispatch(x, "fgsm", [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      const auto radius = read_scalar<compute_t<T>>(eps, eps_tensor, "fgsm");
      const auto step = read_scalar<compute_t<T>>(step_size, step_tensor, "fgsm");
      parallel_tiles(layout, [&](int64_t begin, int64_t end) {
        cpu::fgsm<T>(input<T>(x), input<T>(g), output<T>(out), layout, stream, sample_offset, radius, step, begin, end);
      });
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(atlas_fast, CPU, m) {
  m.impl("random_start", TORCH_BOX(&random_start));
  m.impl("pgd_step", TORCH_BOX(&pgd_step));
  m.impl("fgsm", TORCH_BOX(&fgsm));
}

}  // namespace atlas_fast::binding
