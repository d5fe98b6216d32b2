// random_start, pgd_step and fgsm against loops in double precision, for every type, layout, odd size and chunk.
#include <algorithm>

#include "check.h"
#include "cpu/kernels.h"

using namespace atlas_fast;

namespace {

const Stream stream{0xfeedfacecafebeef, 11, 0};
const int64_t offset = 70;

double clip(double v, double low, double high) { return std::min(std::max(v, low), high); }

// The element's logical NCHW index within its sample, from its place in memory.
int64_t logical(const cpu::Layout& l, int64_t place) {
  return place % l.channels * l.spatial + place / l.channels;
}

double noise(const cpu::Layout& l, int64_t i) {
  const int64_t sample = i / l.sample_size(), e = logical(l, i % l.sample_size());
  const Words w = philox(stream, static_cast<uint32_t>(e / 4), static_cast<uint32_t>(sample + offset));
  return 2 * ((w.w[e % 4] >> 8) * 0x1p-24) - 1;
}

double expected_start(double x, double eps, double u) { return clip(x + eps * u, 0, 1); }

double expected_step(double x, double x_adv, double g, double eps, double step) {
  const double moved = x_adv + step * ((g > 0) - (g < 0));
  return clip(clip(moved, x - eps, x + eps), 0, 1);
}

// Images with the borders 0 and 1 among them, gradients with zeros among them.
template <class T>
std::vector<T> images(int64_t n, unsigned seed) {
  std::vector<T> x = uniform_values<T>(n, 0, 1, seed);
  for (int64_t i = 0; i < n; i += 5) x[i] = store<T>(static_cast<compute_t<T>>(i % 2));
  return x;
}
template <class T>
std::vector<T> gradients(int64_t n, unsigned seed) {
  std::vector<T> g = uniform_values<T>(n, -1, 1, seed);
  for (int64_t i = 0; i < n; i += 7) g[i] = store<T>(0);
  return g;
}

template <class T>
void test_pgd_step(int64_t n, double eps_, double step_) {
  using C = compute_t<T>;
  const C eps = static_cast<C>(eps_), step = static_cast<C>(step_);
  const std::vector<T> x = images<T>(n, 1), x_adv = images<T>(n, 2), grad = gradients<T>(n, 3);
  std::vector<T> whole(n), chunked(n);
  cpu::pgd_step(x.data(), x_adv.data(), grad.data(), whole.data(), eps, step, 0, n);
  in_chunks(n, [&](int64_t b, int64_t e) {
    cpu::pgd_step(x.data(), x_adv.data(), grad.data(), chunked.data(), eps, step, b, e);
  });
  CHECK(same(whole, chunked));
  Shifted<T> a(x), b(x_adv), g(grad), shifted(n);
  cpu::pgd_step(a.data(), b.data(), g.data(), shifted.data(), eps, step, 0, n);
  CHECK(same(whole, shifted.values()));
  for (int64_t i = 0; i < n; ++i) {
    CHECK_NEAR(value(whole[i]), expected_step(value(x[i]), value(x_adv[i]), value(grad[i]), eps, step), unit<T>);
    CHECK(value(whole[i]) >= 0 && value(whole[i]) <= 1);
  }
}

template <class T>
void test_random_start_and_fgsm(const cpu::Layout& layout, double eps_, double step_) {
  using C = compute_t<T>;
  const C eps = static_cast<C>(eps_), step = static_cast<C>(step_);
  const int64_t n = layout.samples * layout.sample_size(), tiles = cpu::tiles(layout);
  const std::vector<T> x = images<T>(n, 4), grad = gradients<T>(n, 5);
  std::vector<T> start(n), chunked_start(n), adversary(n), chunked_adversary(n);
  cpu::random_start(x.data(), start.data(), layout, stream, offset, eps, 0, tiles);
  cpu::fgsm(x.data(), grad.data(), adversary.data(), layout, stream, offset, eps, step, 0, tiles);
  in_chunks(tiles, [&](int64_t b, int64_t e) {
    cpu::random_start(x.data(), chunked_start.data(), layout, stream, offset, eps, b, e);
    cpu::fgsm(x.data(), grad.data(), chunked_adversary.data(), layout, stream, offset, eps, step, b, e);
  });
  CHECK(same(start, chunked_start));
  CHECK(same(adversary, chunked_adversary));
  Shifted<T> a(x), g(grad), out(n);
  cpu::random_start(a.data(), out.data(), layout, stream, offset, eps, 0, tiles);
  CHECK(same(start, out.values()));
  cpu::fgsm(a.data(), g.data(), out.data(), layout, stream, offset, eps, step, 0, tiles);
  CHECK(same(adversary, out.values()));
  for (int64_t i = 0; i < n; ++i) {
    const double x0 = expected_start(value(x[i]), eps, noise(layout, i));
    CHECK_NEAR(value(start[i]), x0, unit<T>);
    CHECK_NEAR(value(adversary[i]), expected_step(value(x[i]), x0, value(grad[i]), eps, step), 1.5 * unit<T>);
  }
}

// The noise of a pixel depends on its logical index alone, not on where it lies in memory.
void test_layouts_agree() {
  const int64_t samples = 3, channels = 3, spatial = 35, n = samples * channels * spatial;
  const std::vector<float> x = images<float>(n, 6);
  std::vector<float> x_last(n), start(n), start_last(n);
  const cpu::Layout contiguous{samples, 1, channels * spatial}, channels_last{samples, channels, spatial};
  const auto last = [&](int64_t i) {  // contiguous place -> channels-last place
    const int64_t sample = i / (channels * spatial), c = i / spatial % channels, s = i % spatial;
    return (sample * spatial + s) * channels + c;
  };
  for (int64_t i = 0; i < n; ++i) x_last[last(i)] = x[i];
  cpu::random_start(x.data(), start.data(), contiguous, stream, offset, 0.1f, 0, cpu::tiles(contiguous));
  cpu::random_start(x_last.data(), start_last.data(), channels_last, stream, offset, 0.1f, 0, cpu::tiles(channels_last));
  for (int64_t i = 0; i < n; ++i) CHECK(same(start[i], start_last[last(i)]));
}

template <class T>
void test_type() {
  for (int64_t n : {0, 1, 2, 15, 16, 17, 1009}) test_pgd_step<T>(n, 8 / 255.0, 10 / 255.0);
  test_pgd_step<T>(1009, 0.3, 0.01);
  const cpu::Layout layouts[] = {{0, 1, 8},    {3, 1, 0},   {2, 3, 0},
                                 {1, 1, 1},    {1, 1, 3},   {5, 1, 784},   {2, 1, 3072},   {7, 1, 1031},
                                 {2, 3, 1024}, {3, 3, 347}, {1, 17, 1},    {2, 2000, 65},   {4, 5, 6}};
  for (const cpu::Layout& layout : layouts) test_random_start_and_fgsm<T>(layout, 8 / 255.0, 10 / 255.0);
}

}  // namespace

int main() {
  std::printf("instruction set: %s\n", cpu::instruction_set());
  test_type<float>();
  test_type<double>();
  test_type<bfloat16>();
  test_layouts_agree();
  return finish();
}
