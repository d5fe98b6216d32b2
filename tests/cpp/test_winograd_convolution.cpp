// Winograd's convolutions and their gradients, on every instruction set of this processor, against loops over the
// definition in float64.
#include <algorithm>
#include <cstring>

#include "check.h"
#include "cpu/winograd_convolution.h"

using namespace atlas_fast::cpu;

namespace {

struct Case {
  int64_t samples, channels, filters, height, width, padding;
  bool channels_last;
  int64_t out_height() const { return height + 2 * padding - 2; }
  int64_t out_width() const { return width + 2 * padding - 2; }
  WinogradImages in() const { return {samples, channels, height, width, channels_last}; }
  WinogradImages out() const { return {samples, filters, out_height(), out_width(), channels_last}; }
};

// Where a pixel lies.
int64_t at(const WinogradImages& s, int64_t n, int64_t c, int64_t h, int64_t w) {
  return s.plane(n, c) + (h * s.width + w) * (s.channels_last ? s.channels : 1);
}

// A weight [rows, columns, 3, 3] as [rows, 3, 3, columns].
std::vector<float> channels_last(const std::vector<float>& w, int64_t columns) {
  std::vector<float> out(w.size());
  for (size_t i = 0; i < w.size(); ++i) out[(i / (9 * columns) * 9 + i % 9) * columns + i / 9 % columns] = w[i];
  return out;
}

// f(y's place, x's place, w's place) for every product of the convolution.
template <class F>
void for_products(const Case& k, F f) {
  for (int64_t n = 0; n < k.samples; ++n)
    for (int64_t o = 0; o < k.filters; ++o)
      for (int64_t c = 0; c < k.channels; ++c)
        for (int64_t h = 0; h < k.out_height(); ++h)
          for (int64_t w = 0; w < k.out_width(); ++w)
            for (int64_t i = 0; i < 3; ++i)
              for (int64_t j = 0; j < 3; ++j) {
                const int64_t row = h + i - k.padding, column = w + j - k.padding;
                if (row >= 0 && row < k.height && column >= 0 && column < k.width)
                  f(at(k.out(), n, o, h, w), at(k.in(), n, c, row, column), ((o * k.channels + c) * 3 + i) * 3 + j);
              }
}

double size_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v * v;
  return std::sqrt(sum / values.size());
}

// Each number is within a few of float32's roundings of the result's size.
void check_close(std::vector<float> got, const std::vector<double>& expected) {
  const double tolerance = 3e-5 * size_of(expected);
  for (size_t i = 0; i < expected.size(); ++i) CHECK_NEAR(got[i], expected[i], tolerance);
}

constexpr float unset = -1e30f;

// The images (or gradients) at the points; every place of a tile is written, and only those.
template <class Transform>
std::vector<float> at_points(Transform transform, const WinogradKernels& kernels, const std::vector<float>& x,
                             const WinogradImages& s, const WinogradTiles& tiles) {
  const int64_t blocks = kernels.blocks(s.channels), block = tiles.block_stride(kernels.lanes);
  Shifted<float> in(x), out(std::vector<float>(tiles.groups * blocks * block, unset));
  in_chunks(s.samples * blocks,
            [&](int64_t begin, int64_t end) { transform(in.data(), s, tiles, out.data(), begin, end); });
  return out.values();
}

std::vector<float> convolve(const WinogradKernels& kernels, const std::vector<float>& x, const WinogradImages& in,
                            const std::vector<float>& w, const std::vector<float>* bias, bool adjoint, bool last,
                            const WinogradImages& out, const WinogradTiles& tiles) {
  Shifted<float> points(at_points(kernels.images, kernels, x, in, tiles)), weights(w);
  Shifted<float> shift(bias ? *bias : std::vector<float>{});
  const WinogradWeights given{weights.data(), bias ? shift.data() : nullptr, out.channels, in.channels, adjoint, last};
  Shifted<float> y(out.samples * out.channels * out.area());
  in_chunks(kernels.panels(out.channels) * tiles.groups, [&](int64_t begin, int64_t end) {
    kernels.outputs(points.data(), given, tiles, y.data(), out, begin, end);
  });
  return y.values();
}

void test(const WinogradKernels& kernels, const Case& k, const WinogradTiles& tiles, const WinogradTiles& back) {
  const WinogradImages in = k.in(), out = k.out();
  const auto x = uniform_values<float>(k.samples * k.channels * in.area(), -1, 1, 1);
  const auto w = uniform_values<float>(k.filters * k.channels * 9, -1, 1, 2);
  const auto bias = uniform_values<float>(k.filters, -1, 1, 3);
  const auto g = uniform_values<float>(k.samples * k.filters * out.area(), -1, 1, 4);
  std::vector<double> y(g.size()), dx(x.size()), dw(w.size());
  for_products(k, [&](int64_t to, int64_t from, int64_t tap) {
    y[to] += static_cast<double>(x[from]) * w[tap];
    dx[from] += static_cast<double>(g[to]) * w[tap];
    dw[tap] += static_cast<double>(g[to]) * x[from];
  });
  const auto turned = channels_last(w, k.channels);
  check_close(convolve(kernels, x, in, w, nullptr, false, false, out, tiles), y);
  CHECK(same(convolve(kernels, x, in, turned, nullptr, false, true, out, tiles),
             convolve(kernels, x, in, w, nullptr, false, false, out, tiles)));
  for (int64_t n = 0; n < k.samples; ++n)
    for (int64_t o = 0; o < k.filters; ++o)
      for (int64_t i = 0; i < out.area(); ++i) y[at(out, n, o, i / out.width, i % out.width)] += bias[o];
  check_close(convolve(kernels, x, in, w, &bias, false, false, out, tiles), y);
  check_close(convolve(kernels, g, out, w, nullptr, true, false, in, back), dx);
  CHECK(same(convolve(kernels, g, out, turned, nullptr, true, true, in, back),
             convolve(kernels, g, out, w, nullptr, true, false, in, back)));

  Shifted<float> x_points(at_points(kernels.images, kernels, x, in, tiles));
  Shifted<float> g_points(at_points(kernels.gradients, kernels, g, out, tiles));
  Shifted<float> got(std::vector<float>(w.size(), 0.5f));
  const int64_t chunks = (k.channels + winograd_chunk - 1) / winograd_chunk;
  in_chunks(chunks * kernels.panels(k.filters), [&](int64_t begin, int64_t end) {
    kernels.weights(x_points.data(), g_points.data(), in, k.filters, tiles, got.data(), begin, end);
  });
  for (double& v : dw) v += 0.5;  // added to what is there
  check_close(got.values(), dw);
}

// As the bindings choose the groups, and one sample a group.
void test(const WinogradKernels& kernels, Case k) {
  for (const bool last : {false, true}) {
    k.channels_last = last;
    const int64_t widest = std::max(k.channels, k.filters);
    WinogradTiles tiles = winograd_tiles(k.samples, k.out_height(), k.out_width(), k.padding, widest);
    WinogradTiles back = winograd_tiles(k.samples, k.height, k.width, 2 - k.padding, widest);
    test(kernels, k, tiles, back);
    tiles.samples = back.samples = 1;
    tiles.groups = back.groups = k.samples;
    test(kernels, k, tiles, back);
  }
}

void test_tiles() {
  for (const int64_t samples : {1, 3, 16, 61, 1000})
    for (const int64_t channels : {1, 16, 100, 640, 5000}) {
      const WinogradTiles tiles = winograd_tiles(samples, 9, 30, 1, channels);
      CHECK(tiles.rows == 3 && tiles.columns == 8 && tiles.padding == 1);
      CHECK(tiles.samples >= 1 && tiles.groups >= 1);
      CHECK(tiles.samples * tiles.groups >= samples && tiles.samples * (tiles.groups - 1) < samples);
    }
}

}  // namespace

int main() {
  test_tiles();
  int count = 0;
  for (; const WinogradKernels* kernels = winograd_kernels(count); ++count) {
    std::printf("%s\n", kernels->name);
    test(*kernels, {1, 1, 1, 1, 1, 1, false});
    test(*kernels, {3, 5, 7, 9, 11, 1, false});
    test(*kernels, {2, 3, 5, 5, 5, 0, false});
    test(*kernels, {2, 20, 9, 6, 13, 2, false});
    test(*kernels, {5, 17, 33, 7, 6, 1, false});
    test(*kernels, {2, 150, 18, 8, 8, 1, false});  // channels in two chunks
    test(*kernels, {1, 2, 3, 3, 270, 1, false});   // a line of more than 64 tiles
    test(*kernels, {1, 4, 2, 40, 36, 1, false});   // more lines than are multiplied together
  }
  CHECK(count >= 1 && !std::strcmp(winograd_kernels(count - 1)->name, "plain"));
  return finish();
}
