// 3x3 convolutions by Winograd's algorithm on the CPU.
#include <algorithm>
#include <vector>

#include "../cpu/winograd_convolution.h"
#include "common.h"

namespace atlas_fast::binding {
namespace {

using cpu::WinogradImages;
using cpu::WinogradKernels;
using cpu::WinogradTiles;
using torch::headeronly::MemoryFormat;

constexpr char op[] = "winograd_convolution";

void check_images(const Tensor& t) {
  STD_TORCH_CHECK(t.dim() == 4 && t.scalar_type() == ScalarType::Float, op, ": float32 images [N, C, H, W] are needed");
}

// Contiguous tensors are taken as they lie, channels-last ones too; all others are copied.
MemoryFormat format_of(const Tensor& t) {
  const auto layout = t.numel() > 0 ? layout_of(t) : std::nullopt;
  return layout && layout->channels > 1 ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, MemoryFormat format = MemoryFormat::Contiguous) {
  return torch::stable::empty(sizes, ScalarType::Float, std::nullopt, like.device(), std::nullopt, format);
}

WinogradImages shape_of(const Tensor& t, MemoryFormat format) {
  return {t.size(0), t.size(1), t.size(2), t.size(3), format == MemoryFormat::ChannelsLast};
}

// Groups that are worked on together: as many as give every thread something to do.
int64_t groups_together(const WinogradTiles& tiles, int64_t units_of_a_group) {
  const int64_t wanted = 2 * static_cast<int64_t>(torch::stable::get_num_threads());
  return std::clamp<int64_t>((wanted + units_of_a_group - 1) / units_of_a_group, 1, tiles.groups);
}

// Calls part(first sample, samples, tiles) for `together` groups after the other.
template <class Part>
void for_parts(int64_t samples, WinogradTiles tiles, int64_t together, Part part) {
  for (int64_t first = 0; first < samples; first += together * tiles.samples) {
    const int64_t count = std::min(together * tiles.samples, samples - first);
    tiles.groups = (count + tiles.samples - 1) / tiles.samples;
    part(first, count, tiles);
  }
}

// Images (or gradients) at the points into `points`.
template <class Transform>
void at_points(Transform transform, const WinogradKernels& kernels, const float* x, WinogradImages shape, int64_t first,
               int64_t samples, const WinogradTiles& tiles, float* points) {
  x += shape.plane(first, 0);
  shape.samples = samples;
  torch::stable::parallel_for(0, samples * kernels.blocks(shape.channels), 1,
                              [&](int64_t begin, int64_t end) { transform(x, shape, tiles, points, begin, end); });
}

Tensor points_for(const Tensor& x, const WinogradKernels& kernels, const WinogradTiles& tiles, int64_t channels,
                  int64_t groups) {
  return empty(x, {groups * kernels.blocks(channels) * tiles.block_stride(kernels.lanes)});
}

Tensor winograd_convolution(const Tensor& x_, const Tensor& weight_, const std::optional<Tensor>& bias_, int64_t padding,
                            bool adjoint) {
  check_images(x_);
  STD_TORCH_CHECK(weight_.dim() == 4 && weight_.scalar_type() == ScalarType::Float && weight_.size(2) == 3 &&
                  weight_.size(3) == 3 && weight_.size(adjoint ? 0 : 1) == x_.size(1), op,
                  ": a float32 weight [F, C, 3, 3] of the images' channels is needed");
  STD_TORCH_CHECK(padding >= 0 && padding <= 2, op, ": the padding must be 0, 1 or 2");
  const int64_t filters = weight_.size(adjoint ? 1 : 0), height = x_.size(2) + 2 * padding - 2;
  const int64_t width = x_.size(3) + 2 * padding - 2;
  STD_TORCH_CHECK(height > 0 && width > 0, op, ": the images are smaller than the kernel");
  STD_TORCH_CHECK(!bias_ || (bias_->numel() == filters && bias_->scalar_type() == ScalarType::Float), op,
                  ": a float32 bias of every filter is needed");
  const MemoryFormat format = format_of(x_);
  const Tensor x = torch::stable::contiguous(x_, format), weight = torch::stable::contiguous(weight_, format_of(weight_));
  const auto bias = bias_ ? std::optional<Tensor>(torch::stable::contiguous(*bias_)) : std::nullopt;
  Tensor y = empty(x, {x.size(0), filters, height, width}, format);
  if (y.numel() == 0) return y;
  const WinogradKernels& kernels = *cpu::winograd_kernels(0);
  const WinogradImages in = shape_of(x, format), out = shape_of(y, format);
  const WinogradTiles tiles = cpu::winograd_tiles(in.samples, height, width, padding, std::max(in.channels, filters));
  const cpu::WinogradWeights w{input<float>(weight), bias ? input<float>(*bias) : nullptr, filters, in.channels, adjoint,
                               !weight.is_contiguous()};
  const int64_t together = groups_together(tiles, kernels.panels(filters));
  Tensor points = points_for(x, kernels, tiles, in.channels, together);
  for_parts(in.samples, tiles, together, [&](int64_t first, int64_t samples, const WinogradTiles& part) {
    at_points(kernels.images, kernels, input<float>(x), in, first, samples, part, output<float>(points));
    WinogradImages shape = out;
    shape.samples = samples;
    float* to = output<float>(y) + out.plane(first, 0);
    torch::stable::parallel_for(0, kernels.panels(filters) * part.groups, 1, [&](int64_t begin, int64_t end) {
      kernels.outputs(input<float>(points), w, part, to, shape, begin, end);
    });
  });
  return y;
}

Tensor winograd_weight_gradient(const Tensor& x_, const Tensor& g_, int64_t padding) {
  check_images(x_);
  check_images(g_);
  STD_TORCH_CHECK(padding >= 0 && padding <= 2 && g_.size(0) == x_.size(0) && g_.size(2) == x_.size(2) + 2 * padding - 2 &&
                  g_.size(3) == x_.size(3) + 2 * padding - 2, op,
                  ": gradients of the outputs of these images at padding 0, 1 or 2 are needed");
  const MemoryFormat format = format_of(x_);
  const Tensor x = torch::stable::contiguous(x_, format), g = torch::stable::contiguous(g_, format);
  const int64_t filters = g.size(1);
  Tensor dw = torch::stable::new_zeros(x, {filters, x.size(1), 3, 3});
  if (x.numel() == 0 || g.numel() == 0) return dw;
  const WinogradKernels& kernels = *cpu::winograd_kernels(0);
  const WinogradImages in = shape_of(x, format), out = shape_of(g, format);
  const WinogradTiles tiles =
      cpu::winograd_tiles(in.samples, out.height, out.width, padding, std::max(in.channels, filters));
  // One group after the other: their sums go to the same weights.
  Tensor points = points_for(x, kernels, tiles, in.channels, 1), g_points = points_for(g, kernels, tiles, filters, 1);
  const int64_t chunks = (in.channels + cpu::winograd_chunk - 1) / cpu::winograd_chunk;
  for_parts(in.samples, tiles, 1, [&](int64_t first, int64_t samples, const WinogradTiles& part) {
    at_points(kernels.images, kernels, input<float>(x), in, first, samples, part, output<float>(points));
    at_points(kernels.gradients, kernels, input<float>(g), out, first, samples, part, output<float>(g_points));
    WinogradImages shape = in;
    shape.samples = samples;
    torch::stable::parallel_for(0, chunks * kernels.panels(filters), 1, [&](int64_t begin, int64_t end) {
      kernels.weights(input<float>(points), input<float>(g_points), shape, filters, part, output<float>(dw), begin, end);
    });
  });
  return dw;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(atlas_fast, CPU, m) {
  m.impl("winograd_convolution", TORCH_BOX(&winograd_convolution));
  m.impl("winograd_weight_gradient", TORCH_BOX(&winograd_weight_gradient));
}

}  // namespace atlas_fast::binding
