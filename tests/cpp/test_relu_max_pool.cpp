// Max pooling of ReLU, contiguous and channels-last, against loops over the definition.
#include <limits>

#include "check.h"
#include "cpu/kernels.h"

using namespace atlas_fast;
using cpu::Pool;

namespace {

int64_t pooled(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

// With ceil_mode: the last windows reach beyond the padding.
Pool ceiled(Pool p) {
  const int64_t size[] = {p.height, p.width};
  int64_t* const out[] = {&p.out_height, &p.out_width};
  for (int d = 0; d < 2; ++d) {
    *out[d] = pooled(size[d] + p.stride[d] - 1, p.kernel[d], p.stride[d], p.padding[d], p.dilation[d]);
    if ((*out[d] - 1) * p.stride[d] >= size[d] + p.padding[d]) --*out[d];
  }
  return p;
}

Pool make(int64_t height, int64_t width, int64_t channels, const int64_t (&kernel)[2], const int64_t (&stride)[2],
          const int64_t (&padding)[2], const int64_t (&dilation)[2]) {
  Pool p{height, width, channels, pooled(height, kernel[0], stride[0], padding[0], dilation[0]),
         pooled(width, kernel[1], stride[1], padding[1], dilation[1]), {}, {}, {}, {}};
  for (int d = 0; d < 2; ++d)
    p.kernel[d] = kernel[d], p.stride[d] = stride[d], p.padding[d] = padding[d], p.dilation[d] = dilation[d];
  return p;
}

// Where pixel (h, w) of a plane lies: planes one after the other, or channels-last.
struct Place {
  bool last;
  int64_t channels;
  int64_t operator()(int64_t plane, int64_t h, int64_t w, int64_t height, int64_t width) const {
    if (!last) return (plane * height + h) * width + w;
    return ((plane / channels * height + h) * width + w) * channels + plane % channels;
  }
};

// The definition: y, codes, the tangent along t, and the adjoint of x for g, added in the order of the windows.
template <class T>
struct Expected {
  std::vector<T> y, tangent, dx;
  std::vector<uint8_t> codes;
};

template <class T>
Expected<T> define(const Pool& p, int64_t planes, const Place& at, const std::vector<T>& x, const std::vector<T>& t,
                   const std::vector<T>& g) {
  const int64_t outputs = planes * p.out_height * p.out_width;
  Expected<T> e{std::vector<T>(outputs), std::vector<T>(outputs), std::vector<T>(x.size()),
                std::vector<uint8_t>(outputs)};
  std::vector<compute_t<T>> sum(x.size());
  for (int64_t plane = 0; plane < planes; ++plane)
    for (int64_t oh = 0; oh < p.out_height; ++oh)
      for (int64_t ow = 0; ow < p.out_width; ++ow) {
        double best = 0;
        int64_t code = cpu::pool_none, from = 0;
        for (int64_t i = 0; i < p.kernel[0]; ++i)
          for (int64_t j = 0; j < p.kernel[1]; ++j) {
            const int64_t h = oh * p.stride[0] - p.padding[0] + i * p.dilation[0];
            const int64_t w = ow * p.stride[1] - p.padding[1] + j * p.dilation[1];
            if (h < 0 || h >= p.height || w < 0 || w >= p.width) continue;
            const double v = value(x[at(plane, h, w, p.height, p.width)]);
            if (!(v > best) && !std::isnan(v)) continue;
            best = v, code = i * p.kernel[1] + j, from = at(plane, h, w, p.height, p.width);
          }
        const int64_t o = at(plane, oh, ow, p.out_height, p.out_width);
        e.y[o] = store<T>(static_cast<compute_t<T>>(best));
        e.codes[o] = static_cast<uint8_t>(code);
        e.tangent[o] = code == cpu::pool_none ? T{} : t[from];
        if (code != cpu::pool_none) sum[from] += load(g[o]);
      }
  for (size_t i = 0; i < sum.size(); ++i) e.dx[i] = store<T>(sum[i]);
  return e;
}

template <class T>
void test(const Pool& p, int64_t samples, bool last) {
  const int64_t planes = samples * p.channels, n = planes * p.height * p.width;
  const int64_t outputs = planes * p.out_height * p.out_width;
  std::vector<T> x = uniform_values<T>(n, -2, 2, 3), t = uniform_values<T>(n, -1, 1, 4);
  const std::vector<T> g = uniform_values<T>(outputs, -1, 1, 5);
  for (int64_t i = 0; i < n; ++i) x[i] = store<T>(static_cast<compute_t<T>>(std::round(value(x[i]) * 3) / 3));  // ties
  for (int64_t i = 5; i < n; i += 41) x[i] = store<T>(std::numeric_limits<compute_t<T>>::quiet_NaN());
  for (int64_t i = 0; i < n; i += 13) t[i] = store<T>(std::numeric_limits<compute_t<T>>::infinity());
  const Expected<T> expected = define(p, planes, Place{last, p.channels}, x, t, g);
  std::vector<T> y(outputs), tangent(outputs), dx(n);
  std::vector<uint8_t> codes(outputs);
  in_chunks(last ? samples * p.out_height : planes, [&](int64_t b, int64_t e) {
    (last ? cpu::relu_max_pool_rows<T> : cpu::relu_max_pool<T>)(x.data(), y.data(), codes.data(), p, b, e);
  });
  in_chunks(last ? samples * p.out_height : planes, [&](int64_t b, int64_t e) {
    (last ? cpu::relu_max_pool_tangent_rows<T> : cpu::relu_max_pool_tangent<T>)(t.data(), codes.data(), tangent.data(), p,
                                                                                b, e);
  });
  in_chunks(last ? samples * p.height : planes, [&](int64_t b, int64_t e) {
    (last ? cpu::relu_max_pool_backward_rows<T> : cpu::relu_max_pool_backward<T>)(g.data(), codes.data(), dx.data(), p, b,
                                                                                  e);
  });
  CHECK(codes == expected.codes);
  CHECK(same(tangent, expected.tangent));
  CHECK(same(dx, expected.dx));
  for (int64_t i = 0; i < outputs; ++i)
    CHECK(std::isnan(value(y[i])) ? std::isnan(value(expected.y[i])) : value(y[i]) == value(expected.y[i]));
}

template <class T>
void test_type() {
  for (bool last : {false, true}) {
    test<T>(make(14, 14, 5, {2, 2}, {2, 2}, {0, 0}, {1, 1}), 2, last);
    test<T>(make(23, 37, 17, {3, 3}, {2, 2}, {1, 1}, {1, 1}), 2, last);
    test<T>(make(9, 70, 3, {3, 2}, {1, 1}, {1, 1}, {1, 1}), 1, last);
    test<T>(make(12, 20, 33, {3, 2}, {3, 4}, {1, 0}, {2, 3}), 2, last);
    test<T>(make(8, 8, 16, {1, 1}, {2, 3}, {0, 0}, {1, 1}), 3, last);
    test<T>(make(5, 40, 1, {5, 4}, {4, 5}, {2, 2}, {1, 1}), 2, last);
    test<T>(make(15, 17, 2, {15, 17}, {1, 1}, {7, 8}, {1, 1}), 1, last);
    test<T>(make(1, 1, 1, {1, 1}, {1, 1}, {0, 0}, {1, 1}), 1, last);
    test<T>(make(7, 11, 3, {2, 3}, {2, 2}, {0, 1}, {1, 1}), 0, last);
    test<T>(ceiled(make(7, 12, 3, {2, 3}, {2, 4}, {1, 0}, {1, 1})), 2, last);
    test<T>(ceiled(make(2, 2, 2, {4, 1}, {2, 1}, {2, 0}, {2, 3})), 3, last);  // larger than the image and its padding
  }
}

// Codes that no window has leave everything else alone: dx has canaries around it.
void test_foreign_codes() {
  const Pool p = make(8, 8, 1, {3, 3}, {2, 2}, {1, 1}, {1, 1});
  const std::vector<float> g(p.out_height * p.out_width, 1.0f);
  for (int code = 0; code < 256; ++code) {
    const std::vector<uint8_t> codes(g.size(), static_cast<uint8_t>(code));
    std::vector<float> dx(3 * 64, 7.0f), out(g.size());
    cpu::relu_max_pool_backward(g.data(), codes.data(), dx.data() + 64, p, 0, 1);
    cpu::relu_max_pool_tangent(dx.data() + 64, codes.data(), out.data(), p, 0, 1);
    double sum = 0;
    for (int i = 0; i < 64; ++i) {
      CHECK(dx[i] == 7 && dx[128 + i] == 7);
      sum += dx[64 + i];
    }
    CHECK(code < 9 ? sum > 0 : sum == 0);
    for (float v : out) CHECK(v == 0 || v == 1);
  }
}

}  // namespace

int main() {
  test_type<float>();
  test_type<double>();
  test_type<bfloat16>();
  test_foreign_codes();
  return finish();
}
