// relu_max_pool, its adjoint and its tangent on the CPU.
#include <vector>

#include "common.h"

namespace atlas_fast::binding {
namespace {

using torch::headeronly::MemoryFormat;
using cpu::Pool;
using Sizes = std::vector<int64_t>;

constexpr char op[] = "relu_max_pool";
constexpr int64_t grain = 16384;  // elements a thread should get at least

// Output size of one dimension, as PyTorch has it: the last window of ceil_mode begins in the image or its left padding.
int64_t pooled_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation, bool ceil_mode) {
  const int64_t room = size + 2 * padding - dilation * (kernel - 1) - 1 + (ceil_mode ? stride - 1 : 0);
  if (room < 0) return 0;
  const int64_t out = room / stride + 1;
  return ceil_mode && (out - 1) * stride >= size + padding ? out - 1 : out;
}

// The windows on images of height x width; the output's size is left open.
Pool windows(int64_t height, int64_t width, int64_t channels, const Sizes& kernel, const Sizes& stride,
             const Sizes& padding, const Sizes& dilation) {
  for (const Sizes& pair : {kernel, stride, padding, dilation})
    STD_TORCH_CHECK(pair.size() == 2, op, ": kernel, stride, padding and dilation are pairs");
  Pool p{height, width, channels, 0, 0, {}, {}, {}, {}};
  for (int d = 0; d < 2; ++d) {
    for (const int64_t n : {kernel[d], stride[d], padding[d], dilation[d]})
      STD_TORCH_CHECK(n < int64_t(1) << 31, op, ": kernel, stride, padding and dilation must be below 2^31");
    STD_TORCH_CHECK(kernel[d] > 0 && stride[d] > 0 && dilation[d] > 0 && padding[d] >= 0 && padding[d] <= kernel[d] / 2,
                    op, ": kernel, stride and dilation must be positive and the padding at most half the kernel");
    p.kernel[d] = kernel[d], p.stride[d] = stride[d], p.padding[d] = padding[d], p.dilation[d] = dilation[d];
  }
  STD_TORCH_CHECK(kernel[0] * kernel[1] <= cpu::pool_none, op, ": windows of at most ", cpu::pool_none, " pixels");
  return p;
}

// Contiguous tensors are taken as they lie, channels-last ones too; all others are copied.
MemoryFormat format_of(const Tensor& t) {
  STD_TORCH_CHECK(t.dim() == 4, op, ": images [N, C, H, W] are needed");
  const auto layout = t.numel() > 0 ? layout_of(t) : std::nullopt;
  return layout && layout->channels > 1 ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

Tensor empty(const Tensor& like, int64_t height, int64_t width, ScalarType type, MemoryFormat format) {
  return torch::stable::empty(std::vector<int64_t>{like.size(0), like.size(1), height, width}, type, std::nullopt,
                              like.device(), std::nullopt, format);
}

void check_codes(const Tensor& values, const Tensor& codes) {
  STD_TORCH_CHECK(codes.dim() == 4 && codes.scalar_type() == ScalarType::Byte && values.dim() == 4 &&
                  values.size(0) == codes.size(0) && values.size(1) == codes.size(1),
                  op, ": uint8 codes [N, C, H, W] of the same samples and channels are needed");
}

// Sets the output's size to that of the codes, which these windows must have, with ceil_mode or without.
void set_output(Pool& p, const Tensor& codes) {
  p.out_height = codes.size(2), p.out_width = codes.size(3);
  const int64_t image[] = {p.height, p.width}, out[] = {p.out_height, p.out_width};
  for (int d = 0; d < 2; ++d) {
    const auto size = [&](bool ceil_mode) {
      return pooled_size(image[d], p.kernel[d], p.stride[d], p.padding[d], p.dilation[d], ceil_mode);
    };
    STD_TORCH_CHECK(out[d] > 0 && (out[d] == size(false) || out[d] == size(true)), op, ": codes of other windows");
  }
}

// Calls planes(begin, end) or rows(begin, end) in parallel, `rows_of` of them a sample.
template <class Planes, class Rows>
void parallel(MemoryFormat format, const Tensor& t, const Pool& p, int64_t rows_of, Planes planes, Rows rows) {
  const int64_t plane = p.height * p.width;
  if (format == MemoryFormat::Contiguous)
    torch::stable::parallel_for(0, t.size(0) * p.channels, grain / plane + 1, planes);
  else
    torch::stable::parallel_for(0, t.size(0) * rows_of, grain * rows_of / (plane * p.channels) + 1, rows);
}

std::tuple<Tensor, Tensor> relu_max_pool(const Tensor& x_, Sizes kernel, Sizes stride, Sizes padding, Sizes dilation,
                                         bool ceil_mode) {
  const MemoryFormat format = format_of(x_);
  Pool p = windows(x_.size(2), x_.size(3), x_.size(1), kernel, stride, padding, dilation);
  p.out_height = pooled_size(p.height, kernel[0], stride[0], padding[0], dilation[0], ceil_mode);
  p.out_width = pooled_size(p.width, kernel[1], stride[1], padding[1], dilation[1], ceil_mode);
  STD_TORCH_CHECK(p.out_height > 0 && p.out_width > 0, op, ": the images are smaller than the window");
  const Tensor x = torch::stable::contiguous(x_, format);
  Tensor y = empty(x, p.out_height, p.out_width, x.scalar_type(), format);
  Tensor codes = empty(x, p.out_height, p.out_width, ScalarType::Byte, format);
  if (y.numel() == 0) return {y, codes};
  dispatch(x, op, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* in = input<T>(x);
    T* out = output<T>(y);
    uint8_t* code = output<uint8_t>(codes);
    parallel(format, x, p, p.out_height,
             [&](int64_t begin, int64_t end) { cpu::relu_max_pool(in, out, code, p, begin, end); },
             [&](int64_t begin, int64_t end) { cpu::relu_max_pool_rows(in, out, code, p, begin, end); });
  });
  return {y, codes};
}

Tensor relu_max_pool_tangent(const Tensor& t_, const Tensor& codes_, Sizes kernel, Sizes stride, Sizes padding,
                             Sizes dilation) {
  check_codes(t_, codes_);
  const MemoryFormat format = format_of(codes_);
  Pool p = windows(t_.size(2), t_.size(3), t_.size(1), kernel, stride, padding, dilation);
  set_output(p, codes_);
  const Tensor t = torch::stable::contiguous(t_, format), codes = torch::stable::contiguous(codes_, format);
  Tensor out = empty(t, p.out_height, p.out_width, t.scalar_type(), format);
  if (out.numel() == 0) return out;
  dispatch(t, op, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* in = input<T>(t);
    const uint8_t* code = input<uint8_t>(codes);
    T* result = output<T>(out);
    parallel(format, t, p, p.out_height,
             [&](int64_t begin, int64_t end) { cpu::relu_max_pool_tangent(in, code, result, p, begin, end); },
             [&](int64_t begin, int64_t end) { cpu::relu_max_pool_tangent_rows(in, code, result, p, begin, end); });
  });
  return out;
}

Tensor relu_max_pool_backward(const Tensor& g_, const Tensor& codes_, Sizes size, Sizes kernel, Sizes stride,
                              Sizes padding, Sizes dilation) {
  check_codes(g_, codes_);
  STD_TORCH_CHECK(size.size() == 2 && g_.sizes().equals(codes_.sizes()), op,
                  ": the images' height and width and a gradient like the codes are needed");
  const MemoryFormat format = format_of(codes_);
  Pool p = windows(size[0], size[1], g_.size(1), kernel, stride, padding, dilation);
  set_output(p, codes_);
  const Tensor g = torch::stable::contiguous(g_, format), codes = torch::stable::contiguous(codes_, format);
  Tensor dx = empty(g, size[0], size[1], g.scalar_type(), format);
  if (dx.numel() == 0) return dx;
  dispatch(g, op, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* in = input<T>(g);
    const uint8_t* code = input<uint8_t>(codes);
    T* out = output<T>(dx);
    parallel(format, dx, p, p.height,
             [&](int64_t begin, int64_t end) { cpu::relu_max_pool_backward(in, code, out, p, begin, end); },
             [&](int64_t begin, int64_t end) { cpu::relu_max_pool_backward_rows(in, code, out, p, begin, end); });
  });
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(atlas_fast, CPU, m) {
  m.impl("relu_max_pool", TORCH_BOX(&relu_max_pool));
  m.impl("relu_max_pool_tangent", TORCH_BOX(&relu_max_pool_tangent));
  m.impl("relu_max_pool_backward", TORCH_BOX(&relu_max_pool_backward));
}

}  // namespace atlas_fast::binding
