// ce_kl against loops in double precision: both KL directions, label smoothing, cross-entropy alone, underflow.
#include <limits>

#include "check.h"
#include "core/exponential.h"
#include "cpu/kernels.h"

using namespace atlas_fast;

namespace {

std::vector<double> log_softmax(const std::vector<double>& logits) {
  double top = -std::numeric_limits<double>::infinity(), sum = 0;
  for (double v : logits) top = std::max(top, v);
  for (double v : logits) sum += std::exp(v - top);
  std::vector<double> out;
  for (double v : logits) out.push_back(v - top - std::log(sum));
  return out;
}

struct Row {
  double ce = 0, kl = 0;
  std::vector<double> d_first, d_second;
};

// The definition, gradients of (CE + beta KL) / samples.
Row expected_row(const std::vector<double>& first, const std::vector<double>& second, int64_t target, double beta,
                 bool reverse, double smoothing, int64_t samples) {
  const size_t classes = first.size();
  const std::vector<double> log_p = log_softmax(first), log_q = log_softmax(second);
  const std::vector<double>&log_a = reverse ? log_q : log_p, &log_b = reverse ? log_p : log_q;
  Row row;
  for (size_t c = 0; c < classes; ++c) {
    const double t = smoothing / classes + (static_cast<int64_t>(c) == target ? 1 - smoothing : 0);
    row.ce -= t > 0 ? t * log_p[c] : 0;
    row.kl += std::exp(log_a[c]) > 0 ? std::exp(log_a[c]) * (log_a[c] - log_b[c]) : 0;
    row.d_first.push_back((std::exp(log_p[c]) - t) / samples);
    row.d_second.push_back(0);
  }
  for (size_t c = 0; c < classes; ++c) {  // KL(a||b): a (log a - log b - KL) to a's logits, b - a to b's
    const double a = std::exp(log_a[c]), b = std::exp(log_b[c]);
    const double to_a = a > 0 ? a * (log_a[c] - log_b[c] - row.kl) : 0;
    row.d_first[c] += beta * (reverse ? b - a : to_a) / samples;
    row.d_second[c] += beta * (reverse ? to_a : b - a) / samples;
  }
  return row;
}

template <class T>
std::vector<double> wide(const std::vector<T>& v, int64_t row, int64_t classes) {
  std::vector<double> out;
  for (int64_t c = 0; c < classes; ++c) out.push_back(value(v[row * classes + c]));
  return out;
}

template <class T>
void test_case(int64_t samples, int64_t classes, double spread, double beta_, bool reverse, double smoothing_,
               bool with_second) {
  using C = compute_t<T>;
  const C beta = static_cast<C>(beta_), smoothing = static_cast<C>(smoothing_);
  const int64_t n = samples * classes;
  const std::vector<T> first = uniform_values<T>(n, -spread, spread, 1), second = uniform_values<T>(n, -spread, spread, 2);
  const T* second_data = with_second ? second.data() : nullptr;
  std::vector<int64_t> target(samples);
  for (int64_t i = 0; i < samples; ++i) target[i] = (i * 7 + 3) % classes;

  std::vector<T> d_first(n), d_second(with_second ? n : 0), chunked_first(n), chunked_second(with_second ? n : 0);
  std::vector<double> ce(samples), kl(samples), chunked_ce(samples), chunked_kl(samples);
  T *ds = with_second ? d_second.data() : nullptr, *cs = with_second ? chunked_second.data() : nullptr;
  CHECK(cpu::ce_kl<T>(first.data(), second_data, target.data(), d_first.data(), ds, ce.data(), kl.data(), samples,
                      classes, beta, reverse, smoothing, 0, samples) == -1);
  in_chunks(samples, [&](int64_t b, int64_t e) {
    CHECK(cpu::ce_kl<T>(first.data(), second_data, target.data(), chunked_first.data(), cs, chunked_ce.data(),
                        chunked_kl.data(), samples, classes, beta, reverse, smoothing, b, e) == -1);
  });
  CHECK(same(d_first, chunked_first) && same(d_second, chunked_second) && same(ce, chunked_ce) && same(kl, chunked_kl));
  Shifted<T> a(first), b(second), da(n), db(n);
  CHECK(cpu::ce_kl<T>(a.data(), with_second ? b.data() : nullptr, target.data(), da.data(), with_second ? db.data() : nullptr,
                      chunked_ce.data(), chunked_kl.data(), samples, classes, beta, reverse, smoothing, 0, samples) == -1);
  CHECK(same(d_first, da.values()) && (!with_second || same(d_second, db.values())) && same(ce, chunked_ce));

  // Computed in float32 (float64 for float64), then rounded once to T.
  const double compute = unit<C>, size = 1 + spread;
  for (int64_t i = 0; i < samples; ++i) {
    const std::vector<double> p = wide(first, i, classes), q = with_second ? wide(second, i, classes) : p;
    const Row row = expected_row(p, q, target[i], beta, reverse, smoothing, samples);
    CHECK_NEAR(ce[i], row.ce, 30 * compute * size);
    CHECK_NEAR(kl[i], row.kl, 60 * compute * size);
    for (int64_t c = 0; c < classes; ++c) {
      const double slack = 60 * compute * size * (1 + beta) / samples;
      const double got = value(d_first[i * classes + c]);
      CHECK_NEAR(got, row.d_first[c], slack + unit<T> * std::fabs(row.d_first[c]));
      if (with_second)
        CHECK_NEAR(value(d_second[i * classes + c]), row.d_second[c], slack + unit<T> * std::fabs(row.d_second[c]));
    }
  }
}

template <class T>
void test_type() {
  for (int64_t classes : {1, 2, 3, 10, 16, 17, 100, 1000, 1003})
    for (bool reverse : {false, true}) {
      test_case<T>(13, classes, 5, 5, reverse, 0, true);
      test_case<T>(13, classes, 5, 0.3, reverse, 0.1, true);
    }
  test_case<T>(1, 10, 5, 0, false, 0, true);
  test_case<T>(0, 10, 5, 1, false, 0, true);
  test_case<T>(5, 7, 5, 1, true, 1, true);
  test_case<T>(64, 10, 5, 1, false, 0, false);
  test_case<T>(64, 10, 5, 1, false, 0.2, false);
}

// Logits 200 apart: float32 probabilities underflow to 0, nothing becomes NaN or infinite, KL is their difference.
void test_underflow() {
  const std::vector<float> first{0, 200, -200}, second{200, 0, -200};
  const int64_t target = 0;
  for (bool reverse : {false, true}) {
    float d_first[3], d_second[3];
    double ce, kl;
    cpu::ce_kl<float>(first.data(), second.data(), &target, d_first, d_second, &ce, &kl, 1, 3, 1.0f, reverse, 0.0f, 0, 1);
    CHECK_NEAR(ce, 200, 1e-4);
    CHECK_NEAR(kl, 200, 1e-4);
    for (int c = 0; c < 3; ++c) CHECK(std::isfinite(d_first[c]) && std::isfinite(d_second[c]));
  }
}

// A class that cannot be, among uniform targets: infinite, not NaN.
void test_uniform_targets() {
  const std::vector<float> logits{-std::numeric_limits<float>::infinity(), 1, 2};
  for (const int64_t target : {0, 1}) {
    float d[3];
    double ce, kl;
    cpu::ce_kl<float>(logits.data(), nullptr, &target, d, nullptr, &ce, &kl, 1, 3, 0.0f, false, 1.0f, 0, 1);
    CHECK(std::isinf(ce) && ce > 0);
  }
}

void test_bad_target() {
  const int64_t samples = 5, classes = 4;
  const std::vector<float> logits(samples * classes, 0.5f);
  std::vector<float> d_first(samples * classes);
  std::vector<double> ce(samples), kl(samples);
  for (int64_t bad : {int64_t(-1), classes}) {
    const std::vector<int64_t> target{0, 1, 2, bad, 3};
    const auto run = [&](int64_t begin, int64_t end) {
      return cpu::ce_kl<float>(logits.data(), nullptr, target.data(), d_first.data(), nullptr, ce.data(), kl.data(),
                               samples, classes, 1, false, 0, begin, end);
    };
    CHECK(run(0, samples) == 3);
    CHECK(run(0, 3) == -1);
    CHECK(run(4, 5) == -1);
  }
}

void test_exponential() {
  for (float v : uniform_values<float>(100000, -87, 0, 3))
    CHECK_NEAR(exp_nonpositive(v) / std::exp(static_cast<double>(v)), 1, 2e-7);
  CHECK(exp_nonpositive(0.0f) == 1.0f);
  CHECK(exp_nonpositive(-std::numeric_limits<float>::infinity()) == 0.0f);
  CHECK(exp_nonpositive(-100.0f) == 0.0f);
  CHECK(std::isnan(exp_nonpositive(std::numeric_limits<float>::quiet_NaN())));
}

}  // namespace

int main() {
  test_exponential();
  test_type<float>();
  test_type<double>();
  test_type<bfloat16>();
  test_underflow();
  test_uniform_targets();
  test_bad_target();
  return finish();
}
