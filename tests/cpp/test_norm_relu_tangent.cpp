// The adjoint of BatchNorm's and ReLU's backward pass, contiguous and channels-last, against its formulas in float64.
#include "check.h"
#include "core/norm_relu_tangent.h"
#include "cpu/kernels.h"

using namespace atlas_fast;

namespace {

struct Case {
  int64_t samples, channels, spatial, groups;
  bool relu, residual, affine, batch;
};

template <class T>
struct Data {
  using C = compute_t<T>;
  std::vector<T> t, r, g, z;
  std::vector<C> mean, rstd, weight, bias, sums;
  explicit Data(const Case& c) {
    const int64_t n = c.samples * c.channels * c.spatial, statistics = c.groups * c.channels;
    t = uniform_values<T>(n, -1, 1.5, 1), r = uniform_values<T>(n, -1, 1, 2);
    g = uniform_values<T>(n, -1, 2, 3), z = uniform_values<T>(n, -1, 3, 4);
    mean = uniform_values<C>(statistics, 0, 2, 5), rstd = uniform_values<C>(statistics, 0.5, 2, 6);
    weight = uniform_values<C>(c.channels, -1, 2, 7), bias = uniform_values<C>(c.channels, -1, 1, 8);
    sums = uniform_values<C>(2 * statistics, -3, 3, 9);
  }
};

template <class T>
struct Results {
  std::vector<T> tz, out, extra;
  std::vector<compute_t<T>> grad_weight;
  Results(const Case& c, int64_t n) : tz(n), out(n), extra(n), grad_weight(c.channels, compute_t<T>(0.25)) {}
};

template <class T>
cpu::NormReluTangent<T> problem(const Case& c, const Data<T>& d, Results<T>& r) {
  return {d.t.data(), c.residual ? d.r.data() : nullptr, d.g.data(), d.z.data(),
          d.mean.data(), d.rstd.data(), c.affine ? d.weight.data() : nullptr,
          c.affine ? d.bias.data() : nullptr, c.batch ? d.sums.data() : nullptr, nullptr,
          c.residual ? r.tz.data() : nullptr, r.out.data(), c.batch ? r.extra.data() : nullptr,
          r.grad_weight.data(), nullptr, c.samples, c.channels, c.spatial, c.groups, c.relu};
}

template <class T>
void run(const Case& c, const cpu::NormReluTangent<T>& p, bool last, bool chunks) {
  using C = compute_t<T>;
  const auto all = [&](int64_t n, auto kernel) { chunks ? in_chunks(n, kernel) : kernel(int64_t(0), n); };
  if (!last) return all(c.channels, [&](int64_t b, int64_t e) { cpu::norm_relu_tangent(p, b, e); });
  const int64_t tiles = cpu::norm_tiles(c.samples * c.spatial, c.groups, c.channels);
  std::vector<double> partial(tiles * 3 * c.channels);
  std::vector<C> factors(7 * c.groups * c.channels);
  if (!p.given) all(tiles, [&](int64_t b, int64_t e) { cpu::norm_relu_tangent_sums(p, partial.data(), b, e); });
  const double* sums = p.given ? nullptr : partial.data();
  all(c.channels, [&](int64_t b, int64_t e) { cpu::norm_relu_tangent_factors(p, sums, factors.data(), b, e); });
  if (!p.out) return;
  all(tiles, [&](int64_t b, int64_t e) {
    cpu::norm_relu_tangent_results(p, static_cast<const C*>(factors.data()), b, e);
  });
}

template <class T>
void check_channel(const Case& c, const Data<T>& d, const Results<T>& r, bool last, int64_t channel) {
  const int64_t per_group = c.samples / c.groups;
  const double count = static_cast<double>(per_group * c.spatial);
  const double tolerance = std::is_same_v<T, double> ? 1e-12 : 1e-5;
  double grad_weight = 0.25, largest = 1;
  for (int64_t group = 0; group < c.groups; ++group) {
    const int64_t s = group * c.channels + channel;
    const NormChannel<compute_t<T>> k{d.mean[s], d.rstd[s], c.affine ? d.weight[channel] : 1, c.affine ? d.bias[channel] : 0};
    double sum_t = 0, sum_ta = 0, sum_td = 0;
    const auto each = [&](auto use) {
      for (int64_t n = group * per_group; n < (group + 1) * per_group; ++n)
        for (int64_t x = 0; x < c.spatial; ++x) {
          const int64_t i = last ? (n * c.spatial + x) * c.channels + channel : (n * c.channels + channel) * c.spatial + x;
          const auto near = normalised(compute_t<T>(load(d.z[i])), k);  // the mask's own rounding
          const double m = !c.relu || passes(near, k);
          use(i, c.residual ? value(r.tz[i]) : value(d.t[i]), (value(d.z[i]) - k.mean) * k.rstd, m, m * value(d.g[i]));
        }
    };
    each([&](int64_t i, double t, double yh, double, double D) {
      if (c.residual) CHECK(same(r.tz[i], store<T>(static_cast<compute_t<T>>(load(d.t[i]) + load(d.r[i])))));
      sum_t += t, sum_ta += t * yh, sum_td += t * D, largest += std::fabs(t * D);
    });
    const double mt = sum_t / count, ta = sum_ta / count, td = sum_td / count;
    const double s1 = c.batch ? d.sums[s] / count : 0, s2 = c.batch ? d.sums[c.groups * c.channels + s] / count : 0;
    const double q = c.batch ? td - mt * s1 - ta * s2 : td, scale = static_cast<double>(k.weight) * k.rstd;
    grad_weight += count * k.rstd * q;
    each([&](int64_t i, double t, double yh, double m, double D) {
      const double out = m * scale * (c.batch ? t - mt - yh * ta : t);
      const double extra = -scale * k.rstd * (s2 * (t - mt) + ta * (D - s1) + yh * (q - 2 * ta * s2));
      const auto room = [&](double exact) { return tolerance + unit<T> * std::fabs(exact); };
      CHECK_NEAR(value(r.out[i]), out, room(out));
      if (c.batch) CHECK_NEAR(value(r.extra[i]), extra, room(extra));
    });
  }
  CHECK_NEAR(r.grad_weight[channel], grad_weight, (std::is_same_v<T, double> ? 1e-14 : 1e-6) * largest);
}

// Sums alone, into `found`, then the results from them: those of one go up to the rounding of the sums.
template <class T>
void check_in_two(const Case& c, const Data<T>& d, const Results<T>& whole, bool last) {
  using C = compute_t<T>;
  Results<T> r(c, c.samples * c.channels * c.spatial);
  const std::vector<T> untouched = r.out;
  const std::vector<C> before = r.grad_weight;
  std::vector<C> found(3 * c.groups * c.channels);
  cpu::NormReluTangent<T> p = problem(c, d, r);
  p.out = p.extra = nullptr, p.grad_weight = nullptr, p.found = found.data();
  run(c, p, last, true);
  CHECK(same(r.tz, whole.tz) && same(r.out, untouched) && same(r.grad_weight, before));
  p = problem(c, d, r);
  if (c.residual) p.t = r.tz.data(), p.residual = nullptr, p.tz = nullptr;
  p.given = found.data();
  run(c, p, last, true);
  const double room = std::is_same_v<T, double> ? 1e-12 : 2e-5;
  for (size_t i = 0; i < r.out.size(); ++i) {
    CHECK_NEAR(value(r.out[i]), value(whole.out[i]), room + 2 * unit<T> * std::fabs(value(whole.out[i])));
    CHECK_NEAR(value(r.extra[i]), value(whole.extra[i]), room + 2 * unit<T> * std::fabs(value(whole.extra[i])));
  }
  for (int64_t i = 0; i < c.channels; ++i)
    CHECK_NEAR(r.grad_weight[i], whole.grad_weight[i], room * static_cast<double>(c.samples * c.spatial));
}

template <class T>
void test(const Case& c) {
  const Data<T> d(c);
  for (bool last : {false, true}) {
    const int64_t n = c.samples * c.channels * c.spatial;
    Results<T> whole(c, n), chunked(c, n);
    run(c, problem(c, d, whole), last, false);
    run(c, problem(c, d, chunked), last, true);
    CHECK(same(whole.out, chunked.out) && same(whole.extra, chunked.extra) && same(whole.tz, chunked.tz));
    CHECK(same(whole.grad_weight, chunked.grad_weight));
    for (int64_t channel = 0; channel < c.channels; ++channel) check_channel(c, d, whole, last, channel);
    if (c.batch) check_in_two(c, d, whole, last);
  }
}

template <class T>
void test_type() {
  const int64_t shapes[][4] = {{4, 5, 63, 1},  {2, 3, 1, 1},   {1, 1, 1, 1},    {3, 1, 17, 3},
                               {6, 16, 64, 2}, {4, 33, 49, 4}, {2, 2, 1500, 2}, {3, 70, 260, 1}};
  for (const auto& [samples, channels, spatial, groups] : shapes)
    for (int options = 0; options < 16; ++options)
      test<T>({samples, channels, spatial, groups, (options & 1) != 0, (options & 2) != 0, (options & 4) != 0,
               (options & 8) != 0});
}

}  // namespace

int main() {
  test_type<float>();
  test_type<double>();
  test_type<bfloat16>();
  return finish();
}
