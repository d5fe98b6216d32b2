// random_start, pgd_step, fgsm and crop_flip on the CPU.
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

void check_index(const Tensor& index, int64_t images) {
  STD_TORCH_CHECK(index.scalar_type() == ScalarType::Long && index.dim() == 1 && index.is_contiguous(),
                  "crop_flip: index must be a contiguous int64 tensor [B]");
  const int64_t* place = input<int64_t>(index);
  for (int64_t i = 0; i < index.numel(); ++i)
    STD_TORCH_CHECK(0 <= place[i] && place[i] < images, "crop_flip: index ", place[i], " is outside of 0..", images - 1);
}

Tensor crop_flip(const Tensor& x, const std::optional<Tensor>& rng, int64_t padding, bool flip,
                 const std::optional<Tensor>& index, bool channels_last, int64_t purpose, int64_t sample_offset) {
  STD_TORCH_CHECK(x.dim() == 4, "crop_flip: images [N, C, H, W] are needed");
  STD_TORCH_CHECK(rng || (padding == 0 && !flip), "crop_flip: rng is needed");
  if (index) check_index(*index, x.size(0));
  const Stream stream = rng ? read_stream(*rng, purpose, "crop_flip") : Stream{};
  const cpu::Images source{x.size(1), x.size(2), x.size(3), x.stride(0), x.stride(1), x.stride(2), x.stride(3)};
  const int64_t samples = index ? index->numel() : x.size(0), size = source.channels * source.height * source.width;
  const auto type = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  using torch::headeronly::MemoryFormat;
  Tensor out = torch::stable::empty({samples, source.channels, source.height, source.width}, type, std::nullopt,
                                    x.device(), std::nullopt,
                                    channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  const auto run = [&](auto* in, auto* to) {
    using In = std::remove_pointer_t<decltype(in)>;
    using Out = std::remove_pointer_t<decltype(to)>;
    torch::stable::parallel_for(0, samples, std::max<int64_t>(1, grain / std::max<int64_t>(1, size)),
                                [&](int64_t begin, int64_t end) {
      cpu::crop_flip<In, Out>(input<In>(x), source, index ? input<int64_t>(*index) : nullptr, output<Out>(out),
                              channels_last, stream, sample_offset, static_cast<uint32_t>(padding), flip, begin, end);
    });
  };
  switch (x.scalar_type()) {
    case ScalarType::Byte: run(static_cast<uint8_t*>(nullptr), static_cast<float*>(nullptr)); break;
    case ScalarType::Float: run(static_cast<float*>(nullptr), static_cast<float*>(nullptr)); break;
    case ScalarType::Double: run(static_cast<double*>(nullptr), static_cast<double*>(nullptr)); break;
    default: STD_TORCH_CHECK(false, "crop_flip: uint8, float32 or float64 images are needed");
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(atlas_fast, CPU, m) {
  m.impl("random_start", TORCH_BOX(&random_start));
  m.impl("pgd_step", TORCH_BOX(&pgd_step));
  m.impl("fgsm", TORCH_BOX(&fgsm));
  m.impl("crop_flip", TORCH_BOX(&crop_flip));
}

}  // namespace atlas_fast::binding
