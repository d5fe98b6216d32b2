// The CUDA kernels, run on the CPU by cuda_on_cpu/cuda_runtime.h, against the CPU kernels.
#include <numeric>

#include "check.h"
#include "cpu/kernels.h"
#include "cuda/kernels.h"

using namespace atlas_fast;

namespace {

const int64_t rng[2] = {static_cast<int64_t>(0xfeedfacecafebeef), 11};
const Stream stream{0xfeedfacecafebeef, 11, 3};
const cuda::Noise noise{rng, 3, 70};

template <class T>
void test_images(cpu::Layout l) {
  using C = compute_t<T>;
  const int64_t n = l.samples * l.sample_size(), units = cpu::tiles(l);
  const std::vector<T> x = uniform_values<T>(n, 0, 1, 1), x_adv = uniform_values<T>(n, 0, 1, 2);
  std::vector<T> grad = uniform_values<T>(n, -1, 1, 3), got(n), expected(n);
  for (int64_t i = 0; i < n; i += 7) grad[i] = store<T>(0);
  const C eps = C(0.1), factor = C(0.5), step = factor * C(0.25), quarter = C(0.25);
  const cuda::Layout layout{l.samples, l.channels, l.spatial};
  const cuda::Scalar radius{0.1, nullptr}, length{0.5, &quarter};  // a number, and a number times a device scalar

  CHECK(cuda::random_start<T>(x.data(), got.data(), layout, noise, radius, nullptr) == 0);
  cpu::random_start<T>(x.data(), expected.data(), l, stream, 70, eps, 0, units);
  CHECK(same(got, expected));

  CHECK(cuda::fgsm<T>(x.data(), grad.data(), got.data(), layout, noise, radius, length, nullptr) == 0);
  cpu::fgsm<T>(x.data(), grad.data(), expected.data(), l, stream, 70, eps, step, 0, units);
  CHECK(same(got, expected));

  CHECK(cuda::pgd_step<T>(x.data(), x_adv.data(), grad.data(), got.data(), n, radius, length, nullptr) == 0);
  cpu::pgd_step<T>(x.data(), x_adv.data(), grad.data(), expected.data(), eps, step, 0, n);
  CHECK(same(got, expected));
}

void test_random_bits(int64_t samples, int64_t n) {
  std::vector<int64_t> got(samples * n), expected(samples * n);
  CHECK(cuda::random_bits(got.data(), samples, n, noise, nullptr) == 0);
  cpu::random_bits(expected.data(), n, stream, 70, 0, samples);
  CHECK(same(got, expected));
}

void test_unit_vectors(int64_t draws, int64_t samples, int64_t classes) {
  std::vector<float> got(draws * samples * classes), expected(got.size());
  CHECK(cuda::unit_vectors(got.data(), draws, samples, classes, noise, nullptr) == 0);
  cpu::unit_vectors(expected.data(), samples, classes, stream, 70, 0, draws * samples);
  for (size_t i = 0; i < got.size(); ++i) CHECK_NEAR(got[i], expected[i], 1e-6);
}

template <class T>
void test_squared_norm(int64_t n, bool with_gradient) {
  using C = compute_t<T>;
  const std::vector<T> g = uniform_values<T>(n, -1, 1, 4);
  std::vector<T> gradient(n), expected(n);
  std::vector<C> partial(cuda::squared_norm_blocks(n));
  const C weight = C(0.25);
  C result = -1;
  CHECK(cuda::squared_norm<T>(g.data(), with_gradient ? gradient.data() : nullptr, partial.data(), &result, n, 1.5,
                              {2.0, &weight}, nullptr) == 0);
  const int64_t chunks = (n + cpu::squared_norm_chunk - 1) / cpu::squared_norm_chunk;
  std::vector<double> sums(chunks);
  cpu::squared_norm<T>(g.data(), expected.data(), sums.data(), n, C(3) * (C(2) * weight), 0, chunks);
  const double sum = 1.5 * std::accumulate(sums.begin(), sums.end(), 0.0);
  CHECK_NEAR(result, sum, 1e-6 * (sum + 1));
  if (with_gradient) CHECK(same(gradient, expected));
}

template <class T>
void test_ce_kl(int64_t samples, int64_t classes, bool two, bool reverse, double smoothing) {
  using C = compute_t<T>;
  const int64_t n = samples * classes;
  const std::vector<T> first = uniform_values<T>(n, -4, 4, 5), second = uniform_values<T>(n, -4, 4, 6);
  std::vector<int64_t> target(samples);
  for (int64_t i = 0; i < samples; ++i) target[i] = i * 7 % classes;
  std::vector<T> d_first(n), d_second(n), e_first(n), e_second(n);
  std::vector<C> rows(2 * samples), terms(3);
  std::vector<double> ce(samples), kl(samples);
  const C half = C(0.5);
  CHECK(cuda::ce_kl<T>(first.data(), two ? second.data() : nullptr, target.data(), d_first.data(),
                       two ? d_second.data() : nullptr, rows.data(), terms.data(), samples, classes, {4.0, &half},
                       reverse, smoothing, nullptr) == 0);
  cpu::ce_kl<T>(first.data(), two ? second.data() : nullptr, target.data(), e_first.data(),
                two ? e_second.data() : nullptr, ce.data(), kl.data(), samples, classes, C(2), reverse, C(smoothing), 0,
                samples);
  const double mean_ce = std::accumulate(ce.begin(), ce.end(), 0.0) / samples;
  const double mean_kl = std::accumulate(kl.begin(), kl.end(), 0.0) / samples;
  CHECK_NEAR(terms[0], mean_ce + 2 * mean_kl, 1e-5);
  CHECK_NEAR(terms[1], mean_ce, 1e-5);
  CHECK_NEAR(terms[2], mean_kl, 1e-5);
  for (int64_t i = 0; i < n; ++i) {
    const double tolerance = unit<T> * 2 * std::fabs(value(e_first[i])) + 1e-6 / samples;
    CHECK_NEAR(value(d_first[i]), value(e_first[i]), tolerance);
    if (two) CHECK_NEAR(value(d_second[i]), value(e_second[i]), unit<T> * 2 * std::fabs(value(e_second[i])) + 1e-6 / samples);
  }
}

void test_target_out_of_range() {
  const std::vector<float> logits(3 * 4, 0.0f);
  const std::vector<int64_t> target{0, 4, -1};
  std::vector<float> d(12), rows(6), terms(3);
  CHECK(cuda::ce_kl<float>(logits.data(), nullptr, target.data(), d.data(), nullptr, rows.data(), terms.data(), 3, 4,
                           {0.0, nullptr}, false, 0.0, nullptr) == 0);
  CHECK(std::isnan(terms[0]) && std::isnan(terms[1]) && std::isnan(d[4]) && std::isnan(d[8]) && !std::isnan(d[0]));
}

template <class T>
void test_type() {
  for (const cpu::Layout& l : {cpu::Layout{3, 1, 48}, cpu::Layout{2, 3, 16}, cpu::Layout{2, 3, 63}, cpu::Layout{5, 1, 7},
                               cpu::Layout{1, 1, 1}, cpu::Layout{0, 1, 8}, cpu::Layout{2, 5, 700}})
    test_images<T>(l);
  for (const int64_t n : {0, 1, 31, 2048, 5000}) test_squared_norm<T>(n, n != 31);
  for (const int64_t samples : {1, 3, 40})
    for (const int64_t classes : {2, 10, 33}) test_ce_kl<T>(samples, classes, true, classes == 10, classes == 33 ? 0.1 : 0);
  test_ce_kl<T>(5, 10, false, false, 0.1);
  test_ce_kl<T>(20, 200, true, true, 0.1);   // two launches, a warp a row
  test_ce_kl<T>(3, 1500, true, false, 0.1);  // a block a row
}

}  // namespace

int main() {
  test_type<float>();
  test_type<double>();
  test_type<bfloat16>();
  for (const int64_t n : {1, 4, 13}) test_random_bits(9, n);
  test_unit_vectors(1, 9, 10);
  test_unit_vectors(2, 3, 1);
  test_unit_vectors(2, 5, 300);
  test_target_out_of_range();
  return finish();
}
